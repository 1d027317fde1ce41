"""Activation checkpointing: memory for time in deep networks."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, of which ``x`` alone is kept; the rest is computed again for the gradient.

    Results, gradients, random numbers and the running statistics of batch norm are those of
    ``block(x)``: bit for bit, where the same computation gives the same bits.

    >>> import torch
    >>> block, x = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), torch.randn(5, 3)
    >>> recomputed(block, x).sum().backward()
    >>> block[0].num_batches_tracked
    tensor(1)
    """
    contexts = nullcontext(), _StatisticsLeftAlone(block)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts)


class _StatisticsLeftAlone:
    """Computed again, a block sees its batch a second time: meanwhile its norms count on copies.

    It is entered once for every backward pass through the same graph.
    """

    def __init__(self, block: nn.Module):
        self.norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def __enter__(self) -> None:
        self.kept = [(norm, *item) for norm in self.norms for item in norm.named_buffers()]
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer)
