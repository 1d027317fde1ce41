"""The kernel of a convolution, cached while the layer evaluates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .modes import is_captured, is_transformed


class CachedKernel(nn.Module):
    """A layer whose kernel is built once as long as its weight and constants stay the same.

    The kernel is cached only in evaluation mode without gradients. A pass with gradients,
    ``train()``, ``eval()`` and moves of the layer empty the cache. Pickles and copies have none.

    On a CPU the cache stores a copy of the weight and compares values, so any update is noticed. On
    a GPU a comparison of values would wait for the device. There, and for constants, the cache
    compares what PyTorch counts as a change: another tensor, other memory, a higher version. A
    write that PyTorch does not count (a fused optimiser's step, a write through ``weight.data``)
    is noticed once the cache has been emptied.
    """

    _cached: _Entry | None = None

    def kernel(self) -> Tensor:
        """Build the planar kernel [C'G, C(G), k, k] in the weight's dtype, also under autocast."""
        raise NotImplementedError

    def cached_kernel(self) -> Tensor:
        """Return :meth:`kernel`, from the cache where it cannot have changed."""
        if is_captured():
            return self.kernel()
        weight = self._parameters.get("weight")  # None if parametrised: computed at every access
        if self.training or torch.is_grad_enabled() or type(weight) is not nn.Parameter:
            self._cached = None
            return self.kernel()
        constants = self._buffers.values()
        if (
            is_transformed()
            or _is_recorded(weight)
            or weight.is_inference()
            or any(constant.is_inference() for constant in constants)
        ):
            return self.kernel()
        cached = self._cached  # read once: another thread may empty the cache
        if cached is not None and cached.is_valid(weight, constants):
            return cached.kernel
        kernel = self.kernel()
        if type(kernel) is Tensor:  # not a subclass that only stands for numbers
            self._cached = _Entry.of(weight, constants, kernel)
        return kernel

    def train(self, mode: bool = True):
        self._cached = None
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self._cached = None
        return super()._apply(fn, recurse)

    def __getstate__(self):
        return {**self.__dict__, "_cached": None}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A kernel, and the weight and constants that it was built from."""

    weight: Tensor | _Snapshot  # a copy on a CPU
    constants: list[_Snapshot]
    kernel: Tensor

    @classmethod
    def of(cls, weight: Tensor, constants: Iterable[Tensor], kernel: Tensor) -> _Entry:
        on_cpu = weight.device.type == "cpu"
        seen = weight.detach().clone() if on_cpu else _Snapshot(weight)
        return cls(seen, [_Snapshot(constant) for constant in constants], kernel)

    def is_valid(self, weight: Tensor, constants: Iterable[Tensor]) -> bool:
        seen = self.weight
        if isinstance(seen, _Snapshot):
            same = seen.is_current(weight)
        else:
            same = (
                weight.shape == seen.shape
                and weight.dtype == seen.dtype
                and weight.device == seen.device
                and torch.equal(weight, seen)
            )
        return same and all(map(_Snapshot.is_current, self.constants, constants))


class _Snapshot:
    """A tensor as PyTorch counts its changes; an alias keeps its memory from being reused."""

    __slots__ = ("alias", "memory", "tensor", "version")

    def __init__(self, tensor: Tensor):
        self.tensor, self.version = tensor, tensor._version
        self.alias, self.memory = tensor.detach(), tensor.data_ptr()

    def is_current(self, tensor: Tensor) -> bool:
        return (
            tensor is self.tensor
            and tensor._version == self.version
            and tensor.data_ptr() == self.memory
            and tensor.stride() == self.alias.stride()
        )


def _is_recorded(weight: Tensor) -> bool:
    """Whether operations are recorded now, to run again with other weights."""
    if weight.is_cuda:
        return torch.cuda.is_current_stream_capturing()
    return type(torch.empty(0)) is not Tensor  # in a mode whose tensors only stand for numbers
