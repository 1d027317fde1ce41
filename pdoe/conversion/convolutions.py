"""What convolutions and linear layers become."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import nn

from ..layers import GroupConv, LiftingConv
from ..planar import has_forward_of
from .layers import GroupedConv, HalvingPool, PlaneWise
from .values import FEATURES, IMAGE, LIFTED, POOLED, Call, Replacement, Value

PADS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d,
        "circular": nn.CircularPad2d}  # fmt: skip


def replace_conv(call: Call) -> Replacement:
    conv, value, settings = call.module, call.value, call.settings
    # timm's Conv2dSame pads one side more than the other at a stride, which pooling replaces.
    same = type(conv).__name__ == "Conv2dSame" and settings.exact
    if not has_forward_of(conv, nn.Conv2d) and not same:
        raise call.refuse(
            "it computes something other than nn.Conv2d; replace it by a plain nn.Conv2d first"
        )
    fields = conv.out_channels
    if not call.final:
        fields = settings.widths(call.name, fields)
    if value.kind == POOLED:
        return _replace_pooled_conv(call, fields)
    if value.kind not in (IMAGE, LIFTED) or value.last:
        raise call.refuse(f"it gets {value.kind}, not a map with channels first; permute the axes")
    size, stride, padding = _read_window(call)
    if conv.groups > 1 and value.kind == IMAGE:
        raise call.refuse("it has groups, but the first convolution mixes colours; use groups=1")
    groups = conv.groups
    if 1 < groups == conv.in_channels:  # depthwise
        groups = value.channels
        fields = groups * (conv.out_channels // conv.in_channels)
    elif groups > 1:
        groups = settings.widths.group_count(call.name, value.channels, fields)
    options, size, padding, enlarged = _choose_bank(call, size, padding)
    pooled = stride > 1 and (settings.exact or enlarged)
    if pooled and stride & (stride - 1):
        raise call.refuse(
            f"a stride of {stride} is not a power of two, and pooling in its place would not be "
            "exact; give it stride 1, 2 or 4, or pass exact=False"
        )
    options |= {"bias": conv.bias is not None, "stride": 1 if pooled else stride}
    options |= {"padding": size // 2 if pooled else padding, "offset": settings.offset}
    if options["bank"] in ("pixels", "point"):
        options["offset"] = 0.0
    options |= {"device": conv.weight.device, "dtype": conv.weight.dtype}
    arguments = settings.group, value.channels, fields
    before = HalvingPool("mean", stride.bit_length() - 1) if pooled else None
    if conv.padding_mode != "zeros" and options["padding"]:
        pad = PlaneWise(PADS[conv.padding_mode](options["padding"]))
        before = pad if before is None else nn.Sequential(before, pad)
        options["padding"] = 0
    result = Value(LIFTED, fields, conv.out_channels)
    if value.kind == LIFTED:
        kind = GroupedConv if conv.groups > 1 else GroupConv
        options |= {"groups": groups} if conv.groups > 1 else {}
        return Replacement(kind(*arguments, **options), result, before)
    lift = LiftingConv(*arguments, **options)
    if pooled and conv.padding_mode == "zeros":  # the details of the image are worth the time
        return Replacement(lift, result, None, before)
    return Replacement(lift, result, before)


def _read_window(call: Call) -> tuple[int, int, int]:
    """Return kernel size, stride and padding of a convolution, each the same along both axes."""
    conv = call.module
    if set(conv.dilation) != {1}:
        raise call.refuse(
            f"a dilation of {conv.dilation[0]}, which filter banks do not have; give it dilation 1 "
            "and, for the same field of view, a larger kernel"
        )
    height, width = conv.kernel_size
    if height != width or conv.stride[0] != conv.stride[1]:
        what = f"kernel of {height}x{width}" if height != width else f"stride of {conv.stride}"
        raise call.refuse(
            f"a {what} differs between rows and columns, so no rotation by 90 degrees keeps it; "
            "use a square one"
        )
    if conv.padding == "same" or type(conv).__name__ == "Conv2dSame":
        return height, conv.stride[0], height // 2
    padding = (0, 0) if conv.padding == "valid" else conv.padding
    if padding[0] != padding[1]:
        raise call.refuse(f"a padding of {padding} differs between rows and columns; use one")
    return height, conv.stride[0], padding[0]


def _choose_bank(call: Call, size: int, padding: int) -> tuple[dict, int, int, bool]:
    """Return the bank of a kernel, its size and padding, and whether an even size became odd."""
    settings = call.settings
    if size == 1:
        return {"bank": "point"}, 1, padding, False
    if settings.bank == "pixels":
        if size % 2 and size <= 33:
            return {"bank": "pixels", "size": size}, size, padding, False
        if not settings.exact and call.module.stride[0] == 1:
            return {"bank": "pixels", "size": size}, size, padding, False
    enlarged = size % 2 == 0
    if enlarged and call.module.stride[0] == 1:
        raise call.refuse(
            f"an even kernel of {size}x{size} at stride 1 moves the map by half a pixel; use an "
            "odd one"
        )
    size, padding = size + enlarged, size // 2 if enlarged else padding
    if settings.bank == "pixels":
        return {"bank": "pixels", "size": size}, size, padding, enlarged
    if settings.bank == "operators" and size == 3:
        quarter = settings.offset / (math.pi / 2)
        grid = 4 % settings.group.n == 0 and abs(quarter - round(quarter)) < 1e-9
        wide = 3 if grid else 5
        return {"bank": "operators"}, wide, padding + (wide - 3) // 2, enlarged
    wide = max(5, size)
    options = {"bank": "gaussian", "size": wide, "bank_width": settings.bank_width}
    return options, wide, padding + (wide - size) // 2, enlarged


def _replace_pooled_conv(call: Call, fields: int) -> Replacement:
    conv, value = call.module, call.value
    if conv.groups > 1:
        raise call.refuse("a grouped convolution of a pooled map; give it groups=1")
    place = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    new = nn.Conv2d(value.channels, fields, 1, bias=conv.bias is not None, **place)
    return Replacement(new, replace(value, channels=fields, original=conv.out_channels))


def replace_linear(call: Call) -> Replacement:
    linear, value, settings = call.module, call.value, call.settings
    place = {"device": linear.weight.device, "dtype": linear.weight.dtype}
    bias = linear.bias is not None
    fields = linear.out_features
    if value.kind == LIFTED and value.last:
        fields = fields if call.final else settings.widths(call.name, fields)
        arguments = settings.group, value.channels, fields, "point"
        result = replace(value, channels=fields, original=linear.out_features)
        return Replacement(GroupConv(*arguments, bias=bias, **place), result)
    if value.kind != FEATURES:
        raise call.refuse(
            f"it gets {value.kind} and would mix columns; flatten it after global pooling"
        )
    if value.gate and not call.final:
        fields = settings.widths(call.name, fields)
    result = replace(value, channels=fields, original=linear.out_features)
    if (value.channels, fields) == (linear.in_features, linear.out_features):
        return Replacement(linear, result)
    return Replacement(nn.Linear(value.channels, fields, bias, **place), result)
