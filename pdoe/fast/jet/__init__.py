"""The jet form of a group convolution on a CPU: cost linear in the order of the group.

A layer whose filters are differential operators is, after a Fourier transform over the group, a
product with 13 derivatives of the map at every frequency. The result is that of the dense layer up
to rounding, from the same weight. Derivation and figures: ``experiments/benchmarks/jet.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..layout import has_channels_last_strides
from ..modes import is_captured, is_transformed
from .algebra import Form
from .function import JetConv
from .library import load
from .rule import may_pay, pays

if TYPE_CHECKING:
    from ...layers import GroupConv

ALGORITHMS = ("auto", "dense", "jet")
BANKS = ("operators", "gaussian")


def applies(layer: GroupConv, x: Tensor) -> bool:
    """Whether a layer convolves a lifted map [B, C, G, H, W] in the jet form.

    With ``layer.algorithm`` "auto" it does where that was measured to be faster, see
    :func:`pdoe.fast.jet.rule.pays`; with "jet" wherever it can. It cannot on other devices than a
    CPU, while a program is captured or transformed (``torch.compile``, ``torch.export``,
    ``torch.func``, forward-mode derivatives), and without a C++ compiler.

    Raises:
        ValueError: for another algorithm, or "jet" with a bank that is not made of derivatives or
            with fields in groups.
    """
    if layer.algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm is one of {', '.join(ALGORITHMS)}, not {layer.algorithm!r}")
    if layer.bank_kind not in BANKS:
        if layer.algorithm == "jet":
            raise ValueError(
                f"bank {layer.bank_kind!r} has no jet form, which is for {' and '.join(BANKS)}: "
                "take algorithm 'dense' or 'auto'"
            )
        return False
    if layer.weight.shape[1] != layer.in_channels:
        if layer.algorithm == "jet":
            raise ValueError("fields in groups have no jet form: take algorithm 'dense' or 'auto'")
        return False
    if layer.algorithm == "dense" or not _is_ordinary(x, layer.weight):
        return False
    number = _arithmetic(x, layer.weight)
    if number is None or x.numel() == 0:
        return False
    if layer.algorithm == "auto" and not pays(layer, x, number):
        return False
    return min(map(form_of(layer).size_of, x.shape[-2:])) >= 1 and load() is not None


def convolve(layer: GroupConv, x: Tensor) -> Tensor:
    """The layer in the jet form, [B, C, G, H, W] -> [B, C', G, H', W'].

    As elsewhere, a channels-last map gives one and all else gives a contiguous one.
    """
    last = layer.channels_last is not False and has_channels_last_strides(x.flatten(1, 2))
    x = x.to(_arithmetic(x, layer.weight))
    return JetConv.apply(x, layer.weight, layer.bias, form_of(layer), last)


def is_used(model: nn.Module) -> bool:
    """Whether a network may run a layer in the jet form here: it then rounds differently."""
    from ...layers import GroupConv

    return (
        any(
            module.algorithm != "dense" and module.bank_kind in BANKS and may_pay(module)
            for module in model.modules()
            if isinstance(module, GroupConv) and module.weight.device.type == "cpu"
        )
        and load() is not None
    )


def form_of(layer: GroupConv) -> Form:
    """All of a layer but its weight."""
    bank = layer.bank_kind, layer.bank_size, layer.bank_width
    return Form(layer.group, layer.offset, bank, layer.kernel_size, layer.stride, layer.padding)


def _arithmetic(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The numbers of the maps: those of the dense layer; None where the jet form has none."""
    if torch.is_autocast_enabled("cpu") and torch.float64 not in (x.dtype, weight.dtype):
        number = torch.get_autocast_dtype("cpu")
        return number if (number, weight.dtype) == (torch.bfloat16, torch.float32) else None
    same = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return x.dtype if same else None


def _is_ordinary(x: Tensor, weight: Tensor) -> bool:
    """Whether both are tensors of numbers on a CPU, and nothing captures or transforms them."""
    return (
        x.device.type == weight.device.type == "cpu"
        and type(x) in (Tensor, torch.nn.Parameter)
        and type(weight) in (Tensor, torch.nn.Parameter)
        and x.layout == weight.layout == torch.strided
        and not is_captured()
        and not is_transformed()
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
    )
