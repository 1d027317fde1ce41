"""Polar transformer networks: a rotation of the image becomes a shift for a plain network."""

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
from .settings import DIGITS, NORM, Images, Norm

PLANE = PointGroup(1)  # on it the bank `pixels` is the ordinary convolution


class PTN(nn.Module):
    r"""A log-polar image about a predicted origin and its classifier, [B, C, H, H] -> [B, classes].

    Three convolutions and a 1x1 convolution predict a heat map. Its centroid is the origin o of the
    polar coordinates (:class:`Centroid`). The image is sampled on a grid of angles and radii about
    the origin (:class:`LogPolar`), and a plain network whose angle axis is closed to a ring gives
    the logits (Esteves, Allen-Blanchette, Zhou and Daniilidis, ICLR 2018, arXiv 1709.01889; their
    code). The defaults are PTN-B. With ``cartesian`` a second classifier, of the same layout and
    with an ordinary border, gets the image itself, and the logits are summed: PTN-CNN-B.

    Exact: with n angles, rotating the image by a multiple of 2 pi / n *about its origin* shifts the
    rows of the log-polar image, within the largest disc in the image and up to interpolation. A
    rotation by 90 degrees has no such limits: with n divisible by 4 it shifts all rows by n / 4
    exactly. Convolutions on the ring commute with shifts by multiples of their strides, so the
    logits are invariant under shifts by multiples of the product of ``strides``.

    Not exact: the origin has to rotate with the image, but an ordinary predictor does not commute
    with rotations, and a stride of 2 is not centred on images of even size. The 28 rows of PTN-B
    become 7, and a rotation by 90 degrees shifts by 7, which is no multiple of 4. So no rotation of
    the pixel grid is exact; nor is the classifier of the image itself. 32 rows, an odd image size
    and a predictor of symmetric filters would make rotations by 90 degrees exact.

    Args:
        group: the point group that diagnostics measure; the network does not depend on it.
        predictor_widths, predictor_strides: of the 3x3 convolutions before the heat map.
        widths, strides: of the 3x3 convolutions of a classifier, before a last convolution to the
            classes and the mean over the map. ``[20] * 6`` makes PTN-S.
        angles, radii: size of the log-polar image.
        origin_noise: in training the origin moves by up to this many pixels in x and in y,
            uniformly, drawn from torch's global random state.
        cartesian: add the classifier of the image itself.
        dropout: probability, elementwise, after every layer of a classifier.
        batch_norm: constants of batch norm.
        images: the data.

    Raises:
        ValueError: for arguments that make no network, with the ones that would.

    >>> net = PTN(PointGroup(1))
    >>> net(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 10])
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
        batch_norm: Norm = NORM,
        images: Images = DIGITS,
    ):
        super().__init__()
        _check_layers("predictor_widths", predictor_widths, predictor_strides)
        _check_layers("widths", widths, strides)
        _check_integers("angles and radii", 2, (angles, radii))
        _check_integers("image size", 3, (images.size,))
        if not (math.isfinite(origin_noise) and origin_noise >= 0):
            raise ValueError(f"origin_noise is a number of pixels, at least 0, not {origin_noise}")
        self.group, self.images = group, images
        self.origin_noise = origin_noise
        heat = GroupConv(PLANE, predictor_widths[-1], 1, "point", bias=True)
        nn.init.zeros_(heat.weight)  # a constant heat map: the first origin is the image's centre
        nn.init.ones_(heat.bias)
        predictor = _build_layers(images, predictor_widths, predictor_strides, batch_norm)
        self.predictor = nn.Sequential(*predictor, heat)
        self.origin = Centroid(images.size, predictor_strides)
        self.polar = LogPolar(angles, radii, images.size)

        settings = images, widths, strides, batch_norm, dropout
        self.classifier = _build_classifier(*settings, ring=True)
        self.cartesian = _build_classifier(*settings, ring=False) if cartesian else None

    @property
    def trunk(self) -> nn.Module:
        """The part that should commute with rotations: from the image to its heat map."""
        return self.predictor

    def forward(self, x: Tensor) -> Tensor:
        self.images.check(x)
        origin = self.origin(self.predictor(x))
        if self.training and self.origin_noise:
            noise = 2 * torch.rand_like(origin) - 1  # the global random state, as dropout's
            origin = origin + noise * (2 * self.origin_noise / self.images.size)
        logits = self.classifier(self.polar(x, origin))
        return logits if self.cartesian is None else logits + self.cartesian(x)


def _check_layers(name: str, widths: Sequence[int], strides: Sequence[int]) -> None:
    if not widths or len(widths) != len(strides):
        raise ValueError(
            f"{name} lists the channels of each layer, with one stride for each: found "
            f"{len(widths)} and {len(strides)}"
        )
    _check_integers("strides and predictor_strides", 1, strides)


def _check_integers(name: str, least: int, numbers: Sequence[int]) -> None:
    if not all(isinstance(number, int) and number >= least for number in numbers):
        found = ", ".join(map(str, numbers))
        raise ValueError(f"{name}: {found} found, expected integers of at least {least}")


def _build_layers(
    images: Images,
    widths: Sequence[int],
    strides: Sequence[int],
    batch_norm: Norm,
    dropout: float = 0.0,
    ring: bool = False,
) -> list[nn.Module]:
    """Ordinary 3x3 convolutions with batch norm, ReLU and dropout; ``ring`` closes the rows."""
    modules: list[nn.Module] = []
    channels = images.channels
    for number, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        conv = (GroupConv if number else LiftingConv)(
            PLANE, channels, width, "pixels", stride=stride, padding=0 if ring else 1, bias=True
        )
        modules += [Ring()] if ring else []
        modules += [conv, BatchNorm(width, *batch_norm), nn.ReLU(inplace=True)]
        modules += [Dropout(dropout)] if dropout else []
        channels = width
    return modules


def _build_classifier(
    images: Images,
    widths: Sequence[int],
    strides: Sequence[int],
    batch_norm: Norm,
    dropout: float,
    ring: bool,
) -> nn.Sequential:
    last = GroupConv(PLANE, widths[-1], images.classes, "pixels", padding=1 - ring, bias=True)
    layers = _build_layers(images, widths, strides, batch_norm, dropout, ring)
    border = [Ring()] if ring else []
    return nn.Sequential(*layers, *border, last, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class Centroid(Constants):
    r"""The centre of mass of a heat map, [B, 1, 1, h, h] -> (x, y) in half image widths, [B, 2].

    .. math:: o = \sum_p M_p\,p \,/\, \sum_p M_p

    The map is centred in the image, with the pixel spacing of its strides; x points right, y up,
    and the image is [-1, 1]. The centre of mass rotates with the map exactly. M may be negative and
    its sum may vanish. So the sum is at least a tenth of the sum of absolute values, and the origin
    is clamped to the image. The origin of a map of zeros is the centre. Maps that are nowhere
    negative are not affected.

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
        """The coordinates of the map's pixels in the image, [2, h, h]."""
        size = self.image_size
        for stride in self.strides:
            size = -(-size // stride)
        spacing = 2 * math.prod(self.strides) / self.image_size
        places = (np.arange(size) - (size - 1) / 2) * spacing
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

    in half image widths, from 0 to the half diagonal of R pixels. Interpolation is bilinear;
    outside of the image the values at its edges are used. Rotating image and origin by 90 degrees
    shifts the rows by n/4 exactly if 4 divides n. A change of scale is a shift of columns only
    where r is large against a pixel. The published formula is :math:`r = R^{s}`; this formula,
    which reaches the origin, is that of the authors' code. There the last row repeats the first
    (angles 0 to 2 pi, both included), and pixels are shifted by half a pixel; here the n angles
    differ.

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
    """Padding of a polar image for a 3x3 convolution: rows wrap around, columns get zeros.

    >>> Ring()(torch.tensor([[1.0], [2.0], [3.0]])[None, None])[0, 0, :, 1]
    tensor([3., 1., 2., 3., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(torch.cat([x[..., -1:, :], x, x[..., :1, :]], -2), (1, 1))
