"""The state that a run goes on from, bit for bit, and the weights that it leaves.

``<run>/checkpoint/epoch=0003,step=000120/`` (completed epochs, steps of the next one) holds
``model.pt``, ``averaged.pt`` (if weights are averaged), ``selected.pt`` (the best epoch's, if that
is what counts), ``optimizer.pt``, ``state.pt`` and ``sha256.json``, the sums of the others. A
checkpoint is written beside its place and renamed, and the one before it is kept, so that there is
always a whole one. All files load with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ..files import write_whole
from .ranks import Ranks

KEPT = 2  # the newest and the one before
SUMS = "sha256.json"
# Conditions that a run may leave without being another run, if not bit for bit.
HARDWARE = {
    "device", "machine", "torch", "precision", "threads", "ranks", "compile", "cuda_graph",
    "channels_last",
}  # fmt: skip
NAME = re.compile(r"epoch=\d{4,},step=\d{6,}")


class CheckpointMismatch(Exception):
    """A checkpoint is damaged, or was made under conditions that forbid to go on bit for bit."""


@dataclass
class Progress:
    """How far a run is: completed epochs, and steps of the one after them.

    Errors are in per cent. ``stopped`` says why the last call ended early, "signal" or "time".
    """

    epoch: int = 0
    step: int = 0
    test_error: float | None = None
    test_error_best: float | None = None
    seconds: float = 0.0
    training_seconds: float = 0.0  # of the complete epochs
    epoch_seconds: float = 0.0  # of the one after them
    evaluation_seconds: float | None = None
    confusion: list[list[int]] | None = None  # of the last evaluation: true class, taken for
    selected_epoch: int | None = None  # the best so far, where the last one is not what counts
    selected_error: float | None = None  # by which it was chosen
    stopped: str | None = None

    @property
    def seconds_per_epoch(self) -> float | None:
        """Of training alone, evaluation apart."""
        return self.training_seconds / self.epoch if self.epoch else None

    def for_record(self) -> dict[str, Any]:
        """What of it stands in the record of a run."""
        per_epoch = self.seconds_per_epoch
        return {
            "test_error": self.test_error,
            "test_error_best": self.test_error_best,
            "epochs": self.epoch,
            "seconds": round(self.seconds, 1),
            "seconds_per_epoch": None if per_epoch is None else round(per_epoch, 3),
        }


@dataclass
class Position:
    """What else a run goes on from: random states and sums, and the weights of its best epoch.

    Attributes:
        order: the generator of the data when the epoch began, from which its order is drawn.
        generator: the same generator now; augmentation has drawn from it since.
        sums: of this rank in this epoch: loss and wrong, over images.
        selected: weights of the best epoch so far, where the last one is not what counts.
    """

    order: torch.Tensor
    generator: torch.Tensor
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    selected: dict[str, torch.Tensor] | None = None


def save(
    folder: Path,
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Optimizer,
    position: Position,
    conditions: Mapping[str, Any],
    progress: Progress,
    ranks: Ranks = Ranks(),  # noqa: B008 - a frozen value
) -> None:
    """Write all that a run goes on from; every rank calls it, and the first one writes.

    Raises:
        OSError: it cannot be written, as on a full disk; earlier checkpoints are as they were.
    """
    own = {
        "sums": position.sums,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }
    of_ranks = ranks.of_all(own)
    parts: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {
            "order": position.order,
            "generator": position.generator,
            "ranks": of_ranks,
            "conditions": dict(conditions),
            "progress": asdict(progress),
        },
    }
    if averaged is not None:
        parts["averaged"] = averaged.state_dict()
    if position.selected is not None:
        parts["selected"] = position.selected
    name = f"epoch={progress.epoch:04},step={progress.step:06}"
    ranks.by_first(lambda: _write(folder / name, parts))


def _write(path: Path, parts: Mapping[str, Any]) -> None:
    """Beside its place, then renamed; what is older than the one before goes, and what is newer."""
    folder = path.parent
    beside = folder / f".{path.name}.part"
    for left in folder.glob(".epoch=*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        for name, content in parts.items():
            # Into memory first: writing to a full disk torch.save raises what is no OSError.
            buffer = io.BytesIO()
            torch.save(content, buffer)
            write_whole(beside / f"{name}.pt", lambda file, b=buffer: file.write(b.getbuffer()))
        sums = {f"{name}.pt": _sha256(beside / f"{name}.pt") for name in parts}
        write_whole(beside / SUMS, json.dumps(sums, indent=2) + "\n")
        # Newer ones are damaged: the run went on from before them. One of the same name is damaged,
        # or holds the same state.
        for damaged in _newest_first(folder):
            if damaged.name > path.name or (damaged == path and not _is_whole(path)):
                shutil.rmtree(damaged)
        if not path.exists():
            os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for old in _newest_first(folder)[KEPT:]:
        shutil.rmtree(old)


def _is_whole(path: Path) -> bool:
    try:
        return bool(read(path))
    except CheckpointMismatch:
        return False


def load(
    folder: Path,
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Optimizer,
    conditions: Mapping[str, Any],
    ranks: Ranks = Ranks(),  # noqa: B008
    any_conditions: bool = False,
) -> tuple[Progress, Position] | None:
    """Put everything back as :func:`save` found it; None if there is no checkpoint.

    A damaged newest checkpoint is named, and the one before it is taken.

    Raises:
        CheckpointMismatch: none is whole, or it was made under other conditions (unless
            ``any_conditions``, which is said).
    """
    held: list[dict[str, Any]] = []

    def choose() -> Path | None:
        found = newest_whole(folder)
        if found is None:
            if (folder / "state.pt").exists():
                raise CheckpointMismatch(
                    f"{folder / 'state.pt'} was written by an earlier version, and only that can "
                    "go on with it; begin anew with restart=true"
                )
            return None
        held.append(found[1])
        return found[0]

    path = ranks.by_first(choose)
    if path is None:
        return None
    parts = held[0] if held else read(path)
    state = parts["state"]
    had = {name: state["conditions"].get(name) for name in conditions}
    other = [name for name in conditions if had[name] != conditions[name]]
    differ = ", ".join(f"{name} {had[name]}, now {conditions[name]}" for name in other)
    same_ranks = len(state["ranks"]) == ranks.count
    if other and not (any_conditions and set(other) <= HARDWARE):
        remedy = "go on all the same with resume=any, " if set(other) <= HARDWARE else ""
        raise CheckpointMismatch(
            f"{path} was made with {differ}: it would not go on bit for bit; run it under the same "
            f"conditions, {remedy}or begin anew with restart=true"
        )
    if other and ranks.first:
        print(f"resume=any: {path} was made with {differ}; it does not go on bit for bit")
    model.load_state_dict(parts["model"])
    if averaged is not None:
        averaged.load_state_dict(parts["averaged"])
    saved = parts["optimizer"]["param_groups"]
    for group, ours in zip(saved, optimizer.param_groups, strict=True):
        if "fused" in ours:  # a matter of the device
            group["fused"] = ours["fused"]
    optimizer.load_state_dict(parts["optimizer"])
    progress = Progress(**state["progress"])
    own = state["ranks"][ranks.rank % len(state["ranks"])]
    if not same_ranks:  # the epoch goes on with the sums of all, and dropout draws anew
        total = [sum(numbers) for numbers in zip(*(r["sums"] for r in state["ranks"]), strict=True)]
        own = {**own, "sums": total if ranks.first else [0.0, 0.0]}
    if same_ranks or ranks.first:
        torch.set_rng_state(own["random"])
        if own["random_cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["random_cuda"])
    selected = parts.get("selected")
    return progress, Position(state["order"], state["generator"], own["sums"], selected)


def newest_whole(folder: Path, older: bool = True) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and its parts on the CPU; None where there is none.

    Args:
        older: whether it may be an older one than the newest; that is said.

    Raises:
        CheckpointMismatch: there are checkpoints, and each is damaged, or the newest is.
    """
    damaged = []
    for path in _newest_first(folder):
        try:
            parts = read(path)
        except CheckpointMismatch as error:
            damaged.append(str(error))
            continue
        if damaged and not older:
            raise CheckpointMismatch(f"{damaged[0]}; the one before it, {path}, is whole")
        if damaged:
            print(f"{damaged[0]}; going on from the one before, {path}", flush=True)
        return path, parts
    if damaged:
        raise CheckpointMismatch(f"{'; '.join(damaged)}; begin anew with restart=true")
    return None


