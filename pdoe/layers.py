"""Equivariant layers on plain tensors: images [B, C, H, W] and lifted maps [B, C, G, H, W].

A layer is a learnt weight times a constant filter bank, and one ``conv2d``. On a lifted map
``BatchNorm3d(C)``, ``ReLU`` and ``MaxPool3d((1, 2, 2))`` (even sizes) are equivariant as they are;
``MaxPool`` and ``Dropout`` do what torch's do in less time on a CPU.
"""

from __future__ import annotations

import math
import operator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .banks import filter_bank
from .groups import PointGroup


class _BankConv(nn.Module):
    """What the two convolutions share: arguments, bank, initialisation; weight [C', C, ..., K]."""

    def __init__(
        self,
        group: PointGroup,
        in_channels: int,
        out_channels: int,
        bank: str = "operators",
        size: int | None = None,
        offset: float = 0.0,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        constant = filter_bank(group, bank, size, offset)  # checks its arguments
        support = constant.shape[-1]
        if padding is None:
            if support % 2 == 0:
                raise ValueError(
                    f"no padding keeps the size of a map under a {support}x{support} kernel: "
                    "give padding, or an odd size"
                )
            padding = (support - 1) // 2
        if not isinstance(bias, bool):
            raise TypeError(f"bias is True or False, not {bias!r}")
        self.group = group
        self.in_channels = _integer("in_channels", in_channels, 1)
        self.out_channels = _integer("out_channels", out_channels, 1)
        self.bank_kind, self.bank_size, self.offset = bank, size, float(offset)
        self.stride = _integer("stride", stride, 1)
        self.padding = _integer("padding", padding, 0)
        self.kernel_size = support

        made = {"device": device, "dtype": dtype}
        shape = (self.out_channels, self.in_channels, *self._group_axes(), constant.shape[1])
        self.weight = nn.Parameter(torch.empty(shape, **made))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **made)) if bias else None
        self.register_buffer("bank", None, persistent=False)
        self._kept: tuple[Tensor, tuple[int, int], Tensor] | None = None
        self._fill_constants()
        self.reset_parameters()

    def _group_axes(self) -> tuple[int, ...]:
        """Sizes of the weight's axes between channels and filters."""
        return ()

    def reset_parameters(self) -> None:
        """Truncated normal of variance 2 / fan_in over the pixels of the filters; no bias.

        As ``variance_scaling_initializer`` of TensorFlow 1, which the authors' code uses: the
        factor 1.3 makes up for cutting the normal off at two standard deviations.
        """
        std = math.sqrt(1.3 * 2 / self.weight[0].numel())
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _fill_constants(self) -> None:
        """The bank, from float64, in the weight's dtype and on its device."""
        constant = filter_bank(self.group, self.bank_kind, self.bank_size, self.offset)
        self.bank = torch.from_numpy(constant).to(self.weight)

    def _apply(self, fn, recurse=True):
        # Constants are made anew where the module moves: `.double()` then loses no digits, and
        # `.to_empty()` leaves no garbage.
        super()._apply(fn, recurse)
        self._fill_constants()
        self._kept = None
        return self

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def __getstate__(self):
        return {**self.__dict__, "_kept": None}

    def _kernel_at_hand(self) -> Tensor:
        """The kernel, built once for as long as the layer evaluates with the same weight.

        Kept only in evaluation mode without gradients. What PyTorch counts as a change of the
        weight is seen; a write through ``weight.data``, which it does not count, is seen from the
        next call of ``train()`` or ``eval()`` on.
        """
        weight = self._parameters.get("weight")  # a parametrised one is computed anew each time
        if (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or type(weight) is not nn.Parameter
            or weight.is_inference()
        ):
            return self.kernel()
        state = weight._version, weight.data_ptr()
        if self._kept is None or self._kept[0] is not weight or self._kept[1] != state:
            self._kept = weight, state, self.kernel()
        return self._kept[2]

    def _convolve(self, x: Tensor) -> Tensor:
        """One convolution of planar channels: [B, C(G), H, W] -> [B, C', G, H', W']."""
        bias = None if self.bias is None else self.bias.repeat_interleave(len(self.group))
        kernel = self._kernel_at_hand()
        captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if x.device.type == "cpu" and 1 < x.shape[1] < 96 and not captured:
            if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
                dtype = torch.get_autocast_dtype("cpu")
                x, kernel = x.to(dtype), kernel.to(dtype)
                bias = None if bias is None else bias.to(dtype)
            y = _NarrowConv.apply(x, kernel, bias, self.stride, self.padding)
        else:
            y = F.conv2d(x, kernel, bias, self.stride, self.padding).contiguous()
        return y.unflatten(1, (self.out_channels, len(self.group)))

    def extra_repr(self) -> str:
        k = self.kernel_size
        return (
            f"{self.group.name}, {self.in_channels} -> {self.out_channels}, "
            f"bank={self.bank_kind} {k}x{k}, offset={self.offset:.4g}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}"
        )


