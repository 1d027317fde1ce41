"""The plain networks of the MNIST-rot table: a chain of convolutions and a small head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..fast import BatchNorm, ChannelsLast, Dropout, MaxPool
from ..groups import PointGroup
from ..layers import GroupConv, GroupPool, LiftingConv
from .sizes import check_size


class PlainCNN(nn.Module):
    r"""A lifting convolution, group convolutions and a head, [B, C, H, W] -> logits [B, classes].

    Each layer is convolution, batch norm, ReLU; some are followed by 2x2 max pooling, some by
    dropout. With its default layout and 28x28 images the maps are 26, 24, pool 12, 10, 8, 6, 4
    wide, whatever the kernels' support (Cohen & Welling 2016; Shen et al. 2020 and its code):

    - Z2CNN: p1, 20 channels, ``pixels``; P4CNN: p4, 10 channels, ``pixels``, head ``group``;
    - PDO-eConv: p8, 7 channels, ``operators``, offset pi/8, head ``dense``.

    The trunk commutes exactly with the elements that map the pixel grid to itself as long as the
    maps that are pooled have even sizes; heads ``group`` and ``pooled`` make the logits invariant
    under them, head ``dense`` does not.

    Args:
        group: the point group.
        widths: channels of each layer, per orientation.
        bank, offset, bias: of every convolution, see :class:`pdoe.LiftingConv`.
        padding: "shrink": every layer narrows the map by 2; "same": it keeps its size.
        pool_after: numbers of the layers (from 1) that are followed by pooling.
        head: "dense": one convolution over all orientations that spans the map (the authors');
            "group": a GroupConv of bank ``pixels`` that spans the map, and the maximum over G
            (Cohen & Welling); "pooled": the maximum over G, the mean over space, a hidden layer of
            ``hidden`` units with batch norm and ReLU, and a linear layer.
        hidden: width of the hidden layer of head "pooled".
        dropout, dropout_after: probability, elementwise, and the layers (from 1) that it follows.
        norm_eps, norm_momentum: of batch norm, in PyTorch's sense.
        init_variance: of the initial weights of the equivariant layers, times their fan-in: 2 as
            the layers have it, 1 as in Cohen & Welling's code. Batch norm hides the scale from the
            output, but the smaller the weights, the further a step of Adam turns them.
        bank_width: of the Gaussian of bank ``gaussian``.
        in_channels, classes, image_size: of the data.

    >>> net = PlainCNN(PointGroup(8), [7] * 6, offset=torch.pi / 8)
    >>> net(torch.randn(2, 1, 28, 28)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([2, 10]), 26747)
    """

    def __init__(
        self,
        group: PointGroup,
        widths: Sequence[int],
        bank: str = "operators",
        offset: float = 0.0,
        bias: bool = False,
        padding: str = "shrink",
        pool_after: Sequence[int] = (2,),
        head: str = "dense",
        hidden: int | None = None,
        dropout: float = 0.0,
        dropout_after: Sequence[int] = (1, 3, 4, 5, 6),
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        init_variance: float = 2.0,
        bank_width: float | None = None,
        in_channels: int = 1,
        classes: int = 10,
        image_size: int = 28,
    ):
        super().__init__()
        if padding not in ("shrink", "same"):
            raise ValueError(f"padding is 'shrink' or 'same', not {padding!r}")
        if head not in ("dense", "group", "pooled"):
            raise ValueError(f"head is 'dense', 'group' or 'pooled', not {head!r}")
        if (hidden is not None) != (head == "pooled"):
            raise ValueError(f"a width of the hidden layer goes with head 'pooled', not {head!r}")
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden is a positive number of units, not {hidden}")
        if not init_variance > 0:
            raise ValueError(f"init_variance is positive, not {init_variance}")
        if not widths:
            raise ValueError("widths names the channels of each layer; it is empty")
        beyond = [number for number in pool_after if not 1 <= number <= len(widths)]
        if beyond:
            raise ValueError(f"pool_after names layers {beyond} of {len(widths)}")
        self.group = group
        self.image_size = None if head == "pooled" else image_size  # other heads span the map
        layers: list[nn.Module] = []
        size, channels = image_size, in_channels
        for number, width in enumerate(widths, start=1):
            conv = (LiftingConv if number == 1 else GroupConv)(
                group, channels, width, bank, offset=offset, bias=bias, bank_width=bank_width
            )
            if padding == "shrink":
                if conv.padding == 0:
                    raise ValueError(
                        f"a layer of bank {bank!r} has a kernel of {conv.kernel_size} pixel and "
                        "cannot shrink a map; give padding 'same'"
                    )
                conv.padding -= 1
                size -= 2
            layers += [conv, BatchNorm(width, norm_eps, norm_momentum), nn.ReLU(inplace=True)]
            if number in pool_after:
                layers.append(MaxPool())
                size //= 2
            if dropout and number in dropout_after:
                layers.append(Dropout(dropout))
            channels = width
            if size < 1:
                raise ValueError(
                    f"an image of {image_size}x{image_size} is used up after layer {number} "
                    f"of {len(widths)}"
                )
        self.layout = ChannelsLast()
        self.trunk = nn.Sequential(*layers)
        if head == "dense":
            self.head = nn.Sequential(
                nn.Flatten(1, 2),
                _conv_to_point(channels * len(group), classes, size, bias),
                nn.Flatten(),
            )
        elif head == "group":
            self.head = nn.Sequential(
                GroupConv(group, channels, classes, "pixels", size=size, padding=0, bias=bias),
                GroupPool("max"),
                nn.Flatten(),
            )
        else:
            self.head = nn.Sequential(
                GroupPool("max"),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(channels, hidden),
                nn.BatchNorm1d(hidden, norm_eps, norm_momentum),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, classes),
            )

        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, LiftingConv | GroupConv):
                    module.weight *= math.sqrt(init_variance / 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.image_size is not None:
            check_size(x, self.image_size)
        return self.head(self.trunk(self.layout(x)))


def _conv_to_point(in_channels: int, classes: int, size: int, bias: bool) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, classes, size, bias=bias)
    nn.init.xavier_uniform_(conv.weight)  # as the authors' code
    if bias:
        nn.init.zeros_(conv.bias)
    return conv
