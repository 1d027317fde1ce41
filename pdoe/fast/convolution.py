"""``torch.conv2d`` in the faster memory format."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import has_channels_last_strides, to_channels_last
from .modes import uses_torch_alone


def conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    channels_last: bool | None = None,
) -> Tensor:
    """``torch.conv2d`` in the faster memory format, [B, C, H, W] -> [B, C', H', W'].

    On a CPU a channels-last map gives a channels-last result, unless ``channels_last`` is False.
    All other results are contiguous. Captured programs (``torch.compile``, ``torch.export``,
    ``torch.jit``) use torch's own. Measured: ``experiments/benchmarks``.

    Args:
        x, kernel, bias, stride, padding: as in ``torch.conv2d``.
        channels_last: whether the convolution itself runs channels-last. None: on a CPU for maps
            of 2 to 95 channels (above all the backward pass is faster; wider maps gain less than
            the conversion costs), on a GPU for 16-bit maps whose channels are multiples of 8
            (others would be padded).
    """
    plain = uses_torch_alone(x)
    if not plain and channels_last is not False and has_channels_last_strides(x):
        return to_channels_last(F.conv2d(x, kernel, bias, stride, padding))
    if channels_last is None and x.device.type == "cuda":
        short = x.dtype.itemsize == 2 or torch.is_autocast_enabled("cuda")
        channels_last = short and x.shape[1] % 8 == kernel.shape[0] % 8 == 0
    elif channels_last is None:
        channels_last = not plain and 1 < x.shape[1] < 96
    if not channels_last:
        x = x if plain else _contiguous(x)
        return F.conv2d(x, _contiguous(kernel), bias, stride, padding).contiguous()
    if plain:
        x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, kernel, bias, stride, padding).contiguous()
    if torch.is_autocast_enabled("cpu"):
        x, kernel = _cast(x), _cast(kernel)
        bias = None if bias is None else _cast(bias)
    return _ChannelsLastConv.apply(x, kernel, bias, stride, padding)


def _cast(x: Tensor) -> Tensor:
    """Cast an argument of a convolution as autocast does."""
    eligible = x.is_floating_point() and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype("cpu")) if eligible else x


class _ChannelsLastConv(torch.autograd.Function):
    """``conv2d`` of contiguous maps that runs channels-last.

    The result and the gradient are contiguous, since torch's norms and pooling of lifted maps are
    slower on channels-last ones. The map saved for the backward pass is the contiguous input,
    which the previous operation saves anyway, so no copy stays in memory.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, padding: int):
        return F.conv2d(to_channels_last(x), kernel, bias, stride, padding).contiguous()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, kernel, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, kernel)
        ctx.save_for_forward(x, kernel)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, kernel = ctx.saved_tensors
        gradient = to_channels_last(gradient)

        def differentiate(x: Tensor, kernel: Tensor, *wanted: bool) -> list[Tensor | None]:
            return torch.ops.aten.convolution_backward(
                gradient, x, kernel, [len(kernel)], [ctx.stride] * 2, [ctx.padding] * 2, [1, 1],
                False, [0, 0], 1, wanted,
            )  # fmt: skip

        # One gradient after the other, so that at most three copies of a map exist at a time.
        of_x, of_kernel, of_bias = None, None, None
        if any(ctx.needs_input_grad[1:3]):
            wanted = False, *ctx.needs_input_grad[1:3]
            _, of_kernel, of_bias = differentiate(to_channels_last(x), kernel, *wanted)
        if ctx.needs_input_grad[0]:
            # The gradient does not depend on the values of x; untouched memory is never allocated.
            batch, channels, *size = x.shape
            untouched = x.new_empty(batch, *size, channels).permute(0, 3, 1, 2)
            of_x, _, _ = differentiate(untouched, kernel, True, False, False)
            del gradient
            of_x = of_x.contiguous()
        return of_x, of_kernel, of_bias, None, None

    @staticmethod
    def jvp(ctx, x_tangent: Tensor | None, kernel_tangent: Tensor | None, bias_tangent, *_):
        x, kernel = ctx.saved_tensors
        tangent: Tensor | float = 0.0
        if x_tangent is not None:
            tangent = tangent + F.conv2d(x_tangent, kernel, None, ctx.stride, ctx.padding)
        if kernel_tangent is not None:
            tangent = tangent + F.conv2d(x, kernel_tangent, None, ctx.stride, ctx.padding)
        if bias_tangent is not None:
            tangent = tangent + bias_tangent[:, None, None]
        return tangent


def _contiguous(x: Tensor) -> Tensor:
    """Make ``x`` contiguous, the strides of axes of length 1 included."""
    return x.flatten(1).view(x.shape)
