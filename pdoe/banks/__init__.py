"""Filter banks: K basis filters in the frame of every group element, as float64 NumPy arrays.

Rows of an array run down the image and y points up. Each bank has a module; this is their table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..arguments import require_number, require_size
from ..groups import PointGroup
from .bilinear import bilinear_bank
from .finite_differences import (
    JET,
    OPERATORS,
    operator_bank,
    operators,
    pixels_in_operators,
    rotate_operator,
    stencil,
)
from .fourth_order import gaussian15_bank, operator15_bank
from .gaussian import gaussian_bank
from .harmonics import harmonic_bank
from .hexagon import hexagon_bank
from .pixels import pixel_bank, point_bank
from .ring import ring_bank

__all__ = [
    "BANKS",
    "DERIVATIVES",
    "GAUSSIANS",
    "JET",
    "OPERATORS",
    "filter_bank",
    "operators",
    "pixels_in_operators",
    "rotate_operator",
    "stencil",
]

# Functions of group, size and offset; those of a Gaussian take `bank_width`, too.
BANKS: dict[str, Callable[..., np.ndarray]] = {
    "operators": operator_bank,
    "harmonics": harmonic_bank,
    "gaussian": gaussian_bank,
    "operators15": operator15_bank,
    "gaussian15": gaussian15_bank,
    "pixels": pixel_bank,
    "ring": ring_bank,
    "point": point_bank,
    "hexagon": hexagon_bank,
    "bilinear": bilinear_bank,
}
GAUSSIANS = ("gaussian", "gaussian15")  # banks with a `bank_width`
DERIVATIVES = ("operators", "operators15", *GAUSSIANS)  # banks that have every frame


def filter_bank(
    group: PointGroup,
    kind: str = "operators",
    size: int | None = None,
    offset: float = 0.0,
    bank_width: float | None = None,
) -> np.ndarray:
    r"""K basis filters in the frame of every group element: float64 [G, K, k, k].

    The frame of g is ``matrix(g) @ R(offset)``. Filters are applied by cross-correlation. A
    rotation or reflection that maps the pixel grid to itself moves every filter exactly. The
    module of a bank, such as :mod:`pdoe.banks.gaussian`, has formula, source and limits.

    ===============  =========  ==================  ================================================
    kind             K          k                   filters; methods
    ===============  =========  ==================  ================================================
    ``operators``    9          5 (3 on the grid)   differential operators by central differences;
                                                    PDO-eConv
    ``gaussian``     9          5, 7, 9, ...        differential operators by derivatives of a
                                                    Gaussian; steerable PDOs
    ``operators15``  15         5                   all operators up to order 4, orthonormal
    ``gaussian15``   15         5, 7, 9, ...        the same by derivatives of a Gaussian
    ``harmonics``    1, 6, 11,  1, 3, 5 (default),  circular harmonics on rings; SFCNN, regular
                     18, ...    7, ...              fields of E2CNN
    ``pixels``       k * k      any, by default 3   permuted pixels; CNN (p1), G-CNN (p4, p4m)
    ``ring``         9          3                   pixels rotated in steps of 45 degrees; ORN
    ``point``        1          1                   one pixel
    ``hexagon``      7, 19,     3 (default), 5,     permuted points of a hexagonal lattice; HexaConv
                     37, ...    7, ...
    ``bilinear``     k * k      any, by default 3   pixels rotated bilinearly; RotEqNet
    ===============  =========  ==================  ================================================

    Args:
        group: the point group.
        kind: a name of the table.
        size: k in pixels, at most 33; None for the bank's own.
        offset: angle of the reference frame in radians; the paper's code has pi/8.
        bank_width: standard deviation of the Gaussian in pixels, for banks ``gaussian`` and
            ``gaussian15`` alone.

    Raises:
        TypeError: an argument of another type.
        ValueError: an unknown kind, or a group, size, offset or bank_width that the bank does not
            have.

    >>> filter_bank(PointGroup(8), offset=np.pi / 8).shape
    (8, 9, 5, 5)
    >>> filter_bank(PointGroup(4)).shape
    (4, 9, 3, 3)
    """
    if not isinstance(group, PointGroup):
        raise TypeError(f"group is a PointGroup, such as PointGroup.named('p8'), not {group!r}")
    if not isinstance(kind, str) or kind not in BANKS:
        raise ValueError(f"unknown bank {kind!r}: bank is one of {', '.join(BANKS)}")
    size, offset = require_size(size), require_number("offset", offset, "a finite angle in radians")
    own = {}
    if bank_width is not None:
        if kind not in GAUSSIANS:
            raise ValueError(f"bank_width belongs to a bank of Gaussians; bank {kind!r} has None")
        expected = "a positive number of pixels or None"
        own["bank_width"] = require_number("bank_width", bank_width, expected)
        if bank_width <= 0:
            raise ValueError(f"bank_width is {expected}, not {bank_width}")
    return _make_cached(group, kind, size, offset, **own).copy()


@lru_cache(maxsize=64)
def _make_cached(
    group: PointGroup, kind: str, size: int | None, offset: float, **own: float
) -> np.ndarray:
    return BANKS[kind](group, size, offset, **own)
