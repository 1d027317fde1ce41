r"""Bank ``gaussian``: the operators of PDO-eConv, discretised by derivatives of a Gaussian.

The n-th derivative along an axis is taken of the image smoothed by a Gaussian of standard deviation
:math:`\sigma` pixels; between and beyond the k pixels of the kernel, the image is replaced by
the polynomial p of degree k - 1 through them:

.. math:: f \mapsto (G_\sigma * p)^{(n)}(0).

So the filter has the moments 0 ... k - 1 of the Gaussian's derivative, exactly. Filters that sample
the derivative at the pixels (Jenner & Weiler 2022, arXiv 2106.10163, in e2cnn's ``R2Diffop``) have
none of them: their second derivative of a constant is not zero and depends on the frame, so the
error of a rotation does not fall as pixels shrink.

Why the moments matter: with them an operator D of order n becomes, up to terms of order k - n and
higher, :math:`D\,(1 + \tfrac{\sigma^2}{2}\Delta + \ldots)`, and :math:`\Delta` is the same in every
frame. Only the higher terms depend on the frame: the error of a rotation is of order k - 3 in the
pixel spacing for k > 5. For k = 5 it is of order 2, as for central differences, with a small
constant: the fifth moment of the third difference, 30, is the Gaussian's :math:`60\,\sigma^2` at
:math:`\sigma = 1/\sqrt2`, where only the error of the fourth derivatives depends on the frame.

Measured on one layer of random weights on p8 and a rotation by 45 degrees, relative error
(:func:`pdoe.equivariance_curve`; digits of MNIST-rot, waves of at least 8 pixels without
interpolation, and three layers with ReLU on digits):

=========================================  ======  ======  ============
discretisation                             digits  waves   three layers
=========================================  ======  ======  ============
central differences (``operators``)        0.180   0.026   0.216
values of a Gaussian, 5x5, sigma 0.71      0.067   0.025   0.028
values of a Gaussian, 5x5, sigma 0.8       0.036   0.019   0.019
values of a Gaussian, 5x5, sigma 1         0.046   0.041   0.028
this bank, 5x5, sigma 0.58                 0.086   0.0026  0.061
this bank, 5x5, sigma 0.71                 0.042   0.0009  0.015
this bank, 5x5, sigma 0.8                  0.063   0.0028  0.011
=========================================  ======  ======  ============

Smoothing explains a part of the gain: central differences on digits that were smoothed beforehand
by a Gaussian of sigma 0.71 have an error of 0.066 (three layers: 0.072).
"""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from functools import cache

import numpy as np

from ..groups import PointGroup, rotation
from .finite_differences import JET, in_frames, pixels_in_operators

SIZE = 5
SIGMA = math.sqrt(1 / 2)  # see above


@cache
def gaussian_taps(size: int, sigma: float) -> np.ndarray:
    """Return filters of the derivatives 0 ... 4 along an axis, ``size`` pixels wide: [5, size].

    >>> gaussian_taps(5, 0.8)[0].round(3).tolist()  # smoothing alone
    [0.025, 0.222, 0.507, 0.222, 0.025]
    """
    points = [Fraction(2 * i - size + 1, 2) for i in range(size)]
    # The n-th derivative of E[(x + X)^m] at x = 0, where X is normal with that sigma.
    moments = [
        [math.perm(m, n) * _normal_moment(m - n, Fraction(sigma)) for m in range(size)]
        for n in range(5)
    ]
    taps = np.empty((5, size))
    for i, point in enumerate(points):  # the polynomial that is 1 there and 0 at the others
        lagrange, scale = [Fraction(1)], Fraction(1)
        for other in points:
            if other != point:
                shifted, scaled = [Fraction(0), *lagrange], [*lagrange, Fraction(0)]
                lagrange = [a - other * b for a, b in zip(shifted, scaled, strict=True)]
                scale *= point - other
        for n, row in enumerate(moments):  # in fractions: large kernels cancel many digits
            taps[n, i] = sum(map(operator.mul, lagrange, row)) / scale
    return taps


def gaussian_bank(
    group: PointGroup, size: int | None, offset: float, bank_width: float | None = None
) -> np.ndarray:
    """Return the bank [G, 9, k, k], for every group and offset.

    The operators of bank ``operators``, as derivatives of an image that is smoothed by a Gaussian
    of standard deviation ``bank_width`` pixels: by default the root of 1/2, at most 0.4 times the
    root of k - 1 (0.8 for k = 5). At the identity they are smoothed pixels. k is odd, 5 by default.
    Rotations off the pixel grid have an error of order k - 3 in the pixel spacing, 2 for k = 5.
    """
    size, sigma = SIZE if size is None else size, SIGMA if bank_width is None else bank_width
    check_width("gaussian", size, sigma)
    taps = gaussian_taps(size, sigma)
    jet = np.stack([np.outer(taps[j, ::-1], taps[i]) for i, j in JET])
    frames = group.matrices.numpy() @ np.array(rotation(offset))
    return np.einsum("pk,gkyx->gpyx", pixels_in_operators(), in_frames(frames, jet))


def check_width(bank: str, size: int, sigma: float) -> None:
    """Refuse a size without fourth derivatives, and a Gaussian that is too wide for the size."""
    if size < 5 or size % 2 == 0:
        raise ValueError(
            f"bank {bank!r} has an odd size of at least 5 (fourth derivatives need 5 pixels), "
            f"not {size}"
        )
    # A wider Gaussian extrapolates the polynomial beyond the pixels and soon no longer smoothes: at
    # twice this sigma a 5x5 kernel amplifies the finest wave sixfold. Up to this sigma the response
    # to every wave is within 0.18 of the Gaussian's.
    widest = 0.4 * math.sqrt(size - 1)
    if sigma > widest + 1e-9:
        least = 2 * math.ceil((sigma / 0.4) ** 2 / 2 - 1e-9) + 1
        raise ValueError(
            f"a Gaussian of bank_width {sigma:g} does not fit into {size}x{size} pixels, which "
            f"hold at most {widest:.3g}; give a smaller bank_width, or size {least}"
        )


def _normal_moment(order: int, sigma: Fraction) -> Fraction:
    """Return E[X^order] of a normal variable X of mean 0 and that standard deviation."""
    return Fraction(0) if order < 0 or order % 2 else sigma**order * math.prod(range(1, order, 2))
