"""Batches as index tensors, and the normalisation of images on the way into a network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from .dataset import Statistic


def epoch_batches(
    count: int,
    batch_size: int,
    generator: Generator,
    drop_last: bool = True,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yield one epoch: int64 index tensors that cut a permutation of ``range(count)`` into batches.

    The permutation comes from the CPU ``generator`` and goes to ``device`` in one piece, so that a
    GPU never waits for its indices. ``drop_last`` leaves out a shorter last batch.

    Raises:
        ValueError: a size below 1, or an epoch without any batch.
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
    """Normalise pixel values in 0..255: (value / 256 - mean) / std as ``dtype`` ``[B, C, H, W]``.

    ``mean`` and ``std`` are numbers, or tuples of C numbers. They are never made into a tensor, so
    that a GPU does not wait for one.

    >>> to_input(torch.full((1, 1, 1, 1), 128), 0.25, 0.5).item()
    0.5
    """
    x = images.to(dtype, copy=True).div_(256)
    if isinstance(mean, tuple):
        for channel, *numbers in zip(x.unbind(1), mean, std, strict=True):
            channel.sub_(numbers[0]).div_(numbers[1])
        return x
    return x.sub_(mean).div_(std)
