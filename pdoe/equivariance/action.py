"""The action of a group on features, images and lifted maps: exact on the grid, else interpolated.

x points right, y up, the origin is the centre of the map, angles are counter-clockwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..groups import PointGroup, rotation

NODES = range(-2, 4)  # the six pixels along each axis that an interpolated value is made of


def check_group(group: PointGroup) -> None:
    """Refuse with a TypeError what is not a point group."""
    if not isinstance(group, PointGroup):
        raise TypeError(f"group is a PointGroup, such as PointGroup.named('p8'), not {group!r}")


def grid_elements(group: PointGroup) -> list[int]:
    """The elements that map the square pixel grid to itself.

    Raises:
        TypeError: ``group`` is not a PointGroup.

    >>> grid_elements(PointGroup(8)), grid_elements(PointGroup(6))
    ([0, 2, 4, 6], [0, 3])
    """
    check_group(group)
    return [g for g in range(len(group)) if 4 * (g % group.n) % group.n == 0]


def act(group: PointGroup, g: int, x: Tensor) -> Tensor:
    r"""Move a map by an element of :func:`grid_elements`, without interpolation.

    An image [B, C, H, W] becomes :math:`[g f](x) = f(g^{-1}x)`, a lifted map [B, C, G, H, W]
    :math:`[g f](x, h) = f(g^{-1}x, g^{-1}h)`. Features [B, F] are invariant. A lifted map of a
    network on p1, [B, C, 1, H, W], is moved by every group like an image.

    Raises:
        ValueError: for another rank or group axis, or an element that leaves the grid.

    >>> act(PointGroup(4), 1, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).tolist()
    [[[[2.0, 4.0], [1.0, 3.0]]]]
    """
    if g not in grid_elements(group):
        raise ValueError(
            f"element {g} of {group.name} does not map the pixel grid to itself; "
            f"the elements that do are {grid_elements(group)}"
        )
    if x.ndim == 2:
        return x
    if x.ndim not in (4, 5) or (x.ndim == 5 and x.shape[2] not in (1, len(group))):
        raise ValueError(
            f"{group.name} acts on features [B, F], images [B, C, H, W] and lifted maps "
            f"[B, C, {len(group)}, H, W], not on a tensor {list(x.shape)}"
        )
    reflection, rotations = divmod(g, group.n)
    x = _permute_orientations(group, g, x)
    if reflection:
        x = x.flip(-2)
    return torch.rot90(x, 4 * rotations // group.n, (-2, -1))


def act_interpolated(group: PointGroup, g: int, x: Tensor) -> Tensor:
    r"""Move features, images or lifted maps by any element g of the group.

    The same as :func:`act` where g maps the pixel grid to itself. Elsewhere :func:`rotate`
    interpolates the pixels; the group axis moves by :math:`h \mapsto g^{-1}h`, which is exact.
    """
    if g in grid_elements(group):
        return act(group, g, x)
    if x.ndim == 2:
        return x
    reflection, rotations = divmod(g, group.n)
    x = _permute_orientations(group, g, x)
    return rotate(x.flip(-2) if reflection else x, 2 * math.pi * rotations / group.n)


def rotate(x: Tensor, angle: float) -> Tensor:
    r"""Rotate maps [..., H, W] about their centre: :math:`f(R^{-1}x)`, 0 outside of the map.

    Multiples of 90 degrees are exact (``rot90``, also of oblong maps). At other angles the map
    keeps its size, and a value is that of the polynomial through the nearest 6x6 pixels. This is
    exact up to degree 5, so the error on a smooth map is of sixth order in the pixel spacing.
    (``grid_sample`` is bilinear, of second order like the errors to be measured, or cubic with a
    kernel that does not even reproduce a linear map.)

    Args:
        x: floating-point maps; integers for multiples of 90 degrees alone.
        angle: in radians, counter-clockwise.

    Raises:
        ValueError: for integer maps at an angle that needs interpolation.

    >>> rotate(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), math.pi / 2).tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """
    quarters = angle / (math.pi / 2)
    if abs(quarters - round(quarters)) < 1e-9:
        return torch.rot90(x, round(quarters), (-2, -1))
    if not x.is_floating_point():
        raise ValueError(f"maps to be interpolated are of floating point, not {x.dtype}")
    height, width = x.shape[-2:]
    source = pixel_centres(height, width) @ torch.tensor(rotation(-angle), dtype=torch.float64).T
    column, row = source[..., 0] + (width - 1) / 2, (height - 1) / 2 - source[..., 1]
    left, top = column.floor(), row.floor()
    across, down = _lagrange_weights(column - left), _lagrange_weights(row - top)
    rotated = torch.zeros_like(x)
    for i, weight_down in zip(NODES, down, strict=True):
        for j, weight_across in zip(NODES, across, strict=True):
            r, c = (top + i).long(), (left + j).long()
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            weight = (weight_down * weight_across * inside).to(x)
            rotated += weight * x[..., r.clamp(0, height - 1), c.clamp(0, width - 1)]
    return rotated


def pixel_centres(height: int, width: int) -> Tensor:
    """The centres of the pixels from the centre of the map, in pixels: float64 [H, W, 2]."""
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = (height - 1) / 2 - torch.arange(height, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _permute_orientations(group: PointGroup, g: int, x: Tensor) -> Tensor:
    if x.ndim == 5 and x.shape[2] > 1:
        return x[:, :, group.quotient[g].to(x.device)]
    return x


def _lagrange_weights(t: Tensor) -> list[Tensor]:
    """The weight of each node in the value at t, in [0, 1)."""
    others = [[m for m in NODES if m != node] for node in NODES]
    return [
        math.prod((t - m) / (node - m) for m in rest)
        for node, rest in zip(NODES, others, strict=True)
    ]
