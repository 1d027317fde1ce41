"""Modules of torch that compute the same as ours, on lifted or on planar maps.

A planar map is a lifted map [B, C, G, H, W] stored as an image of CG channels, [B, CG, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .fast import BatchNorm, Dropout, MaxPool
from .layers import GroupConv, LiftingConv

ELEMENTWISE = (
    nn.ReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.LeakyReLU, nn.Hardswish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Dropout, nn.Identity,
)  # fmt: skip


@dataclass(frozen=True)
class PlanarMap:
    """The sizes of the axes C and G that a planar map [B, CG, H, W] has lost.

    Attributes:
        channels: C.
        order: G, the order of the group.
    """

    channels: int
    order: int


def has_forward_of(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module has the forward pass of one of ``kinds``."""
    if "forward" in vars(module):  # replaced on the instance
        return False
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def make_plain_conv(layer: LiftingConv | GroupConv) -> nn.Conv2d:
    """Return the planar convolution that computes the same as a layer."""
    with torch.no_grad():
        kernel, groups = layer.kernel(), getattr(layer, "groups", 1)
        conv = nn.Conv2d(
            kernel.shape[1] * groups,
            kernel.shape[0],
            layer.kernel_size,
            layer.stride,
            layer.padding,
            groups=groups,
            bias=layer.bias is not None,
            device=kernel.device,
            dtype=kernel.dtype,
        )
        conv.weight.copy_(kernel)
        if layer.bias is not None:
            conv.bias.copy_(_repeat(layer.bias, len(layer.group)))
    return conv


def make_torch_module(module: nn.Module) -> nn.Module:
    """Return a module of torch that computes the same as ``module`` on images and lifted maps."""
    if has_forward_of(module, Dropout):
        return nn.Dropout(module.p)
    if has_forward_of(module, MaxPool):
        return nn.MaxPool3d((1, 2, 2))  # takes an image for a lifted map without batch
    if has_forward_of(module, BatchNorm):
        module.__class__ = nn.BatchNorm3d  # the model is a copy
    return module


def make_planar_module(module: nn.Module, lifted: PlanarMap) -> nn.Module | None:
    """Return the module on planar maps that computes the same as ``module``, if there is one."""
    if type(module) in ELEMENTWISE:
        return module
    if has_forward_of(module, Dropout):
        return nn.Dropout(module.p)
    if has_forward_of(module, MaxPool):
        return nn.MaxPool2d(2)
    if type(module) in (nn.BatchNorm3d, BatchNorm) and module.running_mean is not None:
        return _make_planar_norm(module, lifted)
    if type(module) in (nn.MaxPool3d, nn.AvgPool3d):
        sizes = [module.kernel_size, module.stride, module.padding]
        sizes = [(size,) * 3 if isinstance(size, int) else tuple(size) for size in sizes]
        if [size[0] for size in sizes] != [1, 1, 0]:
            return None  # it mixes orientations
        kernel, stride, padding = (size[1:] for size in sizes)
        if type(module) is nn.AvgPool3d:
            options = module.ceil_mode, module.count_include_pad, module.divisor_override
            return nn.AvgPool2d(kernel, stride, padding, *options)
        dilation = module.dilation
        dilation = (dilation,) * 3 if isinstance(dilation, int) else tuple(dilation)
        if module.return_indices:
            return None
        return nn.MaxPool2d(kernel, stride, padding, dilation[1:], ceil_mode=module.ceil_mode)
    return None


def _make_planar_norm(norm: nn.BatchNorm3d, lifted: PlanarMap) -> nn.BatchNorm2d:
    planar = nn.BatchNorm2d(
        lifted.channels * lifted.order,
        norm.eps,
        norm.momentum,
        norm.affine,
        device=norm.running_mean.device,
        dtype=norm.running_mean.dtype,
    )
    with torch.no_grad():
        for name, value in norm.state_dict(keep_vars=True).items():
            to = getattr(planar, name)
            to.copy_(value if value.ndim == 0 else _repeat(value, lifted.order))
    return planar


def _repeat(values: Tensor, order: int) -> Tensor:
    """Repeat one number per field for its G orientations, which are adjacent planar channels."""
    return values.repeat_interleave(order)
