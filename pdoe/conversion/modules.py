"""What each module of ``torch.nn`` becomes."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .. import planar
from .convolutions import replace_conv, replace_linear
from .norms import (
    replace_batch_norm,
    replace_group_norm,
    replace_instance_norm,
    replace_layer_norm,
    replace_prelu,
)  # fmt: skip
from .pooling import (
    replace_adaptive_pool,
    replace_flatten,
    replace_pad,
    replace_plane_wise,
    replace_pool,
)  # fmt: skip
from .values import FEATURES, LIFTED, MAPS, Call, Replacement

ELEMENTWISE = (
    *planar.ELEMENTWISE, nn.ReLU6, nn.Hardsigmoid, nn.Hardtanh, nn.LogSigmoid, nn.Softsign,
    nn.Threshold, nn.RReLU, nn.AlphaDropout, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink,
)  # fmt: skip
DROP_PATH = ("StochasticDepth", "DropPath")  # of torchvision and timm: they drop whole images


def replace_module(call: Call) -> Replacement:
    """Return what takes the place of a module that gets a map.

    Raises:
        ValueError: nothing does; the message has the module's name, the reason and a way out.
    """
    module = call.module
    if module._forward_hooks or module._forward_pre_hooks:
        raise call.refuse("it has hooks, which its substitute would not call: remove them")
    if is_parametrized(module):
        raise call.refuse(
            "its weight is parametrized, which its substitute would not be: remove the "
            "parametrization, and register it on the converted layer"
        )
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


RULES = (
    (nn.Conv2d, replace_conv),
    (nn.Linear, replace_linear),
    ((nn.BatchNorm2d, nn.BatchNorm1d, nn.SyncBatchNorm), replace_batch_norm),
    (nn.GroupNorm, replace_group_norm),
    (nn.InstanceNorm2d, replace_instance_norm),
    (nn.LayerNorm, replace_layer_norm),
    (nn.PReLU, replace_prelu),
    (nn.Flatten, replace_flatten),
    ((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), replace_adaptive_pool),
    ((nn.MaxPool2d, nn.AvgPool2d), replace_pool),
    ((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), replace_plane_wise),
    ((nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d), replace_pad),
    (nn.Dropout2d, _replace_dropout),
    ((nn.LocalResponseNorm, nn.ChannelShuffle), _keep_along_channels),
    ((nn.Softmax, nn.LogSoftmax), _replace_softmax),
    ((nn.ConvTranspose2d, nn.ConvTranspose1d), _refuse_transposed),
    (nn.MultiheadAttention, _refuse_attention),
)
