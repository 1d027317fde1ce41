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

if TYPE_CHECKING:
    from torch import Tensor


def rotation(angle: float) -> list[list[float]]:
    """The matrix of a counter-clockwise turn by ``angle`` radians, exact at quarter turns."""
    quarters = round(angle / (math.pi / 2))
    rest = angle - quarters * (math.pi / 2)
    c, s = math.cos(rest), math.sin(rest)
    for _ in range(quarters % 4):
        c, s = -s, c
    return [[c, -s], [s, c]]


def _table(array: Callable[[PointGroup], np.ndarray]) -> cached_property[Tensor]:
    """A property that is computed once: an ordinary CPU tensor, wherever it is first asked for."""

    @wraps(array)
    def constant(group: PointGroup) -> Tensor:
        import torch  # here, since a group's name, order and frames cost no second of loading

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
        n: number of rotations, a positive integer.
        reflections: whether the group also holds the n reflections.

    Raises:
        TypeError: if ``n`` is not an integer or ``reflections`` not a bool.
        ValueError: if ``n`` is not positive.

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
        if not isinstance(self.reflections, bool):
            raise TypeError(f"reflections is True or False, not {self.reflections!r}")

    @classmethod
    def named(cls, name: str) -> PointGroup:
        """The group of a name: ``p`` and the number of rotations, ``m`` after it for reflections.

        Raises:
            TypeError: if ``name`` is not a string.
            ValueError: if it does not have that form.
        """
        if not isinstance(name, str):
            raise TypeError(f"a group's name is a string such as 'p8' or 'p6m', not {name!r}")
        match = re.fullmatch(r"p([1-9][0-9]*)(m?)", name, re.ASCII)
        if not match:
            raise ValueError(
                f"unknown group {name!r}: a name is 'p' and the number of rotations, followed by "
                "'m' for reflections, such as p1, p4, p6, p8, p4m, p6m"
            )
        return cls(int(match[1]), bool(match[2]))

    @property
    def name(self) -> str:
        return f"p{self.n}{'m' * self.reflections}"

    def __len__(self) -> int:
        return self.n * (1 + self.reflections)

    @_table
    def matrices(self) -> Tensor:
        """The elements acting on points (x, y): float64 [G, 2, 2]."""
        turns = np.array([rotation(2 * math.pi * r / self.n) for r in range(self.n)])
        flip = np.diag([1.0, -1.0])
        return np.concatenate([turns, turns @ flip]) if self.reflections else turns

    @_table
    def product(self) -> Tensor:
        """Table of indices, int64 [G, G]: ``product[g, h]`` is gh."""
        g = np.arange(len(self))
        m, r = g // self.n, g % self.n
        sign = 1 - 2 * m[:, None]  # a reflection reverses the rotation that it moves past
        return (m[:, None] + m) % 2 * self.n + (r[:, None] + sign * r) % self.n

    @_table
    def inverse(self) -> Tensor:
        r"""Index of :math:`g^{-1}`: int64 [G]."""
        return (self.product.numpy() == 0).argmax(1)

    @_table
    def quotient(self) -> Tensor:
        r"""Table of indices, int64 [G, G]: ``quotient[g, h]`` is :math:`g^{-1}h`, h seen from g."""
        return self.product.numpy()[self.inverse.numpy()]
