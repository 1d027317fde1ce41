"""What functions and methods of a traced network become."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from .functions import ELEMENTWISE, read_axes
from .tracing import read_tensor
from .values import (
    FEATURES,
    IMAGE,
    LIFTED,
    OTHER,
    PARAMETER,
    PARTS,
    POOLED,
    SIZES,
    Value,
    refuse,
)  # fmt: skip

if TYPE_CHECKING:
    from .rewriting import Rewriter

_ATTENTION = "matmul bmm baddbmm einsum softmax scaled_dot_product_attention".split()
_WEIGHTS = "conv2d linear batch_norm layer_norm group_norm conv_transpose2d".split()


@dataclass(frozen=True)
class Operation:
    """A function or method node, and the kinds of its inputs."""

    rewriter: Rewriter
    node: fx.Node
    name: str
    place: str
    kinds: set[str]

    @property
    def value(self) -> Value:
        """The value of the first argument."""
        return self.rewriter.value_of(self.node.args[0] if self.node.args else None)

    def keep(self, value: Value) -> None:
        """Leave the node as it is."""
        self.rewriter.values[self.node] = value

    def skip(self, value: Value) -> None:
        """Leave the operation out: the converted map has the right form already."""
        self.rewriter.values[self.node] = value
        self.rewriter.aliases.append(self.node)

    def refuse(self, reason: str) -> ValueError:
        return refuse(self.place, f"function {self.name}", reason)

    def refuse_unknown(self) -> ValueError:
        """Return the error for a function without a rule."""
        if self.name in _ATTENTION:
            return self.refuse(
                "products of maps, as in attention, compare positions and do not commute with "
                "rotations; convert the convolutional part of the network alone"
            )
        if self.name in _WEIGHTS:
            return self.refuse(
                "it takes its weight as an argument, so that no layer can replace it; call a "
                "module of torch.nn"
            )
        kinds = " and ".join(sorted(self.kinds - {OTHER}))
        return self.refuse(
            f"no rule says what it does to {kinds}; use modules of torch.nn, sums and "
            "concatenations, or convert the part of the network before it"
        )


def _combine_elementwise(op: Operation) -> None:
    """Convert a function that treats every number alike, of one or several maps."""
    values = {source: op.rewriter.value_of(source) for source in op.node.all_input_nodes}
    maps = {s: v for s, v in values.items() if v.kind in (LIFTED, POOLED, FEATURES, IMAGE)}
    if not maps:
        if op.kinds & {PARTS}:
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
            _resize_parameter(op, source, value, main, channels)
    result = replace(like[0], channels=channels, gate=any(value.gate for value in like))
    op.keep(result)


def _resize_parameter(op: Operation, source: fx.Node, value: Value, kind: str, n: int) -> None:
    """Give a parameter with a number for each channel one for each field."""
    if value.channels == 0:
        return  # one number
    original = source
    while source.op != "get_attr" and value.channels > 0:  # through reshapes
        source = source.args[0]
    if value.channels < 0:
        raise op.refuse(
            "it takes a tensor that is computed or has a number for each pixel; use a parameter "
            "with one number for each channel"
        )
    name = str(source.target)
    shape = (n, *[1] * {LIFTED: 3, POOLED: 2, FEATURES: 0}[kind])
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


def _concatenate(op: Operation) -> None:
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
    op.node.args, op.node.kwargs = (sources, 1), {}
    op.keep(replace(first, channels=channels))


def _flatten(op: Operation) -> None:
    """Convert ``flatten``, ``view`` and ``reshape``."""
    node, value = op.node, op.value
    if op.name == "flatten":
        start = node.kwargs.get("start_dim", node.args[1] if node.args[1:] else 0)
        rank = 2 if start == 1 else 0
    else:
        sizes = node.args[1:] if len(node.args) > 2 else node.args[1]
        rank = len(sizes) if isinstance(sizes, tuple | list) else 1
    if value.kind in (PARAMETER, OTHER):
        op.keep(value)
    elif value.kind in (LIFTED, POOLED) and rank == 2:
        op.rewriter.flatten(node)
    elif value.kind == POOLED and rank == 4 or value.kind == FEATURES and rank == 2:
        op.skip(value)
    elif value.kind == FEATURES and rank == 4:
        _spread(op)
    else:
        raise op.refuse(
            f"it gives {value.kind} other axes; use torch.flatten(x, 1) for a head, and "
            "nn.ChannelShuffle for a shuffle of channels"
        )


def _spread(op: Operation) -> None:
    """Give features the two axes of a pooled map."""
    node, source = op.node, op.node.args[0]
    node.op, node.target, node.kwargs = "call_function", operator.getitem, {}
    node.args = (source, (slice(None), slice(None), None, None))
    op.keep(replace(op.value, kind=POOLED))


def _squeeze(op: Operation) -> None:
    if op.value.kind == POOLED:
        op.rewriter.flatten(op.node)
    elif op.value.kind == FEATURES:
        op.skip(op.value)
    else:
        raise op.refuse(f"it removes axes of {op.value.kind}; flatten after global pooling")


def _unsqueeze(op: Operation) -> None:
    if op.value.kind == FEATURES:
        _spread(op)
    elif op.value.kind == POOLED:
        op.skip(op.value)
    elif op.value.kind in (PARAMETER, OTHER):
        op.keep(op.value)
    else:
        raise op.refuse(f"it adds axes to {op.value.kind}; leave it out")


def _permute(op: Operation) -> None:
    value, axes = op.value, op.node.kwargs.get("dims", op.node.args[1:])
    axes = tuple(axes[0]) if axes and isinstance(axes[0], tuple | list) else tuple(axes)
    turns = {(0, 2, 3, 1): True, (0, 3, 1, 2): False}
    if value.kind not in (LIFTED, POOLED) or turns.get(axes, value.last) == value.last:
        raise op.refuse(f"it permutes the axes of {value.kind}; leave the order of the axes")
    op.skip(replace(value, last=turns[axes]))


def _expand(op: Operation) -> None:
    if op.value.kind != POOLED:
        raise op.refuse(f"it repeats {op.value.kind}; let torch broadcast it")
    op.skip(op.value)


def _reduce(op: Operation) -> None:
    """Convert a mean or maximum over axes."""
    value, axes = op.value, read_axes(op.node)
    pixels = [1, 2] if value.last else [2, 3]
    if value.kind == LIFTED and axes and axes[0] == pixels:
        op.rewriter.pool_map(op.node)
    elif value.kind == LIFTED and axes == ([1], True) and not value.last:
        op.keep(replace(value, channels=1))
    elif value.kind == POOLED and axes and axes[0] == pixels:
        op.skip(value) if axes[1] else op.rewriter.flatten(op.node)
    elif value.kind == IMAGE:
        op.keep(value)
    else:
        raise op.refuse(f"it reduces other axes of {value.kind} than rows and columns")


def _read_size(op: Operation) -> None:
    if op.value.kind != LIFTED:
        op.keep(Value(OTHER))
    elif op.node.args[1:] or op.node.kwargs:  # the size of one axis
        axis = op.node.kwargs.get("dim", op.node.args[1] if op.node.args[1:] else 0)
        op.node.args, op.node.kwargs = (op.node.args[0], _place_axes(op.value.last)[axis]), {}
        op.keep(Value(OTHER))
    else:
        op.keep(Value(SIZES, last=op.value.last))


def _read_attribute(op: Operation) -> None:
    attribute = op.node.args[1]
    if attribute == "shape" and op.value.kind == LIFTED:
        op.keep(Value(SIZES, last=op.value.last))
    elif attribute in ("shape", "device", "dtype", "requires_grad", "is_cuda"):
        op.keep(Value(OTHER))
    else:
        raise op.refuse(f"it reads the attribute {attribute!r} of a map; leave it out")


def _place_axes(last: bool) -> list[int]:
    """Axes of a lifted map where those of the original map are."""
    return [0, 3, 4, 1] if last else [0, 1, 3, 4]


def _get_item(op: Operation) -> None:
    value, index = op.value, op.node.args[1]
    if value.kind == SIZES:
        axes = _place_axes(value.last)
        if isinstance(index, slice):
            chosen = axes[index]
            if chosen != list(range(chosen[0], chosen[-1] + 1)):
                raise op.refuse("it takes some sizes of a map; take rows and columns, [-2:]")
            op.node.args = (op.node.args[0], slice(chosen[0], chosen[-1] + 1))
        else:
            op.node.args = (op.node.args[0], axes[index])
        op.keep(Value(OTHER))
    elif value.kind == PARTS:
        op.keep(replace(value, kind=LIFTED))
    elif value.kind == FEATURES and index == (slice(None), slice(None), None, None):
        _spread(op)
    elif value.kind in (IMAGE, PARAMETER, OTHER):
        op.keep(value)
    else:
        raise op.refuse(f"it cuts a part out of {value.kind}; use chunk(n, dim=1), or leave it out")


def _chunk(op: Operation) -> None:
    arguments = dict(zip(("input", "chunks", "dim"), op.node.args, strict=False)) | op.node.kwargs
    value, n, axis = op.value, arguments["chunks"], arguments.get("dim", 0)
    if value.kind != LIFTED or value.last or axis not in (1, -3):
        raise op.refuse(f"it splits {value.kind} along axis {axis}; split the channels, dim=1")
    if value.channels % n:
        raise op.refuse(
            f"it splits {value.channels} fields into {n} parts; give a multiple of {n} by match"
        )
    op.keep(replace(value, kind=PARTS, channels=value.channels // n))


def _soften(op: Operation) -> None:
    axis = op.node.kwargs.get("dim", op.node.args[1] if op.node.args[1:] else None)
    if op.value.kind != FEATURES and not (axis == 1 and not op.value.last):
        raise op.refuse_unknown()
    op.keep(op.value)


def _interpolate(op: Operation) -> None:
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


def _pad(op: Operation) -> None:
    pad = op.node.kwargs.get("pad", op.node.args[1] if op.node.args[1:] else ())
    mode = op.node.kwargs.get("mode", op.node.args[2] if op.node.args[2:] else "constant")
    if op.value.kind not in (LIFTED, IMAGE) or op.value.last:
        raise op.refuse(f"it pads {op.value.kind}; pad before pooling, with channels first")
    if len(pad) != 4 or (op.value.kind == LIFTED and mode != "constant"):
        raise op.refuse("it pads in a way that lifted maps do not have; use nn.ReflectionPad2d")
    if op.rewriter.settings.exact and len(set(pad)) > 1:
        raise op.refuse(f"it pads {list(pad)} pixels on the four sides; pad all alike")
    op.keep(op.value)


OPERATIONS: dict[str, Callable[[Operation], None]] = {
    **dict.fromkeys(ELEMENTWISE, _combine_elementwise),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(("flatten", "view", "reshape"), _flatten),
    **dict.fromkeys(("mean", "amax"), _reduce),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("softmax", "log_softmax"), _soften),
    "chunk": _chunk,
    "getattr": _read_attribute,
    "getitem": _get_item,
    "interpolate": _interpolate,
    "pad": _pad,
    "permute": _permute,
    "size": _read_size,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
}
