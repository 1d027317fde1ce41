"""The residual networks of HexaConv, on the hexagonal lattice, exact for 60 degrees."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..equivariance.action import act
from ..groups import PointGroup
from ..layers import GroupConv
from .hexagonal import AxialArray, HexagonalSampling, Region, RegionMean
from .resnet import ResNet
from .settings import COLOURS, NORM, Images, Norm


class HexaConv(ResNet):
    r"""A :class:`ResNet` on the hexagonal lattice, images [B, C, N, N] -> logits [B, classes].

    The image is sampled by splines on a hexagonal lattice (:class:`AxialArray`). All convolutions
    but the 1x1 shortcuts have bank ``hexagon``. Stages 2 and 3 begin with a stride of 2 along both
    axes of the lattice. Maps are set to 0 outside of the image after every convolution and before
    every ReLU, as zero padding does on square images (Hoogeboom et al. 2018, arXiv 1803.02108, and
    its code).

    The trunk is exact, with the lattice about the centre of the image:

    - after the sampling, with ``region="symmetric"``: it commutes with every element of the group,
      rotations by 60 degrees included, since both strides keep the centre;
    - on images, and with ``region="square"``: with the rotation by 180 degrees and, for p_nm, with
      the reflections along the axes, which keep the pixel grid and the square. Other elements
      commute up to the errors of the sampling and of the corners of the square.

    The logits are invariant, as exactly as the trunk commutes, with ``head="invariant"`` only.

    Args:
        group: p1, p2, p3, p6, p1m, p2m, p3m or p6m.
        region: "square": all of the image (the source); "symmetric": the pixels that stay in the
            image under all rotations by 60 degrees and reflections, 80 % of 32x32.
        head: as for :class:`ResNet`, with the mean over the region of the lattice. The source takes
            the mean over the whole array, which outside of the region holds a constant that batch
            norm makes of 0.
        images: the data; images of other sizes are refused.
        depth, widths, plain_widths, stem, dropout, batch_norm: as for :class:`ResNet`.

    Batch norm includes the zeros outside of the region (40 % of the array for the square), as in
    the source; their number is the same for every image.

    Attributes:
        arrays: the axial arrays of the three stages.
        blocks, trunk, head, checkpoint_activations: as for :class:`ResNet`.

    Raises:
        ValueError, TypeError: for arguments or images of another form, with the expected one.

    >>> import torch
    >>> net = HexaConv(PointGroup(6), 26, widths=[8, 14, 28])
    >>> net.trunk(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 28, 6, 10, 13])
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
        batch_norm: Norm = NORM,
        images: Images = COLOURS,
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
            batch_norm=batch_norm,
            images=images,
        )
        del self.layout  # the sampling makes an array of its own
        self.images = images
        first = AxialArray.over(images.size, region)
        self.arrays = [first, first.halve(), first.halve().halve()]
        self._mask(HexagonalSampling(images.size, first))

    def _mask(self, sampling: HexagonalSampling) -> None:
        """Sample the image, and set every map to 0 outside of the region."""
        regions = [Region(array) for array in self.arrays]
        self.trunk.stem = nn.Sequential(sampling, self.trunk.stem, regions[0])
        stage = 0
        for block in self.blocks:
            block.activation = _within(regions[stage], block.activation)
            stage += block.convolutions[0].stride == 2
            block.convolutions = _within(regions[stage], block.convolutions)
        self.trunk.activation = _within(regions[2], self.trunk.activation)
        self.head[1] = RegionMean(self.arrays[2])

    def forward(self, x: Tensor) -> Tensor:
        self.images.check(x)
        return self.head(self.trunk(x))

    def act(self, group: PointGroup, g: int, x: Tensor) -> Tensor:
        """Move the input or output of a layer: an image by pixels, an axial array by entries.

        See :func:`pdoe.equivariance.action.act`; g maps the pixel grid to itself.
        """
        arrays = {array.inside.shape: array for array in self.arrays}
        size = self.images.size
        if x.ndim == 2 or (x.ndim == 4 and x.shape[-2:] == (size, size)):
            return act(group, g, x)
        array = arrays.get(x.shape[-2:])
        return act(group, g, x) if array is None else array.act(group, g, x)


def _within(region: Region, layers: nn.Sequential) -> nn.Sequential:
    """Zeros outside of the region after every convolution and before every ReLU.

    Working in place needs no memory: neither batch norm nor a convolution needs its result for the
    backward pass. A 1x1 convolution of a map that is 0 outside needs no mask.
    """
    masked = nn.Sequential()
    for layer in layers:
        masked.extend([region, layer] if isinstance(layer, nn.ReLU) else [layer])
        if isinstance(layer, GroupConv):
            masked.append(region)
    return masked
