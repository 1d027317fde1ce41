"""Image files as uint8 arrays: read with Pillow, checked, resized and cropped."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .dataset import DataError
from .downloads import choose_pace

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")  # of Pillow
GREYS = ("1", "L", "LA")  # modes of Pillow
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
DEEP = ("I", "F")  # modes of 16 and 32 bits: I, I;16, I;16B, F


class BadImage(Exception):
    """A file that gives no image; the message continues the sentence "<path> ..."."""


@dataclass(frozen=True)
class Form:
    """The form that all images get: ``channels`` are 1, 3 or 4, ``size`` is a side in pixels.

    Attributes:
        resize: whether images of other sizes are resized and cropped.
        drop_alpha: whether transparent pixels lose their transparency.
    """

    channels: int
    size: int
    resize: bool
    drop_alpha: bool


def decode_files(
    paths: Sequence[Path], size: int | None, channels: int | None, skip_broken: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Decode image files into one array.

    Photos are turned upright as their EXIF tag says. With ``size`` the shorter side is resized to
    that many pixels (bicubic) and the middle is cut out.

    Args:
        paths: of the files.
        size: side of the images; None: all have the same side already.
        channels: 1 (grey), 3 (colour) or 4 (colour and alpha); None: 1 if all images are grey,
            else 3.
        skip_broken: leave out files that cannot be used.

    Returns:
        Images uint8 ``[N, C, size, size]``, and the numbers of their paths, ascending, ``[N]``.

    Raises:
        DataError: names the first file that cannot be used, or two that do not fit together.
    """
    broken: dict[int, str] = {}
    if size is None or channels is None:
        headers = _read_each(paths, _read_header, broken)
        _refuse_broken(paths, broken, skip_broken)
        grey = all(mode in GREYS for _, mode in headers.values())
        side = size or _find_side(paths, headers)
        form = Form(channels or (1 if grey else 3), side, size is not None, channels is not None)
    else:
        form = Form(channels, size, True, True)
    shape = len(paths), form.channels, form.size, form.size
    _refuse_too_large(shape)
    images = np.zeros(shape, np.uint8)

    def fill(index: int, path: Path) -> bool:
        images[index] = decode(path.read_bytes(), form)
        return True

    kept = np.array(sorted(_read_each(paths, fill, broken)), np.int64)
    _refuse_broken(paths, broken, skip_broken)
    return (images if len(kept) == len(paths) else images[kept]), kept


def decode(raw: bytes, form: Form) -> np.ndarray:
    """Decode the bytes of a file: uint8 ``[C, size, size]``.

    Raises:
        BadImage: the bytes give no such image.
    """
    image = _open(raw)
    try:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if not form.drop_alpha and image.getextrema()[3][0] < 255:
                raise BadImage(
                    "has transparent pixels: set data.channels=3 to drop its alpha channel, or "
                    "data.channels=4 to keep it"
                )
        image = image.convert(MODES[form.channels])
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise BadImage(f"cannot be decoded ({error})") from None
    size = form.size
    if form.resize:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _read_header(index: int, path: Path) -> tuple[tuple[int, int], str]:
    """Read width and height, and Pillow's mode, without decoding."""
    image = _open(path.read_bytes())
    return image.size, image.mode


def _open(raw: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        frames = getattr(image, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = "is empty" if not raw else "is no image that Pillow reads"
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        raise BadImage(f"{what}{reason}") from None
    if frames > 1:
        raise BadImage(f"has {frames} frames: save one of them as an image")
    if image.mode.startswith(DEEP):
        raise BadImage(f"has more than 8 bits per pixel (mode {image.mode}): save it with 8 bits")
    return image


def _read_each(
    paths: Sequence[Path], read: Callable[[int, Path], object], broken: dict[int, str]
) -> dict[int, object]:
    """Call ``read`` for each path that is not broken, in threads, and show the progress."""
    from tqdm import tqdm

    def attempt(index: int) -> tuple[int, object]:
        try:
            return index, read(index, paths[index])
        except BadImage as error:
            return index, error
        except OSError as error:
            return index, BadImage(f"cannot be read ({error.strerror or error})")

    found: dict[int, object] = {}
    indices = [index for index in range(len(paths)) if index not in broken]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(attempt, indices)
        for index, result in tqdm(results, "images", len(indices), leave=False, **choose_pace()):
            if isinstance(result, BadImage):
                broken[index] = str(result)
            else:
                found[index] = result
    return found


def _refuse_broken(paths: Sequence[Path], broken: dict[int, str], skip: bool) -> None:
    if not broken or (skip and len(broken) < len(paths)):
        return
    first = min(broken)
    more = f" (and {len(broken) - 1:,} more cannot be used)" if len(broken) > 1 else ""
    raise DataError(
        f"{paths[first]} {broken[first]}{more}. Repair or remove it, or leave such files out with "
        "data.skip_broken=true."
    )


def _find_side(paths: Sequence[Path], headers: dict[int, object]) -> int:
    """The side that all images have."""
    sizes = Counter(header[0] for header in headers.values())
    (common, _), *others = sizes.most_common()
    first = {header[0]: paths[index] for index, header in reversed(headers.items())}
    if others:
        odd = others[-1][0]
        raise DataError(
            f"the images have {len(sizes)} sizes, such as {first[common]} of {_format(common)} and "
            f"{first[odd]} of {_format(odd)} pixels: set data.size={min(map(min, sizes))}, the "
            "side of the squares that they are resized and cropped to."
        )
    if common[0] != common[1]:
        raise DataError(
            f"the images have {_format(common)} pixels, and the networks take squares: set "
            f"data.size={min(common)}, the side to which they are resized and cropped."
        )
    return common[0]


def _refuse_too_large(shape: tuple[int, ...]) -> None:
    """Refuse images that do not fit into the memory of this machine."""
    needed = int(np.prod(shape, dtype=np.int64))
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if needed > there / 2:
        raise DataError(
            f"{shape[0]:,} images of {shape[2]}x{shape[3]} pixels need {needed / 1e9:.0f} GB, and "
            f"this machine has {there / 1e9:.0f} GB of memory: set a smaller data.size."
        )


def _format(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
