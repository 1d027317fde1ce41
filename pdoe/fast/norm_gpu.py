"""Batch norm in training on a GPU, of contiguous maps [B, C, G, H, W]."""

from __future__ import annotations

import torch
from torch import Tensor

from .norm_cpu import differentiable_gradients


class NormByOrientation(torch.autograd.Function):
    """Batch norm in training that sums by field and orientation first."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        channels, order = x.shape[1:3]
        parts = torch.batch_norm_stats(x.flatten(1, 2), eps)
        mean, invstd = (part.view(channels, order).t().contiguous() for part in parts)
        count = torch.full_like(mean[:, 0], x.numel() // (channels * order))
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            x, mean, invstd, running_mean, running_var, momentum, eps, count
        )
        return torch.batch_norm_elemt(x, weight, bias, mean, invstd, eps), mean, invstd

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, _, _, _, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: None):
        x, weight, mean, invstd = ctx.saved_tensors
        x, gradient = x.contiguous(), gradient.contiguous()
        if torch.is_grad_enabled():
            return *differentiable_gradients(gradient, *ctx.saved_tensors, ctx.eps), *[None] * 4
        channels, order = x.shape[1:3]
        each = (part.repeat_interleave(order) for part in (mean, invstd, weight))
        sums = torch.batch_norm_backward_reduce(
            gradient.flatten(1, 2), x.flatten(1, 2), *each, True, True, True
        )
        of_gradient, of_product, of_weight, of_bias = (s.view(channels, order).sum(1) for s in sums)
        of_x = None
        if ctx.needs_input_grad[0]:
            count = torch.full((1,), x.numel() // channels, dtype=torch.int32, device=x.device)
            of_x = torch.batch_norm_backward_elemt(
                gradient, x, mean, invstd, weight, of_gradient, of_product, count
            )
        return of_x, of_weight, of_bias, None, None, None, None
