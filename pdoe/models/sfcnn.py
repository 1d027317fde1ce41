"""The network of SFCNN, which E2CNN took over: wide layers with large filters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..fast import Dropout
from ..groups import PointGroup
from .chain import Layer, build_chain, check_layer_numbers
from .settings import DIGITS, NORM, Filters, Images, Norm


class SteerableCNN(nn.Module):
    r"""Six convolutions and three linear layers, [B, C, H, W] -> invariant logits [B, classes].

    A layer is convolution, batch norm, 2x2 max pooling in some layers, ELU. With the defaults on
    28x28 images (Weiler et al. 2018, arXiv 1711.07289, as in the code of Weiler & Cesa 2019):

    ===== ======== ====== ============ =====
    layer kernel   fields then         map
    ===== ======== ====== ============ =====
    1     9, pad 0 24                  20
    2     7        32     pooled       10
    3     7        36                  10
    4     7        36     pooled       5
    5     7        64                  5
    6     5, pad 0 96                  1
    ===== ======== ====== ============ =====

    The head takes the largest value over orientations and positions. Twice follow dropout, a linear
    layer of ``hidden`` units, batch norm and ELU; then dropout and a linear layer.

    The trunk commutes exactly with the elements that map the pixel grid to itself, and the logits
    are invariant under them, as long as the maps that are pooled have even sizes.

    Args:
        group: the point group; p16 in both papers.
        widths: fields of each layer, channels per orientation.
        sizes: k of each layer's filters. The first and the last layer have no padding, the others
            keep the size of the map.
        bank, offset, bias: of every convolution, see :class:`pdoe.LiftingConv`. Banks that take
            these sizes: ``harmonics``, ``pixels`` on its groups, and ``operators``, whose 5x5
            stencils stand in a frame of zeros.
        pool_after: numbers of the layers (from 1) that are pooled.
        hidden: units of the two hidden linear layers.
        dropout: probability, elementwise, before every linear layer.
        batch_norm: constants of batch norm.
        images: the data; larger images are accepted, too.

    Raises:
        ValueError: for lists of different lengths, and for an image that is too small.

    >>> import torch
    >>> net = SteerableCNN(PointGroup(4), widths=[2, 2, 3, 3, 4, 6])
    >>> net(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        group: PointGroup,
        widths: Sequence[int] = (24, 32, 36, 36, 64, 96),
        sizes: Sequence[int] = (9, 7, 7, 7, 7, 5),
        bank: str = "harmonics",
        offset: float = 0.0,
        bias: bool = True,
        pool_after: Sequence[int] = (2, 4),
        hidden: int = 96,
        dropout: float = 0.0,
        batch_norm: Norm = NORM,
        images: Images = DIGITS,
    ):
        super().__init__()
        if len(widths) != len(sizes):
            raise ValueError(
                f"widths and sizes have a number for each layer, not {len(widths)} and {len(sizes)}"
            )
        check_layer_numbers("pool_after", pool_after, len(widths))
        if hidden < 1:
            raise ValueError(f"hidden is a positive number of units, not {hidden}")
        layers = [
            Layer(
                width,
                size,
                border="valid" if number in (1, len(widths)) else "same",
                pool=number in pool_after,
            )
            for number, (width, size) in enumerate(zip(widths, sizes, strict=True), start=1)
        ]
        chain = build_chain(
            group,
            images,
            layers,
            Filters(bank, offset),
            batch_norm,
            bias,
            activation=nn.ELU,
            pool_first=True,
        )
        self.group = group
        self.trunk = nn.Sequential(*chain.modules)
        self.head = _build_head(chain.channels, hidden, images.classes, dropout, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def _build_head(
    channels: int, hidden: int, classes: int, dropout: float, batch_norm: Norm
) -> nn.Sequential:
    head = nn.Sequential(Largest())
    for units in (hidden, hidden):
        linear, norm = nn.Linear(channels, units), nn.BatchNorm1d(units, *batch_norm)
        head.extend([Dropout(dropout), linear, norm, nn.ELU(inplace=True)])
        channels = units
    return head.extend([Dropout(dropout), nn.Linear(channels, classes)])


class Largest(nn.Module):
    """The maximum over orientations and positions, [B, C, G, H, W] -> [B, C]; invariant.

    >>> import torch
    >>> Largest()(torch.ones(2, 7, 8, 5, 5)).shape
    torch.Size([2, 7])
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3, 4))
