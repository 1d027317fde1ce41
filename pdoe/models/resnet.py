"""The residual networks of the CIFAR tables: one pre-activation family, on every group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fast import BatchNorm, ChannelsLast, Dropout, recompute_in_backward
from ..groups import PointGroup
from ..layers import GroupConv, GroupPool, LiftingConv

CONVOLUTIONS = {"basic": 2, "bottleneck": 3}  # of a block; its shortcut is not counted


class ResNet(nn.Module):
    r"""A pre-activation residual network, images [B, C, H, W] -> logits [B, classes].

    A lifting convolution (the stem, with neither norm nor ReLU), three stages of n blocks (see
    :class:`ResidualBlock`), batch norm, ReLU, and a linear layer on means over space (He et al.
    2016, arXiv 1603.05027; Zagoruyko & Komodakis 2016, arXiv 1605.07146; Cohen & Welling 2016;
    Shen et al. 2020). The first blocks of stages 2 and 3 halve the resolution.

    The trunk, all but the head, commutes with the elements that map the pixel grid to itself

    - exactly with ``downsample="avgpool"``, if H and W are multiples of 4;
    - exactly with ``downsample="stride"``, if H and W are 1 more than multiples of 4. On other
      sizes a stride of 2 samples the map off its centre, and quarter turns and reflections no
      longer commute at all: so it is for the published networks on images of 32x32.

    The other elements commute approximately. The logits are invariant, as exactly as the trunk
    commutes, with ``head="invariant"`` only.

    Args:
        group: the point group G.
        depth: 6n + 2 with ``basic`` and 9n + 2 with ``bottleneck`` blocks, n to a stage: the stem,
            the convolutions of the blocks and the linear layer. 6n + 4 and 9n + 4 are taken, too:
            Wide ResNets count three shortcuts in place of the linear layer, so that WRN-28-10 is
            the same network as depth 26.
        widths: channels of the stages, per orientation; None: as many as keep the number of
            parameters of a plain network, ``plain_widths`` / :math:`\sqrt{|G|}`, rounded, at
            least 1.
        plain_widths: channels of the stages on p1; not looked at beside ``widths``.
        stem: channels of the stem, counted like the list above that is used; None: as stage 1.
        block: "basic": two convolutions; "bottleneck": one to a quarter of the channels, one on
            them and one back, of which only the second sees more than a pixel.
        bank, offset: of every convolution that sees more than a pixel, see
            :func:`pdoe.filter_bank`; bank "auto": ``pixels`` where the group maps the pixel grid
            to itself and the offset is 0, else ``operators``.
        downsample: how the resolution is halved, see :class:`ResidualBlock`.
        head: "spatial": the linear layer sees the C|G| means over space of all orientations (the
            authors'); "invariant": the C means over space of the maximum over G. The maximum keeps
            apart an orientation that is strong from all that are weak; their mean does not.
        dropout: probability, elementwise, before the last convolution of each block.
        norm_eps, norm_momentum: of batch norm, in PyTorch's sense.
        bank_width: of the Gaussian of bank ``gaussian``.
        in_channels, classes: of the data.
        image_size: of the data; images of any other size are taken too.

    Attributes:
        checkpoint_activations: True: where gradients are recorded, the maps inside of a block are
            not kept but computed again for the backward pass: less memory, one more forward pass.
            Results, gradients and running statistics are the same, bit for bit on a CPU.
        blocks: the residual blocks, in their order.
        trunk, head: the two parts; between them is a lifted map [B, C, G, H / 4, W / 4].

    Raises:
        ValueError, TypeError: for arguments of another form, saying which is expected.

    >>> net = ResNet(PointGroup(8), 44, plain_widths=[32, 64, 128], offset=math.pi / 8)
    >>> [conv.out_channels for conv in (net.blocks[i].convolutions[0] for i in (0, 7, 14))]
    [11, 23, 45]
    >>> sum(p.numel() for p in net.parameters())
    2621693
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
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        bank_width: float | None = None,
        in_channels: int = 3,
        classes: int = 10,
        image_size: int = 32,
    ):
        super().__init__()
        if not isinstance(group, PointGroup):
            raise TypeError(f"group is a PointGroup, such as PointGroup(8), not {group!r}")
        if downsample not in ("stride", "avgpool"):
            raise ValueError(f"downsample is 'stride' or 'avgpool', not {downsample!r}")
        if head not in ("spatial", "invariant"):
            raise ValueError(f"head is 'spatial' or 'invariant', not {head!r}")
        if downsample == "avgpool" and image_size < 4:
            raise ValueError(
                f"an image of {image_size}x{image_size} cannot be halved twice; "
                "downsample 'stride' takes it"
            )
        if bank == "auto":
            bank = "pixels" if 4 % group.n == 0 and offset == 0 else "operators"
        blocks_per_stage = _blocks_per_stage(depth, block)
        stem, *widths = _channels(group, widths, plain_widths, stem)

        self.group = group
        self.layout = ChannelsLast()
        blocks, channels = [], stem
        for stage, width in enumerate(widths):
            for number in range(blocks_per_stage):
                blocks.append(
                    ResidualBlock(
                        group,
                        channels,
                        width,
                        inner_channels=_at_least_1(width / 4) if block == "bottleneck" else None,
                        bank=bank,
                        offset=offset,
                        downsample=downsample if stage > 0 and number == 0 else None,
                        dropout=dropout,
                        norm_eps=norm_eps,
                        norm_momentum=norm_momentum,
                        bank_width=bank_width,
                    )
                )
                channels = width
        self.trunk = _Trunk(
            LiftingConv(group, in_channels, stem, bank, offset=offset, bank_width=bank_width),
            blocks,
            BatchNorm(channels, norm_eps, norm_momentum),
        )
        spatial = head == "spatial"
        linear = nn.Linear(channels * len(group) if spatial else channels, classes)
        nn.init.xavier_uniform_(linear.weight)  # this and the bias as the authors' code
        nn.init.constant_(linear.bias, 0.1)
        self.head = nn.Sequential(
            nn.Flatten(1, 2) if spatial else GroupPool("max"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            linear,
        )

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


class ResidualBlock(nn.Module):
    r"""Convolutions beside a shortcut, lifted maps [B, C, G, H, W] -> [B, C', G, H', W'].

    .. math:: f \mapsto s(f) + (\Phi_m \circ a_m \circ \dots \circ \Phi_1)(a_1(f))

    with group convolutions :math:`\Phi_i` and :math:`a_i` batch norm and ReLU. The shortcut is the
    map itself where neither its channels nor its resolution change, else a 1x1 group convolution
    of :math:`a_1(f)`. Exact like its convolutions, see :class:`ResNet`.

    Args:
        group: the point group G.
        in_channels, out_channels: C and C'.
        inner_channels: None: two convolutions of ``bank``; a number: that many channels between
            two 1x1 convolutions.
        bank, offset, bank_width: see :class:`pdoe.LiftingConv`.
        downsample: None: H' = H; "stride": :math:`\Phi_1` and the shortcut have a stride of 2 and
            H' = (H + 1) // 2; "avgpool": they see the 2x2 means of :math:`a_1(f)`, H' = H // 2, at
            the same cost.
        dropout: probability, elementwise, before the last convolution.
        norm_eps, norm_momentum: of batch norm.

    >>> block = ResidualBlock(PointGroup(8), 3, 5, downsample="avgpool")
    >>> block(torch.randn(2, 3, 8, 16, 16)).shape
    torch.Size([2, 5, 8, 8, 8])
    """

    def __init__(
        self,
        group: PointGroup,
        in_channels: int,
        out_channels: int,
        inner_channels: int | None = None,
        bank: str = "operators",
        offset: float = 0.0,
        downsample: str | None = None,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        bank_width: float | None = None,
    ):
        super().__init__()
        stride = 2 if downsample == "stride" else 1
        if inner_channels is None:
            channels, banks = [in_channels, out_channels, out_channels], [bank, bank]
        else:
            channels = [in_channels, inner_channels, inner_channels, out_channels]
            banks = ["point", bank, "point"]
        first, *others = (
            GroupConv(
                group,
                *channels[i : i + 2],
                kind,
                offset=offset,
                stride=1 if i else stride,
                bank_width=None if kind == "point" else bank_width,
            )
            for i, kind in enumerate(banks)
        )

        def norm_relu(channels: int) -> list[nn.Module]:
            # Batch norm needs its input for the backward pass, not its output.
            return [BatchNorm(channels, norm_eps, norm_momentum), nn.ReLU(inplace=True)]

        self.activation = nn.Sequential(*norm_relu(in_channels))
        if downsample == "avgpool":
            self.activation.append(MeanPool())
        self.convolutions = nn.Sequential(first)
        for conv in others:
            self.convolutions.extend(norm_relu(conv.in_channels))
            if dropout and conv is others[-1]:
                self.convolutions.append(Dropout(dropout))
            self.convolutions.append(conv)
        self.shortcut = None
        if in_channels != out_channels or downsample is not None:
            self.shortcut = GroupConv(group, in_channels, out_channels, "point", stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.convolutions(activated) + shortcut


class MeanPool(nn.Module):
    """The mean of 2x2 pixels, [B, C, G, H, W] -> [B, C, G, H // 2, W // 2]; exact on even sizes.

    What ``AvgPool3d((1, 2, 2))`` computes, whose gradient is not deterministic on a GPU.

    >>> MeanPool()(torch.ones(2, 7, 8, 6, 6)).shape
    torch.Size([2, 7, 8, 3, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.flatten(1, 2), 2).unflatten(1, x.shape[1:3])


class _Trunk(nn.Module):
    """Stem, blocks, norm and ReLU: [B, C, H, W] -> [B, C', G, H', W']."""

    def __init__(self, stem: LiftingConv, blocks: Sequence[nn.Module], norm: BatchNorm):
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.activation = nn.Sequential(norm, nn.ReLU(inplace=True))
        self.checkpoint_activations = False

    def forward(self, x: Tensor) -> Tensor:
        forget = self.checkpoint_activations and torch.is_grad_enabled()
        x = self.stem(x)
        for block in self.blocks:
            x = recompute_in_backward(block, x) if forget else block(x)
        return self.activation(x)


def _blocks_per_stage(depth: int, block: str) -> int:
    if block not in CONVOLUTIONS:
        raise ValueError(f"block is 'basic' or 'bottleneck', not {block!r}")
    layers = 3 * CONVOLUTIONS[block]
    if not isinstance(depth, int) or depth < layers or (depth - 2) % layers not in (0, 2):
        raise ValueError(
            f"a network of {block} blocks has depth {layers}n + 2, or {layers}n + 4 if shortcuts "
            f"are counted, with n of at least 1, such as {4 * layers + 2}, not {depth!r}"
        )
    return (depth - 2) // layers


def _channels(
    group: PointGroup,
    widths: Sequence[int] | None,
    plain_widths: Sequence[int] | None,
    stem: int | None,
) -> list[int]:
    """Channels per orientation: of the stem and the three stages."""
    chosen = plain_widths if widths is None else widths
    if chosen is None or len(chosen) != 3:
        raise ValueError(
            f"widths, or plain_widths, has the channels of three stages, not {chosen!r}"
        )
    channels = [chosen[0] if stem is None else stem, *chosen]
    if widths is None:
        if min(channels) < 1:
            raise ValueError(f"a plain network has 1 channel or more, not {min(channels)}")
        channels = [_at_least_1(width / math.sqrt(len(group))) for width in channels]
    return channels


def _at_least_1(channels: float) -> int:
    return max(1, round(channels))
