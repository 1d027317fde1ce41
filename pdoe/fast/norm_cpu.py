"""Batch norm in training on a CPU, of maps [B, C, G, H, W] that are channels-last."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import pixels_first, pixels_last, to_channels_last

CACHED_BYTES = 2**20  # the part of a map that stays in the CPU's cache until it is read again


class NormByPosition(torch.autograd.Function):
    """Batch norm in training that sums by field, orientation and column of the map first.

    torch's kernels sum over the rows of a matrix whose columns are the channels, and are fast on
    wide matrices. Here a column is one of the W C G numbers in a row of the map.
    """

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
        rows = _rows(x)
        # Of 16-bit maps torch returns float32 statistics only if float32 running ones are given.
        unused = (x.new_zeros(rows.shape[1], dtype=choose_accumulation_dtype(x)) for _ in range(2))
        means, variances = torch.ops.aten.batch_norm_update_stats(rows, *unused, 0.0)
        means, variances = _by_field(means, x), _by_field(variances, x)
        mean = means.mean((0, 2))
        variance = (variances + (means - mean[:, None]).square()).mean((0, 2))
        count = x.numel() // x.shape[1]
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
        invstd = (variance + eps).rsqrt()
        scale = weight * invstd
        return _affine(x, *_planar(x, scale, bias - mean * scale)), mean, invstd

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, _, _, _, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])
        ctx.save_for_forward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: None):
        x, weight, mean, invstd = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *differentiable_gradients(gradient, *ctx.saved_tensors, ctx.eps), *[None] * 4
        gradient = to_channels_last(gradient)
        centre = _at_positions(mean, x)
        one = torch.ones_like(centre)
        _, of_product, of_gradient = torch.ops.aten.native_batch_norm_backward(
            _rows(gradient), _rows(x), one, None, None, centre, one, True, 0.0, [False, True, True]
        )  # sums of gradient * (x - mean), and of the gradient
        of_product = _by_field(of_product, x).sum((0, 2))
        of_gradient = _by_field(of_gradient, x).sum((0, 2))
        of_x = None
        if ctx.needs_input_grad[0]:
            count, scale = x.numel() // x.shape[1], weight * invstd
            slope = -scale * invstd.square() * of_product / count
            of_source = _planar(x, slope, -slope * mean)
            of_back = _planar(x, scale, -scale * of_gradient / count)
            of_x, wide = torch.empty_like(gradient), choose_accumulation_dtype(x)
            images = max(1, CACHED_BYTES * len(x) // x.nbytes)
            parts = (each.split(images) for each in (of_x, x, gradient))
            for part, source, back in zip(*parts, strict=True):
                # Both terms may be large beside their sum, so only the sum is rounded to 16 bits.
                sum_of_both = _affine(source.to(wide), *of_source)
                part.copy_(sum_of_both.add_(_affine(back.to(wide), *of_back)))
        of_weight, of_bias = of_product * invstd, of_gradient
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype), *[None] * 4

    @staticmethod
    def jvp(ctx, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None, *_: None):
        x, weight, mean, invstd = ctx.saved_tensors
        weight, mean, invstd = (numbers[:, None, None, None] for numbers in (weight, mean, invstd))
        normal, axes = (x - mean) * invstd, (0, 2, 3, 4)
        tangent = torch.zeros_like(x)
        if of_x is not None:
            along = (of_x * normal).mean(axes, keepdim=True)
            tangent = weight * invstd * (of_x - of_x.mean(axes, keepdim=True) - normal * along)
        if of_weight is not None:
            tangent = tangent + normal * of_weight[:, None, None, None]
        if of_bias is not None:
            tangent = tangent + of_bias[:, None, None, None]
        return tangent.to(x.dtype), None, None


def _rows(x: Tensor) -> Tensor:
    """View the map as a channels-last image [B, WCG, 1, H]."""
    return x.permute(0, 3, 4, 1, 2).flatten(2).transpose(1, 2).unsqueeze(2)


def _by_field(numbers: Tensor, x: Tensor) -> Tensor:
    """Split the numbers of a row, [WCG] -> [W, C, G]."""
    return numbers.view(x.shape[4], *x.shape[1:3])


def _at_positions(numbers: Tensor, x: Tensor) -> Tensor:
    """Repeat one number per field at every place of a row, [C] -> [WCG]."""
    return numbers[:, None].expand(x.shape[4], *x.shape[1:3]).contiguous().flatten()


def _planar(x: Tensor, *numbers: Tensor) -> list[Tensor]:
    """Repeat one number per field for every planar channel, [C] -> [CG]."""
    return [each[:, None].expand(*x.shape[1:3]).contiguous().flatten() for each in numbers]


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * x + shift`` by planar channels, rounded once: batch norm in evaluation mode."""
    known = scale, shift, torch.zeros_like(shift), torch.ones_like(scale)
    y, _, _ = torch.ops.aten.native_batch_norm(as_planar(x), *known, False, 0.0, 0.0)
    return as_lifted(y, x)


def as_planar(x: Tensor) -> Tensor:
    """View a channels-last map [B, C, G, H, W] as a channels-last image [B, CG, H, W].

    The strides that ``flatten(1, 2)`` gives a batch of one image do not count as channels-last.
    """
    return pixels_last(pixels_first(x).flatten(3))


def as_lifted(planar: Tensor, x: Tensor) -> Tensor:
    """Restore the group axis: [B, CG, H, W] -> [B, C, G, H, W].

    Not as a view in the eyes of autograd, so that an in-place ReLU needs no copy.
    """
    return torch.ops.aten._unsafe_view(planar, x.shape)


def choose_accumulation_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which sums over ``x`` are taken."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def differentiable_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, eps: float
) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight and bias by torch's own, differentiable operation."""
    arguments = weight.to(mean.dtype), None, None, mean, invstd, True, eps, [True, True, True]
    of_x, *others = torch.ops.aten.native_batch_norm_backward(
        gradient.contiguous(), x.contiguous(), *arguments
    )
    return of_x, *(each.to(weight.dtype) for each in others)
