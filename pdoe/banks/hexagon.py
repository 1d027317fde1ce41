r"""Bank ``hexagon``: the taps of a hexagon of lattice points, permuted without loss.

Maps on the hexagonal lattice are *axial arrays*: from its entry (0, 0), entry (row, column) lies at

.. math:: \mathrm{LATTICE}\,(\mathrm{row}, \mathrm{column})^T, \qquad
    \mathrm{LATTICE} = \begin{pmatrix} 1/2 & 1 \\ -\sqrt{3}/2 & 0 \end{pmatrix},

one step to the right for a column, one step 60 degrees below it for a row. All else follows from
this matrix.
"""

from __future__ import annotations

import math

import numpy as np

from ..groups import PointGroup

LATTICE = np.array([[1 / 2, 1], [-math.sqrt(3) / 2, 0]])  # x right, y up


def lattice_matrices(group: PointGroup) -> np.ndarray:
    r"""The elements acting on (row, column) of an axial array: int64 [G, 2, 2].

    That is :math:`\mathrm{LATTICE}^{-1}\,g\,\mathrm{LATTICE}`, of integers where g maps the lattice
    to itself.

    Raises:
        ValueError: for a group with an element that does not.

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
    try:
        matrices = lattice_matrices(group)
    except ValueError as error:
        raise ValueError(
            f"bank 'hexagon' has no filter for {group.name}: {error}; use bank 'operators' on "
            "square pixels"
        ) from None
    if offset != 0:
        raise ValueError(
            f"bank 'hexagon' cannot be turned by an offset of {offset:g}: its filters are "
            "permutations of lattice points; use offset 0, or bank 'operators'"
        )
    size = 3 if size is None else size
    if size % 2 == 0:
        raise ValueError(f"a hexagon has a centre: bank 'hexagon' needs an odd size, not {size}")
    radius = size // 2
    entries = np.indices((size, size)).reshape(2, -1) - radius
    everywhere = lattice_matrices(PointGroup(6, reflections=True)) @ entries
    taps = entries[:, (np.abs(everywhere) <= radius).all((0, 1))]  # those that no turn drives out
    bank = np.zeros((len(group), taps.shape[1], size, size))
    for kernels, matrix in zip(bank, matrices, strict=True):
        kernels[(np.arange(len(kernels)), *(matrix @ taps + radius))] = 1
    return bank
