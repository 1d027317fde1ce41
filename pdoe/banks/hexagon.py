r"""Bank ``hexagon``: permuted points of a hexagonal lattice.

Maps on the hexagonal lattice are *axial arrays*: entry (row, column) lies, from entry (0, 0), at

.. math:: \mathrm{LATTICE}\,(\mathrm{row}, \mathrm{column})^T, \qquad
    \mathrm{LATTICE} = \begin{pmatrix} 1/2 & 1 \\ -\sqrt{3}/2 & 0 \end{pmatrix},

one step to the right for a column, one step 60 degrees below the right for a row. All else follows
from this matrix.
"""

from __future__ import annotations

import math

import numpy as np

from ..groups import PointGroup

LATTICE = np.array([[1 / 2, 1], [-math.sqrt(3) / 2, 0]])  # x right, y up


def lattice_matrices(group: PointGroup) -> np.ndarray:
    r"""Return the elements acting on (row, column) of an axial array: int64 [G, 2, 2].

    These are :math:`\mathrm{LATTICE}^{-1}\,g\,\mathrm{LATTICE}`, matrices of integers if g maps
    the lattice to itself.

    Raises:
        ValueError: an element of the group does not map the lattice to itself.

    >>> lattice_matrices(PointGroup(6))[1].tolist()  # by 60 degrees
    [[0, -1], [1, 1]]
    """
    matrices = np.linalg.inv(LATTICE) @ group.matrices.numpy() @ LATTICE
    integers = matrices.round()
    if np.abs(matrices - integers).max() > 1e-9:
        raise ValueError(
            f"{group.name} does not map the hexagonal lattice to itself: only p1, p2, p3, p6 and "
            "p1m, p2m, p3m, p6m do"
        )
    return integers.astype(np.int64)


def hexagon_bank(group: PointGroup, size: int | None, offset: float) -> np.ndarray:
    """Return the bank [G, K, k, k] of HexaConv (Hoogeboom et al. 2018), for axial arrays.

    Exact for p1, p2, p3, p6, p1m, p2m, p3m, p6m, the only groups it has; offset 0. K = 7 for k = 3,
    the default, and K = 19 for k = 5.
    """
    try:
        matrices = lattice_matrices(group)
    except ValueError as error:
        raise ValueError(
            f"bank 'hexagon' has no filter for {group.name}: {error}; use bank 'operators' on "
            "square pixels"
        ) from None
    if offset != 0:
        raise ValueError(
            f"bank 'hexagon' has no offset, and was given {offset:g}: its filters are "
            "permutations of lattice points; use offset 0, or bank 'operators'"
        )
    size = 3 if size is None else size
    if size % 2 == 0:
        raise ValueError(f"a hexagon has a centre: bank 'hexagon' needs an odd size, not {size}")
    radius = size // 2
    entries = np.indices((size, size)).reshape(2, -1) - radius
    everywhere = lattice_matrices(PointGroup(6, reflections=True)) @ entries
    # The points that no element moves out of the square.
    taps = entries[:, (np.abs(everywhere) <= radius).all((0, 1))]
    bank = np.zeros((len(group), taps.shape[1], size, size))
    for kernels, matrix in zip(bank, matrices, strict=True):
        kernels[(np.arange(len(kernels)), *(matrix @ taps + radius))] = 1
    return bank
