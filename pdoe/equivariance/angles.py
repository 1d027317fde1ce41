"""Turns by any angle: fields known between the pixels, the error over all angles, and its order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..banks import OPERATORS, operators, pixels_in_operators
from ..groups import PointGroup, rotation
from ..layers import GroupConv, LiftingConv
from .error import act, grid_elements

ANGLES = tuple(range(0, 360, 15))  # degrees
SPACINGS = (1 / 2, 1 / 4, 1 / 8, 1 / 16)  # finer ones lose digits: two layers divide by h^8
NODES = range(-2, 4)  # the six pixels along each axis that a value between pixels is made of


def rotate(x: Tensor, angle: float) -> Tensor:
    r"""Turn maps [..., H, W] about their centre: :math:`f(R^{-1}x)`, 0 where nothing is known.

    The angle is in radians, counter-clockwise, x right, y up. Multiples of 90 degrees are exact
    (``rot90``, also of oblong maps); between them the frame stays, and a value is that of the
    polynomial through the nearest 6x6 pixels: exact up to degree 5, so that the error on a smooth
    map is of sixth order in the pixel spacing. ``grid_sample`` interpolates linearly, of second
    order like the errors that are to be seen, or by a cubic that does not keep a linear map.

    Raises:
        ValueError: integers, and a turn between the multiples of 90 degrees.

    >>> rotate(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), math.pi / 2).tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """
    quarters = angle / (math.pi / 2)
    if abs(quarters - round(quarters)) < 1e-9:
        return torch.rot90(x, round(quarters), (-2, -1))
    if not x.is_floating_point():
        raise ValueError(f"to be interpolated, maps are of floating point, not {x.dtype}")
    height, width = x.shape[-2:]
    source = _pixels(height, width) @ torch.tensor(rotation(-angle), dtype=torch.float64).T
    column, row = source[..., 0] + (width - 1) / 2, (height - 1) / 2 - source[..., 1]
    left, top = column.floor(), row.floor()
    across, down = _lagrange(column - left), _lagrange(row - top)
    turned = torch.zeros_like(x)
    for i, weight_down in zip(NODES, down, strict=True):
        for j, weight_across in zip(NODES, across, strict=True):
            r, c = (top + i).long(), (left + j).long()
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            weight = (weight_down * weight_across * inside).to(x)
            turned += weight * x[..., r.clamp(0, height - 1), c.clamp(0, width - 1)]
    return turned


def turn(group: PointGroup, g: int, x: Tensor) -> Tensor:
    r"""Move features, images or lifted maps by any element g of the group.

    :func:`act` where g keeps the pixel grid; elsewhere the pixels are moved by
    :func:`rotate`, and the group axis by :math:`h \mapsto g^{-1}h`, which is exact.
    """
    if g in grid_elements(group):
        return act(group, g, x)
    if x.ndim == 2:
        return x
    reflections, turns = divmod(g, group.n)
    if x.ndim == 5 and x.shape[2] > 1:
        x = x[:, :, group.quotient[g].to(x.device)]
    return rotate(x.flip(-2) if reflections else x, 2 * math.pi * turns / group.n)


def field_at(points: Tensor, count: int, wavelength: float, seed: int = 0) -> Tensor:
    """Random fields without waves shorter than ``wavelength``, at any points: [..., 2] -> [N, ...].

    Each is a sum of 16 plane waves of mean square 1, whose wave vectors fill a disc evenly.
    """
    random = torch.Generator().manual_seed(seed)
    radius, direction, phase = torch.rand(3, count, 16, generator=random, dtype=torch.float64)
    k, direction = 2 * math.pi / wavelength * radius.sqrt(), 2 * math.pi * direction
    vectors = torch.stack([k * direction.cos(), k * direction.sin()], -1)
    phase = (2 * math.pi * phase).view(count, 16, *[1] * (points.ndim - 1))
    waves = torch.einsum("nkd,...d->nk...", vectors, points) + phase
    return waves.cos().sum(1) * math.sqrt(2 / 16)


def smooth_field(
    size: int,
    angle: float = 0.0,
    batch: int = 16,
    channels: int = 1,
    wavelength: float = 8.0,
    seed: int = 0,
) -> Tensor:
    r"""Random smooth images turned by ``angle``, without interpolation: float64 [B, C, N, N].

    Waves of at least ``wavelength`` pixels (:func:`field_at`) times the bump
    :math:`\exp(1 - 1 / (1 - r^2/R^2))`, which is 0 from the edge of the frame on
    (:math:`R = (N - 1) / 2` pixels), so that a turn brings nothing new into view. They are
    evaluated at the turned pixels themselves. The angle is in radians, as for :func:`rotate`.

    >>> still, quarter = smooth_field(9), smooth_field(9, math.pi / 2)
    >>> torch.allclose(quarter, still.rot90(1, (-2, -1)), rtol=0, atol=1e-12)
    True
    """
    points = _pixels(size, size) @ torch.tensor(rotation(-angle), dtype=torch.float64).T
    inner = 1 - points.square().sum(-1) / ((size - 1) / 2) ** 2
    bump = torch.where(inner > 1e-9, torch.exp(1 - 1 / inner.clamp(min=1e-9)), 0.0)
    waves = field_at(points, batch * channels, wavelength, seed)
    return (bump * waves).unflatten(0, (batch, channels))


@torch.no_grad()
def equivariance_curve(
    model: Callable[[Tensor], Tensor],
    group: PointGroup,
    x: Tensor | Callable[[float], Tensor],
    angles: Iterable[float] = ANGLES,
    margin: float = 3.0,
) -> dict[float, float]:
    r"""Relative error of commuting with turns by any angle: degrees -> error.

    .. math:: \|\mathrm{model}(R\,x) - R\,\mathrm{model}(x)\| \,/\, \|R\,\mathrm{model}(x)\|

    Features [B, F] are to stay as they are. Images and lifted maps are compared inside the disc
    that every turn keeps in view, less ``margin`` pixels; there :func:`rotate` adds an error of its
    own between multiples of 90 degrees, small where the output is smooth.

    Args:
        model: a module or function from images; a copy of it runs, in the mode it is in.
        group: the point group, which says how a lifted map turns.
        x: images [B, C, H, W], which are interpolated, or a function that gives them turned by an
            angle in radians, such as ``lambda angle: smooth_field(28, angle)``: exact.
        angles: in degrees, counter-clockwise.
        margin: in pixels of the output.

    Raises:
        ValueError: the output is a lifted map and the group lacks one of the turns, by which its
            group axis cannot be moved, or the disc is empty.
    """
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model)
    turned = x if callable(x) else lambda angle: rotate(x, angle)
    still = model(turned(0.0))
    errors = {}
    for degrees in angles:
        angle = math.radians(degrees)
        expected, moved = still, model(turned(angle))
        if still.ndim == 5:
            expected = turn(group, _element(group, angle), still)
        elif still.ndim == 4:
            expected = rotate(still, angle)
        if still.ndim > 2:
            disc = _disc(expected, margin)
            expected, moved = expected[..., disc], moved[..., disc]
        norm, difference = expected.norm().item(), (moved - expected).norm().item()
        errors[degrees] = difference / norm if norm else (0.0 if difference == 0 else math.inf)
    return errors


@dataclass(frozen=True)
class Convergence:
    """How an error falls with the pixel spacing.

    Attributes:
        errors: spacing -> relative error.
        order: slope of the straight line through log error against log spacing (least squares).
        residual: root mean square distance of log error from that line.
    """

    errors: dict[float, float]
    order: float
    residual: float


@torch.no_grad()
def convergence_order(
    layers: Sequence[LiftingConv | GroupConv],
    angle: float,
    mirrored: bool = False,
    spacings: Sequence[float] = SPACINGS,
    seed: int = 0,
) -> Convergence:
    """How fast layers that follow each other come to commute with an element as pixels shrink.

    At each spacing h the layers stand for the differential operators that their weights are at
    h = 1, in :math:`h^{-k}` stencils. A smooth field (waves of at least 4) is sampled around 32
    random points x and, turned, around x; [model g f](x, h) is held against
    [model f](g^-1 x, g^-1 h). Nothing is interpolated, neither input nor output. Theory: 2
    (Shen et al. 2020); 0 where the layers do not turn, such as an ordinary convolution.

    Args:
        layers: a LiftingConv of one channel and any number of GroupConv, of bank ``operators``,
            ``gaussian`` (its width shrinks with the pixels) or of 3x3 ``pixels``, stride 1, no
            bias; they are copied.
        angle: of the element, in radians; the group holds it, or is p1: then an ordinary
            convolution is asked about a turn that it does not know.
        mirrored: whether the element reflects y first.
        spacings: the values of h.
        seed: of the field and the points.

    Raises:
        ValueError: the group has other elements, but not this one, or a layer has other than nine
            filters, a stride or a bias.
    """
    for layer in layers:
        if layer.weight.shape[-1] != len(OPERATORS) or layer.stride != 1 or layer.bias is not None:
            raise ValueError(f"expected 3x3 weights, stride 1 and no bias, found {layer}")
    layers = [copy.deepcopy(layer).double() for layer in layers]
    group = layers[0].group
    order_of_axis = group.quotient[0 if len(group) == 1 else _element(group, angle, mirrored)]
    weights = [layer.weight @ torch.from_numpy(pixels_in_operators()) for layer in layers]
    for layer in layers:
        layer.padding = 0
    size = 1 + sum(layer.kernel_size - 1 for layer in layers)
    back = torch.tensor(rotation(-angle), dtype=torch.float64)
    if mirrored:
        back = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)) @ back
    random = torch.Generator().manual_seed(seed)
    centres = 2 * torch.rand(32, 1, 1, 2, generator=random, dtype=torch.float64) - 1
    model, errors = nn.Sequential(*layers), {}
    for h in spacings:
        stencils = operators(np.eye(2)[None], h)[0, :, 1:4, 1:4].reshape(len(OPERATORS), -1)
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight @ torch.from_numpy(stencils))
        patch = h * _pixels(size, size)
        turned, still = (
            model(field_at(points, 1, 4.0, seed).transpose(0, 1))
            for points in ((centres + patch) @ back.T, centres @ back.T + patch)
        )
        still = still[:, :, order_of_axis]
        errors[h] = ((turned - still).norm() / still.norm()).item()
    x, y = np.log(list(errors)), np.log(list(errors.values()))
    slope, height = np.polyfit(x, y, 1)
    residual = np.sqrt(np.mean((y - slope * x - height) ** 2))
    return Convergence(errors, float(slope), float(residual))


def _pixels(height: int, width: int) -> Tensor:
    """Centres of the pixels from the centre of the frame, (x right, y up): float64 [H, W, 2]."""
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = (height - 1) / 2 - torch.arange(height, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _disc(x: Tensor, margin: float) -> Tensor:
    """The pixels that stay in view: bool [H, W]."""
    radius = (min(x.shape[-2:]) - 1) / 2 - margin
    if radius < 0:
        raise ValueError(
            f"maps of {x.shape[-2]}x{x.shape[-1]} pixels leave nothing to compare inside a margin "
            f"of {margin:g}; give a smaller margin, or pool over space"
        )
    return _pixels(*x.shape[-2:]).norm(dim=-1).to(x.device) <= radius + 1e-9


def _lagrange(t: Tensor) -> list[Tensor]:
    """Weights of the nodes for the value at t in [0, 1)."""
    others = [[m for m in NODES if m != node] for node in NODES]
    return [
        math.prod((t - m) / (node - m) for m in rest)
        for node, rest in zip(NODES, others, strict=True)
    ]


def _element(group: PointGroup, angle: float, mirrored: bool = False) -> int:
    turns = angle / (2 * math.pi) * group.n
    if abs(turns - round(turns)) > 1e-9 or (mirrored and not group.reflections):
        raise ValueError(
            f"{group.name} has no{' mirrored' * mirrored} turn by {math.degrees(angle):g} degrees "
            f"(its turns are multiples of {360 / group.n:g}), by which the group axis of a lifted "
            "map could be moved; pool it with GroupPool to compare at any angle"
        )
    return round(turns) % group.n + mirrored * group.n
