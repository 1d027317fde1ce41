"""The jet form as a differentiable function that keeps its input alone."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...banks.finite_differences import CENTRAL
from ...groups import PointGroup
from ..cpu import _pixels_first, _pixels_last
from .algebra import Algebra, algebra, derivative_taps
from .library import JetCall, load
from .reference import block_numbers

TILE_BYTES = 416 * 1024  # of slots: they and what is multiplied with them fit into 1 MiB
_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


@dataclass(frozen=True)
class Form:
    """All of a layer but its weight: what the C++ code and the gradients need.

    Attributes:
        algebra: the constants of the group and offset.
        taps: the derivatives 0 ... 4 along an axis, [5, k].
        start: where the first result lies, in pixels of the map.
        stride: of the results.
    """

    group: PointGroup
    offset: float
    bank: tuple[str, int | None, float | None]
    kernel_size: int
    stride: int
    padding: int

    @property
    def algebra(self) -> Algebra:
        return algebra(self.group, self.offset)

    @property
    def taps(self) -> np.ndarray:
        return derivative_taps(*self.bank)

    @property
    def start(self) -> int:
        return self.kernel_size // 2 - self.padding

    def size_of(self, pixels: int) -> int:
        """H or W of the result."""
        return (pixels + 2 * self.padding - self.kernel_size) // self.stride + 1


@lru_cache(maxsize=64)
def _tables(group: PointGroup, offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The blocks, the slots and the transform, as the C++ code reads them."""
    constants = algebra(group, offset)
    blocks = [(len(block), len(block[0].weights)) for block in constants.blocks]
    slots = []
    for block in constants.blocks:
        for slot in block:
            places = [plane * 13 + jet for jet, plane in (slot.first, slot.second)]
            numbers = [value for pair in slot.weights for value in pair]
            slots.append([slot.kind, *places, *numbers, *[0] * (4 - len(numbers))])
    return (
        np.array(blocks, np.int32),
        np.array(slots, np.int32),
        np.ascontiguousarray(constants.transform),
    )


@lru_cache(maxsize=64)
def _map(group: PointGroup, offset: float, adjoint: bool, dtype: torch.dtype) -> Tensor:
    constants = algebra(group, offset)
    with torch.inference_mode(False):
        return torch.tensor(constants.adjoint_map if adjoint else constants.weight_map, dtype=dtype)


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
    blocks, slots, fourier = _tables(form.group, form.offset)
    taps = np.ascontiguousarray(form.taps)
    n, order = form.group.n, len(form.group)
    outputs = numbers.shape[2]
    rows = _pixels_first(source).contiguous()
    batch = len(rows)
    result = rows.new_empty(batch, *grid.size, outputs * n // order, order) if results else None
    wanted = None if target is None else _pixels_first(target).contiguous()
    gradient = torch.empty_like(numbers) if target is not None else None
    call = JetCall(
        order=n, radius=taps.shape[1] // 2, blocks=len(blocks), slots=len(slots), batch=batch,
        inputs=numbers.shape[1], outputs=outputs,
        source_height=source_grid.size[0], source_width=source_grid.size[1],
        source_origin=source_grid.origin, source_step=source_grid.step,
        height=grid.size[0], width=grid.size[1], origin=grid.origin, step=grid.step,
        numbers=_NUMBERS[rows.dtype], cache=TILE_BYTES,
        central=form.taps is CENTRAL,
        block_table=blocks.ctypes.data, slot_table=slots.ctypes.data,
        transform=fourier.ctypes.data, taps=taps.ctypes.data,
        source=rows.data_ptr(), weights=numbers.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        result=None if result is None else result.data_ptr(),
        target=None if wanted is None else wanted.data_ptr(),
        gradient=None if gradient is None else gradient.data_ptr(),
    )  # fmt: skip
    if load().jet_run(ctypes.byref(call)):
        raise RuntimeError("the jet form found no memory for its tiles")
    return None if result is None else _pixels_last(result), gradient


class JetConv(torch.autograd.Function):
    """[B, C, G, H, W], weight [C', C, G, 9], bias [C'] -> [B, C', G, H', W']."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, dense) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.form, ctx.dense = form, dense
        height, width = x.shape[-2:]
        grid = Grid((form.size_of(height), form.size_of(width)), form.start, form.stride)
        numbers = block_numbers(weight.detach(), _map(form.group, form.offset, False, weight.dtype))
        if bias is not None:
            bias = bias.repeat_interleave(1 + form.group.reflections)
        y, _ = _run(form, x, Grid((height, width), 0, 1), grid, numbers.contiguous(), bias)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        form: Form = ctx.form
        of_x, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3, 4), dtype=weight.dtype)
        if torch.is_grad_enabled():  # to be differentiated again
            wanted = [t for t, needed in zip((x, weight), ctx.needs_input_grad, strict=False) if needed]
            y = ctx.dense(x, weight)
            found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
            of_x, of_weight = (next(found) if each else None for each in ctx.needs_input_grad[:2])
        else:
            constant = _map(form.group, form.offset, True, weight.dtype)
            swapped = weight.detach().transpose(0, 1)
            numbers = block_numbers(swapped, constant).contiguous()
            sizes = tuple(gradient.shape[-2:])
            of_x, of_numbers = _run(
                form,
                gradient,
                Grid(sizes, form.start, form.stride),
                Grid(tuple(x.shape[-2:]), 0, 1),
                numbers,
                target=x if ctx.needs_input_grad[1] else None,
                results=ctx.needs_input_grad[0],
            )
            if of_numbers is not None:
                of_weight = _of_weight(of_numbers, constant, weight.shape)
        return of_x, of_weight, of_bias, None, None


def _of_weight(of_numbers: Tensor, constant: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of :func:`block_numbers` of the transposed weight, [13 n, C' M, C M]."""
    outputs, inputs = shape[:2]
    copies = constant.shape[0]
    numbers = of_numbers.unflatten(2, (inputs, copies)).unflatten(1, (outputs, copies))
    numbers = numbers.permute(4, 2, 0, 1, 3).flatten(0, 2).flatten(1)  # [M M 13 n, C' C]
    pixels = constant.flatten(0, 2).t() @ numbers
    return pixels.unflatten(1, (outputs, inputs)).permute(1, 2, 0).reshape(shape)