class _NarrowConv(torch.autograd.Function):
    """``conv2d`` of contiguous maps that runs channels-last, as is faster on a CPU.

    Norms, ReLU and pooling are slower so: the result and the gradient are contiguous, and so is
    the map that is kept for the backward pass, which the operation before keeps anyway.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, padding: int):
        return F.conv2d(_channels_last(x), kernel, bias, stride, padding).contiguous()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, kernel, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, kernel)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, kernel = ctx.saved_tensors
        x_gradient, *gradients = torch.ops.aten.convolution_backward(
            _channels_last(gradient), _channels_last(x), kernel, [len(kernel)],
            [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], 1, ctx.needs_input_grad[:3],
        )  # fmt: skip
        if x_gradient is not None:
            x_gradient = x_gradient.contiguous()
        return x_gradient, *gradients, None, None


def _channels_last(x: Tensor) -> Tensor:
    """In that layout; said by permutation, which torch.func.vmap understands."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class LiftingConv(_BankConv):
    r"""Equivariant convolution of an image, [B, C, H, W] -> [B, C', G, H', W'].

    .. math:: [\Psi f](x, g) = \sum_k w_k\,(B_{g,k} * f)(x)

    with the filters :math:`B_{g,k}` of :func:`pdoe.filter_bank` and :math:`*` the
    cross-correlation. Elements of the group that map the pixel grid to itself commute with the
    layer exactly, at stride 2 only if H and W are odd; for ``operators`` the rest commute up to an
    error of second order in the pixel spacing (Shen et al. 2020, arXiv 2007.10408).

    Args:
        group: the point group G.
        in_channels, out_channels: C and C', positive.
        bank, size, offset: the filter bank, see :func:`pdoe.filter_bank`.
        stride: of the convolution.
        padding: zeros around the map; None keeps H and W at stride 1.
        bias: one learnt number per C', the same for all orientations.
        device, dtype: of the parameters; a layer in float64 is exact to 1e-12.

    The weight is [C', C, K]: a filter in the reference frame, in pixels, row-major.

    Raises:
        ValueError, TypeError: for arguments or inputs of another form, saying which is expected.

    >>> lift = LiftingConv(PointGroup(8), 1, 7, offset=math.pi / 8)
    >>> lift(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 7, 8, 28, 28])
    """

    def kernel(self) -> Tensor:
        """The planar kernel, in the weight's dtype also under autocast: [C'G, C, k, k]."""
        with _full_precision(self.weight):
            kernel = torch.einsum("oik,gkyx->ogiyx", self.weight, self.bank)
        return kernel.flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"LiftingConv expects an image [B, {self.in_channels}, H, W], "
                f"not a tensor {list(x.shape)}"
            )
        return self._convolve(x)


