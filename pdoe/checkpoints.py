"""The state that a run goes on from, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from .files import write_whole


class CheckpointMismatch(Exception):
    """A checkpoint was made under conditions in which it cannot be continued bit for bit."""


@dataclass
class Progress:
    """How far a run is: completed epochs, errors in per cent, seconds."""

    epoch: int = 0
    test_error: float | None = None
    test_error_best: float | None = None
    seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def seconds_per_epoch(self) -> float | None:
        """Of training alone, evaluation apart."""
        return self.training_seconds / self.epoch if self.epoch else None


def save(
    path: Path,
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Optimizer,
    generator: torch.Generator,
    conditions: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write all that a run goes on from: weights, optimiser, random states, progress."""
    state = {
        "model": model.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "order": generator.get_state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "conditions": dict(conditions),
        "progress": vars(progress),
    }
    write_whole(path, lambda file: torch.save(state, file))


def load(
    path: Path,
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Optimizer,
    generator: torch.Generator,
    conditions: Mapping[str, Any],
) -> Progress:
    """Put everything back as :func:`save` found it.

    Raises:
        CheckpointMismatch: the file is damaged, or was made under other conditions.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise CheckpointMismatch(
            f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "begin anew with restart=true"
        ) from None
    had = {name: state["conditions"].get(name) for name in conditions}
    other = [name for name in conditions if had[name] != conditions[name]]
    if other:
        differ = ", ".join(f"{name} {had[name]}, now {conditions[name]}" for name in other)
        raise CheckpointMismatch(
            f"{path} was made with {differ}: it would not go on bit for bit; run it under the "
            "same conditions, or begin anew with restart=true"
        )
    model.load_state_dict(state["model"])
    if averaged is not None:
        averaged.load_state_dict(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["order"])
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available() and state["random_cuda"]:
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return Progress(**state["progress"])


def tested_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a saved state was tested with: their average where there is one."""
    averaged = state.get("averaged")
    if averaged is None:
        return state["model"]
    module = "module."
    return {k.removeprefix(module): v for k, v in averaged.items() if k.startswith(module)}
