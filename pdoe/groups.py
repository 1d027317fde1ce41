"""Finite point groups of the plane, C_n and D_n, as 2x2 matrices and index tables."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING

import numpy as np

from .arguments import require_bool

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_ORDER = 1000


def rotation(angle: float) -> list[list[float]]:
    """Return the matrix of the counter-clockwise rotation by ``angle`` radians.

    Exact at multiples of 90 degrees.
    """
    quarters = round(angle / (math.pi / 2))
    rest = angle - quarters * (math.pi / 2)
    c, s = math.cos(rest), math.sin(rest)
    for _ in range(quarters % 4):
        c, s = -s, c
    return [[c, -s], [s, c]]


def _table(array: Callable[[PointGroup], np.ndarray]) -> cached_property[Tensor]:
    """Make a property that is computed once: an ordinary CPU tensor under any device context."""

    @wraps(array)
    def constant(group: PointGroup) -> Tensor:
        import torch  # here, so that names and orders of groups need no torch

        with torch.inference_mode(False):
            return torch.from_numpy(array(group))

    return cached_property(constant)


@dataclass(frozen=True)
class PointGroup:
    r"""The ``n`` rotations :math:`C_n`; with ``reflections`` the dihedral group :math:`D_n`.

    Element ``g = m * n + r`` is the matrix :math:`R(2\pi r / n)\,F^m`, where :math:`F` sends y to
    -y and y points up; index 0 is the identity. Together with the translations it makes the group
    written p_n or p_nm (Shen et al. 2020).

    Args:
        n: number of rotations, from 1 to 1000.
        reflections: whether the group has the n reflections, too.

    Raises:
        TypeError: ``n`` is not an integer or ``reflections`` not a bool.
        ValueError: ``n`` is not positive, or above 1000.

    >>> group = PointGroup(6, reflections=True)
    >>> group.name, len(group), PointGroup.named("p6m") == group
    ('p6m', 12, True)
    """

    n: int
    reflections: bool = False

    def __post_init__(self):
        try:
            if isinstance(self.n, bool):
                raise TypeError
            object.__setattr__(self, "n", operator.index(self.n))
        except TypeError:
            raise TypeError(
                f"the order of a rotation group is a positive integer, not {self.n!r}"
            ) from None
        if self.n < 1:
            raise ValueError(f"the order of a rotation group is a positive integer, not {self.n}")
        if self.n > LARGEST_ORDER:
            raise ValueError(
                f"the order of a rotation group is at most {LARGEST_ORDER}, not {self.n}: its "
                "index tables hold the square of that number"
            )
        require_bool("reflections", self.reflections)

    @classmethod
    def named(cls, name: str) -> PointGroup:
        """Return the group of a name: ``p8`` or ``C8`` for rotations, ``p4m`` or ``D4`` with
        reflections.

        Raises:
            TypeError: ``name`` is not a string.
            ValueError: ``name`` does not have that form.

        >>> PointGroup.named("D4").name
        'p4m'
        """
        if not isinstance(name, str):
            raise TypeError(f"a group's name is a string such as 'p8' or 'p6m', not {name!r}")
        match = re.fullmatch(r"(?:p|C|(D))([1-9][0-9]{0,9})(m?)", name, re.ASCII)
        if not match or (match[3] and name[0] != "p"):
            raise ValueError(
                f"unknown group {name!r}: with n rotations, from 1 to {LARGEST_ORDER}, it is pn "
                "or Cn (p1, p4, p6, p8, C8), with reflections pnm or Dn (p4m, p6m, D4)"
            )
        return cls(int(match[2]), bool(match[1] or match[3]))

    @property
    def name(self) -> str:
        """The name in the form p_n or p_nm."""
        return f"p{self.n}{'m' * self.reflections}"

    def __len__(self) -> int:
        return self.n * (1 + self.reflections)

    @_table
    def matrices(self) -> Tensor:
        """The elements acting on points (x, y): float64 [G, 2, 2]."""
        rotations = np.array([rotation(2 * math.pi * r / self.n) for r in range(self.n)])
        flip = np.diag([1.0, -1.0])
        return np.concatenate([rotations, rotations @ flip]) if self.reflections else rotations

    @_table
    def product(self) -> Tensor:
        """Index table, int64 [G, G]: ``product[g, h]`` is gh."""
        g = np.arange(len(self))
        m, r = g // self.n, g % self.n
        sign = 1 - 2 * m[:, None]  # a reflection inverts the rotation that it is exchanged with
        return (m[:, None] + m) % 2 * self.n + (r[:, None] + sign * r) % self.n

    @_table
    def inverse(self) -> Tensor:
        r"""Index of :math:`g^{-1}`: int64 [G]."""
        return (self.product.numpy() == 0).argmax(1)

    @_table
    def quotient(self) -> Tensor:
        r"""Index table, int64 [G, G]: ``quotient[g, h]`` is :math:`g^{-1}h`, h relative to g."""
        return self.product.numpy()[self.inverse.numpy()]
