"""The tensors that layers take and have, and one sentence for any other.

An image is a tensor [B, C, H, W], a lifted map a tensor [B, C, G, H, W]; B may be 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .layers import BankConv


def read_place(
    device: torch.device | str | None, dtype: torch.dtype | None
) -> dict[str, torch.device | torch.dtype | None]:
    """Return device and dtype of parameters as keyword arguments of ``torch.empty``.

    Raises:
        TypeError: ``dtype`` is not a floating-point ``torch.dtype``.
        ValueError: ``device`` does not name a device.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is a floating-point one such as torch.float32, not {dtype!r}")
    try:
        return {"device": None if device is None else torch.device(device), "dtype": dtype}
    except (RuntimeError, TypeError):
        raise ValueError(f"device is 'cpu', 'cuda' or the like, not {device!r}") from None


def require_tensor(layer: nn.Module, x: Tensor) -> None:
    """Raise ``TypeError`` if the input of ``layer`` is not a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{type(layer).__name__} takes a tensor, not {type(x).__name__}")


def require_floats(layer: nn.Module, x: Tensor) -> None:
    """Raise ``TypeError`` if the input of ``layer`` is not a tensor of floating-point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = f"one of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{type(layer).__name__} takes a tensor of floating-point numbers, not {found}"
        )


def require_map(layer: BankConv, x: Tensor, *axes: int) -> None:
    """Check the input [B, \\*axes, H, W] of a convolution: shape, dtype, device, size of the map.

    Runs in every forward pass, so the usual case is one condition; reasons are sought afterwards.

    Raises:
        TypeError: ``x`` is not a tensor of floating-point numbers, or has another dtype than the
            weight outside autocast.
        ValueError: ``x`` has another shape or device, or is smaller than the kernel.
    """
    constant = layer._buffers["bank"]  # has the dtype and device of the weight, and always a name
    if (
        isinstance(x, Tensor)
        and x.ndim == len(axes) + 3
        and x.shape[1:-2] == axes
        and x.dtype == constant.dtype
        and x.device == constant.device
        and x.shape[-1] >= (least := max(1, layer.kernel_size - 2 * layer.padding))
        and x.shape[-2] >= least
    ):
        return
    require_floats(layer, x)
    if x.ndim != len(axes) + 3 or x.shape[1:-2] != axes:
        raise ValueError(_describe_shape(layer, x, axes))
    _require_weight_like(layer, x, constant)
    least = max(1, layer.kernel_size - 2 * layer.padding)
    if min(x.shape[-2:]) < least:
        size = f"{layer.kernel_size}x{layer.kernel_size}"
        raise ValueError(
            f"{type(layer).__name__} with a {size} kernel and padding {layer.padding} needs a map "
            f"of at least {least}x{least} pixels, not a tensor {list(x.shape)}: give a larger map "
            "or a larger padding"
        )


def require_lifted(layer: nn.Module, x: Tensor) -> None:
    """Raise an error if the input of ``layer`` is not a lifted map [B, C, G, H, W].

    Raises:
        TypeError: ``x`` is not a tensor of floating-point numbers.
        ValueError: ``x`` has another number of axes, or G is 0.
    """
    require_floats(layer, x)
    if x.ndim != 5 or x.shape[2] == 0:
        raise ValueError(
            f"{type(layer).__name__} expects a lifted map [B, C, G, H, W], "
            f"not a tensor {list(x.shape)}" + (_FLATTENED if x.ndim == 4 else "")
        )


_FLATTENED = (
    ": is it pooled over the group already, or was it flattened for nn.BatchNorm2d or "
    "nn.MaxPool2d? pdoe.BatchNorm and pdoe.MaxPool take lifted maps as they are"
)


def _describe_shape(layer: BankConv, x: Tensor, axes: tuple[int, ...]) -> str:
    """The sentence for a map of another shape."""
    name, shape = type(layer).__name__, list(x.shape)
    if len(axes) == 1:
        hint = ": a lifted map goes to GroupConv" if x.ndim == 5 else ""
        return f"{name} expects an image [B, {axes[0]}, H, W], not a tensor {shape}{hint}"
    hint = ""
    if x.ndim == 4:
        hint = _FLATTENED
        if x.shape[1] == axes[0] * axes[1]:
            hint += f" (restore the group axis by x.unflatten(1, {axes}))"
    return (
        f"{name} on {layer.group.name} expects a lifted map [B, {axes[0]}, {axes[1]}, H, W], "
        f"not a tensor {shape}{hint}"
    )


def _require_weight_like(layer: BankConv, x: Tensor, constant: Tensor) -> None:
    name = type(layer).__name__
    if x.device != constant.device:
        raise ValueError(
            f"the map lies on {x.device} and the weight of {name} on {constant.device}: move one "
            f"of them, by x.to('{constant.device}') or layer.to('{x.device}')"
        )
    if x.dtype == constant.dtype:
        return
    cast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    if not cast or torch.float64 in (x.dtype, constant.dtype):  # autocast leaves float64 as it is
        raise TypeError(
            f"the map is {x.dtype} and the weight of {name} {constant.dtype}: convert one of them, "
            f"by x.to({constant.dtype}) or layer.to({x.dtype})"
        )
