"""Activation checkpointing: less memory for more time in deep networks."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(block: nn.Module, x: Tensor) -> Tensor:
    """Return ``block(x)``, saving ``x`` alone and computing the rest again in the backward pass.

    Results, gradients, random numbers and the running statistics of batch norm are those of
    ``block(x)``, bit for bit where the same computation gives the same bits.

    >>> import torch
    >>> block, x = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), torch.randn(5, 3)
    >>> recompute_in_backward(block, x).sum().backward()
    >>> block[0].num_batches_tracked
    tensor(1)
    """
    contexts = nullcontext(), _FrozenStatistics(block)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts)


class _FrozenStatistics:
    """Gives the norms of a block copies of their buffers while the block runs a second time.

    Entered once for every backward pass through the same graph.
    """

    def __init__(self, block: nn.Module):
        self.norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def __enter__(self) -> None:
        self.originals = [(norm, *item) for norm in self.norms for item in norm.named_buffers()]
        for norm, name, buffer in self.originals:
            setattr(norm, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for norm, name, buffer in self.originals:
            setattr(norm, name, buffer)
