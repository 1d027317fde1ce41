r"""Banks ``operators15`` and ``gaussian15``: all 15 differential operators up to order 4.

The nine operators of PDO-eConv are those that a 3x3 filter holds. All 15 with i + j <= 4 are the
largest set that 5x5 central differences of order 4 hold, and one that a rotation maps to itself.

The learnable weight has one number for each of 15 filters. They come from the partial derivatives,
in the order of ``JET``, by the Gram-Schmidt process, with the inner product of the filters averaged
over all rotations of the frame. On average over the frames they are thus orthonormal, as the pixels
of a 3x3 filter are in the reference frame. (Central differences of order 4 in rotated frames have
a larger norm than on the grid: a basis that is orthonormal in the reference frame alone triples the
variance of a map on p8.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..groups import PointGroup, rotation
from .finite_differences import CENTRAL, JET, rotate_operator
from .gaussian import SIGMA, SIZE, check_width, gaussian_taps


def operator15_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return the bank [G, 15, 5, 5] of central differences, for every group and offset.

    Rotations off the pixel grid are exact to second order in the pixel spacing.
    """
    if size not in (None, len(CENTRAL)):
        raise ValueError(
            f"bank 'operators15' has 5x5 filters, not {size}x{size}: leave size out, or use bank "
            "'gaussian15'"
        )
    return _bank(group, offset, CENTRAL)


def gaussian15_bank(
    group: PointGroup, size: int | None, offset: float, bank_width: float | None = None
) -> np.ndarray:
    """Return the bank [G, 15, k, k] of derivatives of a Gaussian, see :mod:`.gaussian`.

    Size and ``bank_width`` are those of bank ``gaussian``, with the same limits and error.
    """
    size, sigma = SIZE if size is None else size, SIGMA if bank_width is None else bank_width
    check_width("gaussian15", size, sigma)
    return _bank(group, offset, gaussian_taps(size, sigma))


def _bank(group: PointGroup, offset: float, taps: np.ndarray) -> np.ndarray:
    """The bank made of the derivatives 0 ... 4 along an axis, [5, k]."""
    jet = np.stack([np.outer(taps[j, ::-1], taps[i]) for i, j in JET])
    flat = jet.reshape(len(JET), -1)
    lower = _orthonormalise(flat @ flat.T)
    frames = group.matrices.numpy() @ np.array(rotation(offset))
    coefficients = np.linalg.solve(lower, _rotate_jet(frames))  # [G, 15, 15]
    return np.einsum("gpk,kyx->gpyx", coefficients, jet)


def _orthonormalise(products: np.ndarray) -> np.ndarray:
    """The lower triangular L with L L^T = the mean of the products [15, 15] over all frames."""
    # Entries are trigonometric polynomials of degree 8, of which 16 angles give the exact mean.
    rotations = _rotate_jet([np.array(rotation(np.pi * angle / 8)) for angle in range(16)])
    return np.linalg.cholesky(np.mean(rotations @ products @ rotations.transpose(0, 2, 1), 0))


def _rotate_jet(frames: Sequence[np.ndarray]) -> np.ndarray:
    """All partial derivatives in frames [F, 2, 2], written in those of x and y: [F, 15, 15]."""
    return np.array([[rotate_operator(i, j, frame) for i, j in JET] for frame in frames])
