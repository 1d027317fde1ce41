"""The weights that a run leaves: which part of a checkpoint they are, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .checkpoint_files import (
    NAME,
    CheckpointMismatch,
    check_schema,
    load_tensors,
    newest_first,
    newest_whole,
    read,
    read_first_part,
)

TESTED = ("selected", "averaged", "model")  # a checkpoint stands for the first that it has


def select_tested(parts: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint stands for: the selected epoch's, or the average, or the last.

    Args:
        parts: name -> content of the checkpoint's files.
    """
    name = next(name for name in TESTED if parts.get(name) is not None)
    if name != "averaged":
        return parts[name]
    module = "module."
    return {k.removeprefix(module): v for k, v in parts[name].items() if k.startswith(module)}


def find_tested_file(folder: Path) -> Path | None:
    """The file of the weights with which the newest checkpoint was tested; None where none is."""
    for path in newest_first(folder)[:1]:
        files = (path / f"{name}.pt" for name in TESTED)
        return next(file for file in files if file.exists())
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
        return _read_weights(path)
    # A run may be resumed from an older checkpoint; the weights that stand for it are its last.
    for folder in (path / "checkpoint", path):
        for newest in newest_first(folder)[:1]:
            try:
                return _read_weights(newest)
            except CheckpointMismatch:
                newest_whole(folder, older=False)  # raises, and names a whole checkpoint before it
                raise
    earlier = path / "checkpoint" / "state.pt"
    if earlier.is_file():
        return weights_at(earlier)
    raise CheckpointMismatch(f"{path} holds no checkpoint")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of one checkpoint, even if what a run would be resumed from is damaged."""
    try:
        parts = read(path)
    except CheckpointMismatch as damage:
        parts = read_first_part(path, TESTED)
        print(f"{damage}; the weights are whole", flush=True)
    else:
        check_schema(path, parts["state"])
    return select_tested(parts)
