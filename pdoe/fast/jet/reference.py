"""The jet form in torch's own operations: slow, differentiable, the measure of the C++ code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import Form
from .stencils import jet_stencils


def block_numbers(weight: Tensor, constant: Tensor) -> Tensor:
    """The numbers of the blocks, [C', C, G, 9] -> [13 n, C M, C' M].

    ``constant`` is a map of :class:`Algebra` [M, M, 13 n, 9 G], in the weight's dtype.
    """
    outputs, inputs = weight.shape[:2]
    pixels = weight.flatten(2).permute(2, 1, 0).flatten(1)  # [9 G, C C']
    numbers = (constant.flatten(0, 2) @ pixels).unflatten(1, (inputs, outputs))
    numbers = numbers.unflatten(0, constant.shape[:3])  # [M', M, 13 n, C, C']
    return numbers.permute(2, 3, 1, 4, 0).flatten(3).flatten(1, 2)


def reference(x: Tensor, weight: Tensor, form: Form) -> Tensor:
    """The group convolution of a lifted map, [B, C, G, H, W] -> [B, C', G, H', W']."""
    algebra, taps = form.algebra, form.taps

    def constant(array) -> Tensor:
        return torch.as_tensor(array, dtype=x.dtype, device=x.device)

    fourier = constant(algebra.transform)
    n, (batch, _, order, height, width) = len(fourier), x.shape
    planes = torch.einsum("kh,bchyx->bckyx", fourier, x.reshape(batch, -1, n, height, width))
    # zeros around the map, cropped where the kernel begins inside of it
    ring = taps.shape[1] // 2 - form.start
    planes = F.pad(planes.flatten(0, 2)[:, None], [ring] * 4)
    jets = F.conv2d(planes, constant(jet_stencils(taps))[:, None], stride=form.stride)
    jets = jets.unflatten(0, (batch, -1, n))  # [B, C M, n, 13, H', W']
    numbers = block_numbers(weight, constant(algebra.weight_map))
    results = []
    for block in algebra.blocks:
        inputs = []
        for slot in block:
            (jet, plane), (other_jet, other_plane) = slot.first, slot.second
            value = jets[:, :, plane, jet]
            if slot.kind:
                value = value + slot.kind * jets[:, :, other_plane, other_jet]
            inputs.append(value)
        for part in range(len(block[0].weights)):
            chosen = [sign * numbers[index] for index, sign in (s.weights[part] for s in block)]
            results.append(
                torch.einsum("sbcyx,sco->boyx", torch.stack(inputs), torch.stack(chosen))
            )
    y = torch.einsum("kg,kboyx->bogyx", fourier, torch.stack(results))
    return y.reshape(batch, -1, order, *y.shape[-2:])
