"""Oriented response networks of the MNIST-rot table, on an image or on its rotated copies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constants import Constants
from ..fast import Dropout
from ..groups import PointGroup, rotation
from ..layers import GroupPool
from .chain import Layer, build_chain
from .settings import DIGITS, NORM, Filters, Images, Norm


class ORN(nn.Module):
    r"""ORN-8 and OR-TIPooling, images [B, C, H, W] -> logits [B, classes].

    Four 3x3 convolutions with ReLU, 2x2 max pooling after the first three and a padding of 1 in the
    third, shrink the image to one pixel. Its orientations are aligned (:class:`Align`) or pooled.
    Two linear layers, with ReLU and dropout between them, give the logits (Zhou et al. 2017,
    arXiv 1701.01833, and its code). With :math:`N > 1` copies it is TI-pooling around that network
    (Laptev et al. 2016, arXiv 1604.06318): the image is rotated by the multiples of
    :math:`2\pi/N`, and the last layer sees the maximum of each hidden feature,

    .. math:: y = W \max_{i < N} h(R_{2\pi i/N}\,x).

    The source pads digits to 32x32. There the second pooling (13 to 6) omits one row and column,
    and even rotations by 90 degrees do not commute. Padded to 30x30 the maps are 28, 14, 12, 6, 6,
    3, 1 wide. Then the trunk commutes exactly with the elements that map the pixel grid to itself,
    and the logits are invariant under them (ties between orientations apart). By 45 degrees both
    hold approximately, as the ring of a 3x3 filter rotates approximately.

    There is no batch norm unless ``norm`` asks for it. The released code copies the image into
    eight orientations (a lifting with a sum of eight weights) and has a bias per orientation,
    which is not equivariant; here are a :class:`pdoe.LiftingConv` and shared biases.

    Args:
        group: the point group; p8 for ORN-8, p4 (the same as bank ``pixels``) for ORN-4.
        widths: channels of the four convolutions, per orientation.
        bank, offset, bank_width: of every convolution, see :func:`pdoe.filter_bank`.
        frame: smaller images are padded to this size, in pixels, with the values at their edges: a
            black border stays black, whatever the normalisation.
        head: "align": C|G| features, rotated; "pool": the C maxima over the orientations.
        hidden: units of the hidden layer.
        copies: N. Where rotations by 90 degrees are exactly invariant, only the copies in the first
            quarter are computed: result and gradient are the same at a quarter of the cost.
        norm: batch norm after each convolution; not in the source.
        dropout: probability, elementwise, on the hidden features.
        batch_norm: constants of batch norm; used with ``norm`` alone.
        images: the data.

    Attributes:
        trunk, features, head: image -> lifted map [B, C, G, 1, 1] -> hidden features -> logits.
        angles: the rotations of the copies that are computed, in radians.

    Raises:
        ValueError: for arguments that make no such network, with the ones that would.

    >>> net = ORN(PointGroup(8))
    >>> net(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        group: PointGroup,
        widths: Sequence[int] = (10, 20, 40, 80),
        bank: str = "ring",
        offset: float = 0.0,
        bank_width: float | None = None,
        frame: int = 30,
        head: str = "align",
        hidden: int = 1024,
        copies: int = 1,
        norm: bool = False,
        dropout: float = 0.0,
        batch_norm: Norm = NORM,
        images: Images = DIGITS,
    ):
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths has the channels of four convolutions, not {list(widths)}")
        if copies < 1 or hidden < 1:
            raise ValueError(f"copies and hidden are positive, not {copies} and {hidden}")
        size = max(frame, images.size)
        if not 30 <= size <= 37:
            raise ValueError(
                f"images of {images.size}x{images.size} in a frame of {frame} do not shrink to one "
                "pixel: frame, or the image, has 30 to 37 pixels on a side"
            )
        margin = size - images.size
        layers = [
            Layer(width, border="same" if number == 3 else "shrink", pool=number < 4)
            for number, width in enumerate(widths, start=1)
        ]
        chain = build_chain(
            group,
            images._replace(size=size),
            layers,
            Filters(bank, offset, bank_width),
            batch_norm if norm else None,
            bias=True,
        )
        self.group, self.images = group, images
        self.trunk = nn.Sequential(Frame(margin // 2, margin - margin // 2), *chain.modules)
        self.features = _build_features(head, group, chain.channels, hidden)
        self.head = nn.Sequential(Dropout(dropout), nn.Linear(hidden, images.classes))
        exact = margin % 2 == 0 and chain.exact
        distinct = copies // 4 if copies % 4 == 0 and group.n % 4 == 0 and exact else copies
        self.angles = [2 * math.pi * i / copies for i in range(distinct)]
        self.rotations = RotatedCopies(self.angles, size) if distinct > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        self.images.check(x)
        if self.rotations is None:
            return self.head(self.features(self.trunk(x)))
        frame, *layers = self.trunk
        x = self.rotations(frame(x))
        for layer in layers:
            x = layer(x)
        return self.head(self.features(x).unflatten(0, (len(self.angles), -1)).amax(0))


def _build_features(head: str, group: PointGroup, channels: int, hidden: int) -> nn.Sequential:
    if head == "align":
        pool, channels = [Align(group)], channels * len(group)
    elif head == "pool":
        pool = [GroupPool("max"), nn.Flatten()]
    else:
        raise ValueError(f"head is 'align' or 'pool', not {head!r}")
    return nn.Sequential(*pool, nn.Linear(channels, hidden), nn.ReLU(inplace=True))


class Align(Constants):
    r"""ORAlign: each field begins with its strongest orientation, [B, C, G, 1, 1] -> [B, CG].

    .. math:: y(h) = f(\hat g h), \qquad \hat g = \arg\max_g f(g),

    for rotations a cyclic shift. An element a maps f to :math:`f(a^{-1}\cdot)` and
    :math:`\hat g` to :math:`a \hat g`, so y is invariant, exactly. Of tied orientations the first
    one counts. Unlike the maximum, y also keeps the responses of the other orientations.

    >>> field = torch.tensor([2.0, 1.0, 9.0, 0.0]).view(1, 1, 4, 1, 1)
    >>> Align(PointGroup(4))(field).tolist()
    [[9.0, 0.0, 2.0, 1.0]]
    """

    def __init__(self, group: PointGroup):
        super().__init__()
        self.group = group
        self._fill_constants()

    def _constants(self) -> dict[str, Tensor]:
        return {"product": self.group.product}

    def forward(self, x: Tensor) -> Tensor:
        fields = x.flatten(2)
        return fields.gather(2, self.product[fields.argmax(2)]).flatten(1)


class Frame(nn.Module):
    """Padding with the values at the edges of an image, [B, C, H, W] -> [B, C, H', W'].

    Args:
        before: pixels on the left and above.
        after: pixels on the right and below.

    >>> Frame(1, 1)(torch.eye(2)[None, None])[0, 0].tolist()[0]
    [1.0, 1.0, 0.0, 0.0]
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.margins = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.margins, mode="replicate")


class RotatedCopies(Constants):
    """Square images rotated by each angle, [B, C, H, H] -> [NB, C, H, H], all images per angle.

    Bilinear interpolation, with the values at the edges outside of the image. Exact to rounding at
    multiples of 90 degrees.

    Args:
        angles: N angles in radians, counter-clockwise.
        size: H in pixels.
    """

    def __init__(self, angles: Sequence[float], size: int):
        super().__init__()
        self.angles, self.size = list(angles), size
        self._fill_constants()

    def _constants(self) -> dict[str, Tensor]:
        """The source of each pixel, in the coordinates of ``grid_sample``: [N, H, H, 2]."""
        across = (2 * torch.arange(self.size, dtype=torch.float64) + 1) / self.size - 1
        points = torch.stack(torch.meshgrid(across, -across, indexing="xy"), -1)  # y up
        back = torch.tensor([rotation(-angle) for angle in self.angles], dtype=torch.float64)
        sources = torch.einsum("nab,yxb->nyxa", back, points)
        return {"grid": sources * torch.tensor([1.0, -1.0], dtype=torch.float64)}  # y down

    def forward(self, x: Tensor) -> Tensor:
        images = x.flatten(0, 1).expand(len(self.angles), -1, -1, -1)  # as channels of each copy
        copies = F.grid_sample(images, self.grid, padding_mode="border", align_corners=False)
        return copies.unflatten(1, (-1, x.shape[1])).flatten(0, 1)
