"""The block that the residual networks are made of."""

from __future__ import annotations

from torch import Tensor, nn

from ..fast import BatchNorm, Dropout
from ..groups import PointGroup
from ..layers import GroupConv
from .pooling import MeanPool
from .settings import NORM, OPERATORS, Filters, Norm


class ResidualBlock(nn.Module):
    r"""Convolutions beside a shortcut, lifted maps [B, C, G, H, W] -> [B, C', G, H', W'].

    .. math:: f \mapsto s(f) + (\Phi_m \circ a_m \circ \cdots \circ \Phi_1)(a_1(f))

    with group convolutions :math:`\Phi_i` and :math:`a_i` batch norm and ReLU. The shortcut is the
    map itself where neither its channels nor its resolution change, else a 1x1 group convolution
    of :math:`a_1(f)`. As exact as its convolutions, see
    :class:`pdoe.models.ResNet`.

    Args:
        group: the point group G.
        in_channels, out_channels: C and C'.
        inner_channels: None: two convolutions with ``filters``; a number: one of them with that
            many channels, between two 1x1 convolutions.
        filters: of the convolutions larger than 1x1.
        downsample: None: H' = H; "stride": :math:`\Phi_1` and the shortcut have a stride of 2 and
            H' = (H + 1) // 2; "avgpool": their input is the 2x2 means of :math:`a_1(f)`,
            H' = H // 2, at the same cost.
        dropout: probability, elementwise, before the last convolution.
        batch_norm: constants of batch norm.

    >>> import torch
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
        filters: Filters = OPERATORS,
        downsample: str | None = None,
        dropout: float = 0.0,
        batch_norm: Norm = NORM,
    ):
        super().__init__()
        stride = 2 if downsample == "stride" else 1
        point = Filters("point", filters.offset)
        if inner_channels is None:
            channels, kinds = [in_channels, out_channels, out_channels], [filters, filters]
        else:
            channels = [in_channels, inner_channels, inner_channels, out_channels]
            kinds = [point, filters, point]
        first, *others = (
            GroupConv(
                group,
                *channels[i : i + 2],
                kind.bank,
                offset=kind.offset,
                stride=1 if i else stride,
                bank_width=kind.bank_width,
            )
            for i, kind in enumerate(kinds)
        )

        def norm_relu(channels: int) -> list[nn.Module]:
            # In place: batch norm needs its input for the backward pass, not its output.
            return [BatchNorm(channels, *batch_norm), nn.ReLU(inplace=True)]

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
