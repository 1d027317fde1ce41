"""Random rotations, stretches, shifts and reflections of training images.

Every draw comes from a CPU generator, whatever the device of the images: one seed gives one
sequence of augmented epochs on every machine.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from .dataset import Statistic
from .rotation import SIGMA


def random_rotation(images: Tensor, generator: Generator, mode: str = "bilinear") -> Tensor:
    """Rotate every image of ``[B, C, H, W]`` by its own angle, uniform in [0, 2 pi).

    The result is that of :func:`rotate`.
    """
    angles = torch.rand(len(images), generator=generator, dtype=torch.float64) * (2 * math.pi)
    return rotate(images, angles, mode)


def random_stretch(
    images: Tensor, generator: Generator, reach: float = 0.15, mode: str = "bilinear"
) -> Tensor:
    """Rotate every image of ``[B, C, H, W]`` and stretch it along two perpendicular axes.

    Each image has its own rotation and its own axes, both angles uniform in [0, 2 pi). Lengths
    along each axis are multiplied by exp(u), u uniform in -``reach``..``reach``; this includes
    shear and scale. About the centre, zeros outside, modes and dtypes as in :func:`rotate`.
    """
    draws = torch.rand((4, len(images)), generator=generator, dtype=torch.float64)
    first, second = (_rotations(2 * math.pi * part) for part in draws[:2])
    lengths = (reach * (2 * draws[2:].T - 1)).exp()
    return _sample(images, first * lengths[:, None] @ second, mode)


def random_quarter_turns(images: Tensor, generator: Generator) -> Tensor:
    """Rotate every square image of ``[B, C, H, H]`` by its own multiple of 90 degrees, exactly.

    Raises:
        ValueError: the images are not square.

    >>> random_quarter_turns(torch.eye(2).view(1, 1, 2, 2), Generator().manual_seed(0)).shape
    torch.Size([1, 1, 2, 2])
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"expected square images [B, C, H, H], got {list(images.shape)}")
    quarters = torch.randint(4, (len(images),), generator=generator)
    rotated = images.clone()
    for number in (1, 2, 3):
        chosen = (quarters == number).nonzero().squeeze(1).to(images.device, non_blocking=True)
        rotated[chosen] = torch.rot90(images[chosen], number, (2, 3))
    return rotated


def random_square_symmetry(images: Tensor, generator: Generator) -> Tensor:
    """Rotate and mirror ``[B, C, H, H]`` by a random one of the square's eight symmetries, exactly.

    Each image has its own: a quarter turn as in :func:`random_quarter_turns`, and a reflection left
    to right with probability 1/2.
    """
    turned = random_quarter_turns(images, generator)
    flips = torch.randint(2, (len(images),), generator=generator).bool()
    return torch.where(flips.to(images.device)[:, None, None, None], turned.flip(3), turned)


def random_crop_flip(
    images: Tensor,
    generator: Generator,
    padding: int = 4,
    flip: bool = True,
    fill: Statistic = 0.0,
) -> Tensor:
    """Shift every image of ``[B, C, H, W]`` by up to ``padding`` pixels, and mirror half of them.

    Each image is padded on all sides and cut out again at its own offset, both coordinates uniform
    in 0..2 ``padding``. With ``flip`` each image is mirrored left to right with probability 1/2.
    The result is that of :func:`crop_flip`.
    """
    offsets = torch.randint(2 * padding + 1, (len(images), 2), generator=generator)
    flips = torch.randint(2 if flip else 1, (len(images),), generator=generator).bool()
    return crop_flip(images, offsets, flips, padding, fill)


def crop_flip(
    images: Tensor, offsets: Tensor, flips: Tensor, padding: int, fill: Statistic = 0.0
) -> Tensor:
    """Pad ``[B, C, H, W]``, cut out windows ``[H, W]``, and mirror some of them left to right.

    Args:
        images: uint8 becomes float32 in the same scale 0..255; other types are kept.
        offsets: int64 ``[B, 2]``, row and column of the upper left corner of each window in the
            padded image, in 0..2 ``padding``.
        flips: bool ``[B]``.
        padding: pixels on each side.
        fill: value of the padding in the scale of the images, a number or one for each channel.
            0 is black. ``256 * mean`` is exactly 0 after ``to_input`` in float32, as if the images
            were normalised first and padded with 0 afterwards.
    """
    if images.ndim != 4 or offsets.shape != (len(images), 2) or flips.shape != (len(images),):
        raise ValueError(
            "expected images [B, C, H, W], offsets [B, 2] and flips [B], "
            f"got {list(images.shape)}, {list(offsets.shape)} and {list(flips.shape)}"
        )
    count, channels, height, width = images.shape
    fills = fill if isinstance(fill, tuple) else (fill,) * channels
    dtype = images.dtype if images.is_floating_point() else torch.float32
    wide = width + 2 * padding
    padded = images.new_empty((count, channels, height + 2 * padding, wide), dtype=dtype)
    for channel, value in zip(padded.unbind(1), fills, strict=True):
        channel.fill_(value)
    padded[:, :, padding : padding + height, padding : padding + width] = images

    # The index in the padded image of every pixel of the result, the same for all channels.
    down, across = torch.arange(height), torch.arange(width)
    rows = offsets[:, :1] + down
    columns = offsets[:, 1:] + torch.where(flips[:, None], across.flip(0), across)
    indices = (rows[:, :, None] * wide + columns[:, None, :]).flatten(1)[:, None]
    indices = indices.to(images.device, non_blocking=True).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, indices).view(images.shape)


