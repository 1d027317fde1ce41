"""Bank ``ring``: 3x3 pixels whose outer eight move on by one for a rotation by 45 degrees."""

from __future__ import annotations

import numpy as np

from ..groups import PointGroup

# Row and column of the eight pixels around the centre, counter-clockwise from the right.
RING = [(1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]


def ring_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return the bank [G, 9, 3, 3] of ORN's active rotating filters (Zhou et al. 2017).

    A rotation by 45 degrees moves corners to edges: exact for two such steps, approximate for one.
    It has p1, p2, p4, p8 with or without reflections and offset 0; on p4 and its subgroups it is
    the bank ``pixels``.
    """
    if 8 % group.n != 0:
        raise ValueError(
            f"bank 'ring' has no filter for {group.name}: a ring of eight pixels rotates by "
            "multiples of 45 degrees, that is with 1, 2, 4 or 8 rotations; use bank 'operators'"
        )
    if offset != 0:
        raise ValueError(
            f"bank 'ring' has no offset, and was given {offset:g}: its filters are "
            "permutations of pixels; use offset 0, or bank 'operators'"
        )
    if size not in (None, 3):
        raise ValueError(f"bank 'ring' is one ring around a pixel: size is 3, not {size}")
    rows, columns = np.array(RING).T
    pixels = 3 * rows + columns
    slots = np.arange(8)
    bank = np.zeros((len(group), 9, 3, 3))
    bank[:, 4, 1, 1] = 1  # the centre stays
    for g in range(len(group)):
        reflected, steps = divmod(g, group.n)
        moved = ((-1) ** reflected * slots + 8 // group.n * steps) % 8
        bank[g, pixels, rows[moved], columns[moved]] = 1
    return bank
