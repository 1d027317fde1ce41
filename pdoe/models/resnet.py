"""The residual networks of the CIFAR tables: one pre-activation family, on every group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..equivariance.action import check_group
from ..fast import BatchNorm, ChannelsLast, recompute_in_backward
from ..groups import PointGroup
from ..layers import GroupPool, LiftingConv
from .pooling import MeanPool
from .residual_block import ResidualBlock
from .settings import COLOURS, NORM, Filters, Images, Norm

CONVOLUTIONS = {"basic": 2, "bottleneck": 3}  # in a block, without its shortcut


class ResNet(nn.Module):
    r"""A pre-activation residual network, images [B, C, H, W] -> logits [B, classes].

    A lifting convolution (the stem, with neither norm nor ReLU), three stages of n blocks (see
    :class:`ResidualBlock`), batch norm, ReLU, and a linear layer on means over space (He et al.
    2016, arXiv 1603.05027; Zagoruyko & Komodakis 2016, arXiv 1605.07146; Cohen & Welling 2016;
    Shen et al. 2020). The first blocks of stages 2 and 3 halve the resolution.

    The trunk, everything before the head, commutes with the elements that map the pixel grid to
    itself

    - exactly with ``downsample="avgpool"``, if H and W are multiples of 4;
    - exactly with ``downsample="stride"``, if H and W are 1 more than multiples of 4. On other
      sizes a stride of 2 samples the map off its centre, and rotations by 90 degrees and
      reflections do not commute at all. The published networks on 32x32 images are of this kind.

    The other elements commute approximately. The logits are invariant, as exactly as the trunk
    commutes, with ``head="invariant"`` only.

    Args:
        group: the point group G.
        depth: 6n + 2 with ``basic`` and 9n + 2 with ``bottleneck`` blocks, n of them in a stage.
            It counts the stem, the convolutions of the blocks and the linear layer. 6n + 4 and
            9n + 4 are accepted, too: Wide ResNets count three shortcuts instead of the linear
            layer, so WRN-28-10 is the same network as depth 26.
        widths: channels of the stages, per orientation; None: ``plain_widths`` divided according
            to ``match``, rounded, at least 1.
        plain_widths: channels of the stages of the network on p1; ignored if ``widths`` is given.
        stem: channels of the stem, per orientation or on p1 like the list that is used; None: as
            stage 1.
        block: "basic": two convolutions; "bottleneck": a 1x1 convolution to a quarter of the
            channels, a convolution of ``bank`` and a 1x1 convolution back.
        bank, offset, bank_width: of every convolution larger than 1x1, see
            :func:`pdoe.filter_bank`; bank "auto": ``pixels`` where the group maps the pixel grid
            to itself and the offset is 0, else ``operators``.
        downsample: how the resolution is halved, see :class:`ResidualBlock`.
        head: "spatial": the linear layer sees the C|G| means over space of all orientations (the
            authors'); "invariant": the C means over space of the maximum over G. The maximum, in
            contrast to the mean, tells one strong orientation from many weak ones.
        dropout: probability, elementwise, before the last convolution of each block.
        match: "parameters": ``plain_widths`` / :math:`\sqrt{|G|}`, about as many parameters as on
            p1; "cost": ``plain_widths`` / :math:`|G|`, about as many multiplications, apart from
            larger kernels. Ignored if ``widths`` is given.
        stem_pool: the stem is followed by means over squares of this many pixels. For large
            images; it commutes exactly if H and W are multiples of it.
        batch_norm: constants of batch norm.
        images: the data; images of any other size are accepted, too.

    Attributes:
        checkpoint_activations: True: where gradients are recorded, blocks keep their input alone
            and compute their inner maps again in the backward pass: less memory for one more
            forward pass. Results, gradients and running statistics are the same, bit for bit on a
            CPU.
        blocks: the residual blocks, in their order.
        trunk, head: the two parts; between them is a lifted map [B, C, G, H / 4, W / 4].

    Raises:
        ValueError, TypeError: for arguments that make no network, with the ones that would.

    >>> net = ResNet(PointGroup(8), 44, plain_widths=[32, 64, 128], offset=math.pi / 8)
    >>> [conv.out_channels for conv in (net.blocks[i].convolutions[0] for i in (0, 7, 14))]
    [11, 23, 45]
    """

    def __init__(
        self,
        group: PointGroup,
        depth: int,
        widths: Sequence[int] | None = None,
        plain_widths: Sequence[int] | None = (16, 32, 64),
        stem: int | None = None,
        block: str = "basic",
        bank: str = "auto",
        offset: float = 0.0,
        downsample: str = "stride",
        head: str = "spatial",
        dropout: float = 0.0,
        bank_width: float | None = None,
        match: str = "parameters",
        stem_pool: int = 1,
        batch_norm: Norm = NORM,
        images: Images = COLOURS,
    ):
        super().__init__()
        _check_arguments(group, downsample, head, stem_pool, images)
        if bank == "auto":
            bank = "pixels" if 4 % group.n == 0 and offset == 0 else "operators"
        count = _count_blocks(depth, block)
        stem, *widths = _choose_channels(group, widths, plain_widths, stem, match)
        self.group = group
        self.layout = ChannelsLast()
        blocks, channels = [], stem
        for stage, width in enumerate(widths):
            for number in range(count):
                blocks.append(
                    ResidualBlock(
                        group,
                        channels,
                        width,
                        _at_least_1(width / 4) if block == "bottleneck" else None,
                        Filters(bank, offset, bank_width),
                        downsample if stage > 0 and number == 0 else None,
                        dropout,
                        batch_norm,
                    )
                )
                channels = width
        lift = LiftingConv(group, images.channels, stem, bank, offset=offset, bank_width=bank_width)
        if stem_pool > 1:
            lift = nn.Sequential(lift, MeanPool(stem_pool))
        self.trunk = _Trunk(lift, blocks, BatchNorm(channels, *batch_norm))
        self.head = _build_head(head, group, channels, images.classes)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.trunk.blocks

    @property
    def checkpoint_activations(self) -> bool:
        return self.trunk.checkpoint_activations

    @checkpoint_activations.setter
    def checkpoint_activations(self, wanted: bool) -> None:
        self.trunk.checkpoint_activations = wanted

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(self.layout(x)))


class _Trunk(nn.Module):
    """Stem, blocks, norm and ReLU: [B, C, H, W] -> [B, C', G, H', W']."""

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], norm: BatchNorm):
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.activation = nn.Sequential(norm, nn.ReLU(inplace=True))
        self.checkpoint_activations = False

    def forward(self, x: Tensor) -> Tensor:
        recompute = self.checkpoint_activations and torch.is_grad_enabled()
        x = self.stem(x)
        for block in self.blocks:
            x = recompute_in_backward(block, x) if recompute else block(x)
        return self.activation(x)