def mirror(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror the images of ``[B, C, H, W]`` whose ``flips``, bool ``[B]``, are true, left to right.

    Both lie on one device, and the host does not wait for them.
    """
    if images.ndim != 4 or flips.shape != images.shape[:1]:
        raise ValueError(
            f"expected images [B, C, H, W] and flips [B], got {list(images.shape)} "
            f"and {list(flips.shape)}"
        )
    return torch.where(flips[:, None, None, None], images.flip(3), images)


def choose_flips(count: int, seed: int) -> Tensor:
    """Return which of ``count`` images are mirrored in even epochs; the others are in odd epochs.

    bool ``[count]``, a fair coin for each image, fixed by ``seed``. Of two epochs in a row an image
    is thus mirrored in exactly one (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
    2024). The coins depend on nothing else, so a resumed run has the same.
    """
    generator = Generator().manual_seed(seed + 2**31)  # not the numbers of the epochs' order
    return torch.randint(2, (count,), generator=generator).bool()


def random_shift_flip(images: Tensor, generator: Generator, reach: float = 2.0) -> Tensor:
    """Shift ``[B, C, H, W]`` by up to ``reach`` pixels, in fractions, and mirror half of them.

    Both coordinates of a shift are uniform in -``reach``..``reach``, each image's own; bicubic,
    reflected at the border, in the scale of the images and as float32 (float64 stays). Shifts and
    flips come from the CPU ``generator``.
    """
    shifts = reach * (
        2 * torch.rand((len(images), 2), generator=generator, dtype=torch.float64) - 1
    )
    signs = 1.0 - 2 * torch.randint(2, (len(images),), generator=generator).double()
    maps = torch.diag_embed(torch.stack([signs, torch.ones_like(signs)], dim=1))
    return _sample(images, maps, "bicubic", "reflection", shifts)


def rotate(images: Tensor, angles: Tensor, mode: str = "bilinear") -> Tensor:
    """Rotate images ``[B, C, H, W]`` by ``angles`` ``[B]`` (radians, counter-clockwise, y up).

    About the centre of the image, zeros outside; ``mode`` is bilinear, nearest, or gaussian, the
    interpolation of MNIST-rot (:mod:`pdoe.data.rotation`). Exact for multiples of 90 degrees on
    square images: up to rounding, or up to 1 % of the contrast with gaussian. uint8 comes back as
    float32 in the same scale 0..255; float32 and float64 keep their type.

    Raises:
        ValueError: shapes other than those above.
    """
    if images.ndim != 4 or angles.shape != images.shape[:1]:
        raise ValueError(
            "expected images [B, C, H, W] and angles [B], "
            f"got {list(images.shape)} and {list(angles.shape)}"
        )
    return _sample(images, _rotations(angles), mode)


def _rotations(angles: Tensor) -> Tensor:
    """Return ``[B, 2, 2]``, which map output to source coordinates (y down), for ``[B]`` angles."""
    c, s = angles.cos(), angles.sin()
    return torch.stack([c, -s, s, c], dim=1).view(-1, 2, 2)


def _sample(
    images: Tensor, maps: Tensor, mode: str, outside: str = "zeros", shifts: Tensor | float = 0.0
) -> Tensor:
    """Sample images at ``maps @ x + shifts`` for every output pixel x (y down, from the centre).

    ``maps`` are ``[B, 2, 2]``, ``shifts`` are ``[B, 2]`` in pixels.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images [B, C, H, W], got {list(images.shape)}")
    size = torch.tensor(images.shape[:1:-1], dtype=maps.dtype)  # width, height
    # The frame of grid_sample scales each axis to [-1, 1].
    theta = F.pad(maps * (size / size[:, None]), (0, 1))
    theta[..., 2] = 2 * shifts / size
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    theta = theta.to(dtype).to(images.device, non_blocking=True)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    if mode == "gaussian":
        grid, mode = _sharpen(grid, size.to(grid)), "bilinear"
    return F.grid_sample(images.to(dtype), grid, mode, outside, align_corners=False)


def _sharpen(grid: Tensor, size: Tensor) -> Tensor:
    """Move the points of a grid so that bilinear interpolation there is Gaussian at the old ones.

    Between two pixels, a part t of the way from the first to the second, a Gaussian of ``SIGMA``
    gives the second the weight of the two that a sigmoid has at (2 t - 1) / (2 SIGMA^2). Pixels
    further away have at most 0.4 % of the weight, and are left out.
    """
    pixels = ((grid + 1) * size - 1) / 2
    first = pixels.floor()
    weight = torch.sigmoid((2 * (pixels - first) - 1) / (2 * SIGMA**2))
    return (2 * (first + weight) + 1) / size - 1
