"""Notice that a run diverges: read the losses of its steps, and check its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .ranks import Ranks
from .state import Progress


class Diverged(Exception):
    """The loss or a weight is not a finite number."""


def read_losses(
    losses: Sequence[Tensor], progress: Progress, epochs: int, ranks: Ranks
) -> list[float]:
    """Copy the losses of the last steps to the host.

    Raises:
        Diverged: one of them is not finite, on this rank or on another. ``progress`` is set back to
            its step.
    """
    values = torch.stack(list(losses)).tolist()
    finite = [math.isfinite(value) for value in values]
    if ranks.largest(int(not all(finite)), losses[0].device):
        bad = (finite + [False]).index(False) % len(finite)  # or on another rank
        progress.step -= len(finite) - 1 - bad
        value = values[bad] if not all(finite) else "not finite on another rank"
        raise Diverged(f"the loss is {value} {_describe_place(progress, epochs)}")
    return values


def check_weights(model: nn.Module, progress: Progress, epochs: int) -> None:
    """Raise :class:`Diverged` if a weight is not finite."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise Diverged(f"{name} is not finite {_describe_place(progress, epochs)}")


def _describe_place(progress: Progress, epochs: int) -> str:
    if progress.step == 0:
        return f"after epoch {progress.epoch} of {epochs}"
    return f"in step {progress.step} of epoch {progress.epoch + 1} of {epochs}"
