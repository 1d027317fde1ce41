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


def repeat_evenly(labels: Tensor, count: int) -> Tensor:
    """Return int64 indices ``[count]`` that repeat images, with all classes equally often.

    The images of a class take turns, in their order, so that their numbers differ by at most 1.
    Those of the classes do, too, the first classes having one more.

    Args:
        labels: int64 ``[N]``.
        count: the number of indices.

    Raises:
        ValueError: there are fewer indices than images.

    >>> repeat_evenly(torch.tensor([0, 0, 0, 1]), 6).tolist()
    [0, 3, 1, 3, 2, 3]
    """
    if count < len(labels):
        raise ValueError(f"an epoch of {count} images leaves out some of the {len(labels)}")
    indices = torch.empty(count, dtype=torch.int64, device=labels.device)
    classes = labels.unique()
    for number, label in enumerate(classes):
        own, places = (labels == label).nonzero().squeeze(1), indices[number :: len(classes)]
        indices[number :: len(classes)] = own.repeat(-(-len(places) // len(own)))[: len(places)]
    return indices


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
