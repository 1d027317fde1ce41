"""The original MNIST-rot: a zip archive of two text files, or those two files themselves."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..files import write_whole
from .dataset import DataError
from .downloads import download_first
from .facts import SETS
from .files import Absent, check_file, is_there, read_file

ZIP_NAME = "mnist_rotation_new.zip"
ZIP_MD5 = "0f9a947ff3d30e95cd685462cbf3b847"
ZIP_LIMIT = 100_000_000  # bytes
TEXT_LIMIT = 2_000_000_000  # bytes of an .amat file: 32 a value, where the published ones have 16
ZIP_URLS = (  # the authors' own address first
    f"http://www.iro.umontreal.ca/~lisa/icml2007data/{ZIP_NAME}",
    "https://raw.githubusercontent.com/XieQi2015/F-Conv/f3dec73f953dd056eb51c70a523e2d45a9f9e99b"
    f"/MinistExp/Data/{ZIP_NAME}",
)
AMAT_ROWS = {
    "mnist_all_rotation_normalized_float_train_valid.amat": SETS["mnist_rot"].images[0],
    "mnist_all_rotation_normalized_float_test.amat": SETS["mnist_rot"].images[1],
}
FOLDERS = (".", "mnist_rot")
_REMEDY = f"Replace it by a fresh copy (from {ZIP_URLS[0]}), or delete it."


def read_original(root: Path) -> dict[str, np.ndarray]:
    """Read the four uint8 arrays of the original set from its archive in ``root``.

    Images ``[N, 1, 28, 28]`` as stored: rows are read row-major.

    Raises:
        Absent: there is no archive.
        DataError: the archive is damaged, or not the published one.
    """
    for folder in (root / folder for folder in FOLDERS):
        if is_there(folder / ZIP_NAME):
            return _read_zip(folder / ZIP_NAME)
    texts = [p for folder in FOLDERS for name in AMAT_ROWS if is_there(p := root / folder / name)]
    hint = f" ({texts[0]} has no known checksum: data.source=unchecked)" if texts else ""
    raise Absent(f"no {ZIP_NAME} in {root} or {root / FOLDERS[1]}{hint}")


def read_unchecked(root: Path) -> dict[str, np.ndarray]:
    """Read the same arrays from the two .amat files in ``root``.

    Rows, columns and ranges are checked. No checksum of these files is known, so they are not
    called original.

    Raises:
        Absent: there is neither file.
        DataError: one file is missing or damaged.
    """
    for folder in (root / folder for folder in FOLDERS):
        paths = [folder / name for name in AMAT_ROWS]
        missing = [str(path) for path in paths if not is_there(path)]
        if len(missing) == 1:
            raise DataError(f"MNIST-rot in {folder} is incomplete: {missing[0]} not found.")
        if not missing:
            parts = []
            for path, rows in zip(paths, AMAT_ROWS.values(), strict=True):
                check_file(path, TEXT_LIMIT, _REMEDY)
                with open(path, encoding="ascii") as lines:
                    parts.append(parse_amat(lines, rows, str(path)))
            return _arrays(parts)
    raise Absent(f"no .amat files in {root} or {root / FOLDERS[1]}")


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    raw = read_file(path, ZIP_LIMIT, _REMEDY)
    if (found := hashlib.md5(raw).hexdigest()) != ZIP_MD5:
        raise DataError(f"{path}: {len(raw)} bytes of MD5 {found}, expected {ZIP_MD5}. {_REMEDY}")
    parts = []
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = {Path(member).name: member for member in archive.namelist()}
            for name, rows in AMAT_ROWS.items():
                with archive.open(members[name]) as file:
                    lines = io.TextIOWrapper(file, encoding="ascii")
                    parts.append(parse_amat(lines, rows, f"{path}:{name}"))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. {_REMEDY}") from None
    return _arrays(parts)


def _arrays(parts: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    (images, labels), (test_images, test_labels) = parts
    return {
        "train_images": images,
        "train_labels": labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }


def parse_amat(lines: Iterable[str], rows: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Parse an .amat file: images uint8 ``[rows, 1, 28, 28]`` and labels uint8 ``[rows]``.

    Each line holds 784 values in [0, 1], multiples of 1/256 up to the interpolation, and a label in
    0..9. A value v becomes round(256 v), at most 255.

    Raises:
        DataError: names ``name`` and the first damaged row.
    """
    images, labels, count = [], [], 0
    lines = iter(lines)
    while True:
        try:
            block = list(itertools.islice(lines, 1000))
            filled = [line for line in block if line.strip()]
            values = np.loadtxt(filled, ndmin=2) if filled else np.empty((0, 785))
        except ValueError as error:
            place = f"rows {count + 1} to {count + 1000}"
            raise DataError(f"{name} is damaged: {error} ({place}). {_REMEDY}") from None
        if not block or count > rows:
            break
        _check(values, count, name)
        images.append(np.clip(np.rint(values[:, :784] * 256), 0, 255).astype(np.uint8))
        labels.append(values[:, 784].astype(np.uint8))
        count += len(values)
    if count != rows:
        seen = f"more than {rows}" if count > rows else count
        raise DataError(f"{name} is damaged: found {seen} rows, expected {rows}. {_REMEDY}")
    return np.concatenate(images).reshape(-1, 1, 28, 28), np.concatenate(labels)


def _check(values: np.ndarray, start: int, name: str) -> None:
    if values.shape[1] != 785:
        found = f"{values.shape[1]} values in row {start + 1}, expected 785"
        raise DataError(f"{name} is damaged: found {found}. {_REMEDY}")
    pixels, labels = values[:, :784], values[:, 784]
    wrong_pixel = ~((pixels >= 0) & (pixels <= 1)).all(axis=1)  # NaN compares false
    wrong_label = ~np.isin(labels, np.arange(10))
    if wrong_pixel.any():
        row = start + 1 + int(wrong_pixel.argmax())
        raise DataError(f"{name} is damaged: row {row} has a pixel outside [0, 1]. {_REMEDY}")
    if wrong_label.any():
        row = int(wrong_label.argmax())
        found = f"label {labels[row]:g} in row {start + 1 + row}, expected 0..9"
        raise DataError(f"{name} is damaged: found {found}. {_REMEDY}")


def download_original(root: Path) -> None:
    """Download the archive into ``root/mnist_rot``; ``Absent`` has the reason if that fails."""
    raw = download_first("mnist_rot", ZIP_URLS, ZIP_MD5, ZIP_LIMIT)
    write_whole(root / "mnist_rot" / ZIP_NAME, raw)
