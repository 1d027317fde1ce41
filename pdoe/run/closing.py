"""How a run ends: its last measurements and its last line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..data import DataSet
from ..files import STORAGE_ERRORS
from .checkpoints import Progress
from .diagnostics import diagnose, rotate_filters
from .folder import RunFolder
from .pictures import find_mistakes, write_pictures
from .weights import find_tested_file


def measure_trained(
    model: nn.Module,
    data: DataSet,
    config: dict[str, Any],
    progress: Progress,
    folder: RunFolder,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure rotated test images, layers and filters; write ``diagnostics.json`` and pictures.

    A failure is printed and does not undo the run, except that of a full disk.

    Returns:
        What W&B mirrors: weights, diagnostics, filters and misclassified images.
    """
    mirrored: dict[str, Any] = {"weights": find_tested_file(folder.checkpoint)}
    precision, test_images = config["precision"], config["recipe"]["test_images"]
    try:
        found = diagnose(model, data, precision, test_images, progress.confusion)
        filters = rotate_filters(model)
        mirrored |= {"diagnostics": found, "filters": filters}
        folder.write_diagnostics(found)
        mirrored["mistakes"] = find_mistakes(model, data, precision, test_images)
        drawn = folder.metrics(), found["confusion"], filters, data.class_names
        write_pictures(folder.path, data.name, *drawn)
    except ImportError:
        say("pictures are left out: matplotlib is not installed (pip install 'pdoe[report]')")
    except Exception as error:
        if is_disk_error(error):
            raise
        say(f"diagnostics are left out: {type(error).__name__}: {error}")
    return mirrored


def is_disk_error(error: Exception) -> bool:
    """Return whether the disk is full or failing: another attempt may succeed."""
    return isinstance(error, OSError) and error.errno in STORAGE_ERRORS


def closing_line(record: dict[str, Any], folder: RunFolder) -> str:
    """Say in a line how a run ended."""
    if record["status"] == "finished":
        return f"finished: test error {record['test_error']:.2f} %, {folder.path}/result.json"
    again = "; repeat the command to resume" if record["status"] == "interrupted" else ""
    return f"{record['status']} after epoch {record['epochs']}: {record['reason']}{again}"
