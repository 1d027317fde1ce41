"""The chain of convolutions, norms, activations and pooling that the plain networks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from ..fast import BatchNorm, Dropout, MaxPool
from ..groups import PointGroup
from ..layers import GroupConv, LiftingConv
from .settings import Filters, Images, Norm


class Layer(NamedTuple):
    """One layer of a chain.

    Attributes:
        width: channels of the output, per orientation.
        size: k of the k x k filters; None: the size of the bank.
        border: "same": the map keeps its size; "shrink": one pixel less of padding on each side;
            "valid": no padding.
        pool: whether 2x2 max pooling follows.
        dropout: probability of the dropout that follows; 0: no dropout.
        whole_fields: whether dropout has one mask for all orientations and pixels of a field.
        filters: its own filters; None: those of the chain.
    """

    width: int
    size: int | None = None
    border: str = "same"
    pool: bool = False
    dropout: float = 0.0
    whole_fields: bool = False
    filters: Filters | None = None


class Chain(NamedTuple):
    """The modules of a chain and what comes out of them.

    Attributes:
        modules: in the order in which they run.
        channels: of the last map, per orientation.
        side: height and width of the last map.
        exact: whether every pooled map has an even size, so that pooling commutes with the
            elements that map the pixel grid to itself.
    """

    modules: list[nn.Module]
    channels: int
    side: int
    exact: bool


def build_chain(
    group: PointGroup,
    images: Images,
    layers: Sequence[Layer],
    filters: Filters,
    batch_norm: Norm | None,
    bias: bool = False,
    activation: type[nn.Module] = nn.ReLU,
    pool_first: bool = False,
) -> Chain:
    """A lifting convolution and group convolutions, each with norm, activation, pooling, dropout.

    Args:
        group: the point group.
        images: the input; its ``classes`` are not used.
        layers: at least one.
        filters: of every convolution that has none of its own.
        batch_norm: None: no batch norm.
        bias: whether the convolutions have one.
        activation: applied in place.
        pool_first: pool before the activation, a quarter of the work for a monotone one.

    Raises:
        ValueError: no layer, or a layer that leaves no pixel of the image.
    """
    if not layers:
        raise ValueError("widths lists the channels of each layer; it is empty")
    modules: list[nn.Module] = []
    channels, side, exact = images.channels, images.size, True
    for number, layer in enumerate(layers, start=1):
        conv = _build_convolution(number == 1, group, channels, layer, filters, bias)
        modules.append(conv)
        if batch_norm is not None:
            modules.append(BatchNorm(layer.width, *batch_norm))
        rest = [activation(inplace=True), *[MaxPool()] * layer.pool]
        modules += rest[::-1] if pool_first else rest
        if layer.dropout:
            # Dropout3d drops whole channels of a 5-dimensional map.
            modules.append((nn.Dropout3d if layer.whole_fields else Dropout)(layer.dropout))
        channels = layer.width
        side += 2 * conv.padding + 1 - conv.kernel_size
        if layer.pool:
            exact, side = exact and side % 2 == 0, side // 2
        if side < 1:
            raise ValueError(
                f"layer {number} of {len(layers)} leaves no pixel of an image of "
                f"{images.size}x{images.size}: take fewer layers, less pooling or larger images"
            )
    return Chain(modules, channels, side, exact)


def _build_convolution(
    first: bool, group: PointGroup, channels: int, layer: Layer, filters: Filters, bias: bool
) -> LiftingConv | GroupConv:
    bank, offset, bank_width = layer.filters or filters
    conv = (LiftingConv if first else GroupConv)(
        group,
        channels,
        layer.width,
        bank,
        layer.size,
        offset,
        padding=0 if layer.border == "valid" else None,
        bias=bias,
        bank_width=bank_width,
    )
    if layer.border == "shrink":
        if conv.padding == 0:
            raise ValueError(
                f"a layer of bank {bank!r} has a kernel of {conv.kernel_size} pixel and cannot "
                "shrink a map; give padding 'same'"
            )
        conv.padding -= 1
    return conv


def check_layer_numbers(name: str, numbers: Sequence[int], count: int) -> None:
    """Refuse numbers of layers (from 1) that a network of ``count`` layers does not have."""
    if beyond := [number for number in numbers if not 1 <= number <= count]:
        raise ValueError(f"{name} names layers {beyond} of {count}")
