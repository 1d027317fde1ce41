"""Images on the hexagonal lattice: axial arrays, their sampling, masks and movements.

For the positions of the entries of an axial array see :mod:`pdoe.banks.hexagon`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..banks.hexagon import LATTICE, lattice_matrices
from ..constants import Constants
from ..fast import full_precision
from ..groups import PointGroup

REGIONS = ("square", "symmetric")


@dataclass(frozen=True, eq=False)
class AxialArray:
    """The entries of an axial array that lie in a region of the plane, and the one at its centre.

    Attributes:
        inside: bool [H, W].
        centre: (row, column) of the lattice point that rotations and reflections fix.
    """

    inside: np.ndarray
    centre: tuple[int, int]

    @classmethod
    def over(cls, size: int, region: str = "square", halvings: int = 2) -> AxialArray:
        """The lattice over an image of size x size pixels, with a spacing of one pixel.

        A lattice point lies at the centre of the image. Its row and column are multiples of
        2^halvings, so that ``halvings`` strides of 2 keep it. The array is as small as this allows.
        Region "square" has all lattice points within the centres of the outermost pixels,
        "symmetric" those that stay within under all rotations by 60 degrees and reflections.

        >>> array = AxialArray.over(32)
        >>> array.inside.shape, array.centre, array.inside.sum()
        ((38, 49), (20, 24), np.int64(1103))
        """
        if region not in REGIONS:
            raise ValueError(f"region is 'square' or 'symmetric', not {region!r}")
        step = 2**halvings
        entries = np.indices((4 * size + 1, 4 * size + 1)) - 2 * size  # more than enough
        everywhere = PointGroup(6, reflections=True).matrices.numpy()
        elements = everywhere[:1] if region == "square" else everywhere
        points = np.einsum("gab,bij->gaij", elements @ LATTICE, entries)
        inside = (np.abs(points) <= (size - 1) / 2 + 1e-9).all((0, 1))
        spans = [entries[axis][inside] for axis in (0, 1)]
        first = [math.floor(span.min() / step) * step for span in spans]
        last = [span.max() for span in spans]
        rows, columns = (
            slice(a + 2 * size, b + 2 * size + 1) for a, b in zip(first, last, strict=True)
        )
        return cls(inside[rows, columns], (-first[0], -first[1]))

    def halve(self) -> AxialArray:
        """The array after a stride of 2: twice the spacing about the same centre."""
        row, column = self.centre
        if row % 2 or column % 2:
            raise ValueError(f"a stride of 2 drops the centre, entry {self.centre}")
        return AxialArray(self.inside[::2, ::2], (row // 2, column // 2))

    def entries(self) -> np.ndarray:
        """(row, column) of every entry, from the centre: int64 [2, H, W]."""
        return np.indices(self.inside.shape) - np.array(self.centre)[:, None, None]

    def act(self, group: PointGroup, g: int, x: Tensor) -> Tensor:
        r"""Move a map on this array by g, :math:`[g f](p, h) = f(g^{-1}p, g^{-1}h)`; exact.

        x is [..., H, W], or [B, C, G, H, W]. Entries outside of the region count as 0.
        """
        if x.ndim == 5 and x.shape[2] > 1:
            x = x[:, :, group.quotient[g].to(x.device)]
        back = lattice_matrices(group)[group.inverse[g]]
        height, width = self.inside.shape
        rows, columns = (back @ self.entries().reshape(2, -1)) + np.array(self.centre)[:, None]
        known = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        source = np.where(known, rows * width + columns, 0)
        unknown = torch.from_numpy(~(known & self.inside.ravel()[source])).to(x.device)
        moved = x.flatten(-2)[..., torch.from_numpy(source).to(x.device)]
        return moved.masked_fill_(unknown, 0).unflatten(-1, (height, width))


def spline_weights(points: np.ndarray, count: int, degree: int = 5) -> np.ndarray:
    r"""Interpolation of numbers at 0, 1, ... count - 1 at points between them: [P] -> [P, count].

    The interpolating spline is :math:`\sum_t c_t\,\beta(x - t)`, :math:`\beta` the centred B-spline
    of an odd degree and c reflected about both ends. Its values at the integers are linear in c, so
    the weights are (basis at the points) x (basis at the integers)^-1.

    >>> (spline_weights(np.array([2.0, 2.5]), 6).round(3) + 0.0).tolist()  # no -0.0
    [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.068, -0.195, 0.627, 0.627, -0.195, 0.068]]
    """
    reach = (degree + 1) // 2
    knots = np.arange(-reach, count + reach)
    period = max(1, 2 * (count - 1))
    reflected = np.eye(count)[np.minimum(knots % period, -knots % period)]

    def basis(x: np.ndarray) -> np.ndarray:
        # A B-spline is a sum of truncated powers; they cancel less on its left half.
        left = reach - np.abs(np.asarray(x, dtype=float)[:, None] - knots)
        powers = sum(
            (-1) ** k * math.comb(degree + 1, k) * np.maximum(left - k, 0) ** degree
            for k in range(reach)
        )
        return powers / math.factorial(degree) @ reflected

    return np.linalg.solve(basis(np.arange(count)).T, basis(points).T).T


class HexagonalSampling(Constants):
    """An image on the hexagonal lattice, [B, C, N, N] -> axial array [B, C, H, W].

    Splines of fifth degree between the pixels, 0 outside the region. The centre of the lattice is
    that of the image: rotations by 180 degrees and the reflections along the axes commute exactly.
    Interpolation is separable, and all entries of a row have the same height in the image: one
    matrix for the rows, then one for each of them.

    >>> HexagonalSampling(32, AxialArray.over(32))(torch.ones(2, 3, 32, 32)).shape
    torch.Size([2, 3, 38, 49])
    """

    def __init__(self, size: int, array: AxialArray):
        super().__init__()
        self.size, self.array = size, array
        self._fill_constants()

    def _constants(self) -> dict[str, np.ndarray]:
        x, y = np.einsum("ab,bij->aij", LATTICE, self.array.entries())
        centre, inside = (self.size - 1) / 2, self.array.inside
        down = spline_weights(np.clip(centre - y[:, 0], 0, 2 * centre), self.size)
        across = spline_weights(np.clip(centre + x, 0, 2 * centre).ravel(), self.size)
        across = across.reshape(*inside.shape, self.size) * inside[..., None]
        return {"down": down, "across": across}

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(self.down):
            rows = torch.einsum("ih,bchw->bciw", self.down, x)
            return torch.einsum("ijw,bciw->bcij", self.across, rows)

    def extra_repr(self) -> str:
        return f"{self.size}x{self.size} -> {self.array.inside.shape}"


class Region(Constants):
    """0 outside the region, in place, [..., H, W]."""

    def __init__(self, array: AxialArray):
        super().__init__()
        self.array = array
        self._fill_constants()

    def _constants(self) -> dict[str, np.ndarray]:
        return {"inside": self.array.inside.astype(float)}

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.inside)

    def extra_repr(self) -> str:
        height, width = self.array.inside.shape
        return f"{self.array.inside.sum()} of {height}x{width}"


class RegionMean(nn.Module):
    """The mean over the region of maps that are 0 outside of it, [B, C, H, W] -> [B, C, 1, 1]."""

    def __init__(self, array: AxialArray):
        super().__init__()
        self.count = int(array.inside.sum())

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((-2, -1), keepdim=True) / self.count
