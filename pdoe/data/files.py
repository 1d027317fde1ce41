"""Where data lie, how they are downloaded, and the caches of what was made of them."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..files import write_whole
from .dataset import PARTS, DataError, digest

OWN_FOLDER = Path("data")  # the project's own data root, relative to the current directory
TIMEOUT = 10  # seconds to wait for a connection, or for the next bytes of one
GRACE = 15  # seconds before the speed of a download is judged
SLOW = 300_000  # bytes per second: at less, another mirror is worth a try

Found = TypeVar("Found")


class Absent(Exception):
    """A source has nothing to offer; the message says where it looked. Another source may have."""


class TooSlow(Absent):
    """A source would take too long."""


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


def check_root(name: str, root: Path) -> None:
    """Say so where a data root that somebody has named does not exist."""
    if root != OWN_FOLDER and not root.exists():
        print(f"{name}: the data root {root} does not exist: is it misspelt?", flush=True)


def first_found(read: Callable[[Path], Found], root: Path) -> Found:
    """What `read` finds in the first folder that has anything: the root, or its stand-in."""
    reasons = []
    for folder in search_roots(root):
        try:
            return read(folder)
        except Absent as absent:
            reasons.append(str(absent))
        except OSError as error:
            raise DataError(f"cannot read what is in {folder}: {error}") from None
    raise Absent(", ".join(reasons))


def fetched(fetch: Callable[[Path], None], root: Path) -> Path:
    """The folder under which `fetch` has put its files."""
    folder = writable_root(root)
    try:
        fetch(folder)
    except OSError as error:
        raise Absent(f"cannot be written under {folder}: {error}") from None
    return folder


def download(url: str, slowest: float = 0) -> bytes:
    """The bytes behind `url`. Raises `Absent` with the reason where they cannot be had.

    Raises `TooSlow` where they come, after `GRACE` seconds, at fewer than `slowest` per second.
    """
    import http.client  # kept out of `import pdoe.data`
    import urllib.request

    parts, count, start = [], 0, time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            while part := response.read1(1 << 20):
                parts.append(part)
                count += len(part)
                seconds = time.monotonic() - start
                if seconds > GRACE and count < slowest * seconds:
                    raise TooSlow(f"{url}: only {count / seconds / 1000:.0f} kB per second")
            expected = int(response.headers.get("Content-Length") or count)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Absent(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}") from None
    if count != expected:
        raise Absent(f"{url}: broke off after {count} of {expected} bytes")
    return b"".join(parts)


def first_good(
    name: str, urls: Sequence[str], md5: str, unpack: Callable[[bytes], bytes] = bytes
) -> bytes:
    """The bytes that have the MD5 sum `md5`, once unpacked, from the first of `urls` with them.

    `unpack` may raise `OSError`. A slow one is left for another, and waited for where no other has
    the file. A line is printed per attempt, which starts with `name`. Raises `Absent` with all
    reasons.
    """
    reasons = []
    queue = [(url, SLOW if len(urls) > 1 else 0) for url in urls]
    for url, slowest in queue:
        print(f"{name}: downloading {url}", flush=True)
        try:
            raw = download(url, slowest)
            contents = unpack(raw)
            if (found := hashlib.md5(contents).hexdigest()) == md5:
                return raw
            reasons.append(f"{url} gave {len(contents)} bytes of MD5 {found}, expected {md5}")
        except OSError as error:
            reasons.append(f"{url} gave what cannot be unpacked: {error}")
        except TooSlow as absent:
            reasons.append(str(absent))
            queue.append((url, 0))
        except Absent as absent:
            reasons.append(str(absent))
        print(f"{name}: {reasons[-1]}", flush=True)
    raise Absent("; ".join(reasons))


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
