"""Why a layer does not commute with the rotations and reflections of the pixel grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..fast import Dropout
from ..groups import PointGroup

PADS = (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d)
DROPOUTS = (nn.modules.dropout._DropoutNd, Dropout)


def reason(
    module: nn.Module, group: PointGroup, shape: Sequence[int], out_shape: Sequence[int]
) -> str:
    """The first reason that applies to a layer whose output does not move with its input.

    Args:
        module: the layer.
        group: the group whose elements were tried.
        shape, out_shape: of the layer's input and output.

    >>> reason(nn.MaxPool2d(2), PointGroup(4), (1, 1, 5, 5), (1, 1, 2, 2))
    'pooling 2x2 over a size of 5x5 leaves out one side of the map: it needs an even one'
    """
    own = getattr(module, "group", group)
    if isinstance(own, PointGroup) and not set(_list_quarters(group)) <= set(_list_quarters(own)):
        return f"it is built for {own.name}, which lacks rotations or reflections of {group.name}"
    if isinstance(module, nn.Flatten):
        return _explain_flatten(module, shape)
    if isinstance(module, nn.Conv2d):
        if tuple(module.kernel_size) == tuple(shape[-2:]):
            return (
                "a head that spans the map: it has a weight for each pixel and orientation and is "
                "not invariant (pool over the group and space first)"
            )
        if not _is_symmetric(module.weight, group):  # before a stride or padding, as in ResNet-18
            return "an ordinary convolution: its kernel does not rotate with the map"
    if why := _explain_sampling(module, shape, out_shape) or _explain_padding(module):
        return why
    if isinstance(module, DROPOUTS) and module.training:
        return "dropout in training mode commutes in distribution alone: use eval()"
    if any(module.children()):
        return "none of its layers alone: an operation between them (slicing, padding, reshaping)"
    return f"unknown: no known property of {type(module).__name__} explains it"


def _is_symmetric(kernel: Tensor, group: PointGroup) -> bool:
    """Whether every element that maps the grid to itself leaves a planar kernel unchanged."""
    return kernel.shape[-2] == kernel.shape[-1] and all(
        torch.allclose(torch.rot90(kernel.flip(-2) if m else kernel, q, (-2, -1)), kernel)
        for m, q in _list_quarters(group)
    )


def _list_quarters(group: PointGroup) -> list[tuple[int, int]]:
    """The elements that map the grid to itself, as (reflections, rotations by 90 degrees)."""
    return [
        (m, 4 * r // group.n)
        for m in range(1 + group.reflections)
        for r in range(group.n)
        if 4 * r % group.n == 0
    ]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Numbers for rows and columns; of three numbers the first is for the group axis."""
    return (value, value) if isinstance(value, int) else tuple(value[-2:])


def _window(
    module: nn.Module, shape: Sequence[int], out_shape: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding: the module's own, or those that the sizes of its maps imply."""
    kernel, stride = getattr(module, "kernel_size", None), getattr(module, "stride", None)
    padding = getattr(module, "padding", None)
    if kernel is None or stride is None or padding is None or isinstance(padding, str):
        steps = tuple(max(1, n // m) for n, m in zip(shape[-2:], out_shape[-2:], strict=True))
        return steps, steps, (0, 0)
    dilation = _pair(getattr(module, "dilation", 1))
    kernel = tuple(d * (k - 1) + 1 for d, k in zip(dilation, _pair(kernel), strict=True))
    return kernel, _pair(stride), _pair(padding)


def _explain_sampling(module: nn.Module, shape: Sequence[int], out_shape: Sequence[int]) -> str:
    """Whether a window that steps over the map omits pixels on one side alone."""
    if min(len(shape), len(out_shape)) < 4:
        return ""
    window, pools = _window(module, shape, out_shape), not [*module.parameters(recurse=False)]
    for n, k, s, p in zip(shape[-2:], *window, strict=True):
        if (n + 2 * p - k) % s == 0:
            continue
        size = f"a size of {shape[-2]}x{shape[-1]}"
        if pools:
            needs = "an even one" if (k, s, p) == (2, 2, 0) else "another one"
            return f"pooling {k}x{k} over {size} leaves out one side of the map: it needs {needs}"
        needs = "odd" if k % 2 and s == 2 else f"{(k - 2 * p) % s} more than multiples of {s}"
        return f"a stride of {s} on {size} samples off the centre of the map: sizes must be {needs}"
    if any(a != b for a, b in window):
        return "its kernel, stride or padding differs between rows and columns"
    return ""


def _explain_padding(module: nn.Module) -> str:
    if isinstance(module, PADS) and len(set(module.padding)) > 1:
        left, right, top, bottom = module.padding
        return f"asymmetric padding: {left} left, {right} right, {top} top, {bottom} bottom"
    if getattr(module, "padding", None) == "same" and any(k % 2 == 0 for k in module.kernel_size):
        return "padding 'same' of an even kernel pads one side more than the other"
    return ""


def _explain_flatten(module: nn.Flatten, shape: Sequence[int]) -> str:
    last = module.end_dim % len(shape)
    merged = {axis for axis in range(module.start_dim % len(shape), last + 1) if shape[axis] > 1}
    space, orientations = {len(shape) - 2, len(shape) - 1}, {2} if len(shape) == 5 else set()
    parts = ["orientations"] * bool(merged & orientations) + ["pixels"] * bool(merged & space)
    return (
        f"it flattens {' and '.join(parts)} into channels: the next layer has a weight for each "
        "and is not invariant (pool over the group and space first)"
    )