def _check_arguments(
    group: PointGroup, downsample: str, head: str, stem_pool: int, images: Images
) -> None:
    check_group(group)
    if downsample not in ("stride", "avgpool"):
        raise ValueError(f"downsample is 'stride' or 'avgpool', not {downsample!r}")
    if head not in ("spatial", "invariant"):
        raise ValueError(f"head is 'spatial' or 'invariant', not {head!r}")
    if type(stem_pool) is not int or not 1 <= stem_pool <= images.size:
        raise ValueError(
            f"stem_pool is an integer from 1 to {images.size}, the size of an image, "
            f"not {stem_pool!r}"
        )
    if downsample == "avgpool" and images.size // stem_pool < 4:
        size = images.size // stem_pool
        raise ValueError(
            f"an image of {size}x{size} cannot be halved twice; downsample 'stride' takes it"
        )


def _build_head(kind: str, group: PointGroup, channels: int, classes: int) -> nn.Sequential:
    spatial = kind == "spatial"
    linear = nn.Linear(channels * len(group) if spatial else channels, classes)
    nn.init.xavier_uniform_(linear.weight)  # weight and bias as in the authors' code
    nn.init.constant_(linear.bias, 0.1)
    return nn.Sequential(
        nn.Flatten(1, 2) if spatial else GroupPool("max"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        linear,
    )


def _count_blocks(depth: int, block: str) -> int:
    if block not in CONVOLUTIONS:
        raise ValueError(f"block is 'basic' or 'bottleneck', not {block!r}")
    layers = 3 * CONVOLUTIONS[block]
    if not isinstance(depth, int) or depth < layers or (depth - 2) % layers not in (0, 2):
        raise ValueError(
            f"a network of {block} blocks has depth {layers}n + 2, or {layers}n + 4 if shortcuts "
            f"are counted, with n of at least 1, such as {4 * layers + 2}, not {depth!r}"
        )
    return (depth - 2) // layers


def _choose_channels(
    group: PointGroup,
    widths: Sequence[int] | None,
    plain_widths: Sequence[int] | None,
    stem: int | None,
    match: str,
) -> list[int]:
    """Channels per orientation: of the stem and the three stages."""
    if match not in ("parameters", "cost"):
        raise ValueError(f"match is 'parameters' or 'cost', not {match!r}")
    chosen = plain_widths if widths is None else widths
    if chosen is None or len(chosen) != 3:
        raise ValueError(
            f"widths, or plain_widths, has the channels of three stages, not {chosen!r}"
        )
    channels = [chosen[0] if stem is None else stem, *chosen]
    if widths is None:
        if min(channels) < 1:
            raise ValueError(f"a plain network has 1 channel or more, not {min(channels)}")
        divisor = math.sqrt(len(group)) if match == "parameters" else len(group)
        channels = [_at_least_1(width / divisor) for width in channels]
    return channels


def _at_least_1(channels: float) -> int:
    return max(1, round(channels))
