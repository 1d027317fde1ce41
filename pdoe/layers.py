"""Equivariant layers on plain tensors: images [B, C, H, W] and lifted maps [B, C, G, H, W].

A layer multiplies its learnable weight by a constant filter bank and calls ``conv2d``. On a lifted
map ``BatchNorm3d(C)``, ``ReLU`` and ``MaxPool3d((1, 2, 2))`` (even sizes) are equivariant as is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from .arguments import read_padding, read_size, require_bool, require_integer
from .banks import filter_bank
from .constants import Constants
from .fast import CachedKernel, conv2d, full_precision, jet
from .groups import PointGroup
from .maps import read_place, require_lifted, require_map


class BankConv(CachedKernel, Constants):
    """A convolution by a learnable weight [C', C, ..., K] times a filter bank [G, K, k, k]."""

    def __init__(
        self, group: PointGroup, in_channels: int, out_channels: int, bank: str = "operators",
        size: int | None = None, offset: float = 0.0, stride: int = 1, padding: int | None = None,
        bias: bool = False, bank_width: float | None = None,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: int,
    ):  # fmt: skip
        super().__init__()
        self.group = group
        self.in_channels = require_integer("in_channels", in_channels, 1)
        self.out_channels = require_integer("out_channels", out_channels, 1)
        self.bank_kind, self.bank_width = bank, bank_width
        self.bank_size = read_size(type(self).__name__, size, options)
        constant = self._make_bank(offset)  # checks the arguments of the bank
        self._offset, self.kernel_size = float(offset), constant.shape[-1]
        self.stride = require_integer("stride", stride, 1)
        self.padding = read_padding(padding, self.kernel_size)
        self.channels_last: bool | None = None  # memory format of `conv2d`; None: the faster one
        place = read_place(device, dtype)
        shape = self.out_channels, self.in_channels, *self._group_axes(), constant.shape[1]
        self.weight = nn.Parameter(torch.empty(shape, **place))
        bias = require_bool("bias", bias)
        self.bias = nn.Parameter(torch.empty(shape[0], **place)) if bias else None
        self._fill_constants()
        self.reset_parameters()

    @property
    def offset(self) -> float:
        """Angle of the reference frame in radians; assigning it computes the bank anew, in place:
        a recorded CUDA graph uses the new one."""
        return self._offset

    @offset.setter
    def offset(self, angle: float) -> None:
        bank = self._make_bank(angle)
        if bank.shape[-1] != self.kernel_size:
            raise ValueError(f"offset {angle:g} needs another kernel size: make a new layer")
        self._offset = float(angle)
        self.bank.copy_(torch.from_numpy(bank))

    def reset_parameters(self) -> None:
        """Draw the weight from a truncated normal of variance 2 / fan_in, as the authors' code."""
        # The factor 1.3, as in TensorFlow 1, corrects for the cut at two standard deviations.
        std = math.sqrt(1.3 * 2 / self.weight[0].numel())
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _group_axes(self) -> tuple[int, ...]:
        """Sizes of the weight's axes between channels and filters."""
        return ()

    def _make_bank(self, offset: float) -> np.ndarray:
        return filter_bank(self.group, self.bank_kind, self.bank_size, offset, self.bank_width)

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        return {"bank": self._make_bank(self.offset)}

    def _multiply(self, weight: Tensor) -> Tensor:
        """Multiply the weight [C', G or 1, I, K] by the bank: [C'G, I, k, k], channels-last."""
        with full_precision(weight):
            kernel = self.bank.flatten(2).transpose(1, 2) @ weight.transpose(2, 3)
        return kernel.unflatten(2, self.bank.shape[2:]).flatten(0, 1).permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor) -> Tensor:
        """Convolve planar channels: [B, C(G), H, W] -> [B, C', G, H', W']."""
        bias = None if self.bias is None else self.bias.repeat_interleave(len(self.group))
        kernel = self.cached_kernel()
        y = conv2d(x, kernel, bias, self.stride, self.padding, self.channels_last)
        return y.unflatten(1, (self.out_channels, len(self.group)))

    def extra_repr(self) -> str:
        width = "" if self.bank_width is None else f", bank_width={self.bank_width:.4g}"
        bank = f"bank={self.bank_kind} {self.kernel_size}x{self.kernel_size}{width}"
        rest = f"stride={self.stride}, padding={self.padding}, bias={self.bias is not None}"
        channels = f"{self.in_channels} -> {self.out_channels}"
        return f"{self.group.name}, {channels}, {bank}, offset={self.offset:.4g}, {rest}"


