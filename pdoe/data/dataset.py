"""A data set: images and labels as plain tensors, with provenance and checksum."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
STATISTICS = ("train", "train_test")  # the images whose pixels give mean and std
Statistic = float | tuple[float, ...]  # of images with one channel, or one number per channel


class DataError(Exception):
    """Data are missing or damaged: what was found, what was expected, what to do."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images uint8 ``[N, C, H, W]`` and labels int64 ``[N]``, for training and test, on one device.

    ``mean`` and ``std`` (population) are those of value / 256 over all pixels: a number for images
    with one channel, else a tuple with a number per channel. The pixels are those of the training
    images, or of all images for ``statistics="train_test"``.

    ``provenance`` is the source (see the loaders). It ends in ``, 2000 held out`` where 2,000
    training images are the test images: the last ones, or those of the fold that it names, as in
    ``, fold 3, 2000 held out``. ``sha256`` is the ``digest`` of the contents.
    ``class_names`` are given where the facts of the set have none.
    """

    name: str
    provenance: str
    sha256: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Statistic
    std: Statistic
    classes: int
    validation: DataSet | None = None  # its test images are the held-out ones
    class_names: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> DataSet:
        """Move the tensors to ``device``."""
        moved = {part: getattr(self, part).to(device) for part in PARTS}
        return replace(self, **moved, validation=self.validation and self.validation.to(device))

    def without_normalisation(self, std: float = 1.0) -> DataSet:
        """Keep the images and drop their normalisation: a network gets value / 256 / ``std``."""
        channels = self.train_images.shape[1]
        numbers = (0.0, std) if channels == 1 else ((0.0,) * channels, (std,) * channels)
        validation = self.validation and self.validation.without_normalisation(std)
        return replace(self, mean=numbers[0], std=numbers[1], validation=validation)

    def hold_out(self, count: int, keep_test: bool = False, fold: int | None = None) -> DataSet:
        """Use ``count`` training images as test images, and train on the rest.

        For tuning, which must not see the test set; the provenance says so. The images are the
        last ``count``, or with ``fold=k`` those from number ``k count`` on, so that all folds
        together hold out every training image once. ``mean`` and ``std`` are those of the images
        left for training, also where the whole set has those of all images. With ``keep_test``
        the test images stay, and the held-out images become ``validation``.

        Raises:
            ValueError: ``count`` leaves no training images, the folds are not of equal size,
                there is no such fold, or the set is ``embedded``, where a held-out digit would
                also be a training digit.
        """
        whole = len(self.train_images)
        if type(count) is not int or not 0 < count < whole:
            raise ValueError(
                f"data.validation holds out between 1 and {whole - 1} "
                f"training images (0 for none), not {count!r}"
            )
        if fold is not None:
            _check_fold(fold, count, whole)
        if self.provenance == "embedded":
            raise ValueError(
                "data.validation: embedded data has every digit in three images, so a held-out "
                "image is no new digit; let PDOE_DATA name a folder with MNIST"
            )
        first = whole - count if fold is None else fold * count
        held_out = torch.zeros(whole, dtype=torch.bool, device=self.train_labels.device)
        held_out[first : first + count] = True
        images, labels = self.train_images, self.train_labels
        mean, std = channel_statistics(images[~held_out].cpu().numpy())
        of_fold = "" if fold is None else f", fold {fold}"
        held = replace(
            self,
            provenance=f"{self.provenance}{of_fold}, {count} held out",
            train_images=images[~held_out],
            train_labels=labels[~held_out],
            test_images=images[held_out],
            test_labels=labels[held_out],
            mean=mean,
            std=std,
        )
        if not keep_test:
            return held
        test = {part: getattr(self, part) for part in PARTS[2:]}
        return replace(held, provenance=self.provenance, validation=held, **test)


def _check_fold(fold: int, count: int, whole: int) -> None:
    """Refuse a fold that ``whole`` images do not have in parts of ``count`` images."""
    if whole % count:
        raise ValueError(
            f"data.fold needs folds of equal size: data.validation={count} does not divide "
            f"{whole} training images"
        )
    if type(fold) is not int or not 0 <= fold < whole // count:
        raise ValueError(
            f"data.fold is a number from 0 to {whole // count - 1} with data.validation={count}, "
            f"or null for the last images, not {fold!r}"
        )


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 (hex) of the four arrays ``PARTS``: name, shape and bytes of each, in order.

    They are uint8; labels of more than 256 classes are uint16.
    """
    sha = hashlib.sha256()
    for part in PARTS:
        wide = arrays[part].dtype == np.uint16
        array = np.ascontiguousarray(arrays[part], dtype="<u2" if wide else np.uint8)
        sha.update(f"{part} {list(array.shape)}\n".encode())
        sha.update(array)
    return sha.hexdigest()


