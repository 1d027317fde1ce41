"""RotEqNet: per pixel the strongest orientation of every filter, as a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..constants import Constants
from ..equivariance.action import check_group
from ..fast import Dropout, full_precision
from ..groups import PointGroup
from ..layers import BankConv, GroupPool, LiftingConv
from .settings import DIGITS, NORM, Images, Norm


class RotEqNet(nn.Module):
    r"""Three convolutions with vector maps between them, [B, C, H, W] -> logits [B, classes].

    Between the layers are vector maps [B, C, 2, H, W], whose components point right and up. A layer
    rotates each filter through all n angles of the group (bank ``bilinear``). Per pixel, the
    strongest response and its direction go on (:class:`OrientationPool`), pooled by
    :class:`VectorPool` and scaled by :class:`VectorNorm`. The third layer's response, 1 pixel wide
    on images of 28x28, is the maximum over all angles; a hidden layer and a linear layer give the
    logits (Marcos et al. 2017, arXiv 1612.09346, and their code).

    If n, H and W are multiples of 4, rotating the image by 90 degrees rotates every vector map, its
    pixels and its vectors, exactly, and leaves the logits unchanged. This holds where one angle is
    the strongest. Of tied angles the first one counts, which no rotation respects: so on a black
    background, whose response is the bias at every angle, if the bias is positive. Other rotations
    of the group commute approximately, as far as the interpolated filters are rotated copies. With
    the published n of 17 no rotation commutes exactly.

    Args:
        group: the angles, as a group of at least 3 rotations.
        widths: channels of the three convolutions.
        size: k, of the k x k filters. Only pixels within k/2 of the centre have an effect, 69 of
            81 for k = 9.
        hidden: units of the hidden layer.
        dropout: probability, elementwise, after the hidden layer.
        batch_norm: constants of the norms.
        images: the data; if the third layer leaves more than one pixel, the hidden layer gets the
            mean over space.

    Raises:
        ValueError: for a group with reflections or fewer than 3 angles, or for an image that is too
            small for the layers.

    >>> net = RotEqNet(PointGroup(17))
    >>> net(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        group: PointGroup,
        widths: Sequence[int] = (6, 16, 32),
        size: int = 9,
        hidden: int = 128,
        dropout: float = 0.0,
        batch_norm: Norm = NORM,
        images: Images = DIGITS,
    ):
        super().__init__()
        check_group(group)
        if group.reflections or group.n < 3:
            raise ValueError(
                "RotEqNet has vectors that point along rotation angles: its group has at least 3 "
                f"rotations and no reflections, such as p17, not {group.name}"
            )
        if len(widths) != 3:
            raise ValueError(f"widths has the channels of three convolutions, not {list(widths)}")
        if not isinstance(size, int) or size < 3 or size % 2 == 0:
            raise ValueError(f"size is that of the filters, an odd number from 3 on, not {size!r}")
        if images.size // 4 + 2 < size:
            raise ValueError(
                f"an image of {images.size}x{images.size} is too small for three layers of "
                f"{size}x{size} filters: take {4 * (size - 2)} pixels on a side, or more"
            )
        self.group = group
        bank = {"bank": "bilinear", "size": size, "bias": True}

        def pool_and_norm(channels: int) -> list[nn.Module]:
            norm = VectorNorm(channels, *batch_norm)
            return [OrientationPool(group), VectorPool(), norm]

        self.trunk = nn.Sequential(
            LiftingConv(group, images.channels, widths[0], **bank),
            *pool_and_norm(widths[0]),
            VectorConv(group, widths[0], widths[1], **bank),
            *pool_and_norm(widths[1]),
            VectorConv(group, widths[1], widths[2], **bank, padding=1),
        )
        self.head = nn.Sequential(
            GroupPool("max"),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[2], hidden),
            nn.LeakyReLU(0.1, inplace=True),
            nn.BatchNorm1d(hidden, *batch_norm),
            Dropout(dropout),
            nn.Linear(hidden, images.classes),
        )
        for module in self.modules():  # as in the authors' code, whose fan-in omits the components
            if isinstance(module, BankConv):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * size**2)))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_features))
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class VectorConv(BankConv):
    r"""Convolution of vector maps with rotated filters, [B, C, 2, H, W] -> [B, C', G, H, W].

    A filter is a field of vectors, too: a rotation moves its pixels and rotates its vectors,

    .. math:: [\Phi f](x, g) = \sum_k (g\,w_k) \cdot (B_{g,k} * f)(x)

    with the filters of :func:`pdoe.filter_bank`. Arguments and errors are those of
    :class:`pdoe.LiftingConv`. The weight is [C', C, 2, K]. Exact for rotations of the group that
    map the pixel grid to itself: the result is a lifted map.

    >>> VectorConv(PointGroup(8), 6, 16, "bilinear", size=9)(torch.randn(2, 6, 2, 14, 14)).shape
    torch.Size([2, 16, 8, 14, 14])
    """

    def _group_axes(self) -> tuple[int, ...]:
        return (2,)

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        return {**super()._constants(), "rotations": self.group.matrices}

    def kernel(self) -> Tensor:
        """The planar kernel, in the weight's dtype also under autocast: [C'G, 2C, k, k]."""
        with full_precision(self.weight):
            rotated = torch.einsum("oibk,gab->ogiak", self.weight, self.rotations)
            kernel = torch.einsum("ogiak,gkyx->ogiayx", rotated, self.bank)
        return kernel.flatten(2, 3).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != self.in_channels or x.shape[2] != 2:
            raise ValueError(
                f"VectorConv expects a vector map [B, {self.in_channels}, 2, H, W], "
                f"not a tensor {list(x.shape)}"
            )
        return self._convolve(x.flatten(1, 2))