class LiftingConv(BankConv):
    r"""Equivariant convolution of an image, [B, C, H, W] -> [B, C', G, H', W'].

    .. math:: [\Psi f](x, g) = \sum_k w_k\,(B_{g,k} * f)(x)

    with the filters :math:`B_{g,k}` of :func:`pdoe.filter_bank` and :math:`*` the cross-correlation
    (Shen et al. 2020, arXiv 2007.10408). Exact for elements that map the pixel grid to itself, at
    stride 2 only if H and W are odd; for all others, with the banks ``operators`` and ``gaussian``,
    of second order in the pixel spacing.

    Args:
        group: the point group G.
        in_channels, out_channels: C and C', positive.
        bank, size, offset, bank_width: the filter bank, see :func:`pdoe.filter_bank`;
            ``kernel_size`` is an alias of ``size``.
        stride: of the convolution, in pixels.
        padding: rows and columns of zeros around the map; None keeps H and W at stride 1.
        bias: whether each of the C' channels has a learnable bias, shared by all orientations.
        device, dtype: of the parameters; a layer in float64 is exact to 1e-12.

    The weight is [C', C, K]: a filter in the reference frame, in pixels, row-major.

    Raises:
        TypeError, ValueError: an argument or input of another form; the message names it.

    >>> lift = LiftingConv(PointGroup(8), 1, 7, offset=math.pi / 8)
    >>> lift(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 7, 8, 28, 28])
    """

    def kernel(self) -> Tensor:
        return self._multiply(self.weight[:, None])

    def forward(self, x: Tensor) -> Tensor:
        require_map(self, x, self.in_channels)
        return self._convolve(x)


class GroupConv(BankConv):
    r"""Equivariant convolution of a lifted map, [B, C, G, H, W] -> [B, C', G, H', W'].

    Each output orientation g sees the input orientations h relative to itself:

    .. math:: [\Phi f](x, g) = \sum_h \sum_k w_{g^{-1}h,\,k}\,(B_{g,k} * f(\cdot, h))(x).

    Arguments, exactness and errors are those of :class:`LiftingConv`. The weight is
    [C', C, G, K]: one filter per *relative* orientation :math:`g^{-1}h`.

    >>> conv = GroupConv(PointGroup(8), 7, 7, padding=1)
    >>> conv(torch.randn(2, 7, 8, 26, 26)).shape
    torch.Size([2, 7, 8, 24, 24])
    >>> conv.weight.numel()
    3528

    Attributes:
        algorithm: how it is computed, the same numbers up to rounding: "dense", one planar
            convolution; "jet", where :mod:`pdoe.fast.jet` can; "auto", the faster one.
    """

    algorithm = "auto"

    def _group_axes(self) -> tuple[int, ...]:
        return (len(self.group),)

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        return {**super()._constants(), "quotient": self.group.quotient}

    def kernel(self) -> Tensor:
        order = len(self.group)
        fields = torch.arange(self.weight.shape[1], device=self.quotient.device)
        chosen = self.quotient[:, None] + order * fields[:, None]  # (c, g^-1 h) for each g, c, h
        # Not by advanced indexing, whose gradient costs several times as much on a CPU.
        weight = self.weight.flatten(1, 2).index_select(1, chosen.flatten())
        return self._multiply(weight.unflatten(1, (order, -1)))

    def forward(self, x: Tensor) -> Tensor:
        require_map(self, x, self.in_channels, len(self.group))
        if jet.applies(self, x):
            return jet.convolve(self, x)
        return self._convolve(x.flatten(1, 2))


class GroupPool(nn.Module):
    """Pooling over the group axis, [B, C, G, H, W] -> [B, C, H, W].

    The result is an image of C channels that rotates with the input; exact.

    Args:
        kind: "max" or "mean".

    >>> GroupPool("mean")(torch.ones(2, 7, 8, 5, 5)).shape
    torch.Size([2, 7, 5, 5])
    """

    def __init__(self, kind: str = "max"):
        super().__init__()
        if not isinstance(kind, str) or kind not in ("max", "mean"):
            raise ValueError(f"GroupPool takes kind 'max' or 'mean', not {kind!r}")
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        require_lifted(self, x)
        return x.amax(2) if self.kind == "max" else x.mean(2)

    def extra_repr(self) -> str:
        return self.kind