def check_statistics(statistics: str) -> None:
    """Raise ``ValueError`` for a word that is not in ``STATISTICS``."""
    if statistics not in STATISTICS:
        raise ValueError(f"unknown statistics {statistics!r}: expected one of {STATISTICS}")


def make_data_set(
    name: str,
    provenance: str,
    arrays: dict[str, np.ndarray],
    classes: int,
    sha256: str | None = None,
    statistics: str = "train",
    class_names: tuple[str, ...] = (),
) -> DataSet:
    """Make a ``DataSet`` on the CPU from four arrays of uint8 (labels also uint16).

    Args:
        name: of the data set.
        provenance: the source of the images.
        arrays: ``PARTS`` -> images ``[N, C, H, W]`` and labels ``[N]``.
        classes: the number of classes.
        sha256: the ``digest`` of the arrays; by default it is computed.
        statistics: the images whose mean and std are given, ``train`` or ``train_test``.
        class_names: where the facts of the set have none.

    Raises:
        ValueError: other ``statistics``.
    """
    check_statistics(statistics)
    parts = (arrays[p].astype(np.int64) if "labels" in p else arrays[p] for p in PARTS)
    images, labels, test_images, test_labels = map(torch.from_numpy, parts)
    sample = ("train_images",) if statistics == "train" else ("train_images", "test_images")
    mean, std = channel_statistics(*(arrays[part] for part in sample))
    return DataSet(
        name=name,
        provenance=provenance,
        sha256=sha256 or digest(arrays),
        train_images=images,
        train_labels=labels,
        test_images=test_images,
        test_labels=test_labels,
        mean=mean,
        std=std,
        classes=classes,
        class_names=class_names,
    )


def format_statistic(statistic: Statistic) -> str:
    """Format a mean or standard deviation, one number per channel."""
    numbers = statistic if isinstance(statistic, tuple) else (statistic,)
    return ", ".join(f"{number:.6f}" for number in numbers)


def channel_statistics(*images: np.ndarray) -> tuple[Statistic, Statistic]:
    """Mean and population standard deviation per channel of uint8 images ``[N, C, H, W]`` / 256.

    Over all arrays together. Two numbers for one channel, else two tuples of C numbers each.
    """
    channels = range(images[0].shape[1])
    pairs = [pixel_statistics(*(part[:, channel] for part in images)) for channel in channels]
    return pairs[0] if len(pairs) == 1 else tuple(zip(*pairs, strict=True))


def pixel_statistics(*images: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation of uint8 value / 256, exact up to the last rounding.

    Over all arrays together. Both come from sums of integers, so they do not depend on the order of
    addition.
    """
    total = first = second = 0
    for part in images:
        for start in range(0, len(part), 100):  # a piece that stays in the cache
            values = part[start : start + 100].astype(np.int64).ravel()
            total += len(values)
            first += int(values.sum())
            second += int(values @ values)
    return first / total / 256, (second * total - first * first) ** 0.5 / total / 256
