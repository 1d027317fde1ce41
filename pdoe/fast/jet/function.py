"""The jet form as a differentiable function that keeps its input alone."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...banks.finite_differences import CENTRAL
from ..layout import pixels_first
from ..modes import full_precision, is_transformed
from .algebra import Form
from .library import JetCall, load
from .reference import block_numbers, reference
from .stencils import REAL_JETS, mixing

TILE_BYTES = 416 * 1024  # of slots: they and what is multiplied with them fit into 1 MiB
_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


def _tables(form: Form) -> dict[str, np.ndarray]:
    """Blocks, slots and stencils, as the C++ code reads them."""
    constants = form.algebra
    slots = []
    for block in constants.blocks:
        for slot in block:
            places = [plane * REAL_JETS + jet for jet, plane in (slot.first, slot.second)]
            numbers = [value for pair in slot.weights for value in pair]
            slots.append([slot.kind, *places, *numbers, *[0] * (4 - len(numbers))])
    blocks = [(len(block), len(block[0].weights)) for block in constants.blocks]
    return {
        "block_table": np.array(blocks, np.int32),
        "slot_table": np.array(slots, np.int32),
        "transform": np.ascontiguousarray(constants.transform),
        "taps": np.ascontiguousarray(form.taps),
        "mixing": mixing(form.taps),
    }


@lru_cache(maxsize=64)
def _constant_arguments(form: Form) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """The arguments that are those of a form, and the tables that they point to."""
    tables = _tables(form)
    arguments = {
        "order": form.group.n,
        "radius": tables["taps"].shape[1] // 2,
        "blocks": len(tables["block_table"]),
        "slots": len(tables["slot_table"]),
        "central": form.taps is CENTRAL,
        **{name: table.ctypes.data for name, table in tables.items()},
    }
    return arguments, tables


@lru_cache(maxsize=64)
def _map(form: Form, adjoint: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    constants = form.algebra
    array = constants.adjoint_map if adjoint else constants.weight_map
    if _is_gpu(device):
        from . import gpu  # here, since not every torch comes with Triton

        array = gpu.expand(form, array)
    with torch.inference_mode(False):
        return torch.tensor(array, dtype=dtype, device=device)


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


@dataclass(frozen=True)
class Grid:
    """Pixels of a square lattice: ``size`` of them from ``origin`` on, ``step`` apart."""

    size: tuple[int, int]
    origin: int
    step: int


def _run(
    form: Form,
    source: Tensor,
    source_grid: Grid,
    grid: Grid,
    numbers: Tensor,
    bias: Tensor | None = None,
    target: Tensor | None = None,
    results: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """One call of the C++ code: the result [B, C', G, H', W'], the gradient of ``numbers``."""
    if len(source) == 0:  # the tiles of a batch are shared out by its number of images
        order = len(form.group)
        fields = numbers.shape[2] * form.group.n // order
        result = _empty_map(source, 0, fields, order, *grid.size) if results else None
        return result, None if target is None else torch.zeros_like(numbers)
    if _is_gpu(source.device):
        from . import gpu

        return gpu.run(form, source, (source_grid, grid), numbers, bias, target, results)
    n, order, outputs = form.group.n, len(form.group), numbers.shape[2]
    rows = pixels_first(source).contiguous().resolve_neg()
    wanted = None if target is None else pixels_first(target).contiguous().resolve_neg()
    result, gradient = None, None
    if results:
        result = _empty_map(rows, len(rows), outputs * n // order, order, *grid.size)
    if target is not None:
        gradient = torch.empty_like(numbers)

    def address(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    # The tables are the same for every offset. The call points into them.
    arguments, tables = _constant_arguments(replace(form, offset=0.0))
    call = JetCall(
        **arguments,
        batch=len(rows), inputs=numbers.shape[1], outputs=outputs,
        source_height=source_grid.size[0], source_width=source_grid.size[1],
        source_origin=source_grid.origin, source_step=source_grid.step,
        height=grid.size[0], width=grid.size[1], origin=grid.origin, step=grid.step,
        numbers=_NUMBERS[rows.dtype], cache=TILE_BYTES,
        source=address(rows), weights=address(numbers), bias=address(bias),
        result=address(result), target=address(wanted), gradient=address(gradient),
    )  # fmt: skip
    if load().jet_run(ctypes.byref(call)):
        raise RuntimeError("the jet form found no memory for its tiles")
    return result, gradient


def _empty_map(like: Tensor, batch: int, fields: int, order: int, *size: int) -> Tensor:
    """A channels-last map [B, C, G, H, W] that is no view, so that ReLU may act on it in place."""
    channels, (height, width) = fields * order, size
    strides = height * width * channels, order, 1, width * channels, channels
    return like.new_empty_strided((batch, fields, order, height, width), strides)


def compute(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """The result of a layer, [B, C, G, H, W] -> [B, C', G, H', W'], channels-last in memory."""
    with full_precision(weight):
        sizes = tuple(x.shape[-2:])
        results = Grid(tuple(form.size_of(side) for side in sizes), form.start, form.stride)
        constant = _map(form, False, weight.dtype, weight.device)
        numbers = block_numbers(weight, constant).contiguous()
        if bias is not None:
            bias = bias.repeat_interleave(1 + form.group.reflections)
        return _run(form, x, Grid(sizes, 0, 1), results, numbers, bias)[0]


def compute_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, form: Form, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x (channels-last in memory) and weight, of those that are wanted."""
    with full_precision(weight):
        constant = _map(form, True, weight.dtype, weight.device)
        numbers = block_numbers(weight.transpose(0, 1), constant).contiguous()
        source = Grid(tuple(gradient.shape[-2:]), form.start, form.stride)
        results = Grid(tuple(x.shape[-2:]), 0, 1)
        target = x if wanted[1] else None
        of_x, of_numbers = _run(
            form, gradient, source, results, numbers, target=target, results=wanted[0]
        )
        if of_numbers is None:
            return of_x, None
        return of_x, _of_weight(of_numbers, constant, weight.shape)


class JetConv(torch.autograd.Function):
    """[B, C, G, H, W], weight [C', C, G, 9], bias [C'] -> [B, C', G, H', W'].

    The result and the gradient of the input are channels-last in memory, or contiguous. The input
    is kept for the backward pass, nothing else. Gradients that are to be differentiated
    again, or are mapped over, come from the same algebra in torch's operations.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, channels_last: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.form, ctx.channels_last = form, channels_last
        y = compute(x, weight, bias, form)
        return y if channels_last else y.contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        of_bias = None
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3, 4), dtype=weight.dtype)
        wanted = ctx.needs_input_grad[:2]
        if not any(wanted):
            return None, None, of_bias, None, None
        # Neither batches of gradients nor gradients that are known to be 0 lie in memory.
        in_memory = torch._C._has_storage(gradient) and not gradient._is_zerotensor()
        by_torch = torch.is_grad_enabled() or is_transformed() or not in_memory
        compute = compute_gradients_by_torch if by_torch else compute_gradients
        of_x, of_weight = compute(x, weight, gradient, ctx.form, wanted)
        if of_x is not None and not ctx.channels_last and not by_torch:
            of_x = of_x.contiguous()
        return of_x, of_weight, of_bias, None, None


def compute_gradients_by_torch(
    x: Tensor, weight: Tensor, gradient: Tensor, form: Form, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x and weight, by operations that torch can differentiate and map over."""
    inputs = [each for each, needed in zip((x, weight), wanted, strict=True) if needed]
    again = torch.is_grad_enabled()
    with full_precision(weight):
        with torch.enable_grad():
            y = reference(x.to(weight.dtype), weight, form)
        found = iter(torch.autograd.grad(y, inputs, gradient.to(y.dtype), create_graph=again))
    return [next(found) if needed else None for needed in wanted]


def _of_weight(of_numbers: Tensor, constant: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of :func:`block_numbers` of the transposed weight, [13 n, C' M, C M]."""
    outputs, inputs = shape[:2]
    copies = constant.shape[0]
    numbers = of_numbers.unflatten(2, (inputs, copies)).unflatten(1, (outputs, copies))
    numbers = numbers.permute(4, 2, 0, 1, 3).flatten(0, 2).flatten(1)  # [M M 13 n, C' C]
    pixels = constant.flatten(0, 2).t() @ numbers
    return pixels.unflatten(1, (outputs, inputs)).permute(1, 2, 0).contiguous().view(shape)
