"""The state from which a run is resumed, bit for bit.

A checkpoint has the parts ``model``, ``averaged`` (if weights are averaged), ``selected`` (the best
epoch's weights, if those are what counts), ``optimizer`` and ``state``. Their files:
:mod:`pdoe.run.checkpoint_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from .checkpoint_files import (
    SCHEMA,
    CheckpointMismatch,
    newest_whole,
    read,
    tidy,
    write_checkpoint,
)
from .provenance import instruction_set
from .ranks import Ranks
from .record import NUMBERS
from .state import Position, Progress

# Conditions that came later than the first checkpoints: not compared with a state that lacks them.
INSTRUCTIONS = {"cpu_capability", "onednn_isa", "mkl_limit", "blas_kernel"}
# Conditions that resume=any may change: the run stays the same run, but not bit for bit.
HARDWARE = {
    "device", "machine", "torch", "precision", "threads", "ranks", "compile", "cuda_graph",
    "channels_last", "numbers", "jet",
} | INSTRUCTIONS  # fmt: skip


def list_conditions(
    device: torch.device, precision: str, cuda_graph: bool, ranks: int
) -> dict[str, Any]:
    """What decides the rounding of a run here, name -> value."""
    cpu = device.type == "cpu"
    return {
        "device": device.type,
        "precision": precision,
        "threads": torch.get_num_threads() if cpu else None,
        "ranks": ranks,
        "cuda_graph": cuda_graph or None,
        "numbers": NUMBERS,
        **(instruction_set() if cpu else {}),
    }


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
    """Write all that a run is resumed from; every rank calls it, and the first one writes.

    Raises:
        OSError: the checkpoint cannot be written, as on a full disk; earlier ones stay.
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
            "schema": SCHEMA,
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
    ranks.by_first(lambda: write_checkpoint(folder / name, parts))


def load(
    folder: Path,
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Optimizer,
    conditions: Mapping[str, Any],
    ranks: Ranks = Ranks(),  # noqa: B008
    any_conditions: bool = False,
) -> tuple[Progress, Position] | None:
    """Restore everything as :func:`save` found it; None if there is no checkpoint.

    If the newest checkpoint is damaged, its damage is printed and the one before it is taken.

    Raises:
        CheckpointMismatch: no checkpoint is whole, a newer version of this package wrote it, or it
            was made under other conditions (unless ``any_conditions``).
    """
    cached: list[dict[str, Any]] = []

    def choose() -> Path | None:
        found = newest_whole(folder)
        if found is None:
            if (folder / "state.pt").exists():
                raise CheckpointMismatch(
                    f"{folder / 'state.pt'} was written by an earlier version, and only that can "
                    "go on with it; begin anew with restart=true"
                )
            return None
        cached.append(found[1])
        tidy(folder, found[0])
        return found[0]

    path = ranks.by_first(choose)
    if path is None:
        return None
    parts = cached[0] if cached else read(path)
    _compare(path, parts["state"], conditions, any_conditions, ranks)
    try:
        return _restore(parts, model, averaged, optimizer, ranks)
    except Exception as error:  # a damaged state has many ways not to fit
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointMismatch(
            f"{path} is no state of this run ({type(error).__name__}: {reason}); begin anew with "
            "restart=true"
        ) from None


def _compare(
    path: Path, state: Any, conditions: Mapping[str, Any], any_conditions: bool, ranks: Ranks
) -> None:
    """Raise a CheckpointMismatch if a state cannot be resumed under these conditions."""
    if not isinstance(state, Mapping) or not isinstance(state.get("conditions"), Mapping):
        raise CheckpointMismatch(f"{path / 'state.pt'} is no state of a run; use restart=true")
    had = {"numbers": 1, "jet": None, **state["conditions"]}
    compared = [name for name in conditions if name in had or name not in INSTRUCTIONS]
    other = [name for name in compared if had.get(name) != conditions[name]]
    if not other:
        return
    differ = ", ".join(f"{name} {had.get(name)}, now {conditions[name]}" for name in other)
    if not (any_conditions and set(other) <= HARDWARE):
        remedy = "resume all the same with resume=any, " if set(other) <= HARDWARE else ""
        raise CheckpointMismatch(
            f"{path} was made with {differ}: resumed here it would not be bit for bit the same run;"
            f" use the same conditions, {remedy}or begin anew with restart=true"
        )
    if ranks.first:
        print(f"resume=any: {path} was made with {differ}; it does not go on bit for bit")


def _restore(
    parts: Mapping[str, Any],
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Optimizer,
    ranks: Ranks,
) -> tuple[Progress, Position]:
    state = parts["state"]
    progress = Progress(**state["progress"])
    if not all(type(n) is int and n >= 0 for n in (progress.epoch, progress.step)):
        raise ValueError(f"epoch {progress.epoch!r}, step {progress.step!r}")
    model.load_state_dict(parts["model"])
    if averaged is not None:
        averaged.load_state_dict(parts["averaged"])
    saved = parts["optimizer"]["param_groups"]
    for group, ours in zip(saved, optimizer.param_groups, strict=True):
        if "fused" in ours:  # a matter of the device
            group["fused"] = ours["fused"]
    optimizer.load_state_dict(parts["optimizer"])
    own = state["ranks"][ranks.rank % len(state["ranks"])]
    same_ranks = len(state["ranks"]) == ranks.count
    if not same_ranks:  # the epoch goes on with the sums of all ranks, and dropout draws anew
        total = [sum(numbers) for numbers in zip(*(r["sums"] for r in state["ranks"]), strict=True)]
        own = {**own, "sums": total if ranks.first else [0.0, 0.0]}
    loss, wrong = map(float, own["sums"])
    for generator in (state["order"], state["generator"]):
        torch.Generator().set_state(generator)
    if same_ranks or ranks.first:
        torch.set_rng_state(own["random"])
        if own["random_cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["random_cuda"])
    selected = parts.get("selected")
    return progress, Position(state["order"], state["generator"], [loss, wrong], selected)
