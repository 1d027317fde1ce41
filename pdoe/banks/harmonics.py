r"""Bank ``harmonics``: circular harmonics on Gaussian rings, steered by their phase.

A filter is the real or the imaginary part of

.. math:: \psi_{jk}(r, \varphi) = \tau_j(r)\,e^{ik\varphi},\qquad
          \tau_j(r) = e^{-(r - j)^2 / 2\sigma_j^2},

on ring j about the centre pixel. In a frame turned by theta the angle is phi - theta: the harmonic
is multiplied by :math:`e^{-ik\theta}`, which mixes its two parts, and no pixel is interpolated.
"""

from __future__ import annotations

import numpy as np

from ..groups import PointGroup, rotation

SIZE = 5  # unless asked otherwise: the support of the operators, with 11 filters for their nine
INSIDE, OUTERMOST = 0.6, 0.4  # sigma of a ring: the outermost one is cut off by the square


def highest_orders(reach: int) -> list[int]:
    """The highest k on each of the rings 0..reach, as e2cnn has it by default.

    The 2 pi r pixels of a ring hold pi r waves before they alias, of which about 2r are kept; on
    the outermost ring, whose profile the square cuts off, two.

    >>> [sum(2 * k + 1 for k in highest_orders(size // 2)) for size in (3, 5, 7, 9)]
    [6, 11, 18, 31]
    """
    inside = [2 * ring - (ring + 1) % 2 for ring in range(1, reach)]
    return [0, *inside, 2][: reach + 1]


def harmonic_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    size = SIZE if size is None else size
    if size % 2 == 0:
        raise ValueError(
            f"bank 'harmonics' has rings about a centre pixel: size is odd, not {size}"
        )
    reach = size // 2
    points = np.stack(np.meshgrid(range(-reach, reach + 1), range(reach, -reach - 1, -1)))  # y up
    frames = group.matrices.numpy() @ np.array(rotation(offset))
    u, v = np.einsum("gba,byx->agyx", frames, points)  # A^-1 p, and A^-1 is A transposed
    radius = np.hypot(*points)
    # The centre has no direction. Its 0 makes every harmonic vanish there but k = 0: ring 1 is
    # still 0.25 there, and no other value stays the same when a phase multiplies it.
    direction = (u + 1j * v) / np.where(radius > 0, radius, 1)

    filters = []
    for ring, highest in enumerate(highest_orders(reach)):
        sigma = OUTERMOST if ring == reach else INSIDE
        profile = np.exp(-(((radius - ring) / sigma) ** 2) / 2) if ring else radius == 0
        for k in range(highest + 1):
            harmonic = profile * direction**k
            # One scale for both parts, from |psi|, which no turn changes: their squared norms have
            # the mean 1. Apart they depend on the angle (a cosine of k = 2 has its waves on the
            # axes or on the diagonals), and a turn would no longer be a turn of coefficients.
            parts = [harmonic.real, harmonic.imag][: 1 + (k > 0)]
            filters += [part * np.sqrt(len(parts)) / _norm(harmonic) for part in parts]
    return np.stack(filters, axis=1)


def _norm(harmonic: np.ndarray) -> float:
    """The l2 norm of |psi|, which is that of every frame: [G, k, k] -> a number."""
    return np.sqrt((np.abs(harmonic[0]) ** 2).sum())
