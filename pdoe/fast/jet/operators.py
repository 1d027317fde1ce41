"""The jet form as operators of torch, which ``torch.compile`` takes as they are.

Their maps [B, H, W, C, G] lie in memory pixel by pixel: conversions are part of the compiled
program. Layers that are not compiled call :class:`JetConv`, which costs less for each call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import pixels_first, pixels_last
from .algebra import Form
from .function import compute, compute_gradients, compute_gradients_by_torch

_FORM = (
    "int n, bool reflections, float offset, str bank, int? size, float? width, int kernel_size, "
    "int stride, int padding"
)
_library = torch.library.Library("pdoe", "DEF")
_library.define(f"jet(Tensor rows, Tensor weight, Tensor? bias, {_FORM}) -> Tensor")
_library.define(
    "jet_gradients(Tensor rows, Tensor weight, Tensor gradient, bool of_rows, bool of_weight, "
    f"{_FORM}) -> (Tensor, Tensor)"
)


def call_operator(
    x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, channels_last: bool
) -> Tensor:
    """What :class:`JetConv` computes, in a program that is being compiled."""
    rows = torch.ops.pdoe.jet(pixels_first(x).contiguous(), weight, bias, *form.arguments)
    y = pixels_last(rows)
    return y if channels_last else y.contiguous()


def _jet(rows: Tensor, weight: Tensor, bias: Tensor | None, *form) -> Tensor:
    y = compute(pixels_last(rows), weight, bias, Form.of(*form))
    return pixels_first(y).contiguous()


def _jet_gradients(
    rows: Tensor, weight: Tensor, gradient: Tensor, of_rows: bool, of_weight: bool, *form
) -> tuple[Tensor, Tensor]:
    """The two gradients; an empty tensor stands for one that is not wanted."""
    wanted = of_rows, of_weight
    x, gradient = pixels_last(rows), pixels_last(gradient)
    of_x, of_numbers = compute_gradients(x, weight, gradient, Form.of(*form), wanted)
    return (
        rows.new_empty(0) if of_x is None else pixels_first(of_x).contiguous(),
        weight.new_empty(0) if of_numbers is None else of_numbers,
    )


def _fake_jet(rows: Tensor, weight: Tensor, bias: Tensor | None, *form) -> Tensor:
    height, width = map(Form.of(*form).size_of, rows.shape[1:3])
    return rows.new_empty(len(rows), height, width, len(weight), rows.shape[4])


def _fake_jet_gradients(
    rows: Tensor, weight: Tensor, gradient: Tensor, of_rows: bool, of_weight: bool, *form
) -> tuple[Tensor, Tensor]:
    return (
        rows.new_empty(rows.shape if of_rows else 0),
        weight.new_empty(weight.shape if of_weight else 0),
    )


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    rows, weight, _, *ctx.form = inputs
    ctx.save_for_backward(rows, weight)


def _differentiate(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight = ctx.saved_tensors
    of_rows, of_weight, of_bias = ctx.needs_input_grad[:3]
    found: list[Tensor | None] = [None, None, None]
    if of_bias:
        found[2] = gradient.sum((0, 1, 2, 4), dtype=weight.dtype)
    if torch.is_grad_enabled():  # the gradients are to be differentiated again
        x, of_y, form = pixels_last(rows), pixels_last(gradient), Form.of(*ctx.form)
        of_x, found[1] = compute_gradients_by_torch(x, weight, of_y, form, (of_rows, of_weight))
        found[0] = None if of_x is None else pixels_first(of_x)
    elif of_rows or of_weight:
        computed = torch.ops.pdoe.jet_gradients(
            rows, weight, gradient.contiguous(), of_rows, of_weight, *ctx.form
        )
        found[:2] = computed[0] if of_rows else None, computed[1] if of_weight else None
    return *found, *[None] * len(ctx.form)


for _name, _compute, _fake in (
    ("jet", _jet, _fake_jet),
    ("jet_gradients", _jet_gradients, _fake_jet_gradients),
):
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _compute, _device)
    torch.library.register_fake(f"pdoe::{_name}", _fake, lib=_library)
torch.library.register_autograd("pdoe::jet", _differentiate, setup_context=_keep, lib=_library)
