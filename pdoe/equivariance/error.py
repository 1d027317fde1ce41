"""The group's action on images and lifted maps, and how far a model is from commuting with it."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..fast import ChannelsLast
from ..groups import PointGroup
from .reasons import reason


def grid_elements(group: PointGroup) -> list[int]:
    """The elements that map the square pixel grid to itself."""
    if not isinstance(group, PointGroup):
        raise TypeError(f"group is a PointGroup, such as PointGroup.named('p8'), not {group!r}")
    return [g for g in range(len(group)) if 4 * (g % group.n) % group.n == 0]


def act(group: PointGroup, g: int, x: Tensor) -> Tensor:
    r"""Move a map by an element of :func:`grid_elements`, without interpolation.

    An image [B, C, H, W] becomes :math:`[g f](x) = f(g^{-1}x)`, a lifted map [B, C, G, H, W]
    :math:`[g f](x, h) = f(g^{-1}x, g^{-1}h)`; features [B, F] stay as they are. A lifted map of a
    network on p1, [B, C, 1, H, W], is moved by every group, like the image that it is.

    Raises:
        ValueError: for another rank or group axis, or an element that leaves the grid.
    """
    if g not in grid_elements(group):
        raise ValueError(
            f"element {g} of {group.name} does not map the pixel grid to itself; "
            f"those that do are {grid_elements(group)}"
        )
    if x.ndim == 2:
        return x
    if x.ndim not in (4, 5) or (x.ndim == 5 and x.shape[2] not in (1, len(group))):
        raise ValueError(
            f"{group.name} acts on features [B, F], images [B, C, H, W] and lifted maps "
            f"[B, C, {len(group)}, H, W], not on a tensor {list(x.shape)}"
        )
    reflections, turns = divmod(g, group.n)
    if x.ndim == 5 and x.shape[2] > 1:
        x = x[:, :, group.quotient[g].to(x.device)]
    if reflections:
        x = x.flip(-2)
    return torch.rot90(x, 4 * turns // group.n, (-2, -1))


Action = Callable[[PointGroup, int, Tensor], Tensor]


@torch.no_grad()
def equivariance_error(
    model: Callable[[Tensor], Tensor], group: PointGroup, x: Tensor, action: Action | None = None
) -> dict[int, float]:
    r"""Relative error of commuting with each element that keeps the pixel grid.

    .. math:: \|\mathrm{model}(g\,x) - g\,\mathrm{model}(x)\| \,/\, \|\mathrm{model}(x)\|

    The model is used in the mode it is in, and left as it is (a copy runs, so that running
    statistics do not move). Dropout in training mode commutes only in distribution.

    Args:
        model: a module or function between features, images and lifted maps, see :func:`act`.
        group: the point group.
        x: the input, [B, C, H, W] or [B, C, G, H, W].
        action: how maps are moved. None: by the model's own method ``act``, which a network whose
            maps lie on another lattice has, else by :func:`act`.

    Returns:
        element -> error; 0 to rounding where the model is exactly equivariant.
    """
    move = action or _action_of(model)
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model)
    y = model(x)
    return {g: _relative(model(move(group, g, x)), move(group, g, y)) for g in grid_elements(group)}


@dataclass(frozen=True)
class EquivarianceReport:
    """Where equivariance is lost.

    Attributes:
        errors: layer name -> largest relative error of its output over the elements that keep the
            grid, given the model's input and all layers before it; in order of execution.
        first_broken: the first layer whose error is above ``tolerance``; None if there is none.
        tolerance: what counts as rounding.
        reason: why that layer breaks it, in plain words; "" if none does.
    """

    errors: dict[str, float]
    first_broken: str | None
    tolerance: float
    reason: str = ""

    def __str__(self) -> str:
        width = max([5, *map(len, self.errors)])
        lines = [
            f"{name or 'model':{width}}  {error:.1e}"
            f"{f'  <- breaks: {self.reason}' if name == self.first_broken else ''}"
            for name, error in self.errors.items()
        ]
        return "\n".join(lines)


@torch.no_grad()
def equivariance_report(
    model: nn.Module, group: PointGroup, x: Tensor, tolerance: float | None = None
) -> EquivarianceReport:
    """The equivariance error of every layer's output, and the first layer that breaks it.

    Layers are all modules, named as in ``model.named_modules()``: a block comes after what it
    holds, and the model itself, named "", last. A layer whose output the group does not act on is
    left out, as is :class:`ChannelsLast`, and one that is called twice counts by its first
    call. The model is left as it is.
    Maps are moved by the model's own method ``act``, if it has one, else by :func:`act`.

    Args:
        model: a module between features, images and lifted maps.
        group: the point group.
        x: the input, [B, C, H, W] or [B, C, G, H, W].
        tolerance: default 1e-3 below float64, 1e-9 in float64.
    """
    if tolerance is None:
        tolerance = 1e-9 if x.dtype == torch.float64 else 1e-3
    move = _action_of(model)
    model = copy.deepcopy(model)
    modules, seen, shapes = dict(model.named_modules()), {}, {}

    def keep(name):
        def hook(module, inputs, named, output):
            acted_on = isinstance(output, Tensor) and (
                output.ndim in (2, 4) or (output.ndim == 5 and output.shape[2] in (1, len(group)))
            )
            if acted_on and name not in seen:
                given = (x for x in (*inputs, *named.values()) if isinstance(x, Tensor))
                shapes[name] = next(given, output).shape
                # A copy, since the next layer may work in place; of what the action calls a map.
                seen[name] = move(group, 0, output).clone()

        return hook

    for name, module in modules.items():
        if not isinstance(module, ChannelsLast):
            module.register_forward_hook(keep(name), with_kwargs=True)

    def run(x):
        seen.clear()
        model(x)
        return dict(seen)

    still = run(x)
    errors = dict.fromkeys(still, 0.0)
    for g in grid_elements(group):
        moved = run(move(group, g, x))
        for name, y in still.items():
            errors[name] = max(errors[name], _relative(moved[name], move(group, g, y)))
    broken = next((name for name, error in errors.items() if not error <= tolerance), None)
    if broken is None:
        return EquivarianceReport(errors, None, tolerance)
    why = reason(modules[broken], group, shapes[broken], still[broken].shape)
    return EquivarianceReport(errors, broken, tolerance, why)


def _action_of(model: object) -> Action:
    """The model's own method ``act``, if it has one; a layer of that name is none."""
    own = getattr(model, "act", None)
    return own if inspect.ismethod(own) else act


def _relative(moved: Tensor, expected: Tensor) -> float:
    """Their relative distance; infinite where a number is not finite."""
    if moved.shape != expected.shape:
        return math.inf
    # In float64, which Apple's GPUs lack: a norm of 16 bits is soon infinite itself.
    moved, expected = (x.cpu() if x.device.type == "mps" else x for x in (moved, expected))
    moved, expected = (x if x.is_complex() else x.double() for x in (moved, expected))
    difference, norm = (moved - expected).norm().item(), expected.norm().item()
    if not math.isfinite(difference):
        return math.inf
    return difference / norm if norm else (0.0 if difference == 0 else math.inf)
