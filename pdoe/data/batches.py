"""Batches as index tensors, and what happens to images on the way into a network."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from .dataset import Statistic


def epoch_batches(
    count: int,
    batch_size: int,
    generator: Generator,
    drop_last: bool = True,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """One epoch: int64 index tensors that cut a permutation of `range(count)` into batches.

    The permutation is drawn at once from the CPU `generator` and goes to `device` in one piece, so
    that no step of a GPU waits for its indices. With `drop_last` a shorter last batch
    is left out. Raises `ValueError` for sizes below 1 and for an epoch without any batch.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    batches = torch.randperm(count, generator=generator).to(device).split(batch_size)
    if drop_last:
        batches = batches[: count // batch_size]
    if not batches:
        raise ValueError(f"{count} images give no full batch of {batch_size}; use drop_last=False")
    return iter(batches)


def to_input(
    images: Tensor, mean: Statistic, std: Statistic, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(value / 256 - mean) / std as `dtype` `[B, C, H, W]`, for pixel values in 0..255.

    `mean` and `std` are numbers, or both tuples of C numbers, one for each channel. No tensor is
    made of them, so that a GPU need not wait for its contents.
    """
    x = images.to(dtype, copy=True).div_(256)
    if isinstance(mean, tuple):
        for channel, *numbers in zip(x.unbind(1), mean, std, strict=True):
            channel.sub_(numbers[0]).div_(numbers[1])
        return x
    return x.sub_(mean).div_(std)


def random_rotation(images: Tensor, generator: Generator, mode: str = "bilinear") -> Tensor:
    """Turn every image of `[B, C, H, W]` by its own angle, uniform in [0, 2 pi).

    Angles come from the CPU `generator`, whatever the device of the images: one seed, one augmented
    epoch. The result is that of `rotate`.
    """
    angles = torch.rand(len(images), generator=generator, dtype=torch.float64) * (2 * math.pi)
    return rotate(images, angles, mode)


def random_stretch(images: Tensor, generator: Generator, reach: float = 0.15) -> Tensor:
    """Turn every image of `[B, C, H, W]` by its own angle and stretch it along its own two axes.

    The axes are perpendicular and turned by an angle, both angles uniform in [0, 2 pi); each length
    along them is multiplied by exp(u), u uniform in -`reach`..`reach`: thus also shear and scale.
    About the centre, bilinear, zeros outside, float32 as `rotate`; draws are from the CPU
    `generator`.
    """
    draws = torch.rand((4, len(images)), generator=generator, dtype=torch.float64)
    first, second = (_turns(2 * math.pi * part) for part in draws[:2])
    lengths = (reach * (2 * draws[2:].T - 1)).exp()
    return _sampled(images, first * lengths[:, None] @ second, "bilinear")


def random_quarter_turns(images: Tensor, generator: Generator) -> Tensor:
    """Turn every square image of `[B, C, H, H]` by its own multiple of 90 degrees, exactly.

    The turns come from the CPU `generator`, whatever the device of the images.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"expected square images [B, C, H, H], got {list(images.shape)}")
    turns = torch.randint(4, (len(images),), generator=generator)
    turned = images.clone()
    for quarters in (1, 2, 3):
        chosen = (turns == quarters).nonzero().squeeze(1).to(images.device, non_blocking=True)
        turned[chosen] = torch.rot90(images[chosen], quarters, (2, 3))
    return turned


def random_crop_flip(
    images: Tensor,
    generator: Generator,
    padding: int = 4,
    flip: bool = True,
    fill: Statistic = 0.0,
) -> Tensor:
    """Shift every image of `[B, C, H, W]` by up to `padding` pixels, and mirror every second one.

    Each image is padded on all sides, cut out again at its own offset, both coordinates uniform in
    0..2 padding, and with `flip` turned left to right with probability 1/2. Offsets and flips come
    from the CPU `generator`, whatever the device of the images. The result is that of `crop_flip`.
    """
    offsets = torch.randint(2 * padding + 1, (len(images), 2), generator=generator)
    flips = torch.randint(2 if flip else 1, (len(images),), generator=generator).bool()
    return crop_flip(images, offsets, flips, padding, fill)


def crop_flip(
    images: Tensor, offsets: Tensor, flips: Tensor, padding: int, fill: Statistic = 0.0
) -> Tensor:
    """Pad `[B, C, H, W]`, cut out windows `[H, W]`, and mirror some of them left to right.

    `offsets` int64 `[B, 2]` are the row and the column of the upper left corner of each window in
    the padded image, in 0..2 `padding`; `flips` bool `[B]`. `fill` is the value of the padding in
    the scale of the images: a number, or a tuple with one for each channel. `256 * mean` is exactly
    0 after `to_input` in float32, as if the images were normalised first and padded with 0 then;
    0 is black. uint8 comes back as float32 in the same scale 0..255; others keep their type.
    """
    if images.ndim != 4 or offsets.shape != (len(images), 2) or flips.shape != (len(images),):
        raise ValueError(
            "expected images [B, C, H, W], offsets [B, 2] and flips [B], "
            f"got {list(images.shape)}, {list(offsets.shape)} and {list(flips.shape)}"
        )
    count, channels, height, width = images.shape
    fills = fill if isinstance(fill, tuple) else (fill,) * channels
    dtype = images.dtype if images.is_floating_point() else torch.float32
    wide = width + 2 * padding
    padded = images.new_empty((count, channels, height + 2 * padding, wide), dtype=dtype)
    for channel, value in zip(padded.unbind(1), fills, strict=True):
        channel.fill_(value)
    padded[:, :, padding : padding + height, padding : padding + width] = images

    # Of every pixel its place in the padded image, the same for all channels.
    down, across = torch.arange(height), torch.arange(width)
    rows = offsets[:, :1] + down
    columns = offsets[:, 1:] + torch.where(flips[:, None], across.flip(0), across)
    places = (rows[:, :, None] * wide + columns[:, None, :]).flatten(1)[:, None]
    places = places.to(images.device, non_blocking=True).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).view(images.shape)


