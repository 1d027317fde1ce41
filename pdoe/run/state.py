"""How far a run is, and what else it needs to be resumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Progress:
    """How far a run is: completed epochs, and steps of the next one.

    Errors are in per cent. ``stopped`` gives the reason if the last call ended early: "signal" or
    "time".
    """

    epoch: int = 0
    step: int = 0
    test_error: float | None = None
    test_error_best: float | None = None
    seconds: float = 0.0
    training_seconds: float = 0.0  # of the complete epochs
    epoch_seconds: float = 0.0  # of the epoch after them
    evaluation_seconds: float | None = None
    confusion: list[list[int]] | None = None  # of the last evaluation: true class, predicted class
    selected_epoch: int | None = None  # the best so far, where the last one is not what counts
    selected_error: float | None = None  # by which it was selected
    stopped: str | None = None

    @property
    def seconds_per_epoch(self) -> float | None:
        """The mean time of an epoch's steps, without evaluation."""
        return self.training_seconds / self.epoch if self.epoch else None

    def update_best(self) -> None:
        """Take the test error into the smallest one so far."""
        if self.test_error is not None:
            known = self.test_error_best
            self.test_error_best = min(self.test_error, self.test_error if known is None else known)

    def select(self, error: float | None) -> bool:
        """Whether an epoch with this error is the best so far; then it becomes the selected one."""
        if error is None or (self.selected_error is not None and error >= self.selected_error):
            return False
        self.selected_epoch, self.selected_error = self.epoch, error
        return True

    def for_record(self) -> dict[str, Any]:
        """The fields of a run's record that follow from the progress."""
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
    """Random states, sums, and the weights of the best epoch: what else a run is resumed from.

    Attributes:
        order: state of the data's generator when the epoch began; the order is drawn from it.
        generator: state of the same generator now, after the draws of augmentation.
        sums: over this rank's images in this epoch: the loss, and the number of wrong ones.
        selected: weights of the best epoch so far, where the last one is not what counts.
    """

    order: torch.Tensor
    generator: torch.Tensor
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    selected: dict[str, torch.Tensor] | None = None
