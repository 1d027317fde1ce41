"""Where the jet form is faster than the dense convolution: one rule, from one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...layers import GroupConv


def pays(layer: GroupConv, x: Tensor, number: torch.dtype) -> bool:
    """Whether the jet form of a layer was measured to be faster for such a map."""
    return number != torch.float64
