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
from .pixels import pixel_bank, point_bank

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

BANKS: dict[str, Callable[[PointGroup, int | None, float], np.ndarray]] = {
    "operators": operator_bank,
    "pixels": pixel_bank,
    "point": point_bank,
    "bilinear": bilinear_bank,
}


def filter_bank(
    group: PointGroup, kind: str = "operators", size: int | None = None, offset: float = 0.0
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
    - ``pixels`` (an ordinary convolution on p1, the G-convolution of Cohen & Welling 2016 on p4 and
      p4m): the pixels of a k x k filter (k = 3 unless ``size`` says otherwise), permuted. K = k*k.
      Only for p1, p2, p4, p1m, p2m, p4m, with offset 0.
    - ``point``: one pixel, K = k = 1, the same in every frame.
    - ``bilinear`` (RotEqNet, Marcos et al. 2017): the pixels of a k x k filter (k = 3 unless
      ``size`` says otherwise), turned by bilinear resampling. K = k*k. Pixels whose centre is
      k/2 or more from that of the filter are 0, so that what is turned is round.

    Args:
        group: the point group.
        kind: one of the names above.
        size: k; ``operators`` takes any odd size that holds the support (padded with zeros).
        offset: angle of the reference frame in radians; the paper's code has pi/8.

    Raises:
        ValueError: for an unknown kind, or a group, size or offset that the kind cannot have.
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
    return _made_once(group, kind, None if size is None else int(size), float(offset)).copy()


@lru_cache(maxsize=64)
def _made_once(group: PointGroup, kind: str, size: int | None, offset: float) -> np.ndarray:
    return BANKS[kind](group, size, offset)
