"""The residual networks of HexaConv, on the hexagonal lattice: turns by 60 degrees are exact."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..equivariance import error as equivariance
from ..groups import PointGroup
from ..layers import GroupConv
from .hexagonal import AxialArray, HexagonalSampling, Region, RegionMean
from .resnet import ResNet
from .sizes import check_size


class HexaConv(ResNet):
    r"""A :class:`ResNet` on the hexagonal lattice, images [B, C, N, N] -> logits [B, classes].

    The image is sampled by splines on a hexagonal lattice (:class:`AxialArray`), all
    convolutions but the 1x1 shortcuts have bank ``hexagon``, stages 2 and 3 begin with a stride of
    2 along both axes of the lattice, and maps are set to 0 outside of the image after every
    convolution and before every ReLU, as zero padding does on square images (Hoogeboom et al.
    2018, arXiv 1803.02108, and its code).

    What is exact, for the trunk, with the lattice about the centre of the image:

    - behind the sampling, with ``region="symmetric"``: it commutes with every element of the group,
      turns by 60 degrees included, since the centre survives both strides;
    - on images, and with ``region="square"``: with the turn by 180 degrees and, for p_nm, the
      reflections along the axes, which keep the pixel grid and the square. Other elements commute
      but for the sampling and for what the corners of the square do.

    The logits are invariant, as exactly as the trunk commutes, with ``head="invariant"`` only.

    Args:
        group: p1, p2, p3, p6, p1m, p2m, p3m or p6m.
        region: "square": all of the image (the source); "symmetric": what no turn by 60 degrees and
            no reflection drives out of it, 80 % of 32x32.
        head: as for :class:`ResNet`, with the mean over the region of the lattice. The source takes
            that over the whole array, of which its maps fill a part with the constant that batch
            norm makes of 0.
        image_size: N; images of other sizes are refused.
        depth, widths, plain_widths, stem, dropout, norm_eps, norm_momentum, in_channels, classes:
            as for :class:`ResNet`.

    Batch norm sees the zeros outside of the region (40 % of the array for the square), as in the
    source; they are as many for every image.

    Attributes:
        arrays: the axial arrays of the three stages.
        blocks, trunk, head, checkpoint_activations: as for :class:`ResNet`.

    Raises:
        ValueError, TypeError: for arguments or images of another form, saying which is expected.

    >>> import torch
    >>> net = HexaConv(PointGroup(6), 26, widths=[8, 14, 28])
    >>> net.trunk(torch.randn(1, 3, 32, 32)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([1, 28, 6, 10, 13]), 336490)
    """

    def __init__(
        self,
        group: PointGroup,
        depth: int,
        widths: Sequence[int] | None = None,
        plain_widths: Sequence[int] | None = (17, 35, 69),
        stem: int | None = None,
        region: str = "square",
        head: str = "spatial",
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        in_channels: int = 3,
        classes: int = 10,
        image_size: int = 32,
    ):
        super().__init__(
            group,
            depth,
            widths,
            plain_widths,
            stem,
            bank="hexagon",
            head=head,
            dropout=dropout,
            norm_eps=norm_eps,
            norm_momentum=norm_momentum,
            in_channels=in_channels,
            classes=classes,
            image_size=image_size,
        )
        self.image_size = image_size
        first = AxialArray.over(image_size, region)
        self.arrays = [first, first.halved(), first.halved().halved()]
        regions = [Region(array) for array in self.arrays]
        sampling = HexagonalSampling(image_size, first)
        self.trunk.stem = nn.Sequential(sampling, self.trunk.stem, regions[0])
        stage = 0
        for block in self.blocks:
            block.activation = _within(regions[stage], block.activation)
            stage += block.convolutions[0].stride == 2
            block.convolutions = _within(regions[stage], block.convolutions)
        self.trunk.activation = _within(regions[2], self.trunk.activation)
        self.head[1] = RegionMean(self.arrays[2])

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, self.image_size)
        return super().forward(x)

    def act(self, group: PointGroup, g: int, x: Tensor) -> Tensor:
        """Move what a layer takes or gives: an image by its pixels, an axial array by its entries.

        See :func:`act`; g is one of :func:`grid_elements`.
        """
        arrays = {array.inside.shape: array for array in self.arrays}
        square = x.ndim < 5 and x.shape[-2:] == (self.image_size, self.image_size)
        if x.ndim == 2 or square or x.shape[-2:] not in arrays:
            return equivariance.act(group, g, x)
        return arrays[x.shape[-2:]].act(group, g, x)


def _within(region: Region, layers: nn.Sequential) -> nn.Sequential:
    """Zeros outside of the region after every convolution and before every ReLU.

    What follows in place there needs no memory: neither batch norm nor a convolution looks at its
    result in the backward pass. A 1x1 convolution of what is 0 outside needs no mask.
    """
    masked = nn.Sequential()
    for layer in layers:
        masked.extend([region, layer] if isinstance(layer, nn.ReLU) else [layer])
        if isinstance(layer, GroupConv):
            masked.append(region)
    return masked
