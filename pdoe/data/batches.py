"""Batches as index tensors, and what happens to images on the way into a network."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


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


def to_input(images: Tensor, mean: float, std: float) -> Tensor:
    """(value / 256 - mean) / std as float32 `[B, C, H, W]`, for pixel values in 0..255."""
    return images.to(torch.float32, copy=True).div_(256).sub_(mean).div_(std)


def random_rotation(images: Tensor, generator: Generator) -> Tensor:
    """Turn every image of `[B, C, H, W]` by its own angle, uniform in [0, 2 pi).

    Angles come from the CPU `generator`, whatever the device of the images: one seed, one augmented
    epoch. The result is that of `rotate`.
    """
    angles = torch.rand(len(images), generator=generator, dtype=torch.float64) * (2 * math.pi)
    return rotate(images, angles)


def random_quarter_turns(images: Tensor, generator: Generator) -> Tensor:
    """Turn every square image of `[B, C, H, H]` by its own multiple of 90 degrees, exactly.

    The turns come from the CPU `generator`, whatever the device of the images.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"expected square images [B, C, H, H], got {list(images.shape)}")
    turns = torch.randint(4, (len(images),), generator=generator)
    turned = images.clone()
    for quarters in (1, 2, 3):
        chosen = (turns == quarters).nonzero().squeeze(1).to(images.device)
        turned[chosen] = torch.rot90(images[chosen], quarters, (2, 3))
    return turned


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Turn images `[B, C, H, W]` by `angles` `[B]` (radians, counter-clockwise, y up).

    Bilinear about the centre of the image, zeros outside. Exact (up to rounding) for multiples of
    90 degrees on square images. uint8 comes back as float32 in the same scale 0..255; float32 and
    float64 keep their type.
    """
    if images.ndim != 4 or angles.shape != images.shape[:1]:
        raise ValueError(
            "expected images [B, C, H, W] and angles [B], "
            f"got {list(images.shape)} and {list(angles.shape)}"
        )
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    height, width = images.shape[2:]
    c, s = angles.cos(), angles.sin()
    zero = torch.zeros_like(c)
    # Output to source in grid_sample's frame (y down, each axis scaled to [-1, 1]): the turn back.
    rows = [
        torch.stack([c, -s * (height / width), zero], dim=1),
        torch.stack([s * (width / height), c, zero], dim=1),
    ]
    theta = torch.stack(rows, dim=1).to(dtype).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.to(dtype), grid, align_corners=False)
