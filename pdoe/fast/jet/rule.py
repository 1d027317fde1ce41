"""Where the jet form is faster than the dense convolution: one rule, from one table.

Measured on one core of an AMD EPYC (Zen 5, AVX-512 with bfloat16): dense / jet for one layer from C
to C fields at offset pi / 8, channels-last maps, the least of 16x16 in a batch of 8 and 24x24 in a
batch of 16. Planar channels are C |G|.

===================  =====  =====  =====  =====
planar channels      evaluation    training
-------------------  ------------  ------------
\\                    fp32   bf16   fp32   bf16
===================  =====  =====  =====  =====
p8, 4 fields: 32     1.05   0.85   1.32   1.02
p8, 6 fields: 48     1.54   1.12   1.79   1.52
p8, 8 fields: 64     2.02   1.68   2.44   1.95
p16, 2 fields: 32    0.84   0.58   0.91   0.65
p16, 3 fields: 48    1.28   0.75   1.43   0.90
p16, 4 fields: 64    1.70   1.24   1.93   1.52
p12, 4 fields: 48    1.43   1.07   1.41   1.24
p6, 6 fields: 36     1.57   1.23   1.89   1.54
p4, 11 fields: 44    1.39   1.17   1.93   1.36
p2, 24 fields: 48    1.17   0.98   1.54   1.36
p6m, 4 fields: 48    1.38   1.06   1.93   1.51
===================  =====  =====  =====  =====

A single map of 8x8 without gradients, whose weights are transformed for 64 pixels: p8 1.30 with 8
fields (64), p4m 0.90 with 8 (64) and 1.08 with 16 (128), p2m 0.88 with 32 (128). With a stride of 2
the gradient is computed at all pixels, with zeros between: p8 1.09 with 7 fields (56), 1.47 with 11
(88), in bfloat16 0.86 and 1.25; with a stride of 3 from 11 to 23 fields 0.89.

On one core of an Intel Xeon (Sapphire Rapids, with AMX; CPU time, 7 rounds, while other processes
ran) the bounds for float32 hold, too: p8 1.39 with 5 fields (40), p12 1.17 with 3 (36), p16 1.10
with 3 (48), p6 1.36 with 6 (36), p4 1.45 with 9 (36), p2 1.31 with 18 (36). In bfloat16 the matrix
unit makes the dense convolution up to five times as fast as in float32, and the product of the jet
form as well, but not stencils and transforms:

========================  ==========  ========
planar channels, bf16     evaluation  training
========================  ==========  ========
p8, 12 fields: 96         0.73        1.06
p8, 16 fields: 128        0.96        1.30
p8, 18 fields: 144        1.20        1.37
p8, 24 fields: 192        1.39        2.06
p16, 6 fields: 96         0.72        0.92
p16, 8 fields: 128        0.92        1.24
p16, 10 fields: 160       0.97        1.38
p16, 12 fields: 192       1.35        1.64
p12, 10 fields: 120       1.19        1.41
p6, 16 fields: 96         0.91        1.24
p6, 22 fields: 132        1.19        1.65
p6m, 8 fields: 96         0.92        1.09
p6m, 12 fields: 144       1.20        1.50
p4, 24 fields: 96         0.92        1.08
p4, 32 fields: 128        1.10        1.39
p2, 64 fields: 128        0.85        1.22
p2, 96 fields: 192        1.10        1.47
p8 gauss 5x5, 12: 96      0.72        0.86
p8 gauss 5x5, 18: 144     1.04        1.26
p8 gauss 5x5, 27: 216     1.42        1.91
p8 gauss 7x7, 12: 96      0.92        1.39
p8 gauss 9x9, 8: 64       0.84        1.54
p8 gauss 9x9, 12: 96      1.33        2.06
========================  ==========  ========
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..modes import constant_when_compiled
from .library import convolves_by_amx, has_amx_products

if TYPE_CHECKING:
    from ...layers import GroupConv

# The fewest planar channels, by what the maps are made of; other numbers stay dense.
LEAST = {torch.float32: 36, torch.bfloat16: 48}
LEAST_FOR_FEW_PIXELS = {False: 64, True: 192}  # without and with reflections
FEW_PIXELS = 256
LEAST_FIELDS = 4  # copies of the rotation group, in bfloat16
LEAST_WITH_AMX = {False: 144, True: 96}  # in bfloat16, evaluation and training


def may_pay(layer: GroupConv) -> bool:
    """Whether the jet form of a layer, whose fields are not in groups, is faster for some map."""
    fields = min(layer.in_channels, layer.out_channels)
    possible = layer.group.n > 1 and layer.kernel_size >= 5 and layer.stride <= 2
    return possible and fields * len(layer.group) >= min(LEAST.values()) * layer.stride


def pays(layer: GroupConv, x: Tensor, number: torch.dtype) -> bool:
    """Whether the jet form of a layer is faster for a map [B, C, G, H, W], see above.

    Args:
        layer: the layer.
        x: its input.
        number: the dtype of the products.
    """
    group, fields = layer.group, min(layer.in_channels, layer.out_channels)
    if number not in LEAST or not may_pay(layer):
        return False
    least = LEAST[number]
    if number == torch.bfloat16:
        if fields * (1 + group.reflections) < LEAST_FIELDS:
            return False
        if _dense_has_amx():
            if not _jet_has_amx():
                return False
            least = LEAST_WITH_AMX[torch.is_grad_enabled()]
            if not 2 < group.n <= 12:
                least *= 4 / 3
            if layer.bank_kind == "gaussian":
                least *= {5: 3 / 2, 7: 1}.get(layer.kernel_size, 2 / 3)
    least *= layer.stride
    if x.shape[0] * math.prod(x.shape[-2:]) < FEW_PIXELS and not torch.is_grad_enabled():
        least = max(least, LEAST_FOR_FEW_PIXELS[group.reflections])
    return fields * len(group) >= least


# ``torch.compile`` cannot follow questions about the processor.
@constant_when_compiled
def _dense_has_amx() -> bool:
    return convolves_by_amx()


@constant_when_compiled
def _jet_has_amx() -> bool:
    return has_amx_products()
