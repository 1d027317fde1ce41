"""Pooling over space that several networks share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MeanPool(nn.Module):
    """The mean of 2x2 pixels, [B, ..., H, W] -> [B, ..., H // 2, W // 2]; exact on even sizes.

    The same as ``AvgPool3d((1, 2, 2))`` on lifted maps, whose gradient is not deterministic on a
    GPU.

    Args:
        size: the mean of size x size pixels instead, exact on multiples of it.

    >>> import torch
    >>> MeanPool()(torch.ones(2, 7, 8, 6, 6)).shape
    torch.Size([2, 7, 8, 3, 3])
    """

    def __init__(self, size: int = 2):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.flatten(1, -3), self.size).unflatten(1, x.shape[1:-2])


class SpaceMax(nn.Module):
    """The maximum over space, [B, C, H, W] -> [B, C, 1, 1]; equal maxima share the gradient.

    The same as ``AdaptiveMaxPool2d(1)``, whose gradient is not deterministic on a GPU.

    >>> import torch
    >>> SpaceMax()(torch.ones(2, 7, 6, 6)).shape
    torch.Size([2, 7, 1, 1])
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((-2, -1), keepdim=True)
