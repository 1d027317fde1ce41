"""What a recipe chooses: schedule, optimiser, augmentation, averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adam, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..data import DataSet
from ..data.augmentation import (
    random_crop_flip,
    random_quarter_turns,
    random_rotation,
    random_shift_flip,
    random_stretch,
)

AUGMENTATIONS = {
    "none": lambda images, generator: images,
    "rotation": random_rotation,
    "rotation_nearest": partial(random_rotation, mode="nearest"),
    "stretch": random_stretch,
    "quarter_turns": random_quarter_turns,
    "crop_flip": random_crop_flip,
    "shift_flip": random_shift_flip,
}
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "sgd": partial(SGD, momentum=0.9, nesterov=True),
    "momentum": partial(SGD, momentum=0.9),
    "adadelta": partial(Adadelta, rho=0.9, eps=1e-6),
}


def augmentation(name: str, data: DataSet) -> Callable[[Tensor, torch.Generator], Tensor]:
    """What happens to a batch of training images, uint8 [B, C, H, W], before normalisation.

    Crops are padded with the mean, which normalisation makes 0, as in the authors' code.
    """
    if name != "crop_flip":
        return AUGMENTATIONS[name]
    means = data.mean if isinstance(data.mean, tuple) else (data.mean,)
    return partial(random_crop_flip, fill=tuple(256 * mean for mean in means))


SELECT = ("last", "validation", "test_best", "train_best")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained and tested, whatever the network and the data.

    Args:
        batch_size: images of a step, of all ranks together.
        learning_rate, schedule: pairs (epoch counted from 0, rate), and what is between them, see
            :func:`learning_rate_at`.
        optimizer: see :func:`make_optimizer`.
        weight_decay: L2 term of the gradient, on convolution and linear weights only.
        l1: the same with L1: the sum of their magnitudes times this is added to the loss.
        label_smoothing: of the cross entropy.
        average: decay per step of an exponential moving average of weights and running statistics,
            which is what is tested, and what the model holds when all epochs are done; None for
            none.
        augment: "none", "rotation" (a turn of its own for every image, bilinear; with
            "rotation_nearest" by nearest neighbours), "quarter_turns" (a multiple of 90 degrees,
            exact), "stretch" (a turn, and a stretch by up to 15 % along each of two axes),
            "crop_flip" (a shift by up to 4 pixels and a reflection) or "shift_flip" (by up to 2
            pixels, interpolated).
        evaluate_every, evaluate_last: see :func:`is_evaluated`.
        evaluate_select: the epoch whose weights count, and are in the model in the end: the "last",
            or the first one with the least error on ``data.validation``, on the test set
            ("test_best", which makes the test error too low) or in training ("train_best"). With
            "validation" the test set is seen once, after the last epoch. It and "test_best" choose
            among the epochs that are evaluated.
        evaluate_tta_angles: test on images turned by these angles, see
            :func:`pdoe.run.evaluation.confusion_matrix`.
        train_images, test_images: use only the first so many; None for all.

    Raises:
        ValueError: a value cannot be carried out.
    """

    epochs: int
    batch_size: int
    learning_rate: Sequence[tuple[float, float]]
    optimizer: str = "adam"
    schedule: str = "step"
    weight_decay: float = 0.0
    l1: float = 0.0
    label_smoothing: float = 0.0
    average: float | None = None
    augment: str = "none"
    evaluate_every: int = 10
    evaluate_last: float = 0.25
    evaluate_select: str = "last"
    evaluate_tta_angles: Sequence[float] = ()
    train_images: int | None = None
    test_images: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Recipe:
        """The recipe of a resolved configuration, whose other keys are for model and ranks."""
        values = {**config, **{f"evaluate_{k}": v for k, v in config["evaluate"].items()}}
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every", "train_images", "test_images"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                said = name.replace("evaluate_", "evaluate.")
                raise ValueError(f"{said} is a positive integer, not {value}")
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment is one of {', '.join(AUGMENTATIONS)}, not {self.augment!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}")
        rates = self.learning_rate
        pairs = isinstance(rates, list | tuple) and all(map(_is_pair, rates))
        if not pairs or not rates or min(first for first, _ in rates) > 0:
            raise ValueError(
                f"learning_rate needs a rate for epoch 0, such as [[0, 0.001]], not {rates}"
            )
        if not all(0 <= number for pair in rates for number in pair):
            raise ValueError(f"epochs and rates of learning_rate are at least 0, not {rates}")
        if self.schedule not in ("step", "linear"):
            raise ValueError(f"schedule is step or linear, not {self.schedule!r}")
        smoothing, average = self.label_smoothing, self.average
        if not (isinstance(smoothing, int | float) and 0 <= smoothing < 1):
            raise ValueError(f"label_smoothing is at least 0 and below 1, not {smoothing!r}")
        if average is not None and not (isinstance(average, float) and 0 < average < 1):
            raise ValueError(f"average is a decay between 0 and 1, or null, not {average!r}")
        for name, most in (("l1", math.inf), ("weight_decay", math.inf), ("evaluate_last", 1)):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value) and 0 <= value <= most):
                least = "a number of at least 0" if most > 1 else "a part, from 0 to 1"
                raise ValueError(
                    f"{name.replace('evaluate_', 'evaluate.')} is {least}, not {value!r}"
                )
        select, angles = self.evaluate_select, self.evaluate_tta_angles
        if select not in SELECT:
            raise ValueError(f"evaluate.select is one of {', '.join(SELECT)}, not {select!r}")
        listed = isinstance(angles, list | tuple)
        if not listed or not all(isinstance(a, int | float) and math.isfinite(a) for a in angles):
            raise ValueError(f"evaluate.tta_angles are degrees, such as [0, 45, 90], not {angles}")

    def rate_at(self, epoch: float) -> float:
        """The learning rate at an epoch, counted from 0, or between two."""
        return learning_rate_at(epoch, self.learning_rate, self.schedule)

    def tests(self, epoch: int) -> bool:
        """Whether the error is taken after that many epochs."""
        return is_evaluated(epoch, self.epochs, self.evaluate_every, self.evaluate_last)

    def protocol(self, selected_epoch: int | None) -> dict[str, Any]:
        """What makes the test error another quantity than that of the last epoch, for a record."""
        angles = len(self.evaluate_tta_angles)
        chosen = {"select": self.evaluate_select, "selected_epoch": selected_epoch}
        return (chosen if self.evaluate_select != "last" else {}) | (
            {"tta_angles": angles} if angles else {}
        )


