"""The jet form on a GPU: one Triton kernel makes the slots, batched products use them.

The slots of a map, 13 n numbers for each pixel and channel, are written to memory, in parts of
``SLOT_BYTES``. Tests run the kernel on a CPU, in Triton's interpreter.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .algebra import Form
from .stencils import jet_stencils

if TYPE_CHECKING:
    from .function import Grid

SLOT_BYTES = 2**28
BLOCK = 128  # numbers of each slot that a program writes
Kind = tuple[int, int, int]  # number of blocks of one shape; their parts and slots


@triton.jit
def write_slots(
    source, slots, tables, strides, lattices,
    sizes: tl.constexpr, width: tl.constexpr, number: tl.constexpr,
):  # fmt: skip
    """All slots that come from one frequency of the source: [slot, channel, image, row, column].

    A slot is a sum over the stencil's pixels ("taps") of the frequency's real and imaginary part.
    """
    n: tl.constexpr = sizes[0]
    copies: tl.constexpr = sizes[1]
    size: tl.constexpr = sizes[2]
    block: tl.constexpr = sizes[3]
    coefficients, waves, places = tables
    count, images, rows, columns, origin, step = lattices[0]
    source_rows, source_columns, source_origin, source_step = lattices[1]
    frequency, line = tl.program_id(1), tl.arange(0, width)
    place = tl.program_id(0) * block + tl.arange(0, block)
    pixel, rest = place % (rows * columns), place // (rows * columns)
    image, channel = rest % images, rest // images
    y = origin + step * (pixel // columns) - source_origin - size // 2
    x = origin + step * (pixel % columns) - source_origin - size // 2
    of_copy = channel // copies * strides[1] + channel % copies * n * strides[2]
    at = source + image.to(tl.int64) * strides[0] + of_copy
    found = tl.zeros([width, block], number)
    for tap in range(size * size):
        v, u = y + tap // size, x + tap % size
        inside = (place < count) & (v >= 0) & (u >= 0)
        inside &= (v < source_rows * source_step) & (u < source_columns * source_step)
        inside &= (v % source_step == 0) & (u % source_step == 0)
        of_pixel = at + v // source_step * strides[3] + u // source_step * strides[4]
        real = tl.zeros([block], number)
        imaginary = tl.zeros([block], number)
        for rotation in range(n):
            value = tl.load(of_pixel + rotation * strides[2], inside, 0).to(number)
            real += value * tl.load(waves + 2 * n * frequency + rotation)
            imaginary += value * tl.load(waves + 2 * n * frequency + n + rotation)
        of_tap = coefficients + 2 * width * (size * size * frequency + tap) + line
        found += tl.load(of_tap)[:, None] * real[None, :]
        found += tl.load(of_tap + width)[:, None] * imaginary[None, :]
    slot = tl.load(places + width * frequency + line)  # -1: none
    wanted = (slot >= 0)[:, None] & (place < count)[None, :]
    tl.store(slots + slot[:, None] * count + place[None, :], found, wanted)


@lru_cache(maxsize=64)
def sort_blocks(form: Form) -> tuple[list[int], list[Kind]]:
    """The output frequencies, complex ones first, and the kinds of their blocks in that order."""
    shapes = [(len(block[0].weights), len(block)) for block in form.algebra.blocks]
    order = sorted(range(len(shapes)), key=lambda m: (-shapes[m][0], m))
    return order, [(shapes.count(kind), *kind) for kind in sorted(set(shapes), reverse=True)]


def expand(form: Form, constant: np.ndarray) -> np.ndarray:
    """A map to the numbers of the blocks, [M, M, 13 n, 9 G], as one to their whole matrices.

    The third axis becomes [block, part, slot], with the blocks as :func:`sort_blocks` has them.
    """
    chosen = [
        slot.weights[part]
        for block in (form.algebra.blocks[m] for m in sort_blocks(form)[0])
        for part in range(len(block[0].weights))
        for slot in block
    ]
    index, sign = np.array(chosen).T
    return constant[:, :, index] * sign[:, None]


def _planes_of(n: int, frequency: int) -> list[int]:
    """The planes of a frequency: its real and, if it has one, its imaginary part."""
    return [plane for plane in (2 * frequency - 1, 2 * frequency) if 0 <= plane < n]


@lru_cache(maxsize=64)
def _tables(form: Form, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """The constants of :func:`write_slots` and the transform to the planes of sorted blocks.

    They are coefficients [frequency, tap, part, line], waves [frequency, part, rotation] and
    places [frequency, line]; a line is a slot that comes from the frequency.
    """
    n, order = form.group.n, sort_blocks(form)[0]
    stencils = jet_stencils(form.taps)
    lines = defaultdict(list)
    for place, slot in enumerate(slot for m in order for slot in form.algebra.blocks[m]):
        frequency = (slot.first[1] + 1) // 2
        parts = np.zeros((2, stencils[0].size))
        for factor, (jet, plane) in ((1, slot.first), (slot.kind, slot.second)):
            parts[_planes_of(n, frequency).index(plane)] += factor * stencils[jet].ravel()
        lines[frequency].append((place, parts))
    width = triton.next_power_of_2(max(map(len, lines.values())))
    coefficients = np.zeros((n // 2 + 1, stencils[0].size, 2, width))
    waves, places = np.zeros((n // 2 + 1, 2, n)), np.full((n // 2 + 1, width), -1)
    for frequency, found in lines.items():
        own = form.algebra.transform[_planes_of(n, frequency)]
        waves[frequency, : len(own)] = own
        for line, (place, parts) in enumerate(found):
            places[frequency, line] = place
            coefficients[frequency, :, :, line] = parts.T
    fourier = form.algebra.transform[[plane for m in order for plane in _planes_of(n, m)]]
    with torch.inference_mode(False):
        numbers = (torch.tensor(a, dtype=dtype, device=device) for a in (coefficients, waves))
        places = torch.tensor(places, dtype=torch.int64, device=device)
        return *numbers, places, torch.tensor(fourier, dtype=dtype, device=device)


def make_slots(form: Form, source: Tensor, source_grid: Grid, grid: Grid) -> Tensor:
    """The slots of sorted blocks, from a map [B, C, G, H, W]: [13 n, C M, B H' W']."""
    exact = source.dtype == torch.float64
    dtype = torch.float64 if exact else torch.float32
    *tables, _ = _tables(form, dtype, source.device)
    n, images, order = form.group.n, len(source), len(form.group)
    channels, pixels = source.shape[1] * order // n, images * prod(grid.size)
    slots = source.new_empty(sum(map(len, form.algebra.blocks)), channels, pixels)
    lattices = (
        (channels * pixels, images, *grid.size, grid.origin, grid.step),
        (*source_grid.size, source_grid.origin, source_grid.step),
    )
    source = source.resolve_neg()  # the kernel reads memory
    with torch.cuda.device_of(source):
        write_slots[triton.cdiv(channels * pixels, BLOCK), n // 2 + 1](
            source, slots, tuple(tables), source.stride(), lattices,
            (n, order // n, form.taps.shape[1], BLOCK), tables[2].shape[1],
            tl.float64 if exact else tl.float32,
        )  # fmt: skip
    return slots


def run(
    form: Form,
    source: Tensor,
    grids: tuple[Grid, Grid],
    numbers: Tensor,
    bias: Tensor | None,
    target: Tensor | None,
    results: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The result [B, C', G, H', W'], and the gradient of ``numbers`` if there is a target."""
    n, size, dtype, wide = form.group.n, grids[1].size, source.dtype, numbers.dtype
    images, (inputs, outputs) = len(source), numbers.shape[1:]
    kinds, fourier = sort_blocks(form)[1], _tables(form, wide, source.device)[3]
    gradient = None if target is None else torch.zeros_like(numbers)
    result = source.new_empty(images, outputs, n, prod(size)) if results else None

    def split(rows: Tensor, *axes: int) -> list[Tensor]:
        """Views of the kinds: [block, ...] with the axes of a kind (0 block, 1 part, 2 slot)."""
        shapes = [tuple(kind[axis] for axis in axes) for kind in kinds]
        parts = rows.split([prod(shape) for shape in shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]

    weights = split(numbers.to(dtype), 0, 1, 2)
    step = max(1, SLOT_BYTES // (13 * n * inputs * prod(size) * source.itemsize))
    for first in range(0, images, step):
        part = slice(first, first + step)
        slots = split(make_slots(form, source[part], *grids), 0, 2)
        if result is not None:
            products = map(partial(torch.einsum, "mpsco,mscx->mpox"), weights, slots)
            planes = torch.cat([product.flatten(0, 1) for product in products]).to(wide)
            planes = planes.unflatten(2, (-1, prod(size)))
            y = torch.einsum("kr,kobx->borx", fourier, planes)
            result[part] = y if bias is None else y + bias[:, None, None]
        if target is not None:
            planes = target[part].reshape(-1, outputs, n, prod(size)).to(wide)
            planes = torch.einsum("kr,borx->kobx", fourier, planes).flatten(2).to(dtype)
            for total, plane, slot in zip(
                split(gradient, 0, 1, 2), split(planes, 0, 1), slots, strict=True
            ):
                total += torch.einsum("mpox,mscx->mpsco", plane, slot)
    return None if result is None else result.view(images, -1, len(form.group), *size), gradient
