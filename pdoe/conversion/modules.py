"""What each module of ``torch.nn`` becomes."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from ..fast import BatchNorm
from ..layers import GroupConv, GroupPool, LiftingConv
from ..planar import _ELEMENTWISE, has_forward_of
from .layers import ChannelNorm, GroupedConv, HalvingPool, PlaneWise
from .values import FEATURES, IMAGE, LIFTED, MAPS, POOLED, Call, Replacement, Value

ELEMENTWISE = (
    *_ELEMENTWISE, nn.ReLU6, nn.Hardsigmoid, nn.Hardtanh, nn.LogSigmoid, nn.Softsign, nn.Threshold,
    nn.RReLU, nn.AlphaDropout, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink,
)  # fmt: skip
DROP_PATH = ("StochasticDepth", "DropPath")  # of torchvision and timm: they drop whole images
PADS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d,
        "circular": nn.CircularPad2d}  # fmt: skip


def replace_module(call: Call) -> Replacement:
    """Return what takes the place of a module that gets a map.

    Raises:
        ValueError: nothing does; the message has the module's name, the reason and a way out.
    """
    module = call.module
    if module._forward_hooks or module._forward_pre_hooks:
        raise call.refuse("it has hooks, which its substitute would not call: remove them")
    if type(module) in ELEMENTWISE or type(module).__name__ in DROP_PATH:
        return Replacement(module, call.value)
    for kinds, rule in RULES:
        if isinstance(module, kinds):
            return rule(call)
    if type(module).__module__.startswith("torch.nn") and call.value.kind == FEATURES:
        return Replacement(module, call.value)
    raise call.refuse(
        "no rule says how it commutes with rotations; replace it by layers of torch.nn that treat "
        "all pixels alike, or convert the part of the network before it"
    )


def _replace_conv(call: Call) -> Replacement:
    conv, value, settings = call.module, call.value, call.settings
    if not has_forward_of(conv, nn.Conv2d):
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
    groups = _count_groups(call)
    if groups > 1 and groups == value.channels:  # depthwise
        fields = value.channels * (conv.out_channels // conv.in_channels)
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
    result = Value(LIFTED, fields)
    if value.kind == LIFTED:
        kind = GroupedConv if groups > 1 else GroupConv
        options |= {"groups": groups} if groups > 1 else {}
        return Replacement(kind(*arguments, **options), result, before)
    if groups > 1:
        raise call.refuse("a first convolution with groups; give it groups=1")
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
    if conv.padding == "same":
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


def _count_groups(call: Call) -> int:
    """Return 1 for an ordinary convolution, the fields for a depthwise one, else the groups."""
    conv = call.module
    if conv.groups > 1 and conv.groups == conv.in_channels:
        return call.value.channels if call.value.kind == LIFTED else conv.groups
    return conv.groups


def _replace_pooled_conv(call: Call, fields: int) -> Replacement:
    conv, value = call.module, call.value
    if conv.groups > 1:
        raise call.refuse("a grouped convolution of a pooled map; give it groups=1")
    place = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    new = nn.Conv2d(value.channels, fields, 1, bias=conv.bias is not None, **place)
    return Replacement(new, replace(value, channels=fields))


def _replace_linear(call: Call) -> Replacement:
    linear, value, settings = call.module, call.value, call.settings
    place = {"device": linear.weight.device, "dtype": linear.weight.dtype}
    bias = linear.bias is not None
    fields = linear.out_features
    if value.kind == LIFTED and value.last:
        fields = fields if call.final else settings.widths(call.name, fields)
        arguments = settings.group, value.channels, fields, "point"
        return Replacement(
            GroupConv(*arguments, bias=bias, **place), replace(value, channels=fields)
        )
    if value.kind != FEATURES:
        raise call.refuse(
            f"it gets {value.kind}, whose pixels it would mix with a weight for each; flatten after "
            "global pooling"
        )
    if value.gate and not call.final:
        fields = settings.widths(call.name, fields)
    result = replace(value, channels=fields)
    if (value.channels, fields) == (linear.in_features, linear.out_features):
        return Replacement(linear, result)
    return Replacement(nn.Linear(value.channels, fields, bias, **place), result)


def _replace_batch_norm(call: Call) -> Replacement:
    norm, value = call.module, call.value
    act = getattr(norm, "act", None)  # of timm's norms with an activation
    if value.kind == IMAGE and act is None:
        return Replacement(norm, value)
    kind = {LIFTED: BatchNorm, POOLED: nn.BatchNorm2d, FEATURES: nn.BatchNorm1d}.get(value.kind)
    if kind is None or value.last:
        raise call.refuse(f"it gets {value.kind} in an order that it does not have; permute first")
    like = [*norm.parameters(recurse=False), *norm.buffers(recurse=False), torch.empty(0)][0]
    new = kind(
        value.channels, norm.eps, norm.momentum, norm.affine, norm.track_running_stats,
        device=like.device, dtype=like.dtype if like.is_floating_point() else None,
    )  # fmt: skip
    _copy_constants(norm, new)
    return Replacement(new, value, None, _read_activation(norm))


def _replace_group_norm(call: Call) -> Replacement:
    norm, value = call.module, call.value
    if value.kind not in (LIFTED, POOLED) or value.last:
        raise call.refuse(f"it gets {value.kind}, not a map with channels first")
    groups = max(n for n in range(1, norm.num_groups + 1) if value.channels % n == 0)
    new = nn.GroupNorm(groups, value.channels, norm.eps, norm.affine, **_place_of(norm))
    _copy_constants(norm, new)
    return Replacement(new, value, None, _read_activation(norm))


def _replace_instance_norm(call: Call) -> Replacement:
    norm, value = call.module, call.value
    if value.kind != LIFTED or value.last:
        raise call.refuse(f"it gets {value.kind}, not a lifted map; leave it out")
    options = norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    new = nn.InstanceNorm3d(value.channels, *options, **_place_of(norm))
    _copy_constants(norm, new)
    return Replacement(new, value)


def _replace_layer_norm(call: Call) -> Replacement:
    norm, value = call.module, call.value
    channels_first = type(norm).__name__.startswith("LayerNorm2d")
    if len(norm.normalized_shape) > 1:
        raise call.refuse("it has a gain for every pixel; normalise the channels alone")
    if value.kind not in (LIFTED, POOLED, FEATURES) or (
        value.kind != FEATURES and value.last == channels_first
    ):
        raise call.refuse(f"it gets {value.kind} and would normalise columns; permute the axes")
    affine = norm.elementwise_affine
    bias = getattr(norm, "bias", None) is not None
    new = ChannelNorm(value.channels, norm.eps, affine, bias, **_place_of(norm))
    _copy_constants(norm, new)
    return Replacement(new, value, None, _read_activation(norm))


def _replace_prelu(call: Call) -> Replacement:
    act, value = call.module, call.value
    if act.num_parameters == 1 or value.kind == IMAGE:
        return Replacement(act, value)
    if value.last:
        raise call.refuse("it gets a channels-last map; permute the axes")
    new = nn.PReLU(value.channels, **_place_of(act))
    _copy_constants(act, new)
    return Replacement(new, value)


def _replace_flatten(call: Call) -> Replacement:
    flatten, value = call.module, call.value
    if (flatten.start_dim, flatten.end_dim) not in ((1, -1), (1, 3)):
        raise call.refuse("it flattens other axes than channels and pixels; use nn.Flatten()")
    return flatten_map(call)


def flatten_map(call: Call) -> Replacement:
    """Return the flattening of a map; a lifted one is pooled over orientations and pixels first."""
    value, flatten = call.value, nn.Flatten(1)
    if value.kind == IMAGE:
        raise call.refuse("it flattens the image; put a convolution before it")
    result = Value(FEATURES, value.channels, gate=value.gate)
    if value.kind == LIFTED:
        return Replacement(flatten, result, make_invariant(call))
    return Replacement(flatten, result)


def make_invariant(call: Call) -> nn.Sequential:
    """Pooling of a lifted map over orientations and pixels.

    A gate needs the mean over the group, a head the largest response, as in the paper's networks.
    """
    over_group = "mean" if call.branches else "max"
    largest = isinstance(call.module, nn.AdaptiveMaxPool2d)
    over_pixels = nn.AdaptiveMaxPool2d(1) if largest else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(GroupPool("max" if largest else over_group), over_pixels)


def _replace_adaptive_pool(call: Call) -> Replacement:
    value, size = call.value, call.module.output_size
    single = set(size if isinstance(size, tuple | list) else [size]) == {1}
    if value.kind == POOLED:
        return Replacement(nn.Identity(), value)
    if value.kind == LIFTED and (single or call.head):
        result = Value(POOLED, value.channels, value.last, call.branches)
        return Replacement(make_invariant(call), result)
    return _replace_plane_wise(call)


def _replace_pool(call: Call) -> Replacement:
    """Replace max and average pooling by windows."""
    pool, value = call.module, call.value
    if value.kind == POOLED:
        return Replacement(nn.Identity(), value)
    if value.last or value.kind == FEATURES:
        raise call.refuse(f"it gets {value.kind} in another order of axes; permute them")
    average = isinstance(pool, nn.AvgPool2d)
    if call.head and average and value.kind == LIFTED:
        return Replacement(make_invariant(call), Value(POOLED, value.channels))
    size, stride, padding = map(_pair, (pool.kernel_size, pool.stride, pool.padding))
    if any(a != b for a, b in (size, stride, padding)):
        raise call.refuse("its window differs between rows and columns; use a square one")
    if getattr(pool, "return_indices", False):
        raise call.refuse("it returns indices of pixels, which do not rotate; leave them out")
    if not call.settings.exact or (stride[0] == 1 and size[0] % 2):
        return _replace_plane_wise(call)
    if stride[0] == 1 or stride[0] & (stride[0] - 1):
        raise call.refuse(
            f"a window of {size[0]}x{size[0]} pixels at stride {stride[0]} is not exact on maps of "
            "every size; use stride 2, or pass exact=False"
        )
    halving = HalvingPool("mean" if average else "max", stride[0].bit_length() - 1)
    return Replacement(halving, value)


def _replace_plane_wise(call: Call) -> Replacement:
    if call.value.kind not in (IMAGE, LIFTED) or call.value.last:
        raise call.refuse(f"it gets {call.value.kind} in another order of axes; permute them")
    if call.value.kind == IMAGE:
        return Replacement(call.module, call.value)
    return Replacement(PlaneWise(call.module), call.value)


def _replace_pad(call: Call) -> Replacement:
    if call.settings.exact and len(set(call.module.padding)) > 1:
        raise call.refuse(
            f"it pads {list(call.module.padding)} pixels on the four sides; pad all alike, or pass "
            "exact=False"
        )
    return _replace_plane_wise(call)


def _replace_dropout(call: Call) -> Replacement:
    """Replace the dropout of whole channels by that of whole fields."""
    drop = call.module
    new = nn.Dropout3d(drop.p, drop.inplace) if call.value.kind == LIFTED else drop
    if call.value.last:
        raise call.refuse("it gets a channels-last map; permute the axes")
    return Replacement(new, call.value)


def _keep_along_channels(call: Call) -> Replacement:
    """Keep a module that works along the channel axis of maps of any rank."""
    if call.value.kind not in MAPS or call.value.last:
        raise call.refuse("it does not get a map with channels first; permute the axes")
    return Replacement(call.module, call.value)


def _replace_softmax(call: Call) -> Replacement:
    if call.value.kind == FEATURES or (call.module.dim == 1 and not call.value.last):
        return Replacement(call.module, call.value)
    raise call.refuse("it compares pixels; use dim=1, the channels")


def _refuse_transposed(call: Call) -> Replacement:
    raise call.refuse(
        "filter banks have no transposed convolution; use nn.Upsample(scale_factor=2) and a "
        "convolution"
    )


def _refuse_attention(call: Call) -> Replacement:
    raise call.refuse(
        "attention with positions does not commute with rotations; convert the convolutional part "
        "of the network alone"
    )


def _read_activation(norm: nn.Module) -> nn.Module | None:
    """Return the activation that timm's norms contain."""
    parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    return nn.Sequential(*parts) if len(parts) > 1 else (parts[0] if parts else None)


