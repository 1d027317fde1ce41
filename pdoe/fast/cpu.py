"""What torch does, in less time on a CPU: layout, convolution, pooling, dropout.

Elsewhere, and where a program is captured (``torch.compile``, ``torch.export``, ``torch.jit``),
all of this is torch's own, but for the layout of a convolution on a GPU. Measured:
``experiments/benchmarks``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _is_plain(x: Tensor) -> bool:
    """Whether torch's own operations are to be used."""
    return x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing()


# ---- Layout -------------------------------------------------------------------------------------


class ChannelsLast(nn.Module):
    """Images [B, C, H, W], unchanged, in the layout in which a CPU convolves fastest.

    Their channels lie last in memory. The layers of this library, :class:`BatchNorm`,
    :class:`MaxPool`, :class:`Dropout` and what acts on each element keep that layout: at the
    beginning of a network it spares all copies from one layout into another. ``nn.BatchNorm3d`` and
    ``nn.MaxPool3d`` are slow in it. Numbers of 64 bits, for which oneDNN has no kernels, and images
    on other devices stay as they are.

    >>> ChannelsLast()(torch.ones(2, 3, 8, 8)).stride()
    (192, 1, 24, 3)
    """

    channels_last: bool | None = None  # True, False; None: but for numbers of 64 bits

    def forward(self, x: Tensor) -> Tensor:
        wanted = x.dtype != torch.float64 if self.channels_last is None else self.channels_last
        if not wanted or x.ndim != 4 or _is_plain(x):
            return x
        # Made anew, the strides tell the layout of images of one channel, too.
        rows = _pixels_first(x).flatten(1).unflatten(1, (*x.shape[2:], x.shape[1]))
        return _pixels_last(rows)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a map [B, ..., H, W] lie last in memory, and do not lie first."""
    return not x.is_contiguous() and _pixels_first(x).is_contiguous()


def to_channels_last(x: Tensor) -> Tensor:
    """A map [B, ..., H, W] in it; said by permutation, which torch.func.vmap understands."""
    return _pixels_last(_pixels_first(x).contiguous())


def _pixels_first(x: Tensor) -> Tensor:
    """[B, ..., H, W] -> [B, H, W, ...]."""
    return x.permute(0, -2, -1, *range(1, x.ndim - 2))


def _pixels_last(x: Tensor) -> Tensor:
    """[B, H, W, ...] -> [B, ..., H, W]."""
    return x.permute(0, *range(3, x.ndim), 1, 2)


# ---- Convolution --------------------------------------------------------------------------------


def conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    channels_last: bool | None = None,
) -> Tensor:
    """``torch.conv2d``, [B, C, H, W] -> [B, C', H', W'].

    On a CPU a channels-last map gives one, unless ``channels_last`` is False; all else gives a
    contiguous one. The convolution itself runs channels-last where asked to. By default it does so
    on a CPU with maps of 2 to 95 channels, which is faster, above all backwards; wider maps gain
    less than the copies cost. On a GPU it does in numbers of 16 bits, where the channels are
    multiples of 8: others would be padded.
    """
    plain = _is_plain(x)
    # By strides, which tell where there is but one channel or pixel.
    last = x.stride(1) == 1 and x.stride(3) == x.shape[1] and _pixels_first(x).is_contiguous()
    if last and not plain and channels_last is not False:
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
        x, kernel = _autocast(x), _autocast(kernel)
        bias = None if bias is None else _autocast(bias)
    return _ChannelsLastConv.apply(x, kernel, bias, stride, padding)


def _autocast(x: Tensor) -> Tensor:
    """What autocast does to an argument of a convolution."""
    eligible = x.is_floating_point() and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype("cpu")) if eligible else x


class _ChannelsLastConv(torch.autograd.Function):
    """``conv2d`` of contiguous maps that runs channels-last.

    torch's norms and pooling of lifted maps are slower so: the result and the gradient are
    contiguous, and so is the map that is kept for the backward pass, which the operation before
    keeps anyway.
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

        def derived(x: Tensor, kernel: Tensor, *wanted: bool) -> list[Tensor | None]:
            return torch.ops.aten.convolution_backward(
                gradient, x, kernel, [len(kernel)], [ctx.stride] * 2, [ctx.padding] * 2, [1, 1],
                False, [0, 0], 1, wanted,
            )  # fmt: skip

        # One after the other, so that only three copies of a map are there at a time.
        of_x, of_kernel, of_bias = None, None, None
        if any(ctx.needs_input_grad[1:3]):
            wanted = False, *ctx.needs_input_grad[1:3]
            _, of_kernel, of_bias = derived(to_channels_last(x), kernel, *wanted)
        if ctx.needs_input_grad[0]:
            # The values of x do not enter: memory that nobody touches takes none.
            batch, channels, *size = x.shape
            untouched = x.new_empty(batch, *size, channels).permute(0, 3, 1, 2)
            of_x, _, _ = derived(untouched, kernel, True, False, False)
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
    """In that layout, by the strides of axes of one element, too, from which torch takes it."""
    return x.flatten(1).view(x.shape)


# ---- Pooling ------------------------------------------------------------------------------------


class MaxPool(nn.Module):
    """2x2 max pooling over space of images [B, C, H, W] or lifted maps [B, C, G, H, W].

    The result of ``MaxPool3d((1, 2, 2))``: [..., H // 2, W // 2]; equivariant on even sizes. On a
    CPU it is made of whole-tensor operations, which are vectorised where PyTorch's pooling of
    contiguous maps compares number by number; channels-last maps stay so. Where a maximum is
    attained twice, one of the two has the gradient, not always the one that PyTorch picks.

    Raises:
        ValueError: for another number of axes, or less than 2 pixels on a side.

    >>> MaxPool()(torch.randn(2, 7, 8, 24, 25)).shape
    torch.Size([2, 7, 8, 12, 12])
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (4, 5) or min(x.shape[-2:]) < 2:
            raise ValueError(
                "MaxPool expects [B, C, H, W] or [B, C, G, H, W] with at least 2x2 pixels, "
                f"not a tensor {list(x.shape)}"
            )
        if _is_plain(x) or is_channels_last(x):
            return F.max_pool2d(x.flatten(1, -3), 2).unflatten(1, x.shape[1:-2])
        x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
        if torch.is_grad_enabled() and x.requires_grad:
            return _MaxPool.apply(x)[0]
        rows = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


class _MaxPool(torch.autograd.Function):
    """Remembers which of two rows and which of two columns was larger, a byte each."""

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
        left, right = _parted(gradient, from_left)
        rows = torch.stack([left, right], -1).flatten(-2)
        return torch.stack(_parted(rows, from_upper), -2).flatten(-3, -2)

    @staticmethod
    def jvp(ctx, tangent: Tensor):
        from_upper, from_left = ctx.saved_tensors
        rows = torch.where(from_upper, tangent[..., ::2, :], tangent[..., 1::2, :])
        return torch.where(from_left, rows[..., ::2], rows[..., 1::2]), None, None


def _parted(gradient: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the first and of the second of two numbers, of which one has it."""
    return torch.where(first, gradient, 0), torch.where(first, 0, gradient)


# ---- Dropout ------------------------------------------------------------------------------------


class Dropout(nn.Module):
    """Elementwise dropout of any tensor; on a CPU with a mask that is cheap to draw.

    PyTorch draws one random number per element on one thread, which takes as long as half a
    convolution of a small network. Here one number of 64 bits serves four elements, so that the
    probability is a multiple of 2^-16; the scale makes up for exactly that one.

    Args:
        p: probability of an element to become 0, at least 0 and below 1.

    >>> Dropout(0.2).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float):
        super().__init__()
        if not (isinstance(p, int | float) and 0 <= p < 1):
            raise ValueError(f"the probability of dropout is at least 0 and below 1, not {p!r}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        words = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 3) // 4,), device=x.device)
        numbers = words.view(torch.int16)[: x.numel()]
        if x.ndim > 3 and is_channels_last(x):
            numbers = _pixels_last(numbers.view(_pixels_first(x).shape))
        kept = numbers.view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
