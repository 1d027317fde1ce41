"""Measurements of `scripts/equivariance.py`: networks of experiments and runs, and their errors.

Networks run in float64, in evaluation mode. Layers see a random image. Curves use smooth random
fields that are evaluated at the rotated pixels.
"""

from __future__ import annotations

import copy
from functools import partial
from math import radians
from pathlib import Path

import torch
from torch import nn

from pdoe import GroupConv, GroupPool, LiftingConv, PointGroup
from pdoe.equivariance.angles import convergence_order, equivariance_curve, smooth_field
from pdoe.equivariance.error import EquivarianceReport, equivariance_report
from pdoe.models import Images
from pdoe.run.config import build_model
from pdoe.run.trained import load_weights, read_configuration_at, read_images_form


def build_network(config: dict, seed: int = 0, images: Images | None = None) -> nn.Module:
    """Build the network as a run with this seed begins."""
    torch.manual_seed(seed)
    return build_model(config, images).double().eval()


def load_run(path: Path, source: str | None = None) -> tuple[dict, int, Images, nn.Module]:
    """Load configuration, seed, form of the images and trained network of a run or its files."""
    config = read_configuration_at(path, source)
    if config is None:
        raise ValueError(f"{path} is in no run folder, so its network is unknown")
    seed = config.get("seed")
    if not isinstance(seed, int):
        raise ValueError(f"the configuration of {path} has no seed: {seed!r}")
    images = read_images_form(path, config)
    return config, seed, images, load_weights(build_network(config, seed, images), path)


def set_statistics(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Copy the model, with the statistics of x in its batch norms."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over the batches seen, which is this one
        elif hasattr(module, "momentum"):  # norms of ours
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def measure_layers(images: Images, model: nn.Module, trained: bool) -> EquivarianceReport:
    """Measure every layer on one random image; a network on p1 is compared with p4."""
    x = torch.randn(1, images.channels, images.size, images.size, dtype=torch.float64)
    group = model.group if len(model.group) > 1 else PointGroup(4)
    if not trained:  # on several images: a norm without space averages over nothing else
        more = torch.randn(7, *x.shape[1:], dtype=x.dtype)
        model = set_statistics(model, torch.cat([x, more]))
    return equivariance_report(model, group, x)


def measure_angles(
    images: Images, model: nn.Module, trained: bool
) -> dict[str, dict[float, float]]:
    """Measure the logits, and the trunk pooled over group and space, over all angles."""
    field = partial(smooth_field, images.size, batch=8, channels=images.channels)
    if not trained:
        model = set_statistics(model, field())
    pooled = nn.Sequential(model.trunk, GroupPool(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return {
        "logits": equivariance_curve(model, model.group, field),
        "pooled trunk": equivariance_curve(pooled, model.group, field),
    }


def measure_order(group: PointGroup, offset: float) -> list[dict]:
    """Measure error against spacing of a lifting layer, alone and followed by a group layer.

    Returns:
        A line for each spacing and each rotation of the group that does not map the grid to
        itself. Of rotations that differ by one of the grid, which is exact, only the first is
        measured. An ordinary convolution (p1) is measured at 45 degrees.
    """
    torch.manual_seed(0)
    lift = LiftingConv(group, 1, 4, offset=offset, dtype=torch.float64)
    conv = GroupConv(group, 4, 4, offset=offset, dtype=torch.float64)
    rotations = [360 * r / group.n for r in range(group.n) if 4 * r % group.n]
    step = 90 if group.n % 4 == 0 else 180 if group.n % 2 == 0 else 360
    angles = [angle for angle in rotations if angle < step] or ([45.0] if group.n == 1 else [])
    lines = []
    for angle in angles:
        for layer, layers in {"lifting": [lift], "lifting, group": [lift, conv]}.items():
            found = convergence_order(layers, radians(angle))
            for spacing, error in found.errors.items():
                lines.append(
                    {"group": group.name, "layer": layer, "angle": angle, "spacing": spacing,
                     "error": error, "order": found.order}
                )  # fmt: skip
    return lines
