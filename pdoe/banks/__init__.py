"""Filter banks: K basis filters, turned into the frame of every group element.

Rows of an array run down the image and y points up. Everything here is float64 NumPy; a bank has a
module of its own, and here is their registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..groups import PointGroup
from .bilinear import bilinear_bank
from .finite_differences import (
    JET,
    OPERATORS,
    operator_bank,
    operators,
    pixels_in_operators,
    stencil,
    turned,
)
from .gaussian import gaussian_bank
from .harmonics import harmonic_bank
from .hexagon import hexagon_bank
from .pixels import pixel_bank, point_bank
from .ring import ring_bank

__all__ = [
    "BANKS",
    "JET",
    "OPERATORS",
    "filter_bank",
    "operators",
    "pixels_in_operators",
    "stencil",
    "turned",
]

# A bank is made for a group, a size and an offset; `gaussian` has a width besides.
BANKS: dict[str, Callable[..., np.ndarray]] = {
    "operators": operator_bank,
    "harmonics": harmonic_bank,
    "gaussian": gaussian_bank,
    "pixels": pixel_bank,
    "ring": ring_bank,
    "point": point_bank,
    "hexagon": hexagon_bank,
    "bilinear": bilinear_bank,
}


def filter_bank(
    group: PointGroup,
    kind: str = "operators",
    size: int | None = None,
    offset: float = 0.0,
    width: float | None = None,
) -> np.ndarray:
    r"""K basis filters turned into the frame of every group element: float64 [G, K, k, k].

    The frame of g is ``matrix(g) @ R(offset)``. Filters are applied by cross-correlation. A turn
    that maps the pixel grid to itself turns each filter exactly.

    - ``operators`` (PDO-eConv, Shen et al. 2020): the nine pixels of a 3x3 filter, each written as
      a differential operator of second order in u and v and discretised by central differences in
      the frame of g. K = 9; k is the smallest support that holds all of them: 3 where every frame
      is a turn by a multiple of 90 degrees (n divides 4, mirrored or
      not, and the offset is such a multiple), 5 otherwise. At
      the identity with offset 0 they are the nine pixels themselves.
    - ``harmonics`` (SFCNN, Weiler et al. 2018; the regular fields of E2CNN, Weiler & Cesa 2019):
      circular harmonics of unit l2 norm on Gaussian rings, sampled in the frame of g, for every
      group and offset; a turn mixes the two parts of a harmonic and interpolates nothing. k is any
      odd size, 5 unless ``size`` says otherwise; K = 1, 6, 11, 18, 31 for k = 1, 3, 5, 7, 9. A
      reflection flips the sines. The norm is that of a harmonic as a whole, so that its cosine and
      sine, of norm 1 in the mean over all turns, stay parts of one wave.
    - ``gaussian`` (as steerable PDOs, Jenner & Weiler 2022, arXiv 2106.10163): the same operators
      as derivatives of an image that is smoothed by a Gaussian of standard deviation ``width``
      pixels, in taps that have the moments of its derivatives, see ``pdoe/banks/gaussian.py``.
      K = 9; k = 5 or a larger odd ``size``. Turns off the grid are of order k - 3 in the pixel
      spacing (2 for k = 5). At the identity they are smoothed pixels. Tighter than ``operators``:
      on digits turned by 45 degrees a layer's error is 4 % instead of 18 %, partly for the blur.
    - ``pixels`` (an ordinary convolution on p1, the G-convolution of Cohen & Welling 2016 on p4 and
      p4m): the pixels of a k x k filter (k = 3 unless ``size`` says otherwise), permuted. K = k*k.
      Only for p1, p2, p4, p1m, p2m, p4m, with offset 0.
    - ``ring`` (the active rotating filters of Zhou et al. 2017, arXiv 1701.01833): 3x3 pixels; a
      turn by 45 degrees moves the eight around the centre on by one, corners to edges, which is
      exact for two such steps and approximate for one. K = 9. Only for p1, p2, p4, p8, mirrored or
      not, with offset 0; on p4 and its subgroups the same as ``pixels``.
    - ``point``: one pixel, K = k = 1, the same in every frame.
    - ``hexagon`` (HexaConv, Hoogeboom et al. 2018): the points of a hexagonal lattice around one of
      them, permuted; for maps that are axial arrays, see :mod:`pdoe.banks.hexagon`, not for images
      as they come. K = 7 and k = 3, or the larger hexagon in k x k entries (k = 5: K = 19). Only
      for p1, p2, p3, p6, p1m, p2m, p3m, p6m, with offset 0.
    - ``bilinear`` (RotEqNet, Marcos et al. 2017): the pixels of a k x k filter (k = 3 unless
      ``size`` says otherwise), turned by bilinear resampling. K = k*k. Pixels whose centre is
      k/2 or more from that of the filter are 0, so that what is turned is round.

    Args:
        group: the point group.
        kind: one of the names above.
        size: k; ``operators`` takes any odd size that holds the support (padded with zeros).
        offset: angle of the reference frame in radians; the paper's code has pi/8.
        width: of the Gaussian in pixels, with ``gaussian`` alone: positive, at most 0.4 times the
            root of k - 1, which is 0.8 for k = 5; None: 0.71, the root of 1/2.

    Raises:
        ValueError: for an unknown kind, or a group, size, offset or width that it cannot have.
        TypeError: for arguments of another type.

    >>> filter_bank(PointGroup(8), offset=math.pi / 8).shape
    (8, 9, 5, 5)
    >>> filter_bank(PointGroup(4)).shape
    (4, 9, 3, 3)
    """
    if not isinstance(group, PointGroup):
        raise TypeError(f"group is a PointGroup, such as PointGroup.named('p8'), not {group!r}")
    if not isinstance(kind, str) or kind not in BANKS:
        raise ValueError(f"unknown bank {kind!r}: it is one of {', '.join(BANKS)}")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise TypeError(f"size is a positive integer or None, not {size!r}")
        if size < 1:
            raise ValueError(f"size is a positive integer or None, not {size}")
    if isinstance(offset, bool) or not isinstance(offset, int | float | np.number):
        raise TypeError(f"offset is an angle in radians, not {offset!r}")
    if not math.isfinite(offset):
        raise ValueError(f"offset is a finite angle in radians, not {offset}")
    own: dict[str, float] = {}
    if width is not None:
        if kind != "gaussian":
            raise ValueError(f"width is that of bank 'gaussian' alone; bank {kind!r} has None")
        if isinstance(width, bool) or not isinstance(width, int | float | np.number):
            raise TypeError(f"width is a positive number of pixels or None, not {width!r}")
        if not 0 < width < math.inf:
            raise ValueError(f"width is a positive number of pixels or None, not {width}")
        own["width"] = float(width)
    size = None if size is None else int(size)
    return _made_once(group, kind, size, float(offset), **own).copy()


@lru_cache(maxsize=64)
def _made_once(
    group: PointGroup, kind: str, size: int | None, offset: float, **own: float
) -> np.ndarray:
    return BANKS[kind](group, size, offset, **own)
