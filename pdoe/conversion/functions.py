"""Functions and methods of a traced network that have a module of the same meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn


def _adaptive(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    return lambda output_size, return_indices=False: kind(output_size)


def _dropout(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    # Traced in evaluation mode, so that `training` says nothing.
    return lambda p=0.5, training=True, inplace=False: kind(p, inplace)


def _max_pool(kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **_) -> nn.Module:
    return nn.MaxPool2d(kernel_size, stride or None, padding, dilation, False, ceil_mode)


def _avg_pool(kernel_size, stride=None, *options, **named) -> nn.Module:
    return nn.AvgPool2d(kernel_size, stride or None, *options, **named)


def _upsample(size=None, scale_factor=None, mode="nearest", align_corners=None, **_) -> nn.Module:
    return nn.Upsample(size, scale_factor, mode, align_corners)


AS_MODULES: dict[Any, Callable[..., nn.Module]] = {
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive(nn.AdaptiveAvgPool2d),
    F.adaptive_max_pool2d: _adaptive(nn.AdaptiveMaxPool2d),
    F.dropout: _dropout(nn.Dropout),
    torch.dropout: lambda p, train: nn.Dropout(p),
    F.dropout2d: _dropout(nn.Dropout2d),
    F.interpolate: _upsample,
    F.local_response_norm: nn.LocalResponseNorm,
}

# Functions that treat every number alike, by name, as a function or a method.
ELEMENTWISE = frozenset(
    "add iadd sub isub mul imul truediv itruediv div div_ neg pow square sqrt rsqrt exp log abs "
    "add_ sub_ mul_ relu relu_ relu6 hardswish hardsigmoid silu gelu elu elu_ selu celu mish "
    "leaky_relu leaky_relu_ sigmoid sigmoid_ tanh softplus softsign hardtanh clamp clamp_ clip "
    "maximum minimum rsub threshold stochastic_depth contiguous clone detach float to type "
    "type_as dropout feature_dropout alpha_dropout".split()
)


def make_module(node: fx.Node, values: dict[fx.Node, Any]) -> nn.Module | None:
    """Return the module that computes what a function node does to its first argument, if any."""
    if node.op != "call_function" or node.target not in AS_MODULES or not node.args:
        return None
    if any(source is not node.args[0] for source in node.all_input_nodes):
        return None  # sizes that are computed
    return AS_MODULES[node.target](*node.args[1:], **node.kwargs)


def read_name(node: fx.Node) -> str:
    """Return the name of a node's function or method."""
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def read_axes(node: fx.Node) -> tuple[list[int], bool] | None:
    """Return the axes of a reduction and whether it keeps them."""
    axes = node.kwargs.get("dim", node.kwargs.get("axis", node.args[1] if node.args[1:] else None))
    keep = node.kwargs.get("keepdim", node.args[2] if node.args[2:] else False)
    if axes is None or isinstance(axes, fx.Node):
        return None
    return sorted(a % 4 for a in ([axes] if isinstance(axes, int) else axes)), bool(keep)
