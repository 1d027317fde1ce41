"""Where data lie, how they are downloaded, and the caches of what was made of them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from ..files import write_whole
from .dataset import PARTS, DataError, digest

OWN_FOLDER = Path("data")  # the project's own data root, relative to the current directory
TIMEOUT = 10  # seconds to wait for a connection, or for the next bytes of one


class Absent(Exception):
    """A source has nothing to offer; the message says where it looked. Another source may have."""


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The data root: the argument, else `$PDOE_DATA`, else `data/` in the current directory."""
    return Path(root or os.environ.get("PDOE_DATA") or OWN_FOLDER).expanduser()


def writable_root(root: Path) -> Path:
    """The folder that takes downloads and caches: `root`, or `data/` where `root` is read-only.

    A folder without any write permission bit counts as read-only even for a superuser, who could
    write there all the same: whoever took the bits away meant it.
    """
    folder = root / "cache"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    marked = folder.is_dir() and folder.stat().st_mode & 0o222
    return root if marked and os.access(folder, os.W_OK | os.X_OK) else OWN_FOLDER


def search_roots(root: Path) -> list[Path]:
    """The folders where data of `root` may lie: itself, and its stand-in if it is read-only."""
    return list(dict.fromkeys([root, writable_root(root)]))


def download(url: str) -> bytes:
    """The bytes behind `url`. Raises `Absent` with the reason where they cannot be had."""
    import http.client  # kept out of `import pdoe.data`
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Absent(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}") from None


def cache_path(root: Path, name: str, provenance: str) -> Path:
    """Where the prepared set of this name and provenance lies, or would be written."""
    paths = [folder / "cache" / f"{name}-{provenance}.npz" for folder in search_roots(root)]
    return next((path for path in paths if path.exists()), paths[-1])


def write_cache(path: Path, arrays: dict[str, np.ndarray], sha256: str) -> None:
    """Write the four uint8 arrays and their digest as an uncompressed npz file, whole."""
    write_whole(path, lambda file: np.savez(file, sha256=np.array(sha256), **arrays))


def read_cache(path: Path, pinned: str | None = None) -> tuple[dict[str, np.ndarray], str]:
    """The four uint8 arrays of a cache file and their digest, checked.

    The contents must have the digest `pinned`, or the one stored in the file where none is pinned.
    Raises `DataError` for any damage, `Absent` if there is no such file.
    """
    if not path.exists():
        raise Absent(f"no cache {path}")
    remedy = "Delete this file; it is made again at the next call."
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {part: file[part] for part in PARTS}
            expected = pinned or str(file["sha256"])
    except (
        OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise DataError(f"{path} is damaged: not a readable cache ({error}). {remedy}") from None
    found = digest(arrays)
    if found != expected:
        raise DataError(
            f"{path} is damaged: its contents have SHA-256 {found}, expected {expected}. {remedy}"
        )
    return arrays, found
