"""How far a model is from commuting with a group, as a whole and layer by layer."""

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
from .action import act, check_group, grid_elements
from .reasons import reason

Action = Callable[[PointGroup, int, Tensor], Tensor]


@torch.no_grad()
def equivariance_error(
    model: Callable[[Tensor], Tensor], group: PointGroup, x: Tensor, action: Action | None = None
) -> dict[int, float]:
    r"""Relative error of commuting with each element that keeps the pixel grid.

    .. math:: \|\mathrm{model}(g\,x) - g\,\mathrm{model}(x)\| \,/\, \|\mathrm{model}(x)\|

    The model runs in its current mode, and a copy runs, so that its running statistics do not
    change. Dropout in training mode commutes only in distribution.

    Args:
        model: a module or function between features, images and lifted maps, see
            :func:`pdoe.equivariance.action.act`.
        group: the point group.
        x: the input, [B, C, H, W] or [B, C, G, H, W].
        action: how maps move. None: by the model's own method ``act``, which a network whose
            maps lie on another lattice has, else by :func:`pdoe.equivariance.action.act`.

    Returns:
        element -> error: 0 to rounding where the model is exactly equivariant, infinite where an
        output is not finite.

    Raises:
        TypeError, ValueError: the arguments are of another kind, or the input or the output holds
            no numbers, which would say nothing.

    >>> net = nn.Conv2d(1, 2, 3, padding=1)
    >>> errors = equivariance_error(net, PointGroup(8), torch.randn(1, 1, 9, 9))
    >>> list(errors), errors[0], errors[2] > 0.1
    ([0, 2, 4, 6], 0.0, True)
    """
    check_arguments(model, group, x)
    move = action or _find_action(model)
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model)
    y = run_model(model, x)
    return {
        g: relative_error(model(move(group, g, x)), move(group, g, y)) for g in grid_elements(group)
    }


@dataclass(frozen=True)
class EquivarianceReport:
    """Where a model loses equivariance; ``print`` it for one line per layer.

    Attributes:
        errors: layer name -> largest relative error of its output over the elements that map the
            grid to itself, given the model's input and all layers before it; in order of execution.
        first_broken: the first layer whose error is above ``tolerance``; None if there is none.
        tolerance: the largest error that counts as rounding.
        reason: why that layer breaks equivariance; "" if no layer does.
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

    Layers are all modules, named as in ``model.named_modules()``: a block comes after the layers
    that it contains, and the model itself, named "", last. Left out are :class:`ChannelsLast` and
    layers whose output the group does not act on. A layer that runs twice counts by its first run.
    The model stays as it is. Maps move by the model's own method ``act``, if it has one, else by
    :func:`pdoe.equivariance.action.act`.

    Args:
        model: a module between features, images and lifted maps.
        group: the point group.
        x: the input, [B, C, H, W] or [B, C, G, H, W].
        tolerance: the largest error that counts as rounding; None: 1e-9 in float64, else 1e-3.

    Raises:
        TypeError, ValueError: the arguments are of another kind, or the input or the output holds
            no numbers, which would say nothing.

    >>> net = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3, padding=1))
    >>> report = equivariance_report(net, PointGroup(4), torch.randn(1, 1, 9, 9))
    >>> report.first_broken, report.reason
    ('1', 'an ordinary convolution: its kernel does not rotate with the map')
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"equivariance_report takes a torch.nn.Module, whose layers it measures, not {model!r}"
        )
    check_arguments(model, group, x)
    if tolerance is None:
        tolerance = 1e-9 if x.dtype == torch.float64 else 1e-3
    move = _find_action(model)
    model = copy.deepcopy(model)
    outputs, shapes = _record_outputs(model, group, move)

    def run(x: Tensor) -> dict[str, Tensor]:
        outputs.clear()
        run_model(model, x)
        return dict(outputs)

    still = run(x)
    errors = dict.fromkeys(still, 0.0)
    for g in grid_elements(group):
        moved = run(move(group, g, x))
        for name, y in still.items():
            errors[name] = max(errors[name], relative_error(moved[name], move(group, g, y)))
    broken = next((name for name, error in errors.items() if not error <= tolerance), None)
    if broken is None:
        return EquivarianceReport(errors, None, tolerance)
    why = reason(model.get_submodule(broken), group, shapes[broken], still[broken].shape)
    return EquivarianceReport(errors, broken, tolerance, why)


def _record_outputs(
    model: nn.Module, group: PointGroup, move: Action
) -> tuple[dict[str, Tensor], dict[str, torch.Size]]:
    """Hooks that fill two tables when the model runs: layer name -> output, -> input shape."""
    outputs: dict[str, Tensor] = {}
    shapes: dict[str, torch.Size] = {}

    def record(name: str):
        def hook(module, inputs, named, output):
            acted_on = isinstance(output, Tensor) and (
                output.ndim in (2, 4) or (output.ndim == 5 and output.shape[2] in (1, len(group)))
            )
            if acted_on and name not in outputs:
                tensors = (x for x in (*inputs, *named.values()) if isinstance(x, Tensor))
                shapes[name] = next(tensors, output).shape
                # A copy, since the next layer may work in place. The action may set the part of
                # the output to 0 that is outside of its map.
                outputs[name] = move(group, 0, output).clone()

        return hook

    for name, module in model.named_modules():
        if not isinstance(module, ChannelsLast):
            module.register_forward_hook(record(name), with_kwargs=True)
    return outputs, shapes


def check_arguments(model: object, group: PointGroup, x: Tensor) -> None:
    """Refuse a model that cannot be called, and an input that is no tensor or holds no numbers."""
    if not callable(model):
        raise TypeError(f"model is a torch.nn.Module or a function of a tensor, not {model!r}")
    check_group(group)
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a tensor [B, C, H, W] or [B, C, G, H, W], not {type(x).__name__}")
    if x.numel() == 0:
        raise ValueError(f"x is empty, {list(x.shape)}: an error needs at least one image")


def run_model(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The model's output, which has to be a tensor with numbers in it.

    Raises:
        TypeError, ValueError: it is not.
    """
    y = model(x)
    if not isinstance(y, Tensor):
        raise TypeError(
            f"the model returns a {type(y).__name__}, but an error is measured on one tensor: wrap "
            "the model in a function that returns one of its outputs"
        )
    if y.numel() == 0:
        raise ValueError(f"the output of the model is empty, {list(y.shape)}: nothing to compare")
    return y


def _find_action(model: object) -> Action:
    """The model's own method ``act``, if it has one; a layer of that name does not count."""
    own = getattr(model, "act", None)
    return own if inspect.ismethod(own) else act


def relative_error(moved: Tensor, expected: Tensor) -> float:
    """Distance over the norm of ``expected``; infinite where a number is not finite."""
    if moved.shape != expected.shape:
        return math.inf
    # In float64, since a norm in 16 bits overflows; Apple's GPUs do not have float64.
    moved, expected = (x.cpu() if x.device.type == "mps" else x for x in (moved, expected))
    moved, expected = (x if x.is_complex() else x.double() for x in (moved, expected))
    difference, norm = (moved - expected).norm().item(), expected.norm().item()
    if not math.isfinite(difference):
        return math.inf
    return difference / norm if norm else (0.0 if difference == 0 else math.inf)
