r"""Bank ``harmonics``: circular harmonics on Gaussian rings, rotated by their phase.

A filter is the real or the imaginary part of

.. math:: \psi_{jk}(r, \varphi) = \tau_j(r)\,e^{ik\varphi},\qquad
          \tau_j(r) = e^{-(r - j)^2 / 2\sigma_j^2},

on ring j about the centre pixel. In a frame rotated by theta the angle is phi - theta: the harmonic
is multiplied by :math:`e^{-ik\theta}`, which mixes its two parts. No pixel is interpolated.
"""

from __future__ import annotations

import numpy as np

from ..groups import PointGroup, rotation

SIZE = 5  # by default, as the support of the operators; 11 filters
INSIDE, OUTERMOST = 0.6, 0.4  # sigma of a ring; the square cuts the outermost ring off


def highest_orders(reach: int) -> list[int]:
    """Return the highest k on each of the rings 0..reach, as in e2cnn by default.

    The 2 pi r pixels of a ring resolve pi r waves without aliasing; about 2r of them are used, and
    two on the outermost ring, which the square cuts off.

    >>> [sum(2 * k + 1 for k in highest_orders(size // 2)) for size in (3, 5, 7, 9)]
    [6, 11, 18, 31]
    """
    inside = [2 * ring - (ring + 1) % 2 for ring in range(1, reach)]
    return [0, *inside, 2][: reach + 1]


def harmonic_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return the bank [G, K, k, k] of SFCNN (Weiler et al. 2018) and of regular fields in E2CNN
    (Weiler & Cesa 2019), for every group and offset.

    k is odd, 5 by default; K = 1, 6, 11, 18, 31 for k = 1, 3, 5, 7, 9. The cosine and the sine of
    a harmonic have norm 1 in the mean over all rotations. A reflection changes the sign of sines.
    """
    size = SIZE if size is None else size
    if size % 2 == 0:
        raise ValueError(
            f"bank 'harmonics' has rings around a centre pixel: size is odd, not {size}"
        )
    reach = size // 2
    points = np.stack(np.meshgrid(range(-reach, reach + 1), range(reach, -reach - 1, -1)))  # y up
    frames = group.matrices.numpy() @ np.array(rotation(offset))
    u, v = np.einsum("gba,byx->agyx", frames, points)  # A^-1 p, and A^-1 is A transposed
    radius = np.hypot(*points)
    # The centre has no direction. With 0, all harmonics but k = 0 vanish there, as they must: the
    # profile of ring 1 is still 0.25 there, and only 0 stays the same under every phase.
    direction = (u + 1j * v) / np.where(radius > 0, radius, 1)

    filters = []
    for ring, highest in enumerate(highest_orders(reach)):
        sigma = OUTERMOST if ring == reach else INSIDE
        profile = np.exp(-(((radius - ring) / sigma) ** 2) / 2) if ring else radius == 0
        for k in range(highest + 1):
            harmonic = profile * direction**k
            # One scale for both parts, from |psi|, which rotations leave alone: the mean of their
            # squared norms is 1. The norm of one part depends on the angle (a cosine of k = 2 has
            # its waves on the axes or on the diagonals), so separate scales would not rotate.
            parts = [harmonic.real, harmonic.imag][: 1 + (k > 0)]
            filters += [part * np.sqrt(len(parts)) / _norm(harmonic) for part in parts]
    return np.stack(filters, axis=1)


def _norm(harmonic: np.ndarray) -> float:
    """Return the l2 norm of |psi|, the same in every frame: [G, k, k] -> a number."""
    return np.sqrt((np.abs(harmonic[0]) ** 2).sum())
