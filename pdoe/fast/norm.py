"""Batch norm of lifted maps [B, C, G, H, W] in less time than torch's own.

Measured: ``experiments/benchmarks``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import require_integer
from ..maps import require_floats
from .layout import is_channels_last, with_usual_strides
from .modes import is_captured, is_transformed
from .norm_cpu import NormByPosition, as_lifted, as_planar, choose_accumulation_dtype
from .norm_gpu import NormByOrientation


class BatchNorm(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` of lifted maps [B, C, G, H, W], faster where torch's own is slow.

    All orientations of a field share statistics, gain and bias, so the layer is exactly
    equivariant. Arguments, buffers and results are those of ``nn.BatchNorm3d``; results differ by
    rounding alone.

    - On a CPU, channels-last maps stay channels-last, see :class:`ChannelsLast`. torch has fast
      kernels for planar channels-last maps, none for lifted ones.
    - On a GPU, in training, torch assigns one block of threads to a channel, so the few fields of
      an equivariant layer leave most of the device idle. Here each orientation of a field has a
      block of its own. Forward-mode derivatives are not available there.
    - In training the statistics of a field are combined from those of its parts, as
      ``nn.SyncBatchNorm`` combines those of several devices.

    Raises:
        TypeError: the input is not a tensor of floating-point numbers.
        ValueError: the input is not [B, C, G, H, W] with C = ``num_features``.

    >>> BatchNorm(7)(torch.randn(2, 7, 8, 5, 5)).shape
    torch.Size([2, 7, 8, 5, 5])
    """

    def __init__(self, num_features: int, *args, **kwargs):
        super().__init__(require_integer("num_features", num_features, 1), *args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        require_floats(self, x)
        if self._by_orientation(x):
            return self._train(NormByOrientation, x)
        if x.device.type != "cpu" or x.ndim != 5 or 1 not in x.shape or is_captured():
            return self._normalise(x)
        # torch's batch norm infers memory formats from strides, those of axes of length 1 included,
        # and its gradient is wrong where map and gradient disagree.
        last = is_channels_last(x)
        y = self._normalise(with_usual_strides(x, last))
        if y.requires_grad:
            y.register_hook(lambda gradient: with_usual_strides(gradient, last))
        return y

    def _normalise(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self._is_usual(x) or not is_channels_last(x):
            return super().forward(x)
        if self.training and x.shape[2] > 1:
            return self._train(NormByPosition, x)
        statistics = self.running_mean, self.running_var, self.weight, self.bias
        if self.training:
            self.num_batches_tracked.add_(1)
        else:
            statistics = (numbers.repeat_interleave(x.shape[2]) for numbers in statistics)
        y = F.batch_norm(as_planar(x), *statistics, self.training, self.momentum, self.eps)
        return as_lifted(y, x)

    def _train(self, norm: type[torch.autograd.Function], x: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var, self.momentum, self.eps
        return norm.apply(x, self.weight, self.bias, *statistics)[0]

    def _is_usual(self, x: Tensor) -> bool:
        """Whether no part of the norm is missing, and torch neither captures nor transforms it."""
        if is_captured() or is_transformed():
            return False
        parts = self.weight, self.bias, self.momentum, *self._buffers.values()
        return (
            not any(part is None for part in parts)
            and self.track_running_stats
            and x.ndim == 5
            and x.shape[1] == self.num_features
            and x.numel() > 0
            and self.weight.dtype in (x.dtype, choose_accumulation_dtype(x))
        )

    def _by_orientation(self, x: Tensor) -> bool:
        return (
            x.is_cuda
            and self.training
            and self._is_usual(x)
            and x.shape[2] > 1  # one orientation is torch's own case
            and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
            and self.weight.dtype == torch.float32
        )

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim != 5:
            hint = ": for images there is nn.BatchNorm2d" if x.ndim == 4 else ""
            raise ValueError(
                f"BatchNorm expects a lifted map [B, {self.num_features}, G, H, W], "
                f"not a tensor {list(x.shape)}{hint}"
            )
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"BatchNorm of {self.num_features} channels expects a lifted map "
                f"[B, {self.num_features}, G, H, W], not a tensor {list(x.shape)}"
            )
        for numbers in (self.weight, self.running_mean):
            if numbers is not None:
                self._check_dtype_and_device(x, numbers)

    def _check_dtype_and_device(self, x: Tensor, numbers: Tensor) -> None:
        if x.device != numbers.device:
            raise ValueError(f"the map lies on {x.device} and BatchNorm on {numbers.device}")
        wide = numbers.dtype == torch.float32 and x.dtype.itemsize == 2
        if x.dtype != numbers.dtype and not wide:
            raise TypeError(
                f"the map is {x.dtype} and BatchNorm {numbers.dtype}: convert one of them, by "
                f"x.to({numbers.dtype}) or norm.to({x.dtype})"
            )
