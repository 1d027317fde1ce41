"""The error of rotations by any angle, its order in the pixel spacing, and smooth test images."""

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
from .action import act_interpolated, pixel_centres, rotate
from .error import check_arguments, relative_error, run_model

ANGLES = tuple(range(0, 360, 15))  # degrees
SPACINGS = (1 / 2, 1 / 4, 1 / 8, 1 / 16)  # smaller ones lose digits: two layers divide by h^8


def field_at(points: Tensor, count: int, wavelength: float, seed: int = 0) -> Tensor:
    """Random fields without waves shorter than ``wavelength``, at any points: [..., 2] -> [N, ...].

    Each field is a sum of 16 plane waves, with mean square 1 and wave vectors uniform in a disc.

    >>> field_at(torch.zeros(5, 2, dtype=torch.float64), 3, 8.0).shape
    torch.Size([3, 5])
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
    r"""Random smooth images, rotated without interpolation: float64 [B, C, N, N].

    Waves of at least ``wavelength`` pixels (:func:`field_at`) times the bump
    :math:`\exp(1 - 1 / (1 - r^2/R^2))`. The bump is 0 from the edge of the image on
    (:math:`R = (N - 1) / 2` pixels), so a rotation brings nothing new into view. The image is
    evaluated at the rotated pixels themselves.

    Args:
        size: N, in pixels.
        angle: in radians, counter-clockwise.
        batch, channels: B and C.
        wavelength: the shortest, in pixels.
        seed: of the random waves.

    >>> still, quarter = smooth_field(9), smooth_field(9, math.pi / 2)
    >>> torch.allclose(quarter, still.rot90(1, (-2, -1)), rtol=0, atol=1e-12)
    True
    """
    points = pixel_centres(size, size) @ torch.tensor(rotation(-angle), dtype=torch.float64).T
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
    r"""Relative error of commuting with rotations by any angle: degrees -> error.

    .. math:: \|\mathrm{model}(R\,x) - R\,\mathrm{model}(x)\| \,/\, \|R\,\mathrm{model}(x)\|

    Features [B, F] should be invariant. Images and lifted maps are compared inside the disc that
    every rotation keeps in view, less ``margin`` pixels. Between multiples of 90 degrees
    :func:`pdoe.equivariance.action.rotate` adds an interpolation error, small where the output is
    smooth.

    Args:
        model: a module or function from images; a copy of it runs, in its current mode.
        group: the point group, which says how a lifted map rotates.
        x: images [B, C, H, W], which are interpolated, or a function from an angle in radians to
            rotated images, such as ``lambda angle: smooth_field(28, angle)``, which is exact.
        angles: in degrees, counter-clockwise.
        margin: in pixels of the output.

    Raises:
        TypeError, ValueError: the arguments are of another kind, nothing is left to compare (no
            angle, an empty input or output, a margin as wide as the output), or the output is a
            lifted map and the group lacks one of the rotations.

    >>> net = nn.Conv2d(1, 2, 3, padding=1).double()
    >>> rotated = lambda angle: smooth_field(16, angle)
    >>> curve = equivariance_curve(net, PointGroup(4), rotated, [0, 45])
    >>> curve[0], curve[45] > 0.01
    (0.0, True)
    """
    angles = list(angles)
    if not angles or not all(map(math.isfinite, angles)):
        raise ValueError(
            f"angles are numbers of degrees, at least one, such as [0, 45], not {angles}"
        )
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin is a number of pixels, at least 0, not {margin}")
    rotated = x if callable(x) else lambda angle: rotate(x, angle)
    check_arguments(model, group, rotated(0.0) if callable(x) else x)
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model)
    still = run_model(model, rotated(0.0))
    errors = {}
    for degrees in angles:
        angle = math.radians(degrees)
        expected, moved = still, model(rotated(angle))
        if still.ndim == 5:
            expected = act_interpolated(group, _find_element(group, angle), still)
        elif still.ndim == 4:
            expected = rotate(still, angle)
        if still.ndim > 2:
            disc = _mask_disc(expected, margin)
            expected, moved = expected[..., disc], moved[..., disc]
        errors[degrees] = relative_error(moved, expected)
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
    """The order in the pixel spacing of the error of consecutive layers under one element.

    The weights define differential operators at spacing h = 1. At each spacing h the layers
    approximate the same operators by :math:`h^{-k}` stencils. A smooth field f (waves of at least
    4) is sampled around 32 random points x, and [model g f](x, h) is compared with
    [model f](g^-1 x, g^-1 h). Neither input nor output is interpolated. In theory the order is 2
    (Shen et al. 2020), and 0 for layers that do not rotate, such as an ordinary convolution.

    Args:
        layers: a LiftingConv of one channel and any number of GroupConv, of bank ``operators``,
            ``gaussian`` (its Gaussian shrinks with the pixels) or of 3x3 ``pixels``, stride 1, no
            bias; copies of them run.
        angle: of the element, in radians, an element of the group. On p1 any angle is accepted: it
            measures an ordinary convolution.
        mirrored: whether the element reflects y first.
        spacings: the values of h.
        seed: of the field and the points.

    Raises:
        TypeError: layers that are not a LiftingConv and GroupConv.
        ValueError: the group lacks the element; a layer has other than nine filters, a stride or a
            bias; there are fewer than two spacings.

    >>> result = convergence_order([LiftingConv(PointGroup(8), 1, 2)], math.pi / 4)
    >>> round(result.order, 1)
    2.0
    """
    if not (math.isfinite(angle) and len(set(spacings)) > 1 and min(spacings) > 0):
        raise ValueError(
            f"an order needs a finite angle and two spacings or more, not angle {angle} and "
            f"spacings {list(spacings)}"
        )
    _check_layers(layers)
    group = layers[0].group
    element = 0 if len(group) == 1 else _find_element(group, angle, mirrored)
    back = torch.tensor(rotation(-angle), dtype=torch.float64)
    if mirrored:
        back = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)) @ back
    random = torch.Generator().manual_seed(seed)
    centres = 2 * torch.rand(32, 1, 1, 2, generator=random, dtype=torch.float64) - 1
    size = 1 + sum(layer.kernel_size - 1 for layer in layers)
    errors = {}
    for h in spacings:
        model, patch = _copy_at_spacing(layers, h), h * pixel_centres(size, size)
        moved, still = (
            model(field_at(points, 1, 4.0, seed).transpose(0, 1))
            for points in ((centres + patch) @ back.T, centres @ back.T + patch)
        )
        still = still[:, :, group.quotient[element]]
        errors[h] = ((moved - still).norm() / still.norm()).item()
    x, y = np.log(list(errors)), np.log(list(errors.values()))
    slope, height = np.polyfit(x, y, 1)
    residual = np.sqrt(np.mean((y - slope * x - height) ** 2))
    return Convergence(errors, float(slope), float(residual))


def _check_layers(layers: Sequence[LiftingConv | GroupConv]) -> None:
    first, *others = layers or [None]
    if not isinstance(first, LiftingConv) or not all(isinstance(o, GroupConv) for o in others):
        raise TypeError(
            "layers are a LiftingConv and then any number of GroupConv, not "
            f"{[type(layer).__name__ for layer in layers]}"
        )
    for layer in layers:
        if layer.weight.shape[-1] != len(OPERATORS) or layer.stride != 1 or layer.bias is not None:
            raise ValueError(f"expected 3x3 weights, stride 1 and no bias, found {layer}")


def _copy_at_spacing(layers: Sequence[LiftingConv | GroupConv], h: float) -> nn.Sequential:
    """Copies in float64, without padding, of the same operators in stencils of spacing h."""
    stencils = operators(np.eye(2)[None], h)[0, :, 1:4, 1:4].reshape(len(OPERATORS), -1)
    copies = [copy.deepcopy(layer).double() for layer in layers]
    for layer in copies:
        weight = layer.weight @ torch.from_numpy(pixels_in_operators())
        layer.weight.copy_(weight @ torch.from_numpy(stencils))
        layer.padding = 0
    return nn.Sequential(*copies)


def _mask_disc(x: Tensor, margin: float) -> Tensor:
    """The pixels that stay in view under every rotation: bool [H, W]."""
    radius = (min(x.shape[-2:]) - 1) / 2 - margin
    inside = pixel_centres(*x.shape[-2:]).norm(dim=-1).to(x.device) <= radius + 1e-9
    if not inside.any():
        raise ValueError(
            f"maps of {x.shape[-2]}x{x.shape[-1]} pixels leave nothing to compare inside a margin "
            f"of {margin:g}; give a smaller margin, or pool over space"
        )
    return inside


def _find_element(group: PointGroup, angle: float, mirrored: bool = False) -> int:
    rotations = angle / (2 * math.pi) * group.n
    if abs(rotations - round(rotations)) > 1e-9 or (mirrored and not group.reflections):
        raise ValueError(
            f"{group.name} has no{' mirrored' * mirrored} rotation by {math.degrees(angle):g} "
            f"degrees, only by multiples of {360 / group.n:g}, so the group axis of a lifted map "
            "cannot follow it; pool with GroupPool to compare at any angle"
        )
    return round(rotations) % group.n + mirrored * group.n
