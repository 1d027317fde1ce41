r"""The 13 operators of the jet form, and their stencils.

- :math:`Z_{pq} = (\partial_x + i\,\partial_y)^p (\partial_x - i\,\partial_y)^q` is the complex
  jet. A frame rotated by :math:`\theta` multiplies its coefficients by
  :math:`e^{-i(p-q)\theta}`. Of the 15 operators with p + q <= 4 the layers need 13: the operator
  uuvv has no part along Z_31 and Z_13.
- Operators of one spin p - q may be mixed with each other, see :func:`mixing`.

Everything here is float64 NumPy. Derivation: ``experiments/benchmarks/jet.md``.
"""

from __future__ import annotations

import numpy as np

from ...banks.finite_differences import (
    CENTRAL,
    JET,
    OPERATORS,
    pixels_in_operators,
    rotate_operator,
)
from ...banks.gaussian import SIGMA, SIZE, gaussian_taps
from ...groups import rotation

# (p, q) of the 13 operators, and for p >= q the places of their real and imaginary parts.
HALF = {
    (0, 0): (0, None), (1, 0): (1, 2), (2, 0): (3, 4), (1, 1): (5, None), (3, 0): (6, 7),
    (2, 1): (8, 9), (4, 0): (10, 11), (2, 2): (12, None),
}  # fmt: skip
OPERATOR_PAIRS = [*HALF, *((q, p) for p, q in HALF if p > q)]
REAL_JETS = 13


def mixing(taps: np.ndarray) -> np.ndarray:
    """What makes operators of one spin orthogonal as stencils: the four numbers a, b, c, d in

    Z_11 + a Z_00, Z_22 + b (Z_11 + a Z_00) + c Z_00 and Z_21 + d Z_10.

    A filter is then no small difference of large derivatives: rounding in bfloat16 costs half.
    """
    z = _plain_stencils(taps)
    z00, z11, z22, z10, z21 = (
        z[HALF[pair][0]] for pair in ((0, 0), (1, 1), (2, 2), (1, 0), (2, 1))
    )

    def remove(stencil: np.ndarray, other: np.ndarray) -> float:
        return -np.sum(stencil * other) / np.sum(other * other)

    a = remove(z11, z00)
    return np.array([a, remove(z22, z11 + a * z00), remove(z22, z00), remove(z21, z10)])


def jet_stencils(taps: np.ndarray) -> np.ndarray:
    """The 13 real jets as stencils, from the derivatives 0 ... 4 along an axis: [13, k, k]."""
    z, (a, b, c, d) = _plain_stencils(taps), mixing(taps)
    z[5] += a * z[0]
    z[12] += b * z[5] + c * z[0]
    z[8:10] += d * z[1:3]
    return z


def derivative_taps(kind: str, size: int | None, width: float | None) -> np.ndarray:
    """The derivatives 0 ... 4 along an axis that a bank is made of: [5, k]."""
    if kind == "operators":
        return CENTRAL
    if kind != "gaussian":
        raise ValueError(f"bank {kind!r} is not made of derivatives")
    return gaussian_taps(SIZE if size is None else size, SIGMA if width is None else width)


def pixels_in_jet(offset: float, taps: np.ndarray) -> np.ndarray:
    """The nine pixels of the reference frame in the mixed operators: complex [9, 13]."""
    frame = np.array(rotation(offset))
    pixels = pixels_in_operators() @ np.array([rotate_operator(i, j, frame) for i, j in OPERATORS])
    every = [(d - q, q) for d in range(5) for q in range(d + 1)]
    inverse = np.linalg.inv(np.stack([_complex_partials(p, q) for p, q in every]))
    pixels = pixels @ inverse
    left_out = [every.index(pair) for pair in ((3, 1), (1, 3))]
    assert np.abs(pixels[:, left_out]).max() < 1e-12
    a, b, c, d = mixing(taps)
    of = {pair: pixels[:, every.index(pair)] for pair in OPERATOR_PAIRS}
    of[0, 0] = of[0, 0] - a * of[1, 1] - c * of[2, 2]
    of[1, 1] = of[1, 1] - b * of[2, 2]
    of[1, 0], of[0, 1] = of[1, 0] - d * of[2, 1], of[0, 1] - d * of[1, 2]
    return np.stack([of[pair] for pair in OPERATOR_PAIRS], 1)


def _plain_stencils(taps: np.ndarray) -> np.ndarray:
    """Real and imaginary parts of the operators Z_pq: [13, k, k]."""
    partials = np.stack([np.outer(taps[j, ::-1], taps[i]) for i, j in JET])
    rows = np.zeros((REAL_JETS, len(JET)))
    for (p, q), (real, imaginary) in HALF.items():
        coefficients = _complex_partials(p, q)
        rows[real] = coefficients.real
        if imaginary is not None:
            rows[imaginary] = coefficients.imag
    return np.einsum("rk,kyx->ryx", rows, partials)


def _complex_partials(p: int, q: int) -> np.ndarray:
    """Z_pq in the partial derivatives of ``JET``: complex [15]."""
    polynomial = np.ones(1, complex)
    for factor in [1j] * p + [-1j] * q:
        polynomial = np.convolve(polynomial, np.array([1, factor]))
    return np.array([polynomial[b] if a + b == p + q else 0 for a, b in JET])
