"""Bank ``bilinear``: the pixels of a round filter, turned by bilinear resampling."""

from __future__ import annotations

import numpy as np

from ..groups import PointGroup, rotation


def bilinear_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    size = 3 if size is None else size
    places = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(places, -places)
    # Turned by A, a filter w is w(A^-1 p) at p, and the inverse of a turn is its transpose.
    frames = group.matrices.numpy() @ rotation(offset)
    sources = np.einsum("gba,byx->agyx", frames, np.stack([x, y]))
    across = _hat(sources[0][..., None] - places)  # [G, k, k, column of the filter]
    down = _hat(sources[1][..., None] + places)  # [G, k, k, row of the filter]
    disk = (np.hypot(x, y) < size / 2).astype(float)
    bank = np.einsum("gyxi,gyxj,ij->gijyx", down, across, disk)
    return bank.reshape(len(group), size * size, size, size)


def _hat(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - np.abs(distance))
