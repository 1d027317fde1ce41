"""A random frame for every training step, shared by all layers of differential operators."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..banks import DERIVATIVES
from ..layers import BankConv


class RandomFrame:
    r"""Rotates the frames of all layers by one random angle, for one training step at a time.

    A layer of differential operators is equivariant whatever its ``offset``. Increase the offsets
    of all layers by :math:`\theta`: the trunk then maps an image as the unchanged trunk maps the
    image rotated by :math:`-\theta`, rotated back. This is exact in the continuum, and on a grid up
    to the second order in the pixel spacing. So a random frame is a random rotation of the image
    without interpolation, for all that an invariant head sees.

    The angle is uniform in an interval of :math:`2\pi/n` around 0. A rotation of the frames by
    :math:`2\pi/n` only exchanges the orientations, so this covers every frame. With reflections
    the frames of mirrored elements would rotate the other way, so these groups are refused.

    Args:
        model: its layers with a bank of ``pdoe.banks.DERIVATIVES`` are rotated, the others stay.

    Raises:
        ValueError: the model has no such layer, or one on a group with reflections, or one whose
            kernel is too small for other frames.
    """

    def __init__(self, model: nn.Module):
        layers = [module for module in model.modules() if isinstance(module, BankConv)]
        self.layers = [layer for layer in layers if layer.bank_kind in DERIVATIVES]
        if not self.layers:
            raise ValueError(
                f"recipe.random_frame rotates layers of differential operators (bank "
                f"{', '.join(DERIVATIVES)}), and this network has none: leave it out"
            )
        if mirrored := [layer for layer in self.layers if layer.group.reflections]:
            raise ValueError(
                "recipe.random_frame is for groups of rotations, such as p8: "
                f"{mirrored[0].group.name} has reflections"
            )
        if small := [layer for layer in self.layers if layer.kernel_size < 5]:
            raise ValueError(
                f"recipe.random_frame needs kernels of 5x5 pixels, and with offset "
                f"{small[0].offset:g} a layer on {small[0].group.name} has "
                f"{small[0].kernel_size}x{small[0].kernel_size}: give another model.offset"
            )
        self.step = 2 * math.pi / max(layer.group.n for layer in self.layers)

    @contextmanager
    def rotate(self, generator: torch.Generator) -> Iterator[None]:
        """Rotate all frames by an angle drawn from ``generator``, and back in the end.

        Outside of it all layers have the offsets that they were configured with.
        """
        angle = self.step * (torch.rand((), generator=generator, dtype=torch.float64).item() - 0.5)
        configured = [layer.offset for layer in self.layers]
        try:
            for layer, offset in zip(self.layers, configured, strict=True):
                layer.offset = offset + angle
            yield
        finally:
            for layer, offset in zip(self.layers, configured, strict=True):
                layer.offset = offset
