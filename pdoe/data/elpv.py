"""ELPV: 2,624 electroluminescence images of solar cells, functional or defective.

The images come with the package ``elpv-dataset`` and are never copied into this one. Licence of the
images: CC BY-NC-SA 4.0. Source: Buerhop-Lutz et al., A Benchmark for Visual Identification of
Defective Solar Cells in Electroluminescence Imagery, EU PVSEC 2018; split and labels as in Deitsch
et al., Solar Energy 185 (2019), 455-468: a cell is defective if its probability exceeds 1/2, and a
quarter of the cells are for testing. That paper does not list its test cells. Here they are those
that :func:`spread` puts last, whatever the draw.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np

from .dataset import PARTS, DataError, DataSet, check_statistics, digest, make_data_set
from .facts import SETS
from .files import Absent, find_root, name_cache, read_cache, write_cache

NAME = "elpv"
SOURCES = ("auto", "package")
PACKAGE = "elpv_dataset"
INSTALL = "pip install 'pdoe[elpv]', or pip install elpv-dataset (90 MB)"
TYPES = ("mono", "poly")
SIZES = range(4, 301)
# Pixels of a side -> SHA-256 of the prepared set (``dataset.digest``), its labels being strata.
PREPARED = {
    32: "fc0a783ec57a5a151e0a350ed4a70e12510a7ef86c05a9228ea85cf08815611d",
    64: "575590f53625786e07d779f09058e3d8e2ccd5a5334408598d5bc35cca1dc148",
}


def load_elpv(
    root: str | os.PathLike | None = None,
    source: str = "auto",
    statistics: str = "train",
    draw: int = 0,
    size: int = 64,
) -> DataSet:
    """Load ELPV: images uint8 ``[1968, 1, H, H]`` and ``[656, 1, H, H]``, 1 for a defective cell.

    The order of the training cells is random, and the first N of them, for any N, are stratified
    by the eight pairs of crystal type and defect probability. So ``recipe.train_images`` is a
    number of labelled cells, and ``data.validation`` holds out a stratified part. The images are
    area means of 300x300 pixels. A set that was prepared once is read from a cache.

    Args:
        root: the data root, for the cache; by default ``$PDOE_DATA``, else ``data/``.
        source: ``auto`` or ``package``, which mean the same.
        statistics: the images whose mean and std are given: ``train`` or ``train_test``.
        draw: the seed of the order of the training cells, from 0 to 2^32 - 1.
        size: the height and width H of an image, from 4 to 300 pixels.

    Raises:
        ValueError: an unknown source or statistics, or a draw or size that is no such number.
        DataError: the package is missing or damaged.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r} of {NAME}: expected one of {SOURCES}")
    check_statistics(statistics)
    if type(draw) is not int or not 0 <= draw < 2**32:
        raise ValueError(f"data.draw is an integer from 0 to 2^32 - 1, not {draw!r}")
    if type(size) is not int or size not in SIZES:
        raise ValueError(f"data.size is an integer from 4 to 300, not {size!r}")
    arrays = _read_or_prepare(find_root(root), size)
    order = spread(arrays["train_labels"], np.random.RandomState(draw))
    images, strata, test_images, test_strata = (arrays[part] for part in PARTS)
    parts = images[order], is_defective(strata[order]), test_images, is_defective(test_strata)
    drawn = dict(zip(PARTS, parts, strict=True))
    classes, provenance = SETS[NAME].classes, f"package, {size} pixels"
    return make_data_set(NAME, provenance, drawn, classes, statistics=statistics)


def spread(strata: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Return a random order of cells in which the cells of each stratum are evenly spaced.

    Every first part of the order has the proportions of the whole, up to rounding.

    Args:
        strata: the stratum of every cell, integers ``[N]``.
        random: orders the cells within a stratum.

    >>> strata = np.array([0, 0, 0, 0, 1, 1])
    >>> [int(n) for n in strata[spread(strata, np.random.RandomState(0))]]
    [0, 1, 0, 0, 1, 0]
    """
    position = np.empty(len(strata))
    for stratum in np.unique(strata):
        cells = np.flatnonzero(strata == stratum)
        position[random.permutation(cells)] = (np.arange(len(cells)) + 0.5) / len(cells)
    return np.lexsort((strata, position))


def is_defective(strata: np.ndarray) -> np.ndarray:
    """Return the labels of strata, which are 4 * type + 3 * probability: 1 if it is above 1/2."""
    return (strata % 4 >= 2).astype(np.uint8)


def average_areas(images: np.ndarray, size: int) -> np.ndarray:
    """Reduce uint8 images ``[N, H, H]`` to ``[N, size, size]`` by means over areas, rounded.

    A pixel that two areas share counts for each by its part. The sums are integers, so the result
    is the same on every machine, and commutes exactly with quarter turns and reflections.

    >>> average_areas(np.array([[[0, 0, 30], [0, 0, 30], [0, 0, 30]]], np.uint8), 2).tolist()
    [[[0, 20], [0, 20]]]
    """
    large = images.shape[-1]
    ends = np.arange(1, size + 1)[:, None] * large, np.arange(1, large + 1) * size
    overlap = np.minimum(*ends) - np.maximum(ends[0] - large, ends[1] - size)
    weight = np.maximum(overlap, 0).astype(np.float64)  # [size, H], integers
    sums = weight @ images.astype(np.float64) @ weight.T
    return np.floor((sums + large**2 / 2) / large**2).astype(np.uint8)


def _read_or_prepare(root: Path, size: int) -> dict[str, np.ndarray]:
    """Read the prepared set from its cache, or make, check and cache it; its labels are strata."""
    path, pinned = name_cache(root, NAME, f"package, {size} pixels"), PREPARED.get(size)
    try:
        return read_cache(path, pinned)[0]
    except Absent:
        images, strata = _read_package(size)
    order = spread(strata, np.random.RandomState(0))
    train, _ = SETS[NAME].images
    arrays = {}
    for part, cells in (("train", np.sort(order[:train])), ("test", np.sort(order[train:]))):
        arrays |= {f"{part}_images": images[cells][:, None], f"{part}_labels": strata[cells]}
    if (sha256 := digest(arrays)) != (pinned or sha256):
        raise DataError(
            f"the {NAME} prepared here has SHA-256 {sha256}, expected {pinned}: the images of "
            f"the package are not the known ones. Reinstall it: {INSTALL}."
        )
    try:
        write_cache(path, arrays, sha256)
        print(f"{NAME}: prepared from the package {PACKAGE}, cache {path}", flush=True)
    except OSError as error:
        print(f"{NAME}: {path} not written ({error}); the set is made again next time")
    return arrays


def _read_package(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read and reduce the images of the package: ``[N, H, H]``, and strata ``[N]``."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise DataError(
            f"no data for {NAME}: the package elpv-dataset is not installed. {INSTALL}."
        )
    from PIL import Image

    folder = Path(spec.submodule_search_locations[0], "data")
    images, strata = [], []
    try:
        for line in (folder / "labels.csv").read_text("ascii").splitlines():
            name, probability, kind = line.split()
            strata.append(4 * TYPES.index(kind) + round(3 * float(probability)))
            with Image.open(folder / name) as image:
                images.append(average_areas(np.asarray(image)[None], size)[0])
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{folder} cannot be read: {error}. Reinstall it: {INSTALL}.") from None
    return np.stack(images), np.array(strata, np.uint8)
