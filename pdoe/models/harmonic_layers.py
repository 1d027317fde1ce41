"""Layers of harmonic networks, on complex maps [B, C, M + 1, 2, H, W].

The axis of length M + 1 is the order m, the axis of length 2 the real and the imaginary part.
Rotating the image by an angle rotates the map of order m and multiplies it by exp(i m angle).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..constants import Constants
from ..fast import Dropout, conv2d, full_precision
from .settings import NORM, Norm

SMALL = 1e-2  # where |z| is less, z / SMALL stands for its direction; as in the authors' code


class HarmonicConv(Constants):
    r"""Convolution with circular harmonics, [B, C, M + 1, 2, H, W] -> [B, C', M + 1, 2, H, W].

    .. math:: [\Phi f]_n = \sum_m W_{n-m} * f_m, \quad
              W_d = e^{i\beta_d} \sum_j w_{d,j} B_{d,j}, \quad W_{-d} = \overline{W_d}

    for :math:`d \ge 0`, with learnt real weights [C', C, M + 1, rings], a learnt phase for every
    :math:`W_d`, and :func:`harmonic` filters, which contain :math:`e^{id\varphi}`. So orders add
    up. Rotations by 90 degrees are exact, other rotations are approximate.

    Initial weights are normal, with the variance that keeps the mean square of white maps; initial
    phases are uniform.

    Args:
        in_channels, out_channels: C and C'.
        in_order: M of the input, None: a real image [B, C, H, W], which is all of order 0.
        max_order: M of the output.
        size, rings: see :func:`harmonic`.
        phase: False: all :math:`\beta_d` are 0.

    >>> HarmonicConv(8, 16, in_order=1)(torch.randn(2, 8, 2, 2, 14, 14)).shape
    torch.Size([2, 16, 2, 2, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_order: int | None,
        max_order: int = 1,
        size: int = 5,
        rings: int = 4,
        phase: bool = True,
    ):
        super().__init__()
        if size < 3 or size % 2 == 0:
            raise ValueError(f"size is an odd number of pixels, 3 or more, not {size}")
        if rings < 1 or max_order < 0 or min(in_channels, out_channels) < 1:
            raise ValueError(
                "a convolution has 1 channel and 1 ring or more and no negative order, not "
                f"channels {in_channels} -> {out_channels}, {rings} rings, order {max_order}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.in_order, self.max_order, self.size, self.rings = in_order, max_order, size, rings
        orders = max(in_order or 0, max_order) + 1
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, orders, rings))
        # One axis: the optimisers decay parameters with two axes or more.
        phases = out_channels * in_channels * orders
        self.phase = nn.Parameter(torch.empty(phases)) if phase else None
        self._fill_constants()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        inputs = self.in_channels * ((self.in_order or 0) + 1) * self.rings
        nn.init.normal_(self.weight, std=1 / math.sqrt(inputs))
        if self.phase is not None:
            nn.init.uniform_(self.phase, 0, 2 * math.pi)

    def _constants(self) -> dict[str, np.ndarray]:
        """The bank [n, 2, m, 2, 2, J, k, k], and the table of |n - m|.

        Its three axes of length 2 are the parts of the output, of the input, and of the weight.
        """
        ins, outs = (self.in_order or 0) + 1, self.max_order + 1
        shift = np.arange(outs)[:, None] - np.arange(ins)
        filters = np.stack([harmonic(d, self.size, self.rings) for d in range(max(ins, outs))])
        filters = np.stack([filters, 1j * filters], 1)[abs(shift)]  # for the weight's two parts
        filters = np.where((shift < 0)[..., None, None, None, None], filters.conj(), filters)
        bank = np.stack([filters, 1j * filters], 2)  # for the input's two parts
        bank = np.stack([bank.real, bank.imag], 1)
        if self.in_order is None:
            bank = bank[:, :, :, :1]
        if self.phase is None:
            bank = bank[:, :, :, :, :1]
        return {"bank": bank, "shift": abs(shift)}

    def kernel(self) -> Tensor:
        """The real planar kernel, [C'(M + 1)2, C(M + 1)2, k, k]."""
        with full_precision(self.weight):
            weight = self.weight[:, :, :, None]
            if self.phase is not None:
                phase = self.phase.view(*weight.shape[:3], 1)
                weight = weight * torch.stack([phase.cos(), phase.sin()], 3)
            kernel = torch.einsum("oinmsj,npmqsjyx->onpimqyx", weight[:, :, self.shift], self.bank)
        return kernel.flatten(3, 5).flatten(0, 2)

    def forward(self, x: Tensor) -> Tensor:
        image = self.in_order is None
        axes = () if image else (self.in_order + 1, 2)
        if x.ndim != 4 + len(axes) or x.shape[1:-2] != (self.in_channels, *axes):
            form = ", ".join(map(str, (self.in_channels, *axes)))
            raise ValueError(
                f"HarmonicConv expects {'an image' if image else 'a complex map'} "
                f"[B, {form}, H, W], not a tensor {list(x.shape)}"
            )
        y = conv2d(x.flatten(1, -3), self.kernel(), None, 1, self.size // 2)
        return y.unflatten(1, (self.out_channels, self.max_order + 1, 2))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels} -> {self.out_channels}, order {self.in_order} -> "
            f"{self.max_order}, {self.rings} rings in {self.size}x{self.size}, "
            f"phase={self.phase is not None}"
        )


def harmonic(order: int, size: int, rings: int) -> np.ndarray:
    r"""The filters of an order on every ring, each of mean square k^-2: complex [rings, k, k].

    .. math:: B_j(p) \propto \sum_a e^{id\,a}\, G(p - r_j (\cos a, \sin a))

    over 128 angles a around the circle, with a Gaussian of standard deviation 1/2 normalised over
    the k x k pixels: samples beyond the border count at the border. The radii go in equal steps
    from 0, or from 1 for orders other than 0, to rings - 1/2. Rotating a filter by 90 degrees
    multiplies it by :math:`i^d`, exactly, since 4 divides the number of angles.

    >>> filters = harmonic(1, 5, 4)
    >>> bool(np.allclose(1j * filters, np.rot90(filters, -1, (1, 2))))
    True
    """
    angles = 2 * np.pi * np.arange(128) / 128
    radii = np.linspace(0.0 if order == 0 else 1.0, rings - 0.5, rings)
    places = np.arange(size) - size // 2
    x, y = places, -places[:, None]
    across = x - radii[:, None, None, None] * np.cos(angles)[:, None, None]
    down = y - radii[:, None, None, None] * np.sin(angles)[:, None, None]
    samples = np.exp(-2 * (across**2 + down**2))  # [rings, angles, k, k]
    samples /= samples.sum((2, 3), keepdims=True)
    filters = np.einsum("a,jayx->jyx", np.exp(1j * order * angles), samples)
    return filters / np.sqrt((abs(filters) ** 2).sum((1, 2), keepdims=True))


def magnitude(z: Tensor, least: float) -> Tensor:
    """|z|, or ``least`` where it is less: [B, C, M + 1, 2, H, W] -> [B, C, M + 1, H, W].

    Below ``least`` the gradient is 0, since the slope of the root is infinite at 0.
    """
    return z.square().sum(3).clamp(min=least**2).sqrt()


class HarmonicReLU(nn.Module):
    """z becomes ReLU(\\|z\\| + b) z / \\|z\\|, with a bias b for every channel and order; exact.

    >>> HarmonicReLU(8)(torch.randn(2, 8, 2, 2, 14, 14)).shape
    torch.Size([2, 8, 2, 2, 14, 14])
    """

    def __init__(self, channels: int, max_order: int = 1):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels * (max_order + 1)))

    def forward(self, z: Tensor) -> Tensor:
        length = magnitude(z, SMALL)
        bias = self.bias.view(length.shape[1:3])[:, :, None, None]
        return z * ((length + bias).relu() / length)[:, :, :, None]


class HarmonicNorm(nn.Module):
    """z becomes ReLU(N(\\|z\\|)) z / \\|z\\|, with batch norm N of every channel and order; exact.

    ``dropout`` is the probability that a complex number becomes 0.

    >>> HarmonicNorm(8)(torch.randn(2, 8, 2, 2, 14, 14)).shape
    torch.Size([2, 8, 2, 2, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        max_order: int = 1,
        batch_norm: Norm = NORM,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels * (max_order + 1), *batch_norm)
        self.dropout = Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:
        length = magnitude(z, SMALL)
        normed = self.norm(length.flatten(1, 2)).view_as(length).relu()
        return z * self.dropout(normed / length)[:, :, :, None]


class SumOfMagnitudes(nn.Module):
    """The sum of \\|z\\| over the orders, [B, C, M + 1, 2, H, W] -> [B, C, 1, H, W]; exact.

    The result is rotated like an image, or like a lifted map of one orientation.

    >>> SumOfMagnitudes()(torch.randn(2, 8, 2, 2, 7, 7)).shape
    torch.Size([2, 8, 1, 7, 7])
    """

    def forward(self, z: Tensor) -> Tensor:
        return magnitude(z, 1e-6).sum(2, keepdim=True)
