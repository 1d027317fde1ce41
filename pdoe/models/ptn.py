"""Polar transformer networks: a turn of the image becomes a shift, and a plain network follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constants import Constants
from ..fast import BatchNorm, Dropout
from ..groups import PointGroup
from ..layers import GroupConv, LiftingConv
from .sizes import check_size

PLANE = PointGroup(1)  # on it the bank `pixels` is the ordinary convolution


class PTN(nn.Module):
    r"""A log-polar image about a predicted origin and its classifier, [B, C, H, H] -> [B, classes].

    Three convolutions and a 1x1 one give a heat map, its centroid is the origin o of polar
    coordinates (:class:`Centroid`), the image is sampled on a grid of angles and radii about it
    (:class:`LogPolar`), and a plain network whose angle axis is closed to a ring tells the classes
    (Esteves, Allen-Blanchette, Zhou and Daniilidis, ICLR 2018, arXiv 1709.01889; their code).
    The defaults are PTN-B. With ``cartesian`` a second classifier, of the same layout and with an
    ordinary border, sees the image itself, and the logits are summed: PTN-CNN-B.

    What is exact: with n angles, a turn of the image by a multiple of 2 pi / n *about its origin*
    shifts the rows of the log-polar image, within the largest disc in the image and up to the
    interpolation of what is turned; a quarter turn has no such limits, so that with n divisible by
    4 it shifts all rows by n / 4 exactly.
    Convolutions on the ring commute with shifts by multiples of their strides, so the logits are
    invariant under shifts by multiples of the product of ``strides``. What is not: the origin has
    to turn with the image, and neither does an ordinary predictor commute with turns, nor is a
    stride of 2 centred on images of even size. And the 28 rows of PTN-B are 7 in the end: a quarter
    turn shifts by 7, which is no multiple of 4. So no turn of the pixel grid is promised anything,
    and nothing is said of the plain branch. 32 rows, an odd image size and a predictor of
    symmetric filters would make quarter turns exact.

    Args:
        group: the point group that the closing diagnostics measure; the network has none.
        predictor_widths, predictor_strides: of the 3x3 convolutions before the heat map.
        widths, strides: of the 3x3 convolutions of a classifier, before a last one to the classes
            and the mean over the map. ``[20] * 6`` makes the 27,931 parameters of PTN-S.
        angles, radii: size of the log-polar image.
        origin_noise: in training the origin moves by up to so many pixels in x and in y, uniformly,
            drawn from torch's global random state.
        cartesian: add the classifier of the image itself.
        dropout: probability, elementwise, after every layer of a classifier.
        norm_eps, norm_momentum: of batch norm, in PyTorch's sense.
        in_channels, classes, image_size: of the data.

    >>> net = PTN(PointGroup(1))
    >>> net(torch.randn(2, 1, 28, 28)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([2, 10]), 131959)
    """

    def __init__(
        self,
        group: PointGroup,
        predictor_widths: Sequence[int] = (20, 20, 20),
        predictor_strides: Sequence[int] = (2, 1, 1),
        widths: Sequence[int] = (16, 16, 32, 32, 32, 64, 64, 64),
        strides: Sequence[int] = (1, 1, 2, 1, 1, 2, 1, 1),
        angles: int = 28,
        radii: int = 28,
        origin_noise: float = 2.0,
        cartesian: bool = False,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        in_channels: int = 1,
        classes: int = 10,
        image_size: int = 28,
    ):
        super().__init__()
        for name, channels, steps in (
            ("predictor_widths", predictor_widths, predictor_strides),
            ("widths", widths, strides),
        ):
            if not channels or len(channels) != len(steps):
                raise ValueError(
                    f"{name} names the channels of each layer, and there is a stride for each: "
                    f"found {len(channels)} and {len(steps)}"
                )
        for name, least, numbers in (
            ("angles and radii", 2, (angles, radii)),
            ("image_size", 3, (image_size,)),
            ("strides and predictor_strides", 1, (*strides, *predictor_strides)),
        ):
            if not all(isinstance(number, int) and number >= least for number in numbers):
                found = ", ".join(map(str, numbers))
                raise ValueError(f"{name}: {found} found, expected integers of at least {least}")
        if not (math.isfinite(origin_noise) and origin_noise >= 0):
            raise ValueError(f"origin_noise is a number of pixels, at least 0, not {origin_noise}")
        self.group = group
        self.image_size = image_size
        self.origin_noise = origin_noise

        def layers(channels: Sequence[int], steps: Sequence[int], ring: bool = False):
            had = in_channels
            for number, (width, stride) in enumerate(zip(channels, steps, strict=True)):
                conv = GroupConv if number else LiftingConv
                yield from [Ring()] if ring else []
                padding = 0 if ring else 1
                yield conv(PLANE, had, width, "pixels", stride=stride, padding=padding, bias=True)
                yield from (BatchNorm(width, norm_eps, norm_momentum), nn.ReLU(inplace=True))
                yield from [Dropout(dropout)] if dropout and channels is widths else []
                had = width

        def classifier(ring: bool) -> nn.Sequential:
            last = GroupConv(PLANE, widths[-1], classes, "pixels", padding=1 - ring, bias=True)
            border = [Ring()] if ring else []
            mean = nn.AdaptiveAvgPool3d(1)
            return nn.Sequential(*layers(widths, strides, ring), *border, last, mean, nn.Flatten())

        heat = GroupConv(PLANE, predictor_widths[-1], 1, "point", bias=True)
        nn.init.zeros_(heat.weight)  # a constant heat map: the first origin is the image's centre
        nn.init.ones_(heat.bias)
        self.predictor = nn.Sequential(*layers(predictor_widths, predictor_strides), heat)
        self.origin = Centroid(image_size, predictor_strides)
        self.polar = LogPolar(angles, radii, image_size)
        self.classifier = classifier(ring=True)
        self.cartesian = classifier(ring=False) if cartesian else None

    @property
    def trunk(self) -> nn.Module:
        """The part that should commute with turns: from the image to its heat map."""
        return self.predictor

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, self.image_size)
        origin = self.origin(self.predictor(x))
        if self.training and self.origin_noise:
            noise = 2 * torch.rand_like(origin) - 1  # the global random state, as dropout's
            origin = origin + noise * (2 * self.origin_noise / self.image_size)
        logits = self.classifier(self.polar(x, origin))
        return logits if self.cartesian is None else logits + self.cartesian(x)


class Centroid(Constants):
    r"""The centre of mass of a heat map, [B, 1, 1, h, h] -> (x, y) in half image widths, [B, 2].

    .. math:: o = \sum_p M_p\,p \,/\, \sum_p M_p

    The map lies centred in the image, its pixels as far apart as the strides made them; x points
    right, y up, and the image is [-1, 1]. Turns with the map exactly. M may be negative, so the sum
    may vanish: it counts as no smaller than a tenth of the sum of absolute values, and the origin
    stays within the image. A map of zeros has its origin in the centre. Neither changes anything
    for a map that is nowhere negative.

    >>> heat = torch.zeros(1, 1, 1, 14, 14)
    >>> heat[..., 0, 13] = 1  # the upper right corner
    >>> Centroid(28, [2])(heat)
    tensor([[0.9286, 0.9286]])
    """

    def __init__(self, image_size: int, strides: Sequence[int]):
        super().__init__()
        self.image_size, self.strides = image_size, strides
        self._fill_constants()

    def _constants(self) -> dict[str, np.ndarray]:
        """The places of the map's pixels in the image, [2, h, h]."""
        size = self.image_size
        for stride in self.strides:
            size = -(-size // stride)
        apart = 2 * math.prod(self.strides) / self.image_size
        places = (np.arange(size) - (size - 1) / 2) * apart
        return {"places": np.stack(np.broadcast_arrays(places, -places[:, None]))}

    def forward(self, heat: Tensor) -> Tensor:
        mass = heat.flatten(1, 2).to(self.places.dtype)  # [B, 1, h, h], float32 under autocast, too
        total, least = mass.sum((2, 3)), 0.1 * mass.abs().sum((2, 3))
        safe = torch.where(total < 0, -1.0, 1.0) * torch.maximum(total.abs(), least)
        safe = torch.where(safe == 0, 1.0, safe)
        return ((mass * self.places).sum((2, 3)) / safe).clamp(-1, 1)


class LogPolar(Constants):
    r"""An image in log-polar coordinates about origins, [B, C, H, H] -> [B, C, angles, radii].

    Row i is the direction :math:`2\pi i/n` counter-clockwise from the x axis, column j the radius

    .. math:: r_j = \sqrt 2\,(R^{s_j} - 1)/(R - 1), \quad s_j = j/(m - 1), \quad R = H/\sqrt 2

    in half image widths, from 0 to the half diagonal of R pixels. Bilinear; outside the image its
    border goes on. A quarter turn of image and origin shifts the rows by n/4 exactly if 4 divides
    n; a change of scale is a shift of columns only where r is large against a pixel. The published
    formula is :math:`r = R^{s}`; this one, which reaches the origin, is that of the authors' code.
    There the last row repeats the first (angles 0 to 2 pi, both included), and pixels lie half a
    pixel off; here the n angles are n different ones.

    >>> image = torch.zeros(1, 1, 28, 28)
    >>> image[..., :14, 14:] = 1  # the upper right quadrant: from 0 to 90 degrees
    >>> LogPolar(28, 28, 28)(image, torch.zeros(1, 2))[0, 0, :, 20].nonzero().flatten()
    tensor([0, 1, 2, 3, 4, 5, 6, 7])
    """

    def __init__(self, angles: int, radii: int, image_size: int):
        if radii < 2:
            raise ValueError(f"radii is at least 2, from the origin to the corner, not {radii}")
        super().__init__()
        self.angles, self.radii, self.image_size = angles, radii, image_size
        self._fill_constants()

    def _constants(self) -> dict[str, np.ndarray]:
        """From the origin to the pixels of the polar image, [angles, radii, 2]."""
        directions = PointGroup(self.angles).matrices.numpy()[:, :, 0]  # (cos, sin)
        largest = self.image_size / math.sqrt(2)
        steps = largest ** np.linspace(0, 1, self.radii)
        lengths = math.sqrt(2) * (steps - 1) / (largest - 1)
        return {"away": directions[:, None] * lengths[:, None]}

    def forward(self, x: Tensor, origin: Tensor) -> Tensor:
        places = origin[:, None, None] + self.away  # [B, angles, radii, 2], y up
        grid = torch.stack([places[..., 0], -places[..., 1]], -1)
        return F.grid_sample(x.to(grid.dtype), grid, padding_mode="border", align_corners=False)


class Ring(nn.Module):
    """Before a 3x3 convolution of a polar image: rows close to a ring, zeros beside the columns.

    >>> Ring()(torch.tensor([[1.0], [2.0], [3.0]])[None, None])[0, 0, :, 1]
    tensor([3., 1., 2., 3., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(torch.cat([x[..., -1:, :], x, x[..., :1, :]], -2), (1, 1))
