"""Layers that converted networks need beside those of :mod:`pdoe.layers`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..groups import PointGroup
from ..layers import GroupConv


class GroupedConv(GroupConv):
    """A group convolution whose fields are split into groups, on lifted maps.

    [B, C, G, H, W] -> [B, C', G, H', W']. Each of the C' fields sees the C / ``groups`` fields of
    its own group, in all their orientations. With ``groups`` = C the layer is depthwise. As exact
    as :class:`pdoe.GroupConv`, whose other arguments it takes.

    The weight is [C', C / groups, G, K].

    Raises:
        ValueError: ``groups`` does not divide both numbers of channels.

    >>> import torch
    >>> conv = GroupedConv(PointGroup(4), 6, 12, groups=3)
    >>> conv(torch.randn(2, 6, 4, 9, 9)).shape, conv.weight.shape
    (torch.Size([2, 12, 4, 9, 9]), torch.Size([12, 2, 4, 9]))
    """

    def __init__(
        self, group: PointGroup, in_channels: int, out_channels: int, *args, groups: int, **options
    ):
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups is a divisor of {in_channels} and {out_channels} channels, not {groups}"
            )
        super().__init__(group, in_channels // groups, out_channels, *args, **options)
        self.in_channels, self.groups = in_channels, groups

    def _convolve(self, x: Tensor) -> Tensor:
        order = len(self.group)
        bias = None if self.bias is None else self.bias.repeat_interleave(order)
        kernel = self.cached_kernel()
        y = F.conv2d(x, kernel, bias, self.stride, self.padding, 1, self.groups)
        return y.unflatten(1, (self.out_channels, order))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class HalvingPool(nn.Module):
    """Pooling that halves a map exactly at every size, [B, ..., H, W] -> [B, ..., H', W'].

    H' is H / 2, rounded up. An even axis is pooled by windows of 2 pixels, an odd one by
    overlapping windows of 3 around every second pixel; both are symmetric about the centre.

    Args:
        kind: "mean" or "max".
        times: how often the map is halved.

    >>> import torch
    >>> HalvingPool("mean", times=2)(torch.ones(1, 3, 8, 10, 7)).shape
    torch.Size([1, 3, 8, 3, 2])
    """

    def __init__(self, kind: str = "mean", times: int = 1):
        super().__init__()
        self.kind, self.times = kind, times

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1, -3)
        for _ in range(self.times):
            y = self._halve(y)
        return y.unflatten(1, x.shape[1:-2])

    def _halve(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):  # for an export: the same windows without a branch, but slower
            size = (x.shape[-2] + 1) // 2, (x.shape[-1] + 1) // 2
            pool = F.adaptive_max_pool2d if self.kind == "max" else F.adaptive_avg_pool2d
            return pool(x, size)
        size, padding = zip(*((3, 1) if n % 2 else (2, 0) for n in x.shape[-2:]), strict=True)
        if self.kind == "max":
            return F.max_pool2d(x, size, 2, padding)
        return F.avg_pool2d(x, size, 2, padding, count_include_pad=False)

    def extra_repr(self) -> str:
        return f"{self.kind}, times={self.times}"


class PlaneWise(nn.Module):
    """A planar module that treats all channels alike, on each orientation of a lifted map.

    >>> import torch
    >>> PlaneWise(nn.MaxPool2d(3, 1, 1))(torch.ones(2, 3, 8, 5, 5)).shape
    torch.Size([2, 3, 8, 5, 5])
    """

    def __init__(self, planar: nn.Module):
        super().__init__()
        self.planar = planar

    def forward(self, x: Tensor) -> Tensor:
        # Without hooks: a report would take the planar map for an image and find an error.
        return self.planar.forward(x.flatten(1, -3)).unflatten(1, x.shape[1:-2])


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position (and orientation), [B, C, ...] -> the same.

    >>> import torch
    >>> ChannelNorm(3)(torch.randn(2, 3, 8, 5, 5)).shape
    torch.Size([2, 3, 8, 5, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
