"""The jet form of a group convolution: cost linear in the order of the group.

A layer whose filters are differential operators is, after a Fourier transform over the group, a
product with 13 derivatives of the map at every frequency. The result is that of the dense layer up
to rounding, from the same weight. Derivation and figures: ``experiments/benchmarks/jet.md``.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..layout import has_channels_last_strides
from ..modes import constant_when_compiled, is_captured, is_compiled, is_transformed
from .algebra import Form
from .function import JetConv
from .library import load
from .operators import call_operator
from .rule import may_pay, pays

if TYPE_CHECKING:
    from ...layers import GroupConv

ALGORITHMS = ("auto", "dense", "jet")
BANKS = ("operators", "gaussian")


def applies(layer: GroupConv, x: Tensor) -> bool:
    """Whether a layer convolves a lifted map [B, C, G, H, W] in the jet form.

    With ``layer.algorithm`` "auto" it does where that was measured to be faster, see
    :func:`pdoe.fast.jet.rule.pays`, and never on a GPU, where it was not; with "jet" wherever it
    can. That is on a CPU with a C++ compiler and on a GPU with Triton, compiled by
    ``torch.compile`` or not. It cannot in programs that are exported, traced or transformed
    (``torch.export``, ``torch.jit``, ``make_fx``, ``torch.func``, forward-mode derivatives).

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
    if _is_in_groups(layer):
        if layer.algorithm == "jet":
            raise ValueError("fields in groups have no jet form: take algorithm 'dense' or 'auto'")
        return False
    automatic = layer.algorithm == "auto"
    if layer.algorithm == "dense" or automatic and not _is_measured(x):
        return False
    if not _is_ordinary(x, layer.weight):
        return False
    number = _choose_dtype(x, layer.weight)
    if number is None or x.numel() == 0:
        return False
    if automatic and not pays(layer, x, number):
        return False
    return min(map(form_of(layer).size_of, x.shape[-2:])) >= 1 and can_run(x.device.type)


def convolve(layer: GroupConv, x: Tensor) -> Tensor:
    """The layer in the jet form, [B, C, G, H, W] -> [B, C', G, H', W'].

    As elsewhere, a channels-last map gives one and all else gives a contiguous one.
    """
    last = layer.channels_last is not False and has_channels_last_strides(x.flatten(1, 2))
    x = x.to(_choose_dtype(x, layer.weight))
    if is_compiled():
        return call_operator(x, layer.weight, layer.bias, form_of(layer), last)
    return JetConv.apply(x, layer.weight, layer.bias, form_of(layer), last)


def is_used(model: nn.Module) -> bool:
    """Whether a network may run a layer in the jet form here: it then rounds differently."""
    return any(
        layer.algorithm != "dense"
        and (layer.algorithm == "jet" or _is_measured(layer.weight) and may_pay(layer))
        and can_run(layer.weight.device.type)
        for layer in find_layers(model)
    )


def find_layers(model: nn.Module) -> list[GroupConv]:
    """The layers of a network that have a jet form."""
    from ...layers import GroupConv

    layers = (module for module in model.modules() if isinstance(module, GroupConv))
    return [layer for layer in layers if layer.bank_kind in BANKS and not _is_in_groups(layer)]


def _is_in_groups(layer: GroupConv) -> bool:
    """Whether fields are convolved in groups, as in a converted depthwise convolution."""
    return layer.weight.shape[1] != layer.in_channels


@constant_when_compiled
def can_run(device_type: str) -> bool:
    """Whether the jet form runs on this type of device here; on a CPU it is built if need be."""
    if device_type == "cuda":
        return _has_triton()
    return device_type == "cpu" and load() is not None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def form_of(layer: GroupConv) -> Form:
    """All of a layer but its weight."""
    bank = layer.bank_kind, layer.bank_size, layer.bank_width
    return Form(layer.group, layer.offset, bank, layer.kernel_size, layer.stride, layer.padding)


def _choose_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The numbers of the maps: those of the dense layer; None where the jet form has none."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and torch.float64 not in (x.dtype, weight.dtype):
        number = torch.get_autocast_dtype(kind)
        short = (torch.bfloat16, torch.float16) if kind == "cuda" else (torch.bfloat16,)
        return number if number in short and weight.dtype == torch.float32 else None
    same = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return x.dtype if same else None


def _is_ordinary(x: Tensor, weight: Tensor) -> bool:
    """Whether both are tensors of numbers on one device, and nothing records or transforms them."""
    return (
        x.device == weight.device
        and x.device.type in ("cpu", "cuda")
        and type(x) in (Tensor, torch.nn.Parameter)
        and type(weight) in (Tensor, torch.nn.Parameter)
        and x.layout == weight.layout == torch.strided
        and not is_transformed()
        and torch.autograd.forward_ad._current_level < 0
        and (is_compiled() or not (is_captured() or torch._C._len_torch_dispatch_stack()))
    )


def _is_measured(tensor: Tensor) -> bool:
    """Whether the rule of "auto" holds for the device of a tensor."""
    return tensor.device.type == "cpu"
