"""What functions of the axes and sizes of maps become."""

from __future__ import annotations

import operator
from dataclasses import replace

from .operation import Operation
from .values import (
    FEATURES,
    IMAGE,
    LIFTED,
    OTHER,
    PARAMETER,
    PARTS,
    POOLED,
    SHUFFLED,
    SIZES,
    UnevenSplit,
    Value,
)


def flatten_axes(op: Operation) -> None:
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
    elif value.kind == LIFTED and rank == 5 and not value.last:
        _shuffle_channels(op, sizes[1])
    elif value.kind == SHUFFLED and rank == 4:
        op.skip(replace(value, kind=LIFTED))
    else:
        raise op.refuse(
            f"it gives {value.kind} other axes; use torch.flatten(x, 1) for a head, and "
            "nn.ChannelShuffle for a shuffle of channels"
        )


def _shuffle_channels(op: Operation, groups: object) -> None:
    """Convert the first of view, transpose and view, which shuffle channels, to the whole."""
    if not isinstance(groups, int) or op.value.original % groups:
        raise op.refuse("it gives a lifted map other axes than a shuffle of channels does")
    if op.value.channels % groups:
        reason = f"it shuffles {op.value.channels} fields in {groups} groups; give a multiple"
        raise UnevenSplit(str(op.refuse(reason)), groups)
    op.rewriter.shuffle(op.node, groups)


def transpose_axes(op: Operation) -> None:
    if op.value.kind == PARAMETER or op.value.kind == OTHER:
        op.keep(op.value)
    elif op.value.kind == SHUFFLED and tuple(op.node.args[1:]) == (1, 2):
        op.skip(op.value)
    else:
        raise op.refuse(f"it exchanges axes of {op.value.kind}; leave the order of the axes")


def _spread(op: Operation) -> None:
    """Give features the two axes of a pooled map."""
    node, source = op.node, op.node.args[0]
    node.op, node.target, node.kwargs = "call_function", operator.getitem, {}
    node.args = (source, (slice(None), slice(None), None, None))
    op.keep(replace(op.value, kind=POOLED))


def squeeze_axes(op: Operation) -> None:
    if op.value.kind == POOLED:
        op.rewriter.flatten(op.node)
    elif op.value.kind == FEATURES:
        op.skip(op.value)
    else:
        raise op.refuse(f"it removes axes of {op.value.kind}; flatten after global pooling")


def unsqueeze_axes(op: Operation) -> None:
    if op.value.kind == FEATURES:
        _spread(op)
    elif op.value.kind == POOLED:
        op.skip(op.value)
    elif op.value.kind in (PARAMETER, OTHER):
        op.keep(op.value)
    else:
        raise op.refuse(f"it adds axes to {op.value.kind}; leave it out")


def permute_axes(op: Operation) -> None:
    value, axes = op.value, op.node.kwargs.get("dims", op.node.args[1:])
    axes = tuple(axes[0]) if axes and isinstance(axes[0], tuple | list) else tuple(axes)
    turns = {(0, 2, 3, 1): True, (0, 3, 1, 2): False}
    if value.kind not in (LIFTED, POOLED) or turns.get(axes, value.last) == value.last:
        raise op.refuse(f"it permutes the axes of {value.kind}; leave the order of the axes")
    op.skip(replace(value, last=turns[axes]))


def expand_axes(op: Operation) -> None:
    if op.value.kind != POOLED:
        raise op.refuse(f"it repeats {op.value.kind}; let torch broadcast it")
    op.skip(op.value)


def read_size(op: Operation) -> None:
    if op.value.kind != LIFTED or op.name == "dim":
        op.keep(Value(OTHER))
    elif op.node.args[1:] or op.node.kwargs:  # the size of one axis
        axis = op.node.kwargs.get("dim", op.node.args[1] if op.node.args[1:] else 0)
        op.node.args, op.node.kwargs = (op.node.args[0], _place_axes(op.value.last)[axis]), {}
        op.keep(Value(OTHER))
    else:
        op.keep(Value(SIZES, last=op.value.last))


def read_attribute(op: Operation) -> None:
    attribute = op.node.args[1]
    if attribute == "shape" and op.value.kind == LIFTED:
        op.keep(Value(SIZES, last=op.value.last))
    elif attribute in ("shape", "ndim", "device", "dtype", "requires_grad", "is_cuda"):
        op.keep(Value(OTHER))
    else:
        raise op.refuse(f"it reads the attribute {attribute!r} of a map; leave it out")


def _place_axes(last: bool) -> list[int]:
    """Axes of a lifted map where those of the original map are."""
    return [0, 3, 4, 1] if last else [0, 1, 3, 4]


def _is_everything(index: object, value: Value) -> bool:
    """Whether an index takes a whole map, such as [:, :n] of n channels."""
    cuts = index if isinstance(index, tuple) else (index,)
    return not value.last and all(
        isinstance(cut, slice)
        and cut.start in (None, 0)
        and (
            cut.stop is None
            or (axis == 1 and isinstance(cut.stop, int) and cut.stop >= value.original > 0)
        )
        and cut.step in (None, 1)
        for axis, cut in enumerate(cuts)
    )


def get_item(op: Operation) -> None:
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
    elif value.kind == LIFTED and _is_everything(index, value):
        op.skip(value)
    else:
        raise op.refuse(f"it cuts a part out of {value.kind}; use chunk(n, dim=1), or leave it out")