def read(path: Path) -> dict[str, Any]:
    """The parts of one checkpoint, checked against its sums.

    Raises:
        CheckpointMismatch: a file is missing or damaged.
    """
    try:
        sums = json.loads((path / SUMS).read_text(encoding="utf-8"))
        if not isinstance(sums, dict) or not {"model.pt", "optimizer.pt", "state.pt"} <= set(sums):
            raise ValueError("it does not name the files of a checkpoint")
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointMismatch(f"{path / SUMS} cannot be read ({error})") from None
    parts = {}
    for name, expected in sums.items():
        file = path / Path(name).name
        try:
            found = _sha256(file)
            if found != expected:
                raise ValueError(f"SHA-256 {found[:12]}..., expected {str(expected)[:12]}...")
            parts[file.stem] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            reason = (str(error).splitlines() or [""])[0]
            raise CheckpointMismatch(
                f"{file} cannot be read ({type(error).__name__}: {reason})"
            ) from None
    return parts


def tested_weights(parts: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint stands for: the chosen epoch's, or the average, or the last."""
    if "selected" in parts:
        return parts["selected"]
    averaged = parts.get("averaged")
    if averaged is None:
        return parts["model"]
    module = "module."
    return {k.removeprefix(module): v for k, v in averaged.items() if k.startswith(module)}


def tested_file(folder: Path) -> Path | None:
    """The file of the weights that the newest checkpoint was tested with; None where none is."""
    for path in _newest_first(folder)[:1]:
        names = ("selected.pt", "averaged.pt", "model.pt")
        return next(path / name for name in names if (path / name).exists())
    return None


def weights_at(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a run folder, of a checkpoint or in a file, as they are to be tested."""
    if path.is_file():
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointMismatch(f"{path} cannot be read ({type(error).__name__})") from None
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise CheckpointMismatch(f"{path} holds a {type(weights).__name__}, not named weights")
        if isinstance(weights.get("model"), dict):  # all parts in one, as an earlier version had it
            return tested_weights(weights)
        return tested_weights(
            {"averaged": weights} if "n_averaged" in weights else {"model": weights}
        )
    if NAME.fullmatch(path.name):
        return tested_weights(read(path))
    # Resuming goes on from an older one; weights that stand for the run are its last ones.
    found = newest_whole(path / "checkpoint", older=False) or newest_whole(path, older=False)
    earlier = path / "checkpoint" / "state.pt"
    if found is None and earlier.is_file():
        return weights_at(earlier)
    if found is None:
        raise CheckpointMismatch(f"{path} holds no checkpoint")
    return tested_weights(found[1])


def _newest_first(folder: Path) -> list[Path]:
    ours = [path for path in folder.glob("epoch=*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(ours, reverse=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
