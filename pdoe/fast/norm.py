"""Batch norm of lifted maps [B, C, G, H, W] in less time than torch's own.

Measured: ``experiments/benchmarks``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu import _pixels_first, _pixels_last, is_channels_last, to_channels_last


def _is_recorded() -> bool:
    """Whether the program is captured, or transformed by torch.func, which know torch's own."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    )


class BatchNorm(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` of lifted maps [B, C, G, H, W], in another way where torch's is slow.

    - On a CPU a map whose planar channels lie last in memory, see :class:`ChannelsLast`,
      stays so. torch has quick kernels for planar maps of that layout, none for lifted ones.
    - On a GPU, in training, torch gives a channel to one block of threads, so that the few fields
      of an equivariant layer leave most of the card idle. Here every orientation of a field has a
      block. Forward-mode derivatives are missing.

    In training the statistics of a field are put together from those of its parts, as
    ``nn.SyncBatchNorm`` does with those of several cards: the same numbers up to rounding.
    Elsewhere it is ``nn.BatchNorm3d``.

    >>> BatchNorm(7)(torch.randn(2, 7, 8, 5, 5)).shape
    torch.Size([2, 7, 8, 5, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        if self._by_orientation(x):
            return self._trained(_ByOrientation, x)
        if x.device.type != "cpu" or x.ndim != 5 or 1 not in x.shape or _is_recorded():
            return self._normalise(x)
        # An axis of length 1 may have any stride, and torch's batch norm takes the memory format
        # of a map and of its gradient from the strides: give both the usual ones.
        last = is_channels_last(x)
        y = self._normalise(_with_usual_strides(x, last))
        if y.requires_grad:
            y.register_hook(lambda gradient: _with_usual_strides(gradient, last))
        return y

    def _normalise(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self._is_usual(x) or not is_channels_last(x):
            return super().forward(x)
        if self.training and x.shape[2] > 1:
            return self._trained(_ByPosition, x)
        each = self.running_mean, self.running_var, self.weight, self.bias
        if self.training:
            self.num_batches_tracked.add_(1)
        else:
            each = (numbers.repeat_interleave(x.shape[2]) for numbers in each)
        y = F.batch_norm(_as_planar(x), *each, self.training, self.momentum, self.eps)
        return _as_lifted(y, x)

    def _trained(self, kind: type[torch.autograd.Function], x: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var, self.momentum, self.eps
        return kind.apply(x, self.weight, self.bias, *statistics)[0]

    def _is_usual(self, x: Tensor) -> bool:
        """Whether all that batch norm may have is there, and nothing is captured or transformed."""
        if _is_recorded():
            return False
        parts = self.weight, self.bias, self.momentum, *self._buffers.values()
        return (
            not any(part is None for part in parts)
            and self.track_running_stats
            and x.ndim == 5
            and x.shape[1] == self.num_features
            and self.weight.dtype in (x.dtype, _wide(x))
        )

    def _by_orientation(self, x: Tensor) -> bool:
        return (
            x.is_cuda
            and self.training
            and self._is_usual(x)
            and x.shape[2] > 1  # else there is nothing to part
            and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
            and self.weight.dtype == torch.float32
        )


# ---- On a CPU: maps [B, C, G, H, W] that are [B, H, W, C, G] in memory ---------------------------

IN_CACHE = 2**20  # bytes of a map that is written to be read at once


class _ByPosition(torch.autograd.Function):
    """Batch norm in training, its sums by channel and column of the map first.

    torch's kernels sum over the rows of a matrix whose columns are the channels. They are quick
    where it is wide: so it is given the rows of the map, of W C G numbers.
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
        # The mean and variance of 16 bits have 32 only where running ones of 32 are updated.
        unused = (x.new_zeros(rows.shape[1], dtype=_wide(x)) for _ in range(2))
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
            return *_twice_differentiable(gradient, *ctx.saved_tensors, ctx.eps), *[None] * 4
        gradient = to_channels_last(gradient)
        centre = _at_positions(mean, x)
        one = torch.ones_like(centre)
        _, of_product, of_gradient = torch.ops.aten.native_batch_norm_backward(
            _rows(gradient), _rows(x), one, None, None, centre, one, True, 0.0, [False, True, True]
        )  # the sums of gradient (x - mean) and of the gradient
        of_product = _by_field(of_product, x).sum((0, 2))
        of_gradient = _by_field(of_gradient, x).sum((0, 2))
        of_x = None
        if ctx.needs_input_grad[0]:
            count, scale = x.numel() // x.shape[1], weight * invstd
            slope = -scale * invstd.square() * of_product / count
            of_source = _planar(x, slope, -slope * mean)
            of_back = _planar(x, scale, -scale * of_gradient / count)
            of_x, wide = torch.empty_like(gradient), _wide(x)
            images = max(1, IN_CACHE * len(x) // x.nbytes)
            parts = (each.split(images) for each in (of_x, x, gradient))
            for part, source, back in zip(*parts, strict=True):
                # Both may be large beside their sum, and are rounded to 16 bits after it.
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
    """The map as an image [B, W C G, 1, H], channels-last."""
    return x.permute(0, 3, 4, 1, 2).flatten(2).transpose(1, 2).unsqueeze(2)


def _by_field(numbers: Tensor, x: Tensor) -> Tensor:
    """Those of a row, [W C G] -> [W, C, G]."""
    return numbers.view(x.shape[4], *x.shape[1:3])


def _at_positions(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers of the fields at the places of a row, [C] -> [W C G]."""
    return numbers[:, None].expand(x.shape[4], *x.shape[1:3]).contiguous().flatten()


def _planar(x: Tensor, *numbers: Tensor) -> list[Tensor]:
    """Numbers of the fields as those of planar channels, [C] -> [C G]."""
    return [each[:, None].expand(*x.shape[1:3]).contiguous().flatten() for each in numbers]


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale x + shift`` by planar channels, rounded once: batch norm in evaluation."""
    known = scale, shift, torch.zeros_like(shift), torch.ones_like(scale)
    y, _, _ = torch.ops.aten.native_batch_norm(_as_planar(x), *known, False, 0.0, 0.0)
    return _as_lifted(y, x)


def _as_planar(x: Tensor) -> Tensor:
    """A channels-last map [B, C, G, H, W] as a channels-last image [B, CG, H, W].

    ``flatten(1, 2)`` would give a batch of one image a batch stride that torch does not take for
    channels-last.
    """
    return _pixels_last(_pixels_first(x).flatten(3))


def _with_usual_strides(x: Tensor, channels_last: bool) -> Tensor:
    """The map [B, C, G, H, W] in a memory format, the strides of axes of length 1 included."""
    if not channels_last:
        return x.flatten().view(x.shape)
    pixels = _pixels_first(x)
    return _pixels_last(pixels.flatten().view(pixels.shape))


def _as_lifted(planar: Tensor, x: Tensor) -> Tensor:
    """[B, CG, H, W] -> [B, C, G, H, W]; as no view, so that ReLU in place costs what it does."""
    return torch.ops.aten._unsafe_view(planar, x.shape)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _twice_differentiable(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, eps: float
) -> tuple[Tensor, ...]:
    """The gradients of x, weight and bias by torch's operation, which can be differentiated."""
    arguments = weight.to(mean.dtype), None, None, mean, invstd, True, eps, [True, True, True]
    of_x, *others = torch.ops.aten.native_batch_norm_backward(
        gradient.contiguous(), x.contiguous(), *arguments
    )
    return of_x, *(each.to(weight.dtype) for each in others)


# ---- On a GPU -----------------------------------------------------------------------------------


class _ByOrientation(torch.autograd.Function):
    """Batch norm in training, its sums by channel and orientation first."""

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
            return *_twice_differentiable(gradient, *ctx.saved_tensors, ctx.eps), *[None] * 4
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
