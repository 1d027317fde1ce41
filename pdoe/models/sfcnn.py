"""The network of SFCNN, which E2CNN took over: wide, and with large filters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..fast import BatchNorm, Dropout, MaxPool
from ..groups import PointGroup
from ..layers import GroupConv, LiftingConv


class SteerableCNN(nn.Module):
    r"""Six convolutions and three linear layers, [B, C, H, W] -> invariant logits [B, classes].

    A layer is convolution, batch norm, 2x2 max pooling after some, ELU. With the defaults on 28x28
    images (Weiler et al. 2018, arXiv 1711.07289, as in the code of Weiler & Cesa 2019):

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

    The head takes the largest value over orientations and positions; then, twice, dropout, a linear
    layer of ``hidden`` units, batch norm and ELU; then dropout and a linear layer.

    The trunk commutes exactly with the elements that map the pixel grid to itself, and the logits
    are invariant under them, as long as the maps that are pooled have even sizes.

    Args:
        group: the point group; p16 in both papers.
        widths: fields of each layer, channels per orientation.
        sizes: k of each layer's filters. The first and the last layer have no padding, the others
            keep the size of the map.
        bank, offset, bias: of every convolution, see :class:`pdoe.LiftingConv`; a bank that takes
            these sizes: ``harmonics``, ``pixels`` on its groups, or ``operators``, whose filters
            keep their support in a ring of zeros.
        pool_after: numbers of the layers (from 1) that are pooled.
        hidden: units of the two linear layers.
        dropout: probability, elementwise, before every linear layer.
        norm_eps, norm_momentum: of batch norm, in PyTorch's sense.
        in_channels, classes, image_size: of the data; the network takes images of any size that
            its first image had room for.

    Raises:
        ValueError: for lists of different lengths, and for an image that the layers use up.

    >>> import torch
    >>> net = SteerableCNN(PointGroup(4), widths=[2, 2, 3, 3, 4, 6])
    >>> net(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    >>> with torch.device("meta"):
    ...     published = SteerableCNN(PointGroup(16))
    >>> sum(p.numel() for p in published.parameters())
    2692690
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
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        in_channels: int = 1,
        classes: int = 10,
        image_size: int = 28,
    ):
        super().__init__()
        if not widths or len(widths) != len(sizes):
            raise ValueError(
                f"widths and sizes have a number for each layer, not {len(widths)} and {len(sizes)}"
            )
        if beyond := [number for number in pool_after if not 1 <= number <= len(widths)]:
            raise ValueError(f"pool_after names layers {beyond} of {len(widths)}")
        if hidden < 1:
            raise ValueError(f"hidden is a positive number of units, not {hidden}")
        norm = {"eps": norm_eps, "momentum": norm_momentum}
        self.group = group
        self.trunk = nn.Sequential()
        side, channels = image_size, in_channels
        for number, (width, size) in enumerate(zip(widths, sizes, strict=True), start=1):
            padding = 0 if number in (1, len(widths)) else None
            conv = (LiftingConv if number == 1 else GroupConv)(
                group, channels, width, bank, size, offset, padding=padding, bias=bias
            )
            self.trunk.extend([conv, BatchNorm(width, **norm)])
            side += 2 * conv.padding + 1 - conv.kernel_size
            if number in pool_after:
                self.trunk.append(MaxPool())  # before ELU, which is monotone: a quarter of the work
                side //= 2
            self.trunk.append(nn.ELU(inplace=True))
            channels = width
            if side < 1:
                raise ValueError(
                    f"an image of {image_size}x{image_size} is used up after layer {number} "
                    f"of {len(widths)}"
                )
        self.head = nn.Sequential(Largest())
        for units in (hidden, hidden):
            linear, batch_norm = nn.Linear(channels, units), nn.BatchNorm1d(units, **norm)
            self.head.extend([Dropout(dropout), linear, batch_norm, nn.ELU(inplace=True)])
            channels = units
        self.head.extend([Dropout(dropout), nn.Linear(channels, classes)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class Largest(nn.Module):
    """The maximum over orientations and positions, [B, C, G, H, W] -> [B, C]; invariant.

    >>> import torch
    >>> Largest()(torch.ones(2, 7, 8, 5, 5)).shape
    torch.Size([2, 7])
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3, 4))
