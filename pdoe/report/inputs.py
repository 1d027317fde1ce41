"""The files that the report reads besides runs.csv: details of single runs, and CSV files.

A damaged file or line is reported and left out; a missing file is empty. Errors are in per cent,
angles in degrees. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..tables.runs import one_line

MANY = 1e15  # above any number of epochs or images


@dataclass(frozen=True)
class Details:
    """Curves and diagnostics of one run.

    Attributes:
        epochs, train, test: Epoch number, training error and test error of each epoch, ``[E]``;
            ``test`` is NaN where the epoch was not evaluated.
        confusion: Counts of images, true class by predicted class, ``[K, K]``; None if unknown.
        class_names: Of the K classes; empty if the file does not say.
        rotated: Test error by the angle of an added rotation; empty if it was not measured.
        rotated_images: Number of test images that were rotated; None if the file does not say.
    """

    run_id: str
    epochs: np.ndarray
    train: np.ndarray
    test: np.ndarray
    confusion: np.ndarray | None
    rotated: dict[int, float]
    rotated_images: int | None
    class_names: tuple[str, ...] = ()


def read_details(folder: Path) -> tuple[dict[str, Details], list[str]]:
    """Read every ``<run_id>.json`` of a folder; also return a line for each damaged file."""
    found, problems = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            details = parse_details(json.loads(path.read_text("utf-8")))
            if details.run_id != path.stem:
                raise ValueError(f"run_id is {details.run_id[:40]!r}, expected the file's name")
            found[details.run_id] = details
        except (ValueError, OSError, RecursionError) as error:
            problems.append(f"{path.name}: skipped: {one_line(str(error))[:160]}")
    return found, problems


def parse_details(content: Any) -> Details:
    """Check the content of a details file.

    Raises:
        ValueError: A part is missing or has another form; the message names it.
    """
    part = "file"
    try:
        name, metrics = content["run_id"], content["metrics"]
        diagnostics = content.get("diagnostics") or {}
        epochs = check_numbers(metrics[part := "epoch"])
        train = check_numbers(metrics[part := "train_error"], 100)
        part = "test_error"  # missing if the run was tested only once, after its last epoch
        tested = metrics.get(part, [None] * len(epochs))
        test = check_numbers([-1 if error is None else error for error in tested], 100, -1)
        test = np.where(test < 0, np.nan, test)
        confusion = diagnostics.get(part := "confusion")
        if confusion is not None:
            confusion = np.array([check_numbers(row) for row in confusion])
            if confusion.ndim != 2 or len(set(confusion.shape)) != 1:
                raise ValueError("not square")
        names = diagnostics.get(part := "class_names") or []
        if names and not (isinstance(names, list) and len(names) == len(confusion)):
            raise ValueError("not a name for each class")
        angles = diagnostics.get(part := "turned") or {}
        errors = check_numbers(list(angles.values()), 100)
        rotated = dict(sorted(zip(map(int, angles), errors.tolist(), strict=True)))
        images = diagnostics.get(part := "turned_images")
        images = None if images is None else int(check_numbers([images])[0])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError) as error:
        raise ValueError(f"{part} is missing or damaged: {one_line(repr(error))[:80]}") from None
    if not isinstance(name, str) or not len(epochs) == len(train) == len(test):
        raise ValueError("run_id is no text, or the columns of metrics have different lengths")
    names = tuple(one_line(str(text)) for text in names)
    return Details(name, epochs, train, test, confusion, rotated, images, names)


def check_numbers(values: list, high: float = MANY, low: float = 0) -> np.ndarray:
    """Convert a list of finite numbers in [low, high] to an array; ValueError if it is not one."""
    if not isinstance(values, list):
        raise ValueError(f"{repr(values)[:40]} is no list")
    array = np.array(values, dtype=float)
    if array.ndim != 1 or not ((low <= array) & (array <= high)).all():  # NaN fails, too
        raise ValueError(f"a value is not a number from {low:g} to {high:g}")
    return array


def read_lines(
    path: Path, texts: Sequence[str], numbers: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read these columns of a CSV file; also return a line for each damaged line."""
    lines, problems = [], []
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines(), strict=True))
    except FileNotFoundError:
        return [], []
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path.name}: skipped: {one_line(str(error))}"]
    for place, row in enumerate(rows, start=2):
        try:
            values = {name: float(row.get(name) or "") for name in numbers}
            if not all(map(math.isfinite, values.values())):
                raise ValueError("a number is not finite")
            lines.append({name: one_line(row.get(name) or "") for name in texts} | values)
        except ValueError as error:
            problems.append(f"{path.name}:{place}: skipped: {one_line(str(error))}")
    return lines, problems