class OrientationPool(Constants):
    r"""The strongest orientation as a vector, [B, C, G, H, W] -> [B, C, 2, H, W].

    .. math:: f \mapsto \rho\,(\cos\alpha, \sin\alpha), \quad \rho = \max_g \mathrm{ReLU}(f_g)

    with :math:`\alpha` the angle of the element with the maximum. The gradient passes through
    :math:`\rho` alone. Exact where one element is the strongest, see :class:`RotEqNet`.

    >>> response = torch.tensor([0.5, 1.0, 3.0, -2.0]).view(1, 1, 4, 1, 1)
    >>> OrientationPool(PointGroup(4))(response).flatten()
    tensor([-3., -0.])
    """

    def __init__(self, group: PointGroup):
        super().__init__()
        self.group = group
        self._fill_constants()

    def _constants(self) -> dict[str, Tensor]:
        return {"directions": self.group.matrices[:, :, 0].T.contiguous()}

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[2] != len(self.group):
            raise ValueError(
                f"OrientationPool expects a lifted map [B, C, {len(self.group)}, H, W], "
                f"not a tensor {list(x.shape)}"
            )
        strongest, which = x.max(2)  # autograd stores the index, not all of x
        length = strongest.relu()
        return torch.stack([length * component[which] for component in self.directions], 2)


class VectorPool(nn.Module):
    """The longest of 2x2 vectors, [B, C, 2, H, W] -> [B, C, 2, H // 2, W // 2].

    Exact on even sizes where one of the four is the longest.

    >>> VectorPool()(torch.randn(2, 6, 2, 28, 28)).shape
    torch.Size([2, 6, 2, 14, 14])
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
        x = _longer(x[..., ::2, :], x[..., 1::2, :])
        return _longer(x[..., ::2], x[..., 1::2])


def _longer(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a.square() - b.square()).sum(2, keepdim=True) >= 0, a, b)


class VectorNorm(nn.Module):
    r"""Batch norm that keeps directions, [B, C, 2, H, W] -> [B, C, 2, H, W].

    Every channel is divided by its root mean square over batch, space and both components, and
    multiplied by a learnt gain; nothing is subtracted. In evaluation mode a running mean square
    is used. Exact for rotations that map the pixel grid to itself.

    Args:
        channels: C.
        eps, momentum: as in PyTorch's batch norm.

    >>> VectorNorm(6)(5 * torch.randn(9, 6, 2, 8, 8)).square().mean().round(decimals=2).item()
    1.0
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.gain = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_square", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        square = self.running_square
        if self.training:
            square = x.square().mean((0, 2, 3, 4))
            with torch.no_grad():
                self.running_square.lerp_(square.to(self.running_square), self.momentum)
        scale = self.gain * (square + self.eps).rsqrt()
        return x * scale[:, None, None, None]
