"""What norms, and activations with a parameter for each channel, become."""

from __future__ import annotations

import torch
from torch import nn

from ..fast import BatchNorm
from .layers import ChannelNorm
from .values import FEATURES, IMAGE, LIFTED, POOLED, Call, Replacement


def replace_batch_norm(call: Call) -> Replacement:
    norm, value = call.module, call.value
    act = getattr(norm, "act", None)  # of timm's norms with an activation
    if value.kind == IMAGE and act is None:
        return Replacement(norm, value)
    kind = {LIFTED: BatchNorm, POOLED: nn.BatchNorm2d, FEATURES: nn.BatchNorm1d}.get(value.kind)
    if isinstance(norm, nn.SyncBatchNorm):
        kind = kind and nn.SyncBatchNorm
    if kind is None or value.last:
        raise call.refuse(f"it gets {value.kind} in an order that it does not have; permute first")
    like = [*norm.parameters(recurse=False), *norm.buffers(recurse=False), torch.empty(0)][0]
    new = kind(
        value.channels, norm.eps, norm.momentum, norm.affine, norm.track_running_stats,
        device=like.device, dtype=like.dtype if like.is_floating_point() else None,
    )  # fmt: skip
    _copy_constants(norm, new)
    return Replacement(new, value, None, _read_activation(norm))


def replace_group_norm(call: Call) -> Replacement:
    norm, value = call.module, call.value
    if value.kind not in (LIFTED, POOLED) or value.last:
        raise call.refuse(f"it gets {value.kind}, not a map with channels first")
    groups = max(n for n in range(1, norm.num_groups + 1) if value.channels % n == 0)
    new = nn.GroupNorm(groups, value.channels, norm.eps, norm.affine, **place_of(norm))
    _copy_constants(norm, new)
    return Replacement(new, value, None, _read_activation(norm))


def replace_instance_norm(call: Call) -> Replacement:
    norm, value = call.module, call.value
    if value.kind != LIFTED or value.last:
        raise call.refuse(f"it gets {value.kind}, not a lifted map; leave it out")
    options = norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    new = nn.InstanceNorm3d(value.channels, *options, **place_of(norm))
    _copy_constants(norm, new)
    return Replacement(new, value)


def replace_layer_norm(call: Call) -> Replacement:
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
    new = ChannelNorm(value.channels, norm.eps, affine, bias, **place_of(norm))
    _copy_constants(norm, new)
    return Replacement(new, value, None, _read_activation(norm))


def replace_prelu(call: Call) -> Replacement:
    act, value = call.module, call.value
    if act.num_parameters == 1 or value.kind == IMAGE:
        return Replacement(act, value)
    if value.last:
        raise call.refuse("it gets a channels-last map; permute the axes")
    new = nn.PReLU(value.channels, **place_of(act))
    _copy_constants(act, new)
    return Replacement(new, value)


def _read_activation(norm: nn.Module) -> nn.Module | None:
    """Return the activation that timm's norms contain."""
    parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    return nn.Sequential(*parts) if len(parts) > 1 else (parts[0] if parts else None)


def place_of(module: nn.Module) -> dict:
    weight = next(module.parameters(recurse=False), None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}


@torch.no_grad()
def _copy_constants(old: nn.Module, new: nn.Module) -> None:
    """Fill parameters that were constant in the original, such as a gain of zero at the start."""
    for name, parameter in old.named_parameters(recurse=False):
        if parameter.device.type != "meta" and (parameter == parameter.flatten()[0]).all():
            getattr(new, name).fill_(parameter.flatten()[0])
