"""Harmonic networks: complex maps that turn their phase when the image is turned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..groups import PointGroup
from .harmonic_layers import (
    HarmonicConv,
    HarmonicMeanPool,
    HarmonicNorm,
    HarmonicReLU,
    SumOfMagnitudes,
)


class HNet(nn.Module):
    r"""Seven convolutions with circular harmonics, images [B, C, H, W] -> logits [B, classes].

    Maps are complex, [B, C, M + 1, 2, H, W], real and imaginary part. A turn of the image by
    :math:`\theta` turns the map of order m and multiplies it by :math:`e^{im\theta}`. Three blocks
    of a :class:`HarmonicConv`, :class:`HarmonicReLU`, another convolution and
    :class:`HarmonicNorm`, with 2x2 means before the second and the third, and a last convolution
    without phases; the logits are the means over space of its magnitudes, summed over the orders,
    and a bias (Worrall et al. 2017, arXiv 1612.04642, and their code).

    Its parameters are those that the authors' code uses. That code drops the imaginary part of
    the filters of order 0 where its maps are complex, so that a phase scales them by its cosine;
    here it turns them. The filters of order -1 are conjugates of those of order 1 in both.

    If H and W are multiples of 4, quarter turns are exact and leave the logits as they are; other
    turns are approximate, as far as k x k pixels resolve the harmonics.

    Args:
        group: rotations under which the symmetry of the network is measured. The network itself
            is the same for all of them: it is made for every angle.
        widths: channels of the blocks.
        max_order: M.
        size: k, of the filters.
        rings: number of circles that a filter is sampled on.
        dropout: probability of a complex number to become 0, before the last convolution.
        norm_eps, norm_momentum: of batch norm, in PyTorch's sense.
        in_channels, classes: of the data.
        image_size: of the data; images of any other size are taken too.

    Raises:
        ValueError: for a group with reflections, to which nothing here answers.

    >>> net = HNet(PointGroup(4))
    >>> net(torch.randn(2, 1, 28, 28)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([2, 10]), 22826)
    """

    def __init__(
        self,
        group: PointGroup,
        widths: Sequence[int] = (8, 16, 32),
        max_order: int = 1,
        size: int = 5,
        rings: int = 4,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        in_channels: int = 1,
        classes: int = 10,
        image_size: int = 28,
    ):
        super().__init__()
        if not isinstance(group, PointGroup):
            raise TypeError(f"group is a PointGroup, such as PointGroup(4), not {group!r}")
        if group.reflections:
            raise ValueError(
                f"H-Net turns with rotations alone, not with the reflections of {group.name}: "
                f"take p{group.n}"
            )
        if not widths:
            raise ValueError("widths names the channels of each block; it is empty")
        if image_size < 2 ** (len(widths) - 1):
            raise ValueError(
                f"an image of {image_size}x{image_size} cannot be halved {len(widths) - 1} times"
            )
        self.group = group
        filters = {"max_order": max_order, "size": size, "rings": rings}
        norm = {"eps": norm_eps, "momentum": norm_momentum}
        layers: list[nn.Module] = []
        channels, orders = in_channels, None
        for number, width in enumerate(widths, start=1):
            wet = dropout if number == len(widths) else 0.0
            if layers:
                layers.append(HarmonicMeanPool())
            layers += [
                HarmonicConv(channels, width, orders, **filters),
                HarmonicReLU(width, max_order),
                HarmonicConv(width, width, max_order, **filters),
                HarmonicNorm(width, max_order, **norm, dropout=wet),
            ]
            channels, orders = width, max_order
        self.trunk = nn.Sequential(
            *layers,
            HarmonicConv(channels, classes, max_order, **filters, phase=False),
            SumOfMagnitudes(),
        )
        self.head = MeanAndBias(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class MeanAndBias(nn.Module):
    """The mean over space and a learnt bias, [B, C, 1, H, W] -> [B, C]; invariant.

    >>> MeanAndBias(10)(torch.ones(2, 10, 1, 7, 7)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.full((channels,), 0.01))  # as the authors' code

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4)) + self.bias
