"""The data root, files that are read with a limit, and the caches of prepared sets."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..files import write_whole
from .dataset import PARTS, DataError, digest

OWN_FOLDER = Path("data")  # the project's own data root, relative to the current directory
CACHE_LIMIT = 400_000_000  # bytes of a cache file: eight times MNIST-rot
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Found = TypeVar("Found")


class Absent(Exception):
    """A source has no data here; the message says where it looked. Another source may have some."""


# ---- The data root -------------------------------------------------------------------------------


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Return the data root: the argument, else ``$PDOE_DATA``, else ``data/`` in this folder."""
    return Path(root or os.environ.get("PDOE_DATA") or OWN_FOLDER).expanduser()


def find_root(root: str | os.PathLike | None = None) -> Path:
    """Return the data root, which must be a folder if anybody named it.

    The default ``data/`` need not exist: it is made for the first download.

    Raises:
        DataError: a named root does not exist, or is a file.
    """
    place = data_root(root)
    key = "data.root" if root else "PDOE_DATA"
    if place == OWN_FOLDER or place.is_dir():
        return place
    what = "is no folder" if place.exists() else "does not exist"
    raise DataError(
        f"{key} names {place}, which {what}: make the folder, correct {key}, or leave it out to "
        f"use {OWN_FOLDER}/" + (" or PDOE_DATA." if root else ".")
    )


def describe_root(root: str | os.PathLike | None = None) -> str:
    """Say in a sentence which data root was used and what chose it."""
    if root:
        return f"(The data root is {data_root(root)}, from data.root; without it, PDOE_DATA's.)"
    if os.environ.get("PDOE_DATA"):
        return f"(The data root is {data_root()}, from PDOE_DATA.)"
    return f"(The data root is {data_root()}/; PDOE_DATA names another folder.)"


def writable_root(root: Path) -> Path:
    """Return the folder for downloads and caches: ``root``, or ``data/`` where that is read-only.

    A folder without any write permission bit counts as read-only for a superuser, too: whoever
    removed the bits meant it.
    """
    folder = root / "cache"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    marked = folder.is_dir() and folder.stat().st_mode & 0o222
    return root if marked and os.access(folder, os.W_OK | os.X_OK) else OWN_FOLDER


def search_roots(root: Path) -> list[Path]:
    """Return the folders to search: the root, and ``data/`` if the root is read-only."""
    return list(dict.fromkeys([root, writable_root(root)]))


def read_first(read: Callable[[Path], Found], root: Path) -> Found:
    """Return what ``read`` finds in the first folder of :func:`search_roots` that has anything."""
    reasons = []
    for folder in search_roots(root):
        try:
            return read(folder)
        except Absent as absent:
            reasons.append(str(absent))
        except (OSError, MemoryError) as error:
            raise DataError(f"cannot read the files in {folder}: {error}.") from None
    raise Absent(", ".join(reasons))


# ---- Files ---------------------------------------------------------------------------------------


def is_there(path: Path) -> bool:
    """Whether the name is taken, also by a FIFO, a folder or a broken link."""
    return path.exists() or path.is_symlink()


def check_file(path: Path, limit: int | None, remedy: str) -> None:
    """Refuse to open what is no regular file of 1 to ``limit`` bytes; None: of any size.

    Raises:
        DataError: names the file, what was found, what was expected, and the ``remedy``.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. {remedy}") from None
    if not stat.S_ISREG(info.st_mode):
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "no file")
        raise DataError(f"{path} is {kind}, expected a file. {remedy}")
    if not 0 < info.st_size <= (limit or info.st_size):
        found = f"has {info.st_size:,} bytes, expected at most {limit:,}" if info.st_size else "is"
        raise DataError(f"{path} {found}{'' if info.st_size else ' empty'}. {remedy}")


def read_file(path: Path, limit: int, remedy: str) -> bytes:
    """Return the bytes of a regular file of 1 to ``limit`` bytes.

    Raises:
        DataError: as :func:`check_file`, or the file cannot be read.
    """
    check_file(path, limit, remedy)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. {remedy}") from None


# ---- Caches --------------------------------------------------------------------------------------


def name_cache(root: Path, name: str, provenance: str) -> Path:
    """Return where the prepared set of this name and provenance lies, or would be written."""
    file = f"{name}-{re.sub('[^a-z0-9]+', '-', provenance)}.npz"
    paths = [folder / "cache" / file for folder in search_roots(root)]
    return next((path for path in paths if is_there(path)), paths[-1])


def write_cache(path: Path, arrays: dict[str, np.ndarray], sha256: str) -> None:
    """Write the four uint8 arrays and their digest as an uncompressed npz file, whole."""
    write_whole(path, lambda file: np.savez(file, sha256=np.array(sha256), **arrays))


def read_cache(
    path: Path, pinned: str | None = None, limit: int | None = CACHE_LIMIT
) -> tuple[dict[str, np.ndarray], str]:
    """Read the four arrays of a cache file of at most ``limit`` bytes, and their digest.

    The contents must have the digest ``pinned``, or the one stored in the file if none is pinned.

    Raises:
        Absent: there is no such file.
        DataError: the file is damaged.
    """
    if not is_there(path):
        raise Absent(f"no cache {path}")
    remedy = "Delete this file; it is made again at the next call."
    check_file(path, limit, remedy)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {part: file[part] for part in PARTS}
            expected = pinned or str(file["sha256"])
    except (
        OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, MemoryError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise DataError(f"{path} is damaged: not a readable cache ({error}). {remedy}") from None
    found = digest(arrays)
    if found != expected:
        raise DataError(
            f"{path} is damaged: its contents have SHA-256 {found}, expected {expected}. {remedy}"
        )
    return arrays, found
