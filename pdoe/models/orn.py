"""Oriented response networks of the MNIST-rot table, alone and on turned copies of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constants import Constants
from ..fast import BatchNorm, Dropout, MaxPool
from ..groups import PointGroup, rotation
from ..layers import GroupConv, GroupPool, LiftingConv
from .sizes import check_size


class ORN(nn.Module):
    r"""ORN-8 and OR-TIPooling, images [B, C, H, W] -> logits [B, classes].

    Four 3x3 convolutions with ReLU, 2x2 max pooling after the first three and a padding of 1 in the
    third, shrink the image to one pixel. Its orientations are aligned (:class:`Align`) or pooled,
    and two linear layers with ReLU and dropout between them decide (Zhou et al. 2017,
    arXiv 1701.01833, and its code). With :math:`N > 1` copies it is TI-pooling around that network
    (Laptev et al. 2016, arXiv 1604.06318): of the hidden features of the image turned by the
    multiples of :math:`2\pi/N`, each feature's maximum is what the last layer sees,

    .. math:: y = W \max_{i < N} h(R_{2\pi i/N}\,x).

    The source pads digits to 32x32, where the second pooling (13 to 6) leaves out one side and even
    quarter turns do not commute. Framed to 30x30 the maps are 28, 14, 12, 6, 6, 3, 1 wide, the
    trunk commutes exactly with the turns of the grid in the group, and the logits are invariant
    under them (ties between orientations apart). By 45 degrees both hold approximately, as the ring
    of a 3x3 filter turns approximately.

    There is no batch norm unless ``norm`` asks for it. The released code copies the image into
    eight orientations (a lifting with a sum of eight weights) and has a bias per orientation,
    which is not equivariant; here are a :class:`pdoe.LiftingConv` and shared biases.

    Args:
        group: the point group; p8 for ORN-8, p4 (the same as bank ``pixels``) for ORN-4.
        widths: channels of the four convolutions, per orientation.
        bank, offset, bank_width: of every convolution, see :func:`pdoe.filter_bank`.
        frame: smaller images are continued to this size by the values at their edges; so is black
            by black, whatever the normalisation.
        head: "align": C|G| features, rotated; "pool": the C maxima over the orientations.
        hidden: units of the hidden layer.
        copies: N. Where quarter turns are exactly invariant, the copies in the first quarter stand
            for all: the result, and its gradient, are the same at a quarter of the cost.
        norm: batch norm after each convolution; not in the source.
        dropout: probability, elementwise, on the hidden features.
        norm_eps, norm_momentum: of batch norm, in PyTorch's sense; without it of no effect.
        in_channels, classes, image_size: of the data.

    Attributes:
        trunk, features, head: image -> lifted map [B, C, G, 1, 1] -> hidden features -> logits.
        angles: the turns of the copies that are computed, in radians.

    Raises:
        ValueError: for arguments that make no such network, saying which would.

    >>> net = ORN(PointGroup(8))
    >>> net(torch.randn(2, 1, 28, 28)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([2, 10]), 969274)
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
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        in_channels: int = 1,
        classes: int = 10,
        image_size: int = 28,
    ):
        super().__init__()
        if head not in ("align", "pool"):
            raise ValueError(f"head is 'align' or 'pool', not {head!r}")
        if len(widths) != 4:
            raise ValueError(f"widths has the channels of four convolutions, not {list(widths)}")
        if copies < 1 or hidden < 1:
            raise ValueError(f"copies and hidden are positive, not {copies} and {hidden}")
        size = max(frame, image_size)
        margin = size - image_size
        exact = margin % 2 == 0
        layers: list[nn.Module] = [Frame(margin // 2, margin - margin // 2)]
        channels = in_channels
        for number, width in enumerate(widths, start=1):
            conv = (LiftingConv if number == 1 else GroupConv)(
                group, channels, width, bank, offset=offset, bias=True, bank_width=bank_width
            )
            if number != 3:
                conv.padding -= 1
                size -= 2
            layers.append(conv)
            if norm:
                layers.append(BatchNorm(width, norm_eps, norm_momentum))
            layers.append(nn.ReLU(inplace=True))
            if number < 4:
                exact = exact and size % 2 == 0
                size //= 2
                layers.append(MaxPool())
            channels = width
        if size != 1:
            raise ValueError(
                f"images of {image_size}x{image_size} in a frame of {frame} do not shrink to one "
                "pixel: frame, or the image, has 30 to 37 pixels on a side"
            )
        self.group, self.image_size = group, image_size
        self.trunk = nn.Sequential(*layers)
        align = head == "align"
        self.features = nn.Sequential(
            *([Align(group)] if align else [GroupPool("max"), nn.Flatten()]),
            nn.Linear(channels * len(group) if align else channels, hidden),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Sequential(Dropout(dropout), nn.Linear(hidden, classes))
        distinct = copies // 4 if copies % 4 == 0 and group.n % 4 == 0 and exact else copies
        self.angles = [2 * math.pi * i / copies for i in range(distinct)]
        self.turned = Turned(self.angles, max(frame, image_size)) if distinct > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, self.image_size)
        if self.turned is None:
            return self.head(self.features(self.trunk(x)))
        frame, *layers = self.trunk
        x = self.turned(frame(x))
        for layer in layers:
            x = layer(x)
        return self.head(self.features(x).unflatten(0, (len(self.angles), -1)).amax(0))


class Align(Constants):
    r"""ORAlign: each field begins with its strongest orientation, [B, C, G, 1, 1] -> [B, CG].

    .. math:: y(h) = f(\hat g h), \qquad \hat g = \arg\max_g f(g),

    on rotations a cyclic shift. As an element a turns f into :math:`f(a^{-1}\cdot)` and
    :math:`\hat g` into :math:`a \hat g`, y is invariant, exactly; of orientations that tie the
    first one counts. Beside the maximum it keeps how the other orientations respond.

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
    """An image continued by the values at its edges: so many pixels left and above, and opposite.

    >>> Frame(1, 1)(torch.eye(2)[None, None])[0, 0].tolist()[0]
    [1.0, 1.0, 0.0, 0.0]
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.margins = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.margins, mode="replicate")


class Turned(Constants):
    """Copies of square images turned by each angle, [B, C, H, H] -> [NB, C, H, H], angle by angle.

    Angles in radians, counter-clockwise; bilinear, and beyond the frame the values at its edges.
    Exact to rounding at multiples of 90 degrees.
    """

    def __init__(self, angles: Sequence[float], size: int):
        super().__init__()
        self.angles, self.size = list(angles), size
        self._fill_constants()

    def _constants(self) -> dict[str, Tensor]:
        """Where each pixel comes from, in the frame of ``grid_sample``: [N, H, H, 2]."""
        across = (2 * torch.arange(self.size, dtype=torch.float64) + 1) / self.size - 1
        points = torch.stack(torch.meshgrid(across, -across, indexing="xy"), -1)  # y up
        back = torch.tensor([rotation(-angle) for angle in self.angles], dtype=torch.float64)
        sources = torch.einsum("nab,yxb->nyxa", back, points)
        return {"grid": sources * torch.tensor([1.0, -1.0], dtype=torch.float64)}  # y down

    def forward(self, x: Tensor) -> Tensor:
        images = x.flatten(0, 1).expand(len(self.angles), -1, -1, -1)  # as channels of each copy
        copies = F.grid_sample(images, self.grid, padding_mode="border", align_corners=False)
        return copies.unflatten(1, (-1, x.shape[1])).flatten(0, 1)
