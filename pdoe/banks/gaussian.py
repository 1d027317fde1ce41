r"""Bank ``gaussian``: the operators of PDO-eConv, discretised by derivatives of a Gaussian.

The n-th derivative along an axis is taken of the image smoothed by a Gaussian of standard deviation
:math:`\sigma` pixels; between and beyond the k pixels of the kernel, the image is taken for the
polynomial p of degree k - 1 through them:

.. math:: f \mapsto (G_\sigma * p)^{(n)}(0).

So the taps have the moments 0 ... k - 1 of the Gaussian's derivative, exactly. Taps that are merely
its values at the pixels (Jenner & Weiler 2022, arXiv 2106.10163, in e2cnn's ``R2Diffop``) have
none of them: their second derivative answers to a constant, in each frame otherwise, and the error
of a turn does not fall as pixels shrink.

Why the moments matter: by them an operator D of order n becomes, up to terms of order k - n and
higher, :math:`D\,(1 + \tfrac{\sigma^2}{2}\Delta + \dots)`, and :math:`\Delta` is the same in every
frame. What turns badly is only what lies beyond: the error of a turn is of order k - 3 in the pixel
spacing for k > 5. For k = 5 it is of order 2 as for central differences, with a small constant: the
fifth moment of the third difference, 30, is the Gaussian's :math:`60\,\sigma^2` at
:math:`\sigma = 1/\sqrt2`, where only the fourth derivatives' error differs between the frames.

Measured on one layer of random weights on p8 and a turn by 45 degrees, relative error
(:func:`pdoe.equivariance_curve`; digits of MNIST-rot, waves of at least 8 pixels without
interpolation, and three layers with ReLU on digits):

=========================================  ======  ======  ============
discretisation                             digits  waves   three layers
=========================================  ======  ======  ============
central differences (``operators``)        0.180   0.026   0.216
values of a Gaussian, 5x5, width 0.71      0.067   0.025   0.028
values of a Gaussian, 5x5, width 0.8       0.036   0.019   0.019
values of a Gaussian, 5x5, width 1         0.046   0.041   0.028
this bank, 5x5, width 0.58                 0.086   0.0026  0.061
this bank, 5x5, width 0.71                 0.042   0.0009  0.015
this bank, 5x5, width 0.8                  0.063   0.0028  0.011
=========================================  ======  ======  ============

A part of the gain is bought by smoothing: central differences on digits that were smoothed by a
Gaussian of width 0.71 beforehand come to 0.066 (three layers: 0.072).
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
WIDTH = math.sqrt(1 / 2)  # see above


@cache
def gaussian_taps(size: int, width: float) -> np.ndarray:
    """The derivatives 0 ... 4 along an axis, at the points -(size - 1)/2 ... : [5, size].

    >>> gaussian_taps(5, 0.8)[0].round(3).tolist()  # the smoothing alone
    [0.025, 0.222, 0.507, 0.222, 0.025]
    """
    points = [Fraction(2 * i - size + 1, 2) for i in range(size)]
    # The n-th derivative of E[(x + X)^m] at x = 0, X a normal number of that width.
    moments = [
        [math.perm(m, n) * _normal_moment(m - n, Fraction(width)) for m in range(size)]
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
        for n, row in enumerate(moments):  # exactly: large kernels cancel more than floats have
            taps[n, i] = sum(map(operator.mul, lagrange, row)) / scale
    return taps


def gaussian_bank(
    group: PointGroup, size: int | None, offset: float, width: float | None = None
) -> np.ndarray:
    size, width = SIZE if size is None else size, WIDTH if width is None else width
    if size < 5 or size % 2 == 0:
        raise ValueError(
            "bank 'gaussian' has an odd size of at least 5 (fourth derivatives need 5 pixels), "
            f"not {size}"
        )
    # A wider Gaussian asks the polynomial for the image beyond the pixels that it goes through, and
    # soon no longer smoothes: at twice this width a 5x5 kernel makes the finest wave six times as
    # large. Up to it no wave is further than 0.18 from what the Gaussian leaves of it.
    widest = 0.4 * math.sqrt(size - 1)
    if width > widest + 1e-9:
        least = 2 * math.ceil((width / 0.4) ** 2 / 2 - 1e-9) + 1
        raise ValueError(
            f"a Gaussian of width {width:g} does not fit into {size}x{size} pixels, which hold one "
            f"of width {widest:.3g} or less; give a smaller width, or size {least}"
        )
    taps = gaussian_taps(size, width)
    jet = np.stack([np.outer(taps[j, ::-1], taps[i]) for i, j in JET])
    frames = group.matrices.numpy() @ np.array(rotation(offset))
    return np.einsum("pk,gkyx->gpyx", pixels_in_operators(), in_frames(frames, jet))


def _normal_moment(order: int, width: Fraction) -> Fraction:
    """E[X^order] of a normal number of mean 0 and that standard deviation."""
    return Fraction(0) if order < 0 or order % 2 else width**order * math.prod(range(1, order, 2))
