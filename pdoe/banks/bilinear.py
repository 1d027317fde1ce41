"""Bank ``bilinear``: the pixels of a round filter, rotated by bilinear interpolation."""

from __future__ import annotations

import numpy as np

from ..groups import PointGroup, rotation


def bilinear_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return the bank [G, k*k, k, k] of RotEqNet (Marcos et al. 2017); k is 3 by default.

    Pixels whose centre is k/2 or more from the centre of the filter are 0, so that the filter is
    round. Exact for elements that map the pixel grid to itself; others interpolate.
    """
    size = 3 if size is None else size
    places = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(places, -places)
    # Rotated by A, a filter w is w(A^-1 p) at p; the inverse of A is its transpose.
    frames = group.matrices.numpy() @ rotation(offset)
    sources = np.einsum("gba,byx->agyx", frames, np.stack([x, y]))
    across = _hat(sources[0][..., None] - places)  # [G, k, k, column of the filter]
    down = _hat(sources[1][..., None] + places)  # [G, k, k, row of the filter]
    disk = (np.hypot(x, y) < size / 2).astype(float)
    bank = np.einsum("gyxi,gyxj,ij->gijyx", down, across, disk)
    return bank.reshape(len(group), size * size, size, size)


def _hat(distance: np.ndarray) -> np.ndarray:
    """The weight of a pixel in linear interpolation."""
    return np.maximum(0.0, 1 - np.abs(distance))
