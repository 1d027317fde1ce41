"""Equivariant layers on plain tensors: images [B, C, H, W] and lifted maps [B, C, G, H, W].

A layer is a learnt weight times a constant filter bank, and one ``conv2d``. On a lifted map
``BatchNorm3d(C)``, ``ReLU`` and ``MaxPool3d((1, 2, 2))`` (even sizes) are equivariant as they are.
On a CPU a layer gives the memory format that it takes, see :class:`pdoe.ChannelsLast`.
"""

from __future__ import annotations

import math
import operator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from .banks import filter_bank
from .constants import Constants
from .fast import jet
from .fast.cpu import conv2d
from .groups import PointGroup


class BankConv(Constants):
    """What these convolutions share: arguments, bank, initialisation; weight [C', C, ..., K]."""

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
        width: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        constant = filter_bank(group, bank, size, offset, width)  # checks its arguments
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
        self.bank_kind, self.bank_size, self.bank_width = bank, size, width
        self.offset = float(offset)
        self.stride = _integer("stride", stride, 1)
        self.padding = _integer("padding", padding, 0)
        self.kernel_size = support
        self.channels_last: bool | None = None  # the layout, see `cpu.conv2d`; None: as measured

        made = {"device": device, "dtype": dtype}
        shape = (self.out_channels, self.in_channels, *self._group_axes(), constant.shape[1])
        self.weight = nn.Parameter(torch.empty(shape, **made))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **made)) if bias else None
        self._kept: tuple[Tensor, int, Tensor] | None = None  # weight, its version, kernel
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

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        chosen = self.bank_kind, self.bank_size, self.offset, self.bank_width
        return {"bank": filter_bank(self.group, *chosen)}

    def _apply(self, fn, recurse=True):
        self._kept = None
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def __getstate__(self):
        return {**self.__dict__, "_kept": None}

    def _filters(self, weight: Tensor) -> Tensor:
        """The weight of each element, or of all, times its bank: [C', G or 1, I, K] -> kernel.

        The kernel [C'G, I, k, k] is channels-last in memory, as which one product makes it, and
        most convolutions take it.
        """
        with full_precision(weight):
            kernel = self.bank.flatten(2).transpose(1, 2) @ weight.transpose(2, 3)
        return kernel.unflatten(2, self.bank.shape[2:]).flatten(0, 1).permute(0, 3, 1, 2)

    def _kernel_at_hand(self) -> Tensor:
        """The kernel, built once for as long as the layer evaluates with the same weight.

        Kept only in evaluation mode without gradients, and let go of where there are some. On a
        CPU it is kept with the numbers of the weight, so that any change is seen. On a GPU, where
        to compare them would wait, what PyTorch counts as a change is seen; what it does not count,
        a fused optimiser's step or a write through ``weight.data``, is seen from the next pass with
        gradients or call of ``train()`` or ``eval()`` on.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.kernel()
        weight = self._parameters.get("weight")  # a parametrised one is computed anew each time
        if self.training or torch.is_grad_enabled() or type(weight) is not nn.Parameter:
            self._kept = None
            return self.kernel()
        if weight.is_inference() or _is_watched(weight):
            return self.kernel()
        kept = self._kept  # read once: another thread may let go of it
        if kept is not None and _is_same(weight, *kept[:2]):
            return kept[2]
        kernel = self.kernel()
        if type(kernel) is Tensor:  # what only stands for a tensor is not kept
            # On a GPU the alias keeps the memory, which no other weight can have then.
            copy = weight.detach().clone() if weight.device.type == "cpu" else weight.detach()
            self._kept = copy, weight._version, kernel
        return kernel

    def _check_numbers(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = f"one of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"{type(self).__name__} takes a tensor of floating-point numbers, not {found}"
            )

    def _convolve(self, x: Tensor) -> Tensor:
        """One convolution of planar channels: [B, C(G), H, W] -> [B, C', G, H', W']."""
        bias = None if self.bias is None else self.bias.repeat_interleave(len(self.group))
        kernel = self._kernel_at_hand()
        y = conv2d(x, kernel, bias, self.stride, self.padding, self.channels_last)
        return y.unflatten(1, (self.out_channels, len(self.group)))

    def extra_repr(self) -> str:
        k = self.kernel_size
        width = "" if self.bank_width is None else f", width={self.bank_width:.4g}"
        return (
            f"{self.group.name}, {self.in_channels} -> {self.out_channels}, "
            f"bank={self.bank_kind} {k}x{k}{width}, offset={self.offset:.4g}, "
            f"stride={self.stride}, padding={self.padding}, bias={self.bias is not None}"
        )


def _is_watched(weight: Tensor) -> bool:
    """Whether what is done now is recorded, to be done again with other weights."""
    if weight.is_cuda:
        return torch.cuda.is_current_stream_capturing()
    return type(torch.empty(0)) is not Tensor  # in a mode in which tensors only stand for some


def _is_same(weight: Tensor, before: Tensor, version: int) -> bool:
    """Whether a weight is as it was, as far as that can be told without waiting for a GPU."""
    if (weight.shape, weight.dtype, weight.device) != (before.shape, before.dtype, before.device):
        return False
    if weight.device.type == "cpu":
        return torch.equal(weight, before)
    layout = weight.data_ptr(), weight.stride(), weight._version
    return layout == (before.data_ptr(), before.stride(), version)


class LiftingConv(BankConv):
    r"""Equivariant convolution of an image, [B, C, H, W] -> [B, C', G, H', W'].

    .. math:: [\Psi f](x, g) = \sum_k w_k\,(B_{g,k} * f)(x)

    with the filters :math:`B_{g,k}` of :func:`pdoe.filter_bank` and :math:`*` the
    cross-correlation. Elements of the group that map the pixel grid to itself commute with the
    layer exactly, at stride 2 only if H and W are odd; for ``operators`` and ``gaussian`` the rest
    commute up to an error of second order in the pixel spacing (Shen et al. 2020,
    arXiv 2007.10408).

    Args:
        group: the point group G.
        in_channels, out_channels: C and C', positive.
        bank, size, offset, width: the filter bank, see :func:`pdoe.filter_bank`.
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
        """The planar kernel, in the weight's dtype also under autocast: [C'G, C, k, k].

        Its memory format is ``torch.channels_last``.
        """
        return self._filters(self.weight[:, None])

    def forward(self, x: Tensor) -> Tensor:
        self._check_numbers(x)
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"LiftingConv expects an image [B, {self.in_channels}, H, W], "
                f"not a tensor {list(x.shape)}"
            )
        return self._convolve(x)


class GroupConv(BankConv):
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

    Attributes:
        algorithm: how it is computed, the same numbers up to rounding: "dense", one planar
            convolution; "jet", where :mod:`pdoe.fast.jet` can; "auto", the faster one.
    """

    algorithm = "auto"

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        return {**super()._constants(), "quotient": self.group.quotient}

    def _group_axes(self) -> tuple[int, ...]:
        return (len(self.group),)

    def kernel(self) -> Tensor:
        """The planar kernel, in the weight's dtype also under autocast: [C'G, CG, k, k].

        Its memory format is ``torch.channels_last``.
        """
        order = len(self.group)
        fields = torch.arange(self.in_channels, device=self.quotient.device)
        chosen = self.quotient[:, None] + order * fields[:, None]  # (c, g^-1 h) for each g, c, h
        # Not by advanced indexing, whose gradient costs several times as much on a CPU.
        weight = self.weight.flatten(1, 2).index_select(1, chosen.flatten())
        return self._filters(weight.unflatten(1, (order, -1)))

    def forward(self, x: Tensor) -> Tensor:
        self._check_numbers(x)
        if x.ndim != 5 or x.shape[1] != self.in_channels or x.shape[2] != len(self.group):
            raise ValueError(
                f"GroupConv on {self.group.name} expects a lifted map "
                f"[B, {self.in_channels}, {len(self.group)}, H, W], not a tensor {list(x.shape)}"
            )
        if jet.applies(self, x):
            return jet.convolve(self, x)
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


def full_precision(weight: Tensor) -> AbstractContextManager:
    """No autocast; meta tensors, which hold no numbers, have none.

    PyTorch up to 2.11 cannot compile the question which devices have it.
    """
    kind = weight.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


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
