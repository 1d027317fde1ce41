"""A recipe: what a configuration says of learning rate, augmentation, averaging, evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import Generator, Tensor

from ..data import DataSet
from ..data.augmentation import (
    choose_flips,
    mirror,
    random_crop_flip,
    random_quarter_turns,
    random_rotation,
    random_shift_flip,
    random_square_symmetry,
    random_stretch,
)
from ..data.batches import repeat_evenly
from .optimizer import OPTIMIZERS

AUGMENTATIONS = {
    "none": lambda images, generator: images,
    "rotation": random_rotation,
    "rotation_nearest": partial(random_rotation, mode="nearest"),
    "stretch": random_stretch,
    "stretch_gaussian": partial(random_stretch, mode="gaussian"),
    "quarter_turns": random_quarter_turns,
    "square": random_square_symmetry,
    "crop_flip": random_crop_flip,
    "crop_altflip": partial(random_crop_flip, flip=False),  # mirrored before
    "shift_flip": random_shift_flip,
}
# Images [B, C, H, W], the run's generator, the indices [B] of the images in the training set, and
# the epoch (from 0) -> images.
Augment = Callable[[Tensor, Generator, Tensor, int], Tensor]


def make_augmentation(name: str, data: DataSet, seed: int = 0) -> Augment:
    """Return the augmentation of a batch of training images.

    Crops are padded with the mean, which normalisation maps to 0, as in the authors' code. The
    seed fixes what belongs to an image in all epochs: the coins of alternating flips.
    """
    augment = AUGMENTATIONS[name]
    if name.startswith("crop_"):
        means = data.mean if isinstance(data.mean, tuple) else (data.mean,)
        augment = partial(augment, fill=tuple(256 * mean for mean in means))
    if name != "crop_altflip":
        return lambda images, generator, indices, epoch: augment(images, generator)
    coins = choose_flips(len(data.train_images), seed).to(data.train_images.device)

    def alternate(images: Tensor, generator: Generator, indices: Tensor, epoch: int) -> Tensor:
        return augment(mirror(images, coins[indices] ^ bool(epoch % 2)), generator)

    return alternate


SELECT = ("last", "validation", "test_best", "train_best")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained and tested, whatever the network and the data.

    Args:
        batch_size: images of a step, of all ranks together.
        learning_rate, schedule: pairs (epoch counted from 0, rate) and the rate between them; see
            :func:`learning_rate_at`.
        optimizer: see :func:`pdoe.run.optimizer.make_optimizer`.
        weight_decay: L2 term of the gradient, on convolution and linear weights only.
        l1: L1 term on the same weights: their magnitudes times ``l1`` are added to the loss.
        label_smoothing: of the cross entropy.
        average: decay per step of an exponential moving average of weights and running statistics.
            The average is tested, and the model holds it after the last epoch. None: no average.
        augment: "none"; "rotation" (by a random angle for every image, bilinear) or
            "rotation_nearest" (nearest neighbour); "quarter_turns" (by a multiple of 90 degrees,
            exact); "square" (by a multiple of 90 degrees, and a reflection, exact); "stretch" (a
            rotation, and a stretch by up to 15 % along each of two axes, bilinear) or
            "stretch_gaussian" (with the interpolation of MNIST-rot); "crop_flip" (a shift by up to
            4 pixels and a reflection); "crop_altflip" (the same shift; each image is mirrored every
            other epoch, see :func:`pdoe.data.augmentation.choose_flips`); "shift_flip" (a shift by
            up to 2 pixels, interpolated, and a reflection).
        random_frame: rotate the frames of all layers of differential operators by one random
            angle in every training step; see :class:`pdoe.run.frames.RandomFrame`.
        evaluate_every, evaluate_last: see :func:`is_evaluated`.
        evaluate_select: the epoch whose weights are tested and remain in the model: the "last", or
            the first one with the least error on held-out images ("validation"), on the test set
            ("test_best": the test error is then too low) or in training ("train_best"). With
            "validation" the test set is used once, after the last epoch. "validation" and
            "test_best" choose among the evaluated epochs.
        evaluate_tta_angles: test with the mean over images rotated by these angles (degrees); see
            :func:`pdoe.run.evaluation.confusion_matrix`.
        train_images, test_images: use only the first N; None: all.
        epoch_images: images of an epoch: the training images repeated, all classes equally often;
            see :func:`pdoe.data.batches.repeat_evenly`. None: every training image once.

    Raises:
        ValueError: a value is impossible.
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
    random_frame: bool = False
    evaluate_every: int = 10
    evaluate_last: float = 0.25
    evaluate_select: str = "last"
    evaluate_tta_angles: Sequence[float] = ()
    train_images: int | None = None
    test_images: int | None = None
    epoch_images: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Recipe:
        """Read the recipe of a resolved configuration; its other keys are for model and ranks."""
        values = {**config, **{f"evaluate_{k}": v for k, v in config["evaluate"].items()}}
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        sizes = ("batch_size", "train_images", "test_images", "epoch_images")
        for name in ("epochs", "evaluate_every", *sizes):
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

    def select_images(self, data: DataSet) -> tuple[Tensor, Tensor]:
        """Return the images and labels of an epoch."""
        images, labels = data.train_images[: self.train_images], data.train_labels
        labels = labels[: self.train_images]
        if self.epoch_images is None:
            return images, labels
        repeated = repeat_evenly(labels, self.epoch_images)
        return images[repeated], labels[repeated]

    def rate_at(self, epoch: float) -> float:
        """Return the learning rate at an epoch, counted from 0; fractions are between epochs."""
        return learning_rate_at(epoch, self.learning_rate, self.schedule)

    def tests(self, epoch: int) -> bool:
        """Return whether the model is evaluated after ``epoch`` epochs."""
        return is_evaluated(epoch, self.epochs, self.evaluate_every, self.evaluate_last)

    def protocol(self, selected_epoch: int | None) -> dict[str, Any]:
        """Return, for a record, how the test error differs from that of the last epoch."""
        angles = len(self.evaluate_tta_angles)
        chosen = {"select": self.evaluate_select, "selected_epoch": selected_epoch}
        return (chosen if self.evaluate_select != "last" else {}) | (
            {"tta_angles": angles} if angles else {}
        )


def _is_pair(value: Any) -> bool:
    """Return whether a value is two numbers."""
    listed = isinstance(value, list | tuple) and len(value) == 2
    return listed and all(map(is_number, value))


def is_number(value: Any) -> bool:
    """Return whether a value is an integer or a float, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def learning_rate_at(
    epoch: float, rates: Sequence[tuple[float, float]], schedule: str = "step"
) -> float:
    """Return the rate at an epoch, counted from 0, of pairs (epoch, rate).

    Schedule "step" keeps a rate until the next pair; "linear" interpolates between pairs.
    """
    rates = sorted(rates, key=lambda pair: pair[0])  # of two pairs at one epoch the last counts
    begin, rate = [pair for pair in rates if pair[0] <= epoch][-1]
    ahead = [pair for pair in rates if pair[0] > epoch]
    if schedule == "step" or not ahead:
        return rate
    end, goal = ahead[0]
    return rate + (goal - rate) * (epoch - begin) / (end - begin)


def is_evaluated(epoch: int, epochs: int, every: int, last: float) -> bool:
    """Return whether the model is evaluated after ``epoch`` epochs (from 1).

    It is after every ``every``-th epoch, each one in the last part ``last`` of the run, and the
    final one.
    """
    return epoch % every == 0 or epoch > epochs * (1 - last) or epoch == epochs
