"""Memory formats of maps: contiguous, and channels-last.

A map [B, ..., H, W] is channels-last if it lies in memory as [B, H, W, ...]: all channels and
orientations of a pixel side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..maps import require_tensor
from .modes import uses_torch_alone


class ChannelsLast(nn.Module):
    """Convert images [B, C, H, W] to the memory format in which a CPU convolves fastest.

    The values stay; the channels come to lie last in memory. The layers of this library,
    :class:`BatchNorm`, :class:`MaxPool`, :class:`Dropout` and elementwise functions keep that
    format, so one such layer at the beginning of a network avoids all later conversions.
    ``nn.BatchNorm3d`` and ``nn.MaxPool3d`` are slow on channels-last maps. Left as they are:
    float64 images, for which oneDNN has no kernels, and images on other devices.

    Attributes:
        channels_last: True or False to convert always or never; None (default) to convert all
            dtypes but float64.

    >>> ChannelsLast()(torch.ones(2, 3, 8, 8)).stride()
    (192, 1, 24, 3)
    """

    channels_last: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        require_tensor(self, x)
        wanted = x.dtype != torch.float64 if self.channels_last is None else self.channels_last
        if not wanted or x.ndim != 4 or uses_torch_alone(x):
            return x
        return with_usual_strides(x, channels_last=True)


def is_channels_last(x: Tensor) -> bool:
    """Whether a map [B, ..., H, W] is channels-last and not contiguous at the same time."""
    return not x.is_contiguous() and pixels_first(x).is_contiguous()


def has_channels_last_strides(x: Tensor) -> bool:
    """Whether an image [B, C, H, W] is channels-last by its strides.

    They tell the two formats apart for one channel or one pixel, too.
    """
    return x.stride(1) == 1 and x.stride(3) == x.shape[1] and pixels_first(x).is_contiguous()


def to_channels_last(x: Tensor) -> Tensor:
    """Convert a map [B, ..., H, W] to channels-last.

    Written as permutations, which ``torch.func.vmap`` supports.
    """
    return pixels_last(pixels_first(x).contiguous())


def with_usual_strides(x: Tensor, channels_last: bool) -> Tensor:
    """Convert a map [B, ..., H, W], the strides of axes of length 1 included.

    Such an axis may have any stride, and torch infers memory formats from strides.
    """
    if not channels_last:
        return x.flatten().view(x.shape)
    pixels = pixels_first(x)
    return pixels_last(pixels.flatten().view(pixels.shape))


def pixels_first(x: Tensor) -> Tensor:
    """View [B, ..., H, W] as [B, H, W, ...]."""
    return x.permute(0, -2, -1, *range(1, x.ndim - 2))


def pixels_last(x: Tensor) -> Tensor:
    """View [B, H, W, ...] as [B, ..., H, W]."""
    return x.permute(0, *range(3, x.ndim), 1, 2)
