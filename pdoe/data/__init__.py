"""Data sets as tensors of known provenance, and the batches made of them."""

from __future__ import annotations

import os
from collections.abc import Callable

from .batches import (
    epoch_batches,
    random_crop_flip,
    random_quarter_turns,
    random_rotation,
    random_stretch,
    to_input,
)
from .cifar import load_cifar10, load_cifar100
from .dataset import DataError, DataSet
from .mnist_rot import load_mnist_rot

DATASETS: dict[str, Callable[..., DataSet]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "mnist_rot": load_mnist_rot,
}

# Images [C, H, W] and classes, for networks that are built without their data.
SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "mnist_rot": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
# Images for training and for testing, of the published sets.
IMAGES = {"mnist_rot": (12_000, 50_000), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000)}


def load_data(
    name: str,
    root: str | os.PathLike | None = None,
    source: str = "auto",
    statistics: str = "train",
) -> DataSet:
    """The data set `name` (a key of `DATASETS`), found, downloaded or made, on the CPU.

    `root` is the folder with data (default: `$PDOE_DATA`, else `data/` in the current directory),
    `source` where to take them from (see the loader), `statistics` the images whose mean and std
    are given: `train` for the training images, `train_test` for all. Raises `ValueError` for an
    unknown name, source or statistics, `DataError` for missing or damaged data.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: expected one of {sorted(DATASETS)}")
    return DATASETS[name](root, source, statistics)


__all__ = [
    "DATASETS",
    "IMAGES",
    "SHAPES",
    "DataError",
    "DataSet",
    "epoch_batches",
    "load_data",
    "random_crop_flip",
    "random_quarter_turns",
    "random_rotation",
    "random_stretch",
    "to_input",
]
