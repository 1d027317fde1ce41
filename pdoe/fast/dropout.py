"""Dropout with a mask that is cheap to draw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..maps import require_floats
from .layout import is_channels_last, pixels_first, pixels_last


class Dropout(nn.Module):
    """Elementwise dropout of any tensor, with a mask that is cheap to draw on a CPU.

    Equivariant in distribution: each element is dropped on its own. On a CPU PyTorch draws one
    random number per element on one thread, which takes as long as half a convolution of a small
    network. Here one 64-bit number serves four elements: the probability is rounded to a multiple
    of 2^-16, and the scale of the remaining elements corrects for the rounded value.

    Args:
        p: probability that an element becomes 0, at least 0 and below 1.

    Raises:
        ValueError: ``p`` is not such a probability.
        TypeError: the input is not a tensor of floating-point numbers.

    >>> Dropout(0.2).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float):
        super().__init__()
        if not (isinstance(p, int | float) and 0 <= p < 1):
            raise ValueError(f"p, the probability of dropout, is at least 0 and below 1, not {p!r}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        require_floats(self, x)
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        words = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 3) // 4,), device=x.device)
        numbers = words.view(torch.int16)[: x.numel()]
        if x.ndim > 3 and is_channels_last(x):
            numbers = pixels_last(numbers.view(pixels_first(x).shape))
        kept = numbers.view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