def random_shift_flip(images: Tensor, generator: Generator, reach: float = 2.0) -> Tensor:
    """Shift `[B, C, H, W]` by up to `reach` pixels, not whole ones, and mirror every second image.

    Both coordinates of a shift are uniform in -`reach`..`reach`, each image's own; bicubic,
    reflected at the border, in the scale of the images and as float32 (float64 stays). Shifts and
    flips come from the CPU `generator`.
    """
    shifts = reach * (
        2 * torch.rand((len(images), 2), generator=generator, dtype=torch.float64) - 1
    )
    signs = 1.0 - 2 * torch.randint(2, (len(images),), generator=generator).double()
    maps = torch.diag_embed(torch.stack([signs, torch.ones_like(signs)], dim=1))
    return _sampled(images, maps, "bicubic", "reflection", shifts)


def rotate(images: Tensor, angles: Tensor, mode: str = "bilinear") -> Tensor:
    """Turn images `[B, C, H, W]` by `angles` `[B]` (radians, counter-clockwise, y up).

    About the centre of the image, zeros outside; `mode` is bilinear or nearest. Exact (up to
    rounding) for multiples of 90 degrees on square images. uint8 comes back as float32 in the same
    scale 0..255; float32 and float64 keep their type.
    """
    if images.ndim != 4 or angles.shape != images.shape[:1]:
        raise ValueError(
            "expected images [B, C, H, W] and angles [B], "
            f"got {list(images.shape)} and {list(angles.shape)}"
        )
    return _sampled(images, _turns(angles), mode)


def _turns(angles: Tensor) -> Tensor:
    """Of angles `[B]` what leads from output to source, y down: the turns back, `[B, 2, 2]`."""
    c, s = angles.cos(), angles.sin()
    return torch.stack([c, -s, s, c], dim=1).view(-1, 2, 2)


def _sampled(
    images: Tensor, maps: Tensor, mode: str, outside: str = "zeros", shifts: Tensor | float = 0.0
) -> Tensor:
    """Images under affine maps from output to source, y down, in pixels from the centre.

    `maps` `[B, 2, 2]` come first, `shifts` `[B, 2]` after them.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images [B, C, H, W], got {list(images.shape)}")
    size = torch.tensor(images.shape[:1:-1], dtype=maps.dtype)  # width, height
    # The frame of grid_sample scales each axis to [-1, 1].
    theta = F.pad(maps * (size / size[:, None]), (0, 1))
    theta[..., 2] = 2 * shifts / size
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    theta = theta.to(dtype).to(images.device, non_blocking=True)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.to(dtype), grid, mode, outside, align_corners=False)