def _place_of(module: nn.Module) -> dict:
    weight = next(module.parameters(recurse=False), None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}


@torch.no_grad()
def _copy_constants(old: nn.Module, new: nn.Module) -> None:
    """Fill parameters that were constant in the original, such as a gain of zero at the start."""
    for name, parameter in old.named_parameters(recurse=False):
        if parameter.device.type != "meta" and (parameter == parameter.flatten()[0]).all():
            getattr(new, name).fill_(parameter.flatten()[0])


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


RULES = (
    (nn.Conv2d, _replace_conv),
    (nn.Linear, _replace_linear),
    ((nn.BatchNorm2d, nn.BatchNorm1d), _replace_batch_norm),
    (nn.GroupNorm, _replace_group_norm),
    (nn.InstanceNorm2d, _replace_instance_norm),
    (nn.LayerNorm, _replace_layer_norm),
    (nn.PReLU, _replace_prelu),
    (nn.Flatten, _replace_flatten),
    ((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), _replace_adaptive_pool),
    ((nn.MaxPool2d, nn.AvgPool2d), _replace_pool),
    ((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _replace_plane_wise),
    ((nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d), _replace_pad),
    (nn.Dropout2d, _replace_dropout),
    ((nn.LocalResponseNorm, nn.ChannelShuffle), _keep_along_channels),
    ((nn.Softmax, nn.LogSoftmax), _replace_softmax),
    ((nn.ConvTranspose2d, nn.ConvTranspose1d), _refuse_transposed),
    (nn.MultiheadAttention, _refuse_attention),
)