class GroupConv(_BankConv):
    r"""Equivariant convolution of a lifted map, [B, C, G, H, W] -> [B, C', G, H', W'].

    Each orientation g of the output looks at the orientations h of the input as seen from itself:

    .. math:: [\Phi f](x, g) = \sum_h \sum_k w_{g^{-1}h,\,k}\,(B_{g,k} * f(\cdot, h))(x).

    Arguments, exactness and errors are those of :class:`LiftingConv`. The weight is
    [C', C, G, K]: one filter per *relative* orientation :math:`g^{-1}h`.

    >>> conv = GroupConv(PointGroup(8), 7, 7, padding=1)
    >>> conv(torch.randn(2, 7, 8, 26, 26)).shape
    torch.Size([2, 7, 8, 24, 24])
    >>> conv.weight.numel()
    3528
    """

    def _fill_constants(self) -> None:
        super()._fill_constants()
        quotient = self.group.quotient.to(self.weight.device)
        self.register_buffer("quotient", quotient, persistent=False)

    def _group_axes(self) -> tuple[int, ...]:
        return (len(self.group),)

    def kernel(self) -> Tensor:
        """The planar kernel, in the weight's dtype also under autocast: [C'G, CG, k, k]."""
        weight = self.weight[:, :, self.quotient]  # [C', C, G, G, K], out g, then in h
        with _full_precision(weight):
            kernel = torch.einsum("oighk,gkyx->ogihyx", weight, self.bank)
        return kernel.flatten(2, 3).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != self.in_channels or x.shape[2] != len(self.group):
            raise ValueError(
                f"GroupConv on {self.group.name} expects a lifted map "
                f"[B, {self.in_channels}, {len(self.group)}, H, W], not a tensor {list(x.shape)}"
            )
        return self._convolve(x.flatten(1, 2))


class GroupPool(nn.Module):
    """Pooling over the group axis, [B, C, G, H, W] -> [B, C, H, W].

    Turns a lifted map into an image of C channels that is turned with its input; exact.

    Args:
        kind: "max" or "mean".

    >>> GroupPool("mean")(torch.ones(2, 7, 8, 5, 5)).shape
    torch.Size([2, 7, 5, 5])
    """

    def __init__(self, kind: str = "max"):
        super().__init__()
        if kind not in ("max", "mean"):
            raise ValueError(f"GroupPool takes kind 'max' or 'mean', not {kind!r}")
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5:
            raise ValueError(
                f"GroupPool expects a lifted map [B, C, G, H, W], not a tensor {list(x.shape)}"
            )
        return x.amax(2) if self.kind == "max" else x.mean(2)

    def extra_repr(self) -> str:
        return self.kind


class MaxPool(nn.Module):
    """2x2 max pooling over space, [B, ..., H, W] -> [B, ..., H // 2, W // 2].

    The result of ``MaxPool3d((1, 2, 2))``; equivariant on even sizes. On a CPU it is made of
    whole-tensor operations, which are vectorised where PyTorch's pooling of contiguous maps
    compares number by number. Where a maximum is attained twice, one of the two has the gradient,
    not always the one that PyTorch picks.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
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

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: None) -> Tensor:
        from_upper, from_left = ctx.saved_tensors
        left = gradient * from_left
        rows = torch.stack([left, gradient - left], -1).flatten(-2)
        upper = rows * from_upper
        return torch.stack([upper, rows - upper], -2).flatten(-3, -2)


class Dropout(nn.Module):
    """Elementwise dropout of any tensor; on a CPU with a mask that is cheap to draw.

    PyTorch draws one random number per element on one thread, which takes as long as half a
    convolution of a small network. Here one number of 64 bits serves four elements, so that the
    probability is a multiple of 2^-16; the scale makes up for exactly that one.

    Args:
        p: probability of an element to become 0, at least 0 and below 1.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the probability of dropout is at least 0 and below 1, not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        words = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 3) // 4,))
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _full_precision(weight: Tensor) -> AbstractContextManager:
    """No autocast, on the devices that have it."""
    kind = weight.device.type
    if torch.amp.is_autocast_available(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _integer(name: str, value: int, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer of at least {least}, not {value!r}") from None
    if value < least:
        raise ValueError(f"{name} is an integer of at least {least}, not {value}")
    return value
