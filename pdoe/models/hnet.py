"""Harmonic networks: complex maps whose phase changes when the image is rotated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..equivariance.action import check_group
from ..groups import PointGroup
from .harmonic_layers import (
    HarmonicConv,
    HarmonicNorm,
    HarmonicReLU,
    SumOfMagnitudes,
)
from .pooling import MeanPool
from .settings import DIGITS, NORM, Images, Norm


class HNet(nn.Module):
    r"""Seven convolutions with circular harmonics, images [B, C, H, W] -> logits [B, classes].

    Maps are complex, [B, C, M + 1, 2, H, W], with real and imaginary part. Rotating the image by
    :math:`\theta` rotates the map of order m and multiplies it by :math:`e^{im\theta}`. Each of
    three blocks is a :class:`HarmonicConv`, :class:`HarmonicReLU`, another convolution and
    :class:`HarmonicNorm`. 2x2 means come before the second and the third block, a last convolution
    without phases follows. The logits are the means over space of the magnitudes, summed over the
    orders, plus a bias (Worrall et al. 2017, arXiv 1612.04642, and their code).

    The parameters are those that the authors' code uses. Where maps are complex, that code drops
    the imaginary part of the filters of order 0, so that a phase scales them by its cosine; here
    the phase rotates them. The filters of order -1 are conjugates of those of order 1 in both.

    If H and W are multiples of 4, rotations by 90 degrees are exact and leave the logits unchanged.
    Other rotations are approximate, as far as k x k pixels resolve the harmonics.

    Args:
        group: the rotations that diagnostics measure. The network is the same for all groups: it is
            built for every angle.
        widths: channels of the blocks.
        max_order: M.
        size: k, of the filters.
        rings: number of circles that a filter is sampled on.
        dropout: probability that a complex number becomes 0, before the last convolution.
        batch_norm: constants of batch norm.
        images: the data; images of any other size are accepted, too.

    Raises:
        ValueError: for a group with reflections, with which the network does not commute.

    >>> net = HNet(PointGroup(4))
    >>> net(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        group: PointGroup,
        widths: Sequence[int] = (8, 16, 32),
        max_order: int = 1,
        size: int = 5,
        rings: int = 4,
        dropout: float = 0.0,
        batch_norm: Norm = NORM,
        images: Images = DIGITS,
    ):
        super().__init__()
        check_group(group)
        if group.reflections:
            raise ValueError(
                f"HNet commutes with rotations, not with the reflections of {group.name}: "
                f"take p{group.n}"
            )
        if not widths:
            raise ValueError("widths lists the channels of each block; it is empty")
        if images.size < 2 ** (len(widths) - 1):
            raise ValueError(
                f"an image of {images.size}x{images.size} cannot be halved {len(widths) - 1} times"
            )
        self.group = group
        filters = {"max_order": max_order, "size": size, "rings": rings}
        layers: list[nn.Module] = []
        channels, orders = images.channels, None
        for number, width in enumerate(widths, start=1):
            last = number == len(widths)
            if layers:
                layers.append(MeanPool())
            layers += [
                HarmonicConv(channels, width, orders, **filters),
                HarmonicReLU(width, max_order),
                HarmonicConv(width, width, max_order, **filters),
                HarmonicNorm(width, max_order, batch_norm, dropout if last else 0.0),
            ]
            channels, orders = width, max_order
        self.trunk = nn.Sequential(
            *layers,
            HarmonicConv(channels, images.classes, max_order, **filters, phase=False),
            SumOfMagnitudes(),
        )
        self.head = MeanAndBias(images.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class MeanAndBias(nn.Module):
    """The mean over space and a learnt bias, [B, C, 1, H, W] -> [B, C]; invariant.

    >>> MeanAndBias(10)(torch.ones(2, 10, 1, 7, 7)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.full((channels,), 0.01))  # as in the authors' code

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4)) + self.bias
