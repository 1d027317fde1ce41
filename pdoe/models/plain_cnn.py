"""The plain networks of the MNIST-rot table: a chain of convolutions and a small head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..banks import GAUSSIANS
from ..equivariance.action import check_group
from ..fast import ChannelsLast
from ..groups import PointGroup
from ..layers import GroupConv, GroupPool, LiftingConv
from .chain import Chain, Layer, build_chain, check_layer_numbers
from .pooling import SpaceMax
from .settings import DIGITS, NORM, Filters, Images, Norm


class PlainCNN(nn.Module):
    r"""A lifting convolution, group convolutions and a head, [B, C, H, W] -> logits [B, classes].

    Each layer is convolution, batch norm, ReLU. Some layers are followed by 2x2 max pooling, some
    by dropout. With six layers and 28x28 images the maps are 26, 24, pooled 12, 10, 8, 6, 4 wide,
    whatever the size of the kernels (Cohen & Welling 2016; Shen et al. 2020 and its code):

    - Z2CNN: p1, 20 channels, ``pixels``; P4CNN: p4, 10 channels, ``pixels``, head ``group``;
    - PDO-eConv: p8, 7 channels, ``operators``, offset pi/8, head ``dense``.

    The trunk commutes exactly with the elements that map the pixel grid to itself as long as the
    maps that are pooled have even sizes. Heads ``group`` and ``pooled`` make the logits invariant
    under these elements, head ``dense`` does not.

    Args:
        group: the point group.
        widths: channels of each layer, per orientation.
        bank, offset, bias, bank_width: of every convolution, see :class:`pdoe.LiftingConv`.
        padding: "shrink": every layer narrows the map by 2 pixels; "same": the map keeps its size.
        pool_after: numbers of the layers (from 1) that are followed by pooling.
        head: "dense": one convolution over all orientations that spans the map (the authors');
            "group": a GroupConv of bank ``pixels`` that spans the map, and the maximum over G
            (Cohen & Welling); "pooled": the maximum over G, the mean over space, a hidden layer
            with batch norm and ReLU, and a linear layer.
        hidden: units of the hidden layer of head "pooled".
        space_pool: "mean" or "max" over space in head "pooled".
        head_dropout: probability of dropout after the hidden layer of head "pooled".
        size: k of the k x k kernels; None: that of the bank.
        first_bank: bank of the first layer; None: that of the other layers. Where one of the two
            is a Gaussian, ``bank_width`` is that of its layers alone.
        first_size: k of the first layer; None: ``size``, or that of ``first_bank`` where given.
        dropout: probability of dropout after layers.
        dropout_kind: "elements": each element of a map on its own; "fields": one mask for all
            orientations and pixels of a field.
        dropout_after: numbers of the layers (from 1) that are followed by dropout.
        init_variance: variance of the initial weights of the equivariant layers, times their
            fan-in: 2 as in the layers, 1 as in Cohen & Welling's code. Batch norm hides the scale
            from the output, but Adam changes the direction of smaller weights faster.
        batch_norm: constants of batch norm.
        images: the data; all heads but "pooled" take images of this size alone.

    Raises:
        ValueError, TypeError: for arguments that make no network, with the ones that would.

    >>> net = PlainCNN(PointGroup(8), [7] * 6, offset=torch.pi / 8)
    >>> net(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 10])
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
        init_variance: float = 2.0,
        bank_width: float | None = None,
        size: int | None = None,
        first_bank: str | None = None,
        first_size: int | None = None,
        dropout_kind: str = "elements",
        head_dropout: float = 0.0,
        space_pool: str = "mean",
        batch_norm: Norm = NORM,
        images: Images = DIGITS,
    ):
        super().__init__()
        check_group(group)
        _check_word("padding", padding, "shrink", "same")
        _check_word("dropout_kind", dropout_kind, "elements", "fields")
        _check_word("space_pool", space_pool, "mean", "max")
        if not init_variance > 0:
            raise ValueError(f"init_variance is positive, not {init_variance}")
        check_layer_numbers("pool_after", pool_after, len(widths))
        _check_head(head, hidden, group)
        _check_pooled_options(head, space_pool, head_dropout)
        layers = [
            Layer(
                *(width, size, padding, number in pool_after),
                dropout=dropout if number in dropout_after else 0.0,
                whole_fields=dropout_kind == "fields",
            )
            for number, width in enumerate(widths, start=1)
        ]
        filters = Filters(bank, offset, bank_width)
        if layers and (first_bank, first_size) != (None, None):
            first, filters = _split_filters(filters, first_bank)
            layers[0] = layers[0]._replace(size=first_size, filters=first)
        chain = build_chain(group, images, layers, filters, batch_norm, bias)
        self.group = group
        self.images = None if head == "pooled" else images  # the other heads span the map
        self.layout = ChannelsLast()
        self.trunk = nn.Sequential(*chain.modules)
        if head == "dense":
            self.head = _build_dense_head(group, chain, images.classes, bias)
        elif head == "group":
            self.head = _build_group_head(group, chain, images.classes, bias)
        else:
            pool = SpaceMax() if space_pool == "max" else nn.AdaptiveAvgPool2d(1)
            settings = hidden, batch_norm, pool, head_dropout
            self.head = _build_pooled_head(chain, images.classes, *settings)
        _scale_weights(self, math.sqrt(init_variance / 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.images is not None:
            self.images.check(x)
        return self.head(self.trunk(self.layout(x)))


def _check_word(name: str, word: str, *allowed: str) -> None:
    if word not in allowed:
        raise ValueError(f"{name} is {' or '.join(map(repr, allowed))}, not {word!r}")


def _check_head(head: str, hidden: int | None, group: PointGroup) -> None:
    if head not in ("dense", "group", "pooled"):
        raise ValueError(f"head is 'dense', 'group' or 'pooled', not {head!r}")
    if (hidden is not None) != (head == "pooled"):
        raise ValueError(
            f"hidden, the units of the hidden layer, goes with head 'pooled' alone: found head "
            f"{head!r} and hidden {hidden}"
        )
    if hidden is not None and hidden < 1:
        raise ValueError(f"hidden is a positive number of units, not {hidden}")
    if head == "group" and 4 % group.n:
        raise ValueError(
            f"head 'group' has filters of bank 'pixels', and {group.name} has rotations that do "
            "not map pixels to pixels: take head 'pooled' with hidden, such as 64, for invariant "
            "logits, or head 'dense'"
        )


def _check_pooled_options(head: str, space_pool: str, head_dropout: float) -> None:
    if not (isinstance(head_dropout, int | float) and 0 <= head_dropout < 1):
        raise ValueError(f"head_dropout is at least 0 and below 1, not {head_dropout!r}")
    if head != "pooled" and (space_pool, head_dropout) != ("mean", 0):
        raise ValueError(
            "space_pool and head_dropout are options of head 'pooled': found head "
            f"{head!r}, space_pool {space_pool!r} and head_dropout {head_dropout}"
        )


def _split_filters(filters: Filters, first_bank: str | None) -> tuple[Filters, Filters]:
    """The filters of the first layer and those of the others; a Gaussian alone has a width."""
    first = filters._replace(bank=first_bank or filters.bank)
    kinds = [one.bank in GAUSSIANS for one in (first, filters)]
    if not any(kinds):
        return first, filters
    one, other = (
        each if wide else each._replace(bank_width=None)
        for each, wide in zip((first, filters), kinds, strict=True)
    )
    return one, other


@torch.no_grad()
def _scale_weights(model: nn.Module, factor: float) -> None:
    for module in model.modules():
        if isinstance(module, LiftingConv | GroupConv):
            module.weight *= factor


def _build_dense_head(group: PointGroup, chain: Chain, classes: int, bias: bool) -> nn.Sequential:
    conv = nn.Conv2d(chain.channels * len(group), classes, chain.side, bias=bias)
    nn.init.xavier_uniform_(conv.weight)  # as in the authors' code
    if bias:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.Flatten(1, 2), conv, nn.Flatten())


def _build_group_head(group: PointGroup, chain: Chain, classes: int, bias: bool) -> nn.Sequential:
    conv = GroupConv(
        group, chain.channels, classes, "pixels", size=chain.side, padding=0, bias=bias
    )
    return nn.Sequential(conv, GroupPool("max"), nn.Flatten())


def _build_pooled_head(
    chain: Chain, classes: int, hidden: int, batch_norm: Norm, pool: nn.Module, dropout: float
) -> nn.Sequential:
    return nn.Sequential(
        GroupPool("max"),
        pool,
        nn.Flatten(),
        nn.Linear(chain.channels, hidden),
        nn.BatchNorm1d(hidden, *batch_norm),
        nn.ReLU(inplace=True),
        *([nn.Dropout(dropout)] if dropout else []),
        nn.Linear(hidden, classes),
    )
