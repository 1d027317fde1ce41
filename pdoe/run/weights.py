"""The weights that a run leaves: which part of a checkpoint they are, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .checkpoint_files import (
    NAME,
    CheckpointMismatch,
    load_tensors,
    newest_first,
    newest_whole,
    read,
)


def select_tested(parts: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint stands for: the selected epoch's, or the average, or the last.

    Args:
        parts: name -> content of the checkpoint's files.
    """
    if "selected" in parts:
        return parts["selected"]
    averaged = parts.get("averaged")
    if averaged is None:
        return parts["model"]
    module = "module."
    return {k.removeprefix(module): v for k, v in averaged.items() if k.startswith(module)}


def find_tested_file(folder: Path) -> Path | None:
    """The file of the weights with which the newest checkpoint was tested; None where none is."""
    for path in newest_first(folder)[:1]:
        names = ("selected.pt", "averaged.pt", "model.pt")
        return next(path / name for name in names if (path / name).exists())
    return None


def weights_at(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a run folder, of a checkpoint or in a file, as they are to be tested.

    Raises:
        CheckpointMismatch: there are none, or they are damaged.
    """
    if path.is_file():
        try:
            weights = load_tensors(path)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointMismatch(f"{path} cannot be read ({type(error).__name__})") from None
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise CheckpointMismatch(f"{path} holds a {type(weights).__name__}, not named weights")
        if isinstance(weights.get("model"), dict):  # all parts in one, as an earlier version had it
            return select_tested(weights)
        return select_tested(
            {"averaged": weights} if "n_averaged" in weights else {"model": weights}
        )
    if NAME.fullmatch(path.name):
        return select_tested(read(path))
    # A run may be resumed from an older checkpoint; the weights that stand for it are its last.
    found = newest_whole(path / "checkpoint", older=False) or newest_whole(path, older=False)
    earlier = path / "checkpoint" / "state.pt"
    if found is None and earlier.is_file():
        return weights_at(earlier)
    if found is None:
        raise CheckpointMismatch(f"{path} holds no checkpoint")
    return select_tested(found[1])
