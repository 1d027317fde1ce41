"""What functions of the numbers of maps become: sums, concatenations, reductions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx, nn

from .functions import read_axes
from .operation import Operation
from .tracing import read_tensor
from .values import (
    FEATURES,
    IMAGE,
    LIFTED,
    OTHER,
    PARAMETER,
    PARTS,
    POOLED,
    SHUFFLED,
    UnevenSplit,
    Value,
)


def combine_elementwise(op: Operation) -> None:
    """Convert a function that treats every number alike, of one or several maps."""
    values = {source: op.rewriter.value_of(source) for source in op.node.all_input_nodes}
    maps = {s: v for s, v in values.items() if v.kind in (LIFTED, POOLED, FEATURES, IMAGE)}
    if not maps:
        if op.kinds == {SHUFFLED} and len(values) == 1:  # contiguous
            op.keep(op.value)
            return
        if op.kinds & {PARTS, SHUFFLED}:
            raise op.refuse("it gets parts of a map together; take them one by one")
        op.keep(Value(PARAMETER, -1) if PARAMETER in op.kinds else Value(OTHER))
        return
    found = {v.kind for v in maps.values()}
    main = next(kind for kind in (LIFTED, POOLED, FEATURES, IMAGE) if kind in found)
    if main == IMAGE:
        op.keep(next(iter(maps.values())))
        return
    if found - {main, POOLED}:
        other = (found - {main, POOLED}).pop()
        raise op.refuse(
            f"it combines {main} and {other}; put a convolution or pooling before one of them"
        )
    like = [value for value in maps.values() if value.kind == main]
    channels = max(value.channels for value in maps.values())
    for value in maps.values():
        if value.channels not in (1, channels):
            raise op.refuse(
                f"it combines maps of {value.channels} and {channels} fields; give equal widths "
                "by match={name of a layer: fields}"
            )
    if len({value.last for value in like}) > 1:
        raise op.refuse("it combines maps with channels first and last; permute one of them")
    for source, value in values.items():
        if main == LIFTED and value.kind == POOLED:
            gate = op.rewriter.graph.call_method("unsqueeze", (source, 2))
            op.node.replace_input_with(source, gate)
        elif value.kind == PARAMETER:
            _resize_parameter(op, source, value, like[0])
    original = max(value.original for value in maps.values())
    result = replace(
        like[0], channels=channels, original=original, gate=any(value.gate for value in like)
    )
    op.keep(result)


def _resize_parameter(op: Operation, source: fx.Node, value: Value, like: Value) -> None:
    """Give a parameter with a number for each channel of a map one for each field."""
    if value.channels == 0:
        return  # one number
    if value.channels != like.original:
        raise op.refuse(
            "it takes a tensor that is computed or has a number for each pixel; use a parameter "
            "with one number for each channel"
        )
    original = source
    while source.op != "get_attr":  # through reshapes
        source = source.args[0]
    name = str(source.target)
    shape = (like.channels, *[1] * {LIFTED: 3, POOLED: 2, FEATURES: 0}[like.kind])
    old = read_tensor(op.rewriter.traced, name)
    if old.shape != shape:
        owner, _, attribute = name.rpartition(".")
        with torch.no_grad():
            new = torch.full(shape, old.double().mean().item(), dtype=old.dtype, device=old.device)
        new = nn.Parameter(new) if isinstance(old, nn.Parameter) else new
        parent = op.rewriter.traced.get_submodule(owner)
        delattr(parent, attribute)
        if isinstance(new, nn.Parameter):
            parent.register_parameter(attribute, new)
        else:
            parent.register_buffer(attribute, new)
    if original is not source:
        op.node.replace_input_with(original, source)


def concatenate_maps(op: Operation) -> None:
    sources = op.node.args[0]
    values = [op.rewriter.value_of(source) for source in sources]
    axis = op.node.kwargs.get("dim", op.node.args[1] if op.node.args[1:] else 0)
    kinds = {value.kind for value in values}
    if kinds == {IMAGE}:
        op.keep(Value(IMAGE))
        return
    if len(kinds) > 1 or len({value.last for value in values}) > 1:
        raise op.refuse(
            f"it concatenates {' and '.join(sorted(kinds))}; put a convolution before the odd one"
        )
    first = values[0]
    expected = (1, -1) if first.kind == FEATURES else (3, -1) if first.last else (1, -3)
    if axis not in expected:
        raise op.refuse(f"it concatenates along axis {axis}; use the channels, dim=1")
    channels = sum(value.channels for value in values)
    original = sum(value.original for value in values)
    op.node.args, op.node.kwargs = (sources, 1), {}
    op.keep(replace(first, channels=channels, original=original))


def split_channels(op: Operation) -> None:
    """Convert ``chunk`` and ``split`` into equal parts."""
    names = ("input", "chunks" if op.name == "chunk" else "split_size_or_sections", "dim")
    arguments = dict(zip(names, op.node.args, strict=False)) | op.node.kwargs
    value, axis = op.value, arguments.get("dim", 0)
    n = arguments.get(names[1], arguments.get("split_size"))
    if value.kind != LIFTED or value.last or axis not in (1, -3):
        raise op.refuse(f"it splits {value.kind} along axis {axis}; split the channels, dim=1")
    if op.name == "split":
        sizes = list(n) if isinstance(n, list | tuple) else [n]
        if len(set(sizes)) > 1 or not isinstance(sizes[0], int) or value.original % sizes[0]:
            raise op.refuse(f"it splits channels into unequal parts, {n}; make them equal")
        n = value.original // sizes[0]
    if value.channels % n:
        reason = f"it splits {value.channels} fields into {n} parts; give a multiple by match"
        raise UnevenSplit(str(op.refuse(reason)), n)
    args = op.node.args[0], n, 1
    op.node.target, op.node.args, op.node.kwargs = "chunk", args, {}
    op.node.op = "call_method"
    part = replace(value, kind=PARTS, channels=value.channels // n, original=value.original // n)
    op.keep(part)


def interpolate_map(op: Operation) -> None:
    """Convert an interpolation to a computed size: on planar maps, each orientation alone."""
    node, value, rewriter = op.node, op.value, op.rewriter
    if value.kind == IMAGE:
        op.keep(value)
        return
    if value.kind != LIFTED or value.last:
        raise op.refuse(f"it enlarges {value.kind}; multiply or add the pooled map instead")
    flat = rewriter.graph.call_method("flatten", (node.args[0], 1, 2))
    node.args = (flat, *node.args[1:])
    with rewriter.graph.inserting_after(node):
        shape = (value.channels, len(rewriter.settings.group))
        lifted = rewriter.graph.call_method("unflatten", (node, 1, shape))
    node.replace_all_uses_with(lifted, lambda user: user is not lifted)
    rewriter.move_flags(node, lifted)
    rewriter.values |= {node: Value(OTHER), lifted: value}


def pad_map(op: Operation) -> None:
    pad = op.node.kwargs.get("pad", op.node.args[1] if op.node.args[1:] else ())
    mode = op.node.kwargs.get("mode", op.node.args[2] if op.node.args[2:] else "constant")
    if op.value.kind not in (LIFTED, IMAGE) or op.value.last:
        raise op.refuse(f"it pads {op.value.kind}; pad before pooling, with channels first")
    if len(pad) != 4 or (op.value.kind == LIFTED and mode != "constant"):
        raise op.refuse("it pads in a way that lifted maps do not have; use nn.ReflectionPad2d")
    if op.rewriter.settings.exact and len(set(pad)) > 1:
        raise op.refuse(f"it pads {list(pad)} pixels on the four sides; pad all alike")
    op.keep(op.value)


def reduce_pixels(op: Operation) -> None:
    """Convert a mean or maximum over axes."""
    value, axes = op.value, read_axes(op.node)
    pixels = [1, 2] if value.last else [2, 3]
    if value.kind == LIFTED and axes and axes[0] == pixels:
        op.rewriter.pool_map(op.node)
    elif value.kind == LIFTED and axes == ([1], True) and not value.last:
        op.keep(replace(value, channels=1, original=1))
    elif value.kind == POOLED and axes and axes[0] == pixels:
        op.skip(value) if axes[1] else op.rewriter.flatten(op.node)
    elif value.kind == IMAGE:
        op.keep(value)
    else:
        raise op.refuse(f"it reduces other axes of {value.kind} than rows and columns")


def apply_softmax(op: Operation) -> None:
    axis = op.node.kwargs.get("dim", op.node.args[1] if op.node.args[1:] else None)
    if op.value.kind != FEATURES and not (axis == 1 and not op.value.last):
        raise op.refuse_unknown()
    op.keep(op.value)
