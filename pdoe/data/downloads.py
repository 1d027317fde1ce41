"""Downloads: limited in size, shown as they come, and checked before anything unpacks them."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .files import Absent, writable_root

TIMEOUT = 10  # seconds to wait for a connection, or for the next bytes of one
GRACE = 15  # seconds before the speed of a download is judged
SLOW = 300_000  # bytes per second: at less, another mirror is worth a try


class TooSlow(Absent):
    """A source would take too long."""


def choose_pace() -> dict[str, float]:
    """How often a bar is drawn: in a log file a line every 30 seconds, none before the first 30."""
    terminal = sys.stderr.isatty()
    return {"mininterval": 0.5, "delay": 0} if terminal else {"mininterval": 30, "delay": 30}


def download(url: str, limit: int, slowest: float = 0) -> bytes:
    """Return the bytes behind ``url``, at most ``limit``; a progress bar shows them coming.

    Raises:
        Absent: the bytes cannot be had, or are more than ``limit``; the message says why.
        TooSlow: after ``GRACE`` seconds they come at fewer than ``slowest`` per second.
    """
    import http.client  # kept out of `import pdoe.data`
    import urllib.request

    from tqdm import tqdm

    parts, count, start = [], 0, time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            announced = response.headers.get("Content-Length")
            expected = None if announced is None else int(announced)
            if (expected or 0) > limit:
                raise Absent(f"{url}: announces {expected:,} bytes, expected at most {limit:,}")
            with tqdm(
                total=expected,
                desc=url.rpartition("/")[2],
                unit="B",
                unit_scale=True,
                leave=False,
                **choose_pace(),
            ) as bar:
                while part := response.read1(1 << 20):
                    parts.append(part)
                    count += len(part)
                    bar.update(len(part))
                    if count > limit:
                        raise Absent(f"{url}: sends more than the {limit:,} bytes expected")
                    seconds = time.monotonic() - start
                    if seconds > GRACE and count < slowest * seconds:
                        raise TooSlow(f"{url}: only {count / seconds / 1000:.0f} kB per second")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Absent(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}") from None
    if expected is not None and count != expected:
        raise Absent(f"{url}: broke off after {count:,} of {expected:,} bytes")
    return b"".join(parts)


def download_first(
    name: str, urls: Sequence[str], md5: str, limit: int, unpack: Callable[[bytes], bytes] = bytes
) -> bytes:
    """Return the first download of ``urls`` whose bytes, once unpacked, have the MD5 sum ``md5``.

    A slow mirror is left for another one, and waited for if no other has the file. Prints a line
    per attempt.

    Args:
        name: of the data set; starts each line.
        urls: addresses of the same file, in order of preference.
        md5: hexadecimal MD5 of the unpacked bytes.
        limit: bytes that a download may have.
        unpack: undoes a wrapping that differs between mirrors; may raise ``OSError``.

    Raises:
        Absent: no address gives these bytes; the message has all reasons.
    """
    reasons = []
    queue = [(url, SLOW if len(urls) > 1 else 0) for url in urls]
    for url, slowest in queue:
        print(f"{name}: downloading {url}", flush=True)
        try:
            raw = download(url, limit, slowest)
            contents = unpack(raw)
            if (found := hashlib.md5(contents).hexdigest()) == md5:
                return raw
            reasons.append(f"{url} gave {len(contents)} bytes of MD5 {found}, expected {md5}")
        except OSError as error:
            reasons.append(f"{url} gave bytes that cannot be unpacked: {error}")
        except TooSlow as absent:
            reasons.append(str(absent))
            queue.append((url, 0))
        except Absent as absent:
            reasons.append(str(absent))
        print(f"{name}: {reasons[-1]}", flush=True)
    raise Absent("; ".join(reasons))


def download_into(fetch: Callable[[Path], None], root: Path) -> Path:
    """Let ``fetch`` write its files below the root, or below ``data/`` if the root is read-only.

    Returns:
        The folder that was given to ``fetch``.

    Raises:
        Absent: the folder takes no files, or ``fetch`` has none.
    """
    folder = writable_root(root)
    try:
        fetch(folder)
    except OSError as error:
        raise Absent(f"cannot be written under {folder}: {error}") from None
    return folder
