"""What a data set is: images and labels as plain tensors, with provenance and checksum."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

PARTS = ("train_images", "train_labels", "test_images", "test_labels")


class DataError(Exception):
    """Data are missing or damaged: what was found, what was expected, what to do."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, for training and test, on one device.

    `mean` and `std` (population) are scalars over all training pixels of value / 256.
    `provenance` is `original`, `regenerated` or `embedded`, and `..., 2000 held out` where the test
    images are so many training images; `sha256` is the `digest` of the contents.
    """

    name: str
    provenance: str
    sha256: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: float
    std: float
    classes: int

    def to(self, device: torch.device | str) -> DataSet:
        """The same data set with its tensors on `device`."""
        return replace(self, **{part: getattr(self, part).to(device) for part in PARTS})

    def held_out(self, count: int) -> DataSet:
        """The last `count` training images as test images, and the rest as the training images.

        For tuning, which must not see the test set; the provenance says so.
        """
        if type(count) is not int or not 0 < count < len(self.train_images):
            raise ValueError(
                f"data.validation holds out between 1 and {len(self.train_images) - 1} "
                f"training images (0 for none), not {count!r}"
            )
        if self.provenance == "embedded":
            raise ValueError(
                "data.validation: embedded data has every digit in three images, so that nothing "
                "would be held out; supply MNIST"
            )
        images, labels = self.train_images, self.train_labels
        mean, std = pixel_statistics(images[:-count].cpu().numpy())
        return replace(
            self,
            provenance=f"{self.provenance}, {count} held out",
            train_images=images[:-count],
            train_labels=labels[:-count],
            test_images=images[-count:],
            test_labels=labels[-count:],
            mean=mean,
            std=std,
        )


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 (hex) of the four uint8 arrays `PARTS`: name, shape and bytes of each, in order."""
    sha = hashlib.sha256()
    for part in PARTS:
        array = np.ascontiguousarray(arrays[part], dtype=np.uint8)
        sha.update(f"{part} {list(array.shape)}\n".encode())
        sha.update(array)
    return sha.hexdigest()


def make_data_set(
    name: str, provenance: str, sha256: str, arrays: dict[str, np.ndarray], classes: int
) -> DataSet:
    """A `DataSet` on the CPU from the four uint8 arrays `PARTS`, images `[N, C, H, W]`."""
    images, labels, test_images, test_labels = (torch.from_numpy(arrays[part]) for part in PARTS)
    mean, std = pixel_statistics(arrays["train_images"])
    return DataSet(
        name=name,
        provenance=provenance,
        sha256=sha256,
        train_images=images,
        train_labels=labels.long(),
        test_images=test_images,
        test_labels=test_labels.long(),
        mean=mean,
        std=std,
        classes=classes,
    )


def pixel_statistics(images: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation of uint8 value / 256, exact up to the last rounding.

    Both come from integer sums over the histogram, so they do not depend on the order of addition.
    """
    counts = [int(count) for count in np.bincount(images.ravel(), minlength=256)]
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    return first / total / 256, (second * total - first * first) ** 0.5 / total / 256
