"""MNIST in its own format: four IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np

from ..files import write_whole
from .dataset import DataError
from .downloads import download_first
from .files import Absent, is_there, read_file

# MD5 of the unpacked bytes: gzip wrappings differ between mirrors, the contents do not.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FOLDERS = ("mnist", "MNIST/raw", ".")  # this project's, torchvision's, and the root itself
LIMIT = 48_000_000  # bytes of a file, packed or not: 60,000 images and a header
PACKED_LIMIT = 12_000_000  # bytes of a download
_REMEDY = "Replace the file by a fresh copy, or delete it."


def read_mnist(root: Path, files: dict[str, str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read all digits, train then t10k: images uint8 ``[70000, 28, 28]``, labels ``[70000]``.

    Args:
        root: the four files lie in one of ``FOLDERS`` below it.
        files: the four names (train images, train labels, t10k images, t10k labels) and the MD5 of
            their unpacked bytes.

    Raises:
        Absent: there is none of the files.
        DataError: one file is damaged, or some are missing.
    """
    files = MNIST_FILES if files is None else files
    found: dict[str, Path] = {}
    for folder in FOLDERS:
        places = {name: (root / folder / name, root / folder / f"{name}.gz") for name in files}
        found = {n: path for n, pair in places.items() for path in pair[::-1] if is_there(path)}
        if found:
            break
    else:
        raise Absent(f"no MNIST files in {', '.join(str(root / folder) for folder in FOLDERS)}")
    if missing := [name for name in files if name not in found]:
        raise DataError(
            f"MNIST in {root / folder} is incomplete: {', '.join(missing)} (or .gz) not found. "
            "Put them there, or take the others away."
        )
    parts = [parse_idx(read_unpacked(path, files[name]), path) for name, path in found.items()]
    label_paths = list(found.values())[1::2]
    for images, labels, path in zip(parts[::2], parts[1::2], label_paths, strict=True):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(f"{path}: {labels.shape} labels for images {images.shape}. {_REMEDY}")
        if labels.max(initial=0) > 9:
            raise DataError(f"{path}: found label {labels.max()}, expected 0..9. {_REMEDY}")
    return np.concatenate(parts[::2]), np.concatenate(parts[1::2])


def read_unpacked(path: Path, md5: str) -> bytes:
    """Read a file, gzipped or not, whose unpacked bytes must have the MD5 sum ``md5``."""
    try:
        raw = _gunzip(read_file(path, LIMIT, _REMEDY))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. {_REMEDY}") from None
    if (found := hashlib.md5(raw).hexdigest()) != md5:
        raise DataError(
            f"{path}: the unpacked {len(raw)} bytes have MD5 {found}, expected {md5}. {_REMEDY}"
        )
    return raw


def parse_idx(raw: bytes, path: Path) -> np.ndarray:
    """Parse the uint8 array in the bytes of an IDX file; ``path`` is named in a ``DataError``.

    Format: two zero bytes, the type (8: uint8), the number of axes, each length as a big-endian
    32-bit integer, the values in row-major order.
    """
    rank = raw[3] if len(raw) > 3 else 0
    header = 4 + 4 * rank
    if raw[:3] != b"\0\0\x08" or not rank or len(raw) < header:
        raise DataError(f"{path}: starts with {raw[:4].hex()}, not an IDX file. {_REMEDY}")
    shape = [int(length) for length in np.frombuffer(raw, ">u4", rank, offset=4)]
    if len(raw) - header != (expected := int(np.prod(shape))):
        raise DataError(
            f"{path}: found {len(raw) - header} values, expected {expected} for {shape}. {_REMEDY}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def download_mnist(root: Path) -> None:
    """Download MNIST from torchvision's mirrors into ``root/mnist``, all four files or none.

    Raises ``Absent`` with the reasons where no mirror gives a file with the right contents.
    """
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise Absent(f"the mirrors are torchvision's, which does not import ({error})") from None
    packed = {
        name: download_first(
            "mnist_rot", [f"{url}{name}.gz" for url in MNIST.mirrors], md5, PACKED_LIMIT, _gunzip
        )
        for name, md5 in MNIST_FILES.items()
    }
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mnist.", dir=root) as folder:
        for name, raw in packed.items():
            write_whole(Path(folder, "mnist", f"{name}.gz"), raw)
        try:
            Path(folder, "mnist").rename(root / "mnist")  # all four at once
        except OSError:  # another process was faster, or a folder with other files is there
            for name in packed:
                shutil.move(Path(folder, "mnist", f"{name}.gz"), root / "mnist" / f"{name}.gz")


def _gunzip(raw: bytes) -> bytes:
    """Unpack at most ``LIMIT`` gzipped bytes; others pass. ``OSError`` if they are damaged."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            contents = file.read(LIMIT + 1)
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from None
    if len(contents) > LIMIT:
        raise OSError(f"it unpacks to more than {LIMIT:,} bytes")
    return contents
