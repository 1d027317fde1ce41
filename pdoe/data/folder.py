"""The user's own images: a folder for each class, decoded once.

Names and contents of the files make the provenance, so it is the same wherever the folder lies.
The decoded images are cached in the data root (``$PDOE_DATA``, else ``data/``), never in the
folder of the images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import DataError, DataSet, check_statistics, digest, make_data_set
from .decoding import MODES, decode_files
from .files import OWN_FOLDER, Absent, data_root, name_cache, read_cache, write_cache
from .listing import Listing, list_images

NAME = "folder"
SOURCES = ("auto",)
TEST_FRACTION = 0.2  # where there is no folder test/
LARGEST = 4096  # pixels: side of an image


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Keys of the data that say which images a folder gives.

    Attributes:
        size: side in pixels to which images are resized and cropped; None: all have one already.
        channels: 1, 3 or 4 (colour and alpha); None: 1 if all images are grey, else 3.
        test_fraction: part of each class that tests; None: that of the folder ``test/``, or
            ``TEST_FRACTION`` without one.
        split: seed of the test images and of the order of the training images.
        skip_broken: leave out files that cannot be used.

    Raises:
        ValueError: a value of another type or range.
    """

    size: int | None = None
    channels: int | None = None
    test_fraction: float | None = None
    split: int = 0
    skip_broken: bool = False

    def __post_init__(self) -> None:
        size, fraction = self.size, self.test_fraction
        if size is not None and (type(size) is not int or not 1 <= size <= LARGEST):
            raise ValueError(f"data.size is a side from 1 to {LARGEST} pixels, or null, not {size}")
        if self.channels is not None and (
            type(self.channels) is not int or self.channels not in MODES
        ):
            raise ValueError(f"data.channels is 1, 3, 4 or null, not {self.channels!r}")
        if fraction is not None and (type(fraction) is not float or not 0 < fraction < 1):
            raise ValueError(f"data.test_fraction is between 0 and 1, or null, not {fraction!r}")
        if type(self.split) is not int or not 0 <= self.split < 2**32:
            raise ValueError(f"data.split is an integer from 0 to 2^32 - 1, not {self.split!r}")
        if type(self.skip_broken) is not bool:
            raise ValueError(f"data.skip_broken is true or false, not {self.skip_broken!r}")

    def describe(self) -> str:
        """Name the values in a cache file."""
        words = f"size {self.size}, channels {self.channels}, test {self.test_fraction}"
        return f"{words}, split {self.split}{', skipping' * self.skip_broken}".lower()


def load_folder(
    root: Path, source: str = "auto", statistics: str = "train", **keys: int | float | bool | None
) -> DataSet:
    """Load the images of a folder: uint8 ``[N, C, S, S]``, with the names of its classes.

    ``root/<class>/*``, or ``root/train/<class>/*`` and ``root/test/<class>/*``. Without ``test/``
    a part of each class, drawn at random, tests. Training images are in a random order in which
    every class is spread evenly, so the first or last N images (``recipe.train_images``,
    ``data.validation``) hold each class in its share. So are test images.

    Args:
        root: the folder.
        source: ``auto``.
        statistics: the images whose mean and std are given, ``train`` or ``train_test``.
        keys: the attributes of :class:`Wanted`.

    Raises:
        ValueError: an impossible value.
        DataError: the folder has no two classes of images, or a file cannot be used.
    """
    if source not in SOURCES:
        raise ValueError(f"data.source is auto for your own images, not {source!r}")
    check_statistics(statistics)
    wanted = Wanted(**keys)
    listing = list_images(root)
    if listing.test is not None and wanted.test_fraction is not None:
        raise ValueError(
            f"data.test_fraction splits a folder without test/, and {root} has one: leave it out"
        )
    sums = [_sum_file(path) for path in listing.paths]
    provenance = f"files {listing.digest(sums)[:12]}"
    arrays, sha256 = _read_or_make(listing, wanted, provenance)
    kept = sum(len(arrays[f"{part}_labels"]) for part in ("train", "test"))
    if skipped := len(sums) - kept:
        print(f"{NAME}: skipped {skipped:,} of {len(sums):,} files that cannot be used", flush=True)
    _report_copies(arrays["train_images"], arrays["test_images"])
    names = listing.class_names
    return make_data_set(NAME, provenance, arrays, len(names), sha256, statistics, names)


def split_images(
    listing: Listing, kept: np.ndarray, wanted: Wanted
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the training and the test images, in the order of the data set.

    Args:
        listing: of the folder.
        kept: numbers of the files that can be used, ``[N]``.
        wanted: the split.

    Returns:
        Places in ``kept`` of the training and of the test images.

    Raises:
        DataError: a class has too few images.
    """
    random, labels = np.random.RandomState(wanted.split), np.array(listing.labels)[kept]
    if listing.test is not None:
        tests = kept >= len(listing.paths) - listing.test
    else:
        tests = np.zeros(len(kept), bool)
        for label in range(len(listing.class_names)):
            members = random.permutation(np.flatnonzero(labels == label))
            count = round((wanted.test_fraction or TEST_FRACTION) * len(members))
            tests[members[: min(max(1, count), len(members) - 1)]] = True
    for part, chosen in (("training", ~tests), ("test", tests)):
        if left := set(range(len(listing.class_names))) - set(labels[chosen].tolist()):
            name = listing.class_names[min(left)]
            count = (labels == min(left)).sum()
            raise DataError(
                f"{listing.root}: the class {name} has too few images that can be used, {count}: "
                f"none is left for the {part}; add images, or remove the class."
            )
    pairs = (np.flatnonzero(chosen) for chosen in (~tests, tests))
    train, test = (places[_spread(labels[places], random)] for places in pairs)
    return train, test


def _spread(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Return a random order of labels in which each class is spread evenly."""
    shuffled = random.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = labels[shuffled] == label
        place[own] = (np.arange(own.sum()) + 0.5) / own.sum()
    return shuffled[np.argsort(place, kind="stable")]


def _read_or_make(
    listing: Listing, wanted: Wanted, provenance: str
) -> tuple[dict[str, np.ndarray], str]:
    """Read the set from its cache, or decode and cache it: arrays and SHA-256."""
    root = data_root() if data_root().is_dir() else OWN_FOLDER
    path = name_cache(root, NAME, f"{provenance[6:]} {wanted.describe()}")
    try:
        arrays, sha256 = read_cache(path, limit=None)
        print(f"{NAME}: {provenance}: taken from the cache {path}", flush=True)
        return arrays, sha256
    except Absent:
        print(f"{NAME}: {provenance}: decoding {len(listing.paths):,} files", flush=True)
    images, kept = decode_files(listing.paths, wanted.size, wanted.channels, wanted.skip_broken)
    labels = np.array(listing.labels)[kept]
    labels = labels.astype(np.uint8 if len(listing.class_names) <= 256 else np.uint16)
    train, test = split_images(listing, kept, wanted)
    arrays = {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
    sha256 = digest(arrays)
    try:
        write_cache(path, arrays, sha256)
        print(f"{NAME}: cached in {path}", flush=True)
    except OSError as error:
        print(f"{NAME}: {path} not written ({error}); the files are decoded again next time")
    return arrays, sha256


def _sum_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _report_copies(train: np.ndarray, test: np.ndarray) -> None:
    """Print how many test images are training images, too."""
    known = {hashlib.sha256(image).digest() for image in train}
    if copies := sum(hashlib.sha256(image).digest() in known for image in test):
        print(
            f"{NAME}: {copies:,} of {len(test):,} test images are equal to training images, so "
            "the test error is too low",
            flush=True,
        )
