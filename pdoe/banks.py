r"""Filter banks: K basis filters, turned into the frame of every group element.

A differential operator is a polynomial in :math:`\partial_x, \partial_y`; the pair (i, j) stands
for :math:`\partial_x^i\,\partial_y^j`. Rows of an array run down the image and y points up, so the
first row of a stencil is its top one. Everything here is float64 NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .groups import PointGroup, rotation

# The basis operators 1, u, v, uu, uv, vv, uuv, uvv, uuvv: they span the 3x3 filters.
OPERATORS = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (2, 2)]
# Every partial derivative up to order 4, the coordinates in which a turned operator is written.
JET = [(k - j, j) for k in range(5) for j in range(k + 1)]

# Second-order central differences for d^k/dx^k, k = 0..4, at the points -2..2.
CENTRAL = np.array(
    [
        [0, 0, 1, 0, 0],
        [0, -1 / 2, 0, 1 / 2, 0],
        [0, 1, -2, 1, 0],
        [-1 / 2, 1, 0, -1, 1 / 2],
        [1, -4, 6, -4, 1],
    ]
)
TRIM = 1e-12  # a ring of taps below this is rounding, not support


def stencil(i: int, j: int, spacing: float = 1.0) -> np.ndarray:
    """The operator (i, j) on a grid of that spacing, by cross-correlation: [5, 5]."""
    return np.outer(CENTRAL[j, ::-1], CENTRAL[i]) / spacing ** (i + j)


def turned(i: int, j: int, frame: np.ndarray) -> np.ndarray:
    r"""The operator (i, j) of the axes u, v, written in the jet of x and y: [15].

    u and v are the columns of ``frame`` [2, 2]. By the chain rule the coefficients are those of

    .. math:: (u_x\partial_x + u_y\partial_y)^i\,(v_x\partial_x + v_y\partial_y)^j,

    so turning an operator is multiplying polynomials.
    """
    product = np.ones(1)
    for axis in [0] * i + [1] * j:
        product = np.convolve(product, frame[:, axis])
    return np.array([product[q] if p + q == i + j else 0.0 for p, q in JET])


def operators(frames: np.ndarray, spacing: float = 1.0) -> np.ndarray:
    """The nine basis operators in every frame, as stencils: [F, 2, 2] -> [F, 9, 5, 5]."""
    jet = np.stack([stencil(i, j, spacing) for i, j in JET])
    coefficients = np.array([[turned(i, j, frame) for i, j in OPERATORS] for frame in frames])
    return np.einsum("fkt,tyx->fkyx", coefficients, jet)


def pixels_in_operators() -> np.ndarray:
    r"""The nine pixels of a 3x3 filter, row-major, written in the basis operators: [9, 9].

    A pixel shifts the image, and the shift by s in {-1, 0, 1} along an axis is
    :math:`1 + s\,\partial + s^2\partial^2/2` in central differences, exactly: Taylor's polynomial.
    """
    shifts = [(column, -row) for row in (-1, 0, 1) for column in (-1, 0, 1)]  # (x, y), y up
    factorial = math.factorial
    return np.array(
        [[x**i / factorial(i) * y**j / factorial(j) for i, j in OPERATORS] for x, y in shifts]
    )


def _operator_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    frames = group.matrices.numpy() @ np.array(rotation(offset))
    bank = np.einsum("pk,gkyx->gpyx", pixels_in_operators(), operators(frames))
    if (
        np.abs(bank).max(axis=(0, 1))[[0, -1]].max() < TRIM
        and np.abs(bank[..., [0, -1]]).max() < TRIM
    ):
        bank = bank[..., 1:-1, 1:-1]
    support = bank.shape[-1]
    if size is None:
        return bank
    if size < support or size % 2 == 0:
        raise ValueError(
            f"operators of {group.name} with offset {offset:g} need an odd size of at least "
            f"{support}, not {size}"
        )
    ring = (size - support) // 2
    return np.pad(bank, [(0, 0), (0, 0), (ring, ring), (ring, ring)])


def _pixel_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    if group.n not in (1, 2, 4):
        raise ValueError(
            f"bank 'pixels' has no filter for {group.name}: only p1, p2, p4 and p1m, p2m, p4m map "
            "the pixel grid to itself; use bank 'operators'"
        )
    if offset != 0:
        raise ValueError(
            f"bank 'pixels' cannot be turned by an offset of {offset:g}: its filters are "
            "permutations of pixels; use offset 0, or bank 'operators'"
        )
    size = 3 if size is None else size
    pixels = np.eye(size * size).reshape(-1, size, size)
    bank = [np.rot90(pixels, 4 // group.n * r, (1, 2)) for r in range(group.n)]
    if group.reflections:
        bank += [np.rot90(pixels[:, ::-1], 4 // group.n * r, (1, 2)) for r in range(group.n)]
    return np.stack(bank)


def _point_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    if size not in (None, 1):
        raise ValueError(f"bank 'point' is a single pixel: size is 1, not {size}")
    return np.ones((len(group), 1, 1, 1))


BANKS: dict[str, Callable[[PointGroup, int | None, float], np.ndarray]] = {
    "operators": _operator_bank,
    "pixels": _pixel_bank,
    "point": _point_bank,
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
