r"""Bank ``operators``: differential operators, rotated as polynomials and discretised.

A differential operator is a polynomial in :math:`\partial_x, \partial_y`; the pair (i, j) stands
for :math:`\partial_x^i\,\partial_y^j`. Rows of an array run down the image and y points up, so the
first row of a stencil is its top one.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from ..groups import PointGroup, rotation

# The basis operators 1, u, v, uu, uv, vv, uuv, uvv, uuvv: they span the 3x3 filters.
OPERATORS = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (2, 2)]
# Every partial derivative up to order 4, the coordinates in which a rotated operator is written.
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
TRIM = 1e-12  # filter values below this are rounding, not support


def stencil(i: int, j: int, spacing: float = 1.0) -> np.ndarray:
    """Return the filter of operator (i, j) on a grid with that spacing: [5, 5]."""
    return np.outer(CENTRAL[j, ::-1], CENTRAL[i]) / spacing ** (i + j)


def rotate_operator(i: int, j: int, frame: np.ndarray) -> np.ndarray:
    r"""Write the operator (i, j) of the axes u, v in the jet of x and y: [15].

    u and v are the columns of ``frame`` [2, 2]. By the chain rule the coefficients are those of

    .. math:: (u_x\partial_x + u_y\partial_y)^i\,(v_x\partial_x + v_y\partial_y)^j,

    so an operator is rotated by multiplying polynomials.
    """
    product = np.ones(1)
    for axis in [0] * i + [1] * j:
        product = np.convolve(product, frame[:, axis])
    return np.array([product[q] if p + q == i + j else 0.0 for p, q in JET])


def operators(frames: np.ndarray, spacing: float = 1.0) -> np.ndarray:
    """Return the nine basis operators in every frame, as filters: [F, 2, 2] -> [F, 9, 5, 5]."""
    return in_frames(frames, np.stack([stencil(i, j, spacing) for i, j in JET]))


def in_frames(frames: np.ndarray, jet: np.ndarray) -> np.ndarray:
    """Combine the filters ``jet`` [15, k, k] of all partial derivatives to the nine operators.

    [F, 2, 2] -> [F, 9, k, k].
    """
    rotated = [[rotate_operator(i, j, frame) for i, j in OPERATORS] for frame in frames]
    return np.einsum("fkt,tyx->fkyx", np.array(rotated), jet)


def pixels_in_operators() -> np.ndarray:
    r"""Write the nine pixels of a 3x3 filter, row-major, in the basis operators: [9, 9].

    A pixel shifts the image. By Taylor's polynomial, the shift by s in {-1, 0, 1} along an axis is
    :math:`1 + s\,\partial + s^2\partial^2/2`, exactly in central differences.
    """
    shifts = [(column, -row) for row in (-1, 0, 1) for column in (-1, 0, 1)]  # (x, y), y up
    factorial = math.factorial
    return np.array(
        [[x**i / factorial(i) * y**j / factorial(j) for i, j in OPERATORS] for x, y in shifts]
    )


def operator_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return the bank [G, 9, k, k] of PDO-eConv (Shen et al. 2020).

    The nine pixels of a 3x3 filter, each written as a differential operator of second order in u
    and v and discretised by central differences in the frame of g. At the identity with offset 0
    they are the nine pixels themselves. All other rotations are exact to second order in the pixel
    spacing.

    k is the support that all filters need: 3 where n divides 4 and the offset is a multiple of 90
    degrees, else 5. A larger odd ``size`` pads with zeros.
    """
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
    if size > len(CENTRAL):
        warnings.warn(
            f"size={size} pads the {support}x{support} filters of bank 'operators' with zeros: "
            f"leave size out, or use bank 'gaussian', whose filters fill {size}x{size} pixels",
            stacklevel=2,
        )
    ring = (size - support) // 2
    return np.pad(bank, [(0, 0), (0, 0), (ring, ring), (ring, ring)])
