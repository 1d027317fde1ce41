"""Data sets as tensors of known provenance, and the batches made of them.

Names are imported at first use (PEP 562), so that :mod:`pdoe.data.facts` does not load torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .facts import SETS, Facts

if TYPE_CHECKING:  # for editors and type checkers
    from .augmentation import (
        random_crop_flip,
        random_quarter_turns,
        random_rotation,
        random_shift_flip,
        random_square_symmetry,
        random_stretch,
    )
    from .batches import epoch_batches, to_input
    from .dataset import DataError, DataSet

_MODULES = {
    "DataError": "dataset",
    "DataSet": "dataset",
    "epoch_batches": "batches",
    "random_crop_flip": "augmentation",
    "random_quarter_turns": "augmentation",
    "random_rotation": "augmentation",
    "random_shift_flip": "augmentation",
    "random_square_symmetry": "augmentation",
    "random_stretch": "augmentation",
    "to_input": "batches",
}
__all__ = [
    "SETS",
    "DataError",
    "DataSet",
    "Facts",
    "epoch_batches",
    "load_data",
    "random_crop_flip",
    "random_quarter_turns",
    "random_rotation",
    "random_shift_flip",
    "random_square_symmetry",
    "random_stretch",
    "to_input",
]


def load_data(
    name: str,
    root: str | os.PathLike | None = None,
    source: str = "auto",
    statistics: str = "train",
    **options: Any,
) -> DataSet:
    """Find, download or make a data set, on the CPU.

    Args:
        name: a key of ``SETS``.
        root: the folder with data; by default ``$PDOE_DATA``, else ``data/`` in the current folder.
            Of the set ``folder`` it is the folder of the images, and has no default.
        source: where to take the images from; each loader names its sources.
        statistics: the images whose mean and std are given: ``train`` for the training images,
            ``train_test`` for all.
        options: ``keys`` of the set's facts, such as the ``draw`` of ``mnist_rot``.

    Raises:
        ValueError: an unknown name, source, statistics or option.
        DataError: missing or damaged data, or a root that does not exist.
    """
    from .dataset import DataError
    from .files import describe_root, find_root

    if name not in SETS:
        raise ValueError(f"unknown data set {name!r}: expected one of {sorted(SETS)}")
    if unknown := sorted(set(options) - set(SETS[name].keys)):
        has = f"has {', '.join(SETS[name].keys)}" if SETS[name].keys else "has none"
        raise ValueError(f"{name} has no option {', '.join(unknown)}: it {has}")
    own = SETS[name].own
    if own and not root:
        raise ValueError(
            f"data={name} needs data.root, the folder of your images, such as data.root=photos"
        )
    module, _, function = SETS[name].loader.partition(":")
    load = getattr(import_module(f"{__name__}.{module}"), function)
    place = find_root(root)
    try:
        return load(place, source, statistics, **options)
    except DataError as error:
        if own:
            raise
        raise DataError(f"{error} {describe_root(root)}") from None


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
