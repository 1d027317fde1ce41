"""Max pooling over space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..maps import require_floats
from .layout import is_channels_last
from .modes import uses_torch_alone


class MaxPool(nn.Module):
    """2x2 max pooling over space of images [B, C, H, W] or lifted maps [B, C, G, H, W].

    The result [..., H // 2, W // 2] is that of ``nn.MaxPool3d((1, 2, 2))``. It commutes exactly
    with rotations and reflections of the pixel grid if H and W are even.

    On a CPU the maximum is taken by whole-tensor operations, which are vectorised; PyTorch's
    pooling of contiguous maps is not. Channels-last maps stay channels-last. Where several pixels
    attain the maximum, one of them has the gradient, not always the one that PyTorch picks.

    Raises:
        TypeError: the input is not a tensor of floating-point numbers.
        ValueError: the input has another number of axes, or a side below 2 pixels.

    >>> MaxPool()(torch.randn(2, 7, 8, 24, 25)).shape
    torch.Size([2, 7, 8, 12, 12])
    """

    def forward(self, x: Tensor) -> Tensor:
        require_floats(self, x)
        if x.ndim not in (4, 5) or min(x.shape[-2:]) < 2:
            raise ValueError(
                "MaxPool expects [B, C, H, W] or [B, C, G, H, W] with at least 2x2 pixels, "
                f"not a tensor {list(x.shape)}"
            )
        if uses_torch_alone(x) or is_channels_last(x):
            return F.max_pool2d(x.flatten(1, -3), 2).unflatten(1, x.shape[1:-2])
        x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
        if torch.is_grad_enabled() and x.requires_grad:
            return _MaxPool.apply(x)[0]
        rows = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


class _MaxPool(torch.autograd.Function):
    """Max pooling that saves which row and which column was larger, one byte each."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        upper, lower = x[..., ::2, :], x[..., 1::2, :]
        rows = torch.maximum(upper, lower)
        left, right = rows[..., ::2], rows[..., 1::2]
        largest = torch.maximum(left, right)
        return largest, upper >= lower, left >= right

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.save_for_forward(*output[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: None) -> Tensor:
        from_upper, from_left = ctx.saved_tensors
        left, right = _split(gradient, from_left)
        rows = torch.stack([left, right], -1).flatten(-2)
        return torch.stack(_split(rows, from_upper), -2).flatten(-3, -2)

    @staticmethod
    def jvp(ctx, tangent: Tensor):
        from_upper, from_left = ctx.saved_tensors
        rows = torch.where(from_upper, tangent[..., ::2, :], tangent[..., 1::2, :])
        return torch.where(from_left, rows[..., ::2], rows[..., 1::2]), None, None


def _split(gradient: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Split a gradient between two candidates: ``first`` says which of them was the maximum."""
    return torch.where(first, gradient, 0), torch.where(first, 0, gradient)
