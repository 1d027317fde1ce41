"""Banks ``pixels`` and ``point``: permuted pixels."""

from __future__ import annotations

import numpy as np

from ..groups import PointGroup


def pixel_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return the permuted pixels of a k x k filter, [G, k*k, k, k]; k is 3 by default.

    On p1 an ordinary convolution, on p4 and p4m the G-convolution of Cohen & Welling (2016). Exact
    for p1, p2, p4, p1m, p2m, p4m, the only groups it has; offset 0.
    """
    if group.n not in (1, 2, 4):
        raise ValueError(
            f"bank 'pixels' has no filter for {group.name}: only p1, p2, p4 and p1m, p2m, p4m map "
            "the pixel grid to itself; use bank 'operators'"
        )
    if offset != 0:
        raise ValueError(
            f"bank 'pixels' has no offset, and was given {offset:g}: its filters are "
            "permutations of pixels; use offset 0, or bank 'operators'"
        )
    size = 3 if size is None else size
    pixels = np.eye(size * size).reshape(-1, size, size)
    bank = [np.rot90(pixels, 4 // group.n * r, (1, 2)) for r in range(group.n)]
    if group.reflections:
        bank += [np.rot90(pixels[:, ::-1], 4 // group.n * r, (1, 2)) for r in range(group.n)]
    return np.stack(bank)


def point_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return a single pixel, the same in every frame: [G, 1, 1, 1]. Exact for every group."""
    if size not in (None, 1):
        raise ValueError(f"bank 'point' is a single pixel: size is 1, not {size}")
    return np.ones((len(group), 1, 1, 1))