def _is_pair(value: Any) -> bool:
    """Whether it is two numbers."""
    listed = isinstance(value, list | tuple) and len(value) == 2
    return listed and all(map(is_number, value))


def is_number(value: Any) -> bool:
    """Whether it is an integer or a float; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def learning_rate_at(
    epoch: float, rates: Sequence[tuple[float, float]], schedule: str = "step"
) -> float:
    """The rate at an epoch, counted from 0, of pairs (epoch, rate).

    Schedule "step" keeps a rate until the next pair, "linear" goes straight to it.
    """
    rates = sorted(rates, key=lambda pair: pair[0])  # of two pairs at an epoch the last one begins
    begin, rate = [pair for pair in rates if pair[0] <= epoch][-1]
    ahead = [pair for pair in rates if pair[0] > epoch]
    if schedule == "step" or not ahead:
        return rate
    end, goal = ahead[0]
    return rate + (goal - rate) * (epoch - begin) / (end - begin)


def is_evaluated(epoch: int, epochs: int, every: int, last: float) -> bool:
    """Whether the test error is taken after that many epochs (from 1).

    Every ``every``-th epoch, each one in the last part ``last`` of the run, and the final one.
    """
    return epoch % every == 0 or epoch > epochs * (1 - last) or epoch == epochs


def moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """The exponential average of torch, of numbers that may be averaged.

    Buffers of integers are index tables and counters: they are copied, while torch would average
    and truncate them.
    """
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], count: Any) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
        else:
            torch._foreach_copy_(averaged, current)

    return update


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """L2 on the weights of convolutions and linear layers alone, none on norms and biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(name: str, model: nn.Module, weight_decay: float) -> Optimizer:
    """One of ``OPTIMIZERS``, with L2 in the gradient; its rate is set at every step.

    "adam"; SGD with a momentum of 0.9, Nesterov's ("sgd") or plain ("momentum"); "adadelta" with a
    decay of 0.9, whose rate is a factor (1 in its paper).
    """
    groups = parameter_groups(model, weight_decay)
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    # One call for all parameters; Adadelta has no such kernel.
    fused = {"fused": True} if on_gpu and name != "adadelta" else {}
    return OPTIMIZERS[name](groups, lr=0.0, **fused)


def add_l1(optimizer: Optimizer, strength: float) -> None:
    """Add the gradient of ``strength`` times the sum of |w| over the weights that have L2."""
    for weight in optimizer.param_groups[0]["params"]:
        if weight.grad is not None:
            weight.grad.add_(weight.detach().sign(), alpha=strength)
