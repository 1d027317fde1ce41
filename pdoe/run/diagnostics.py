"""The mistakes of a trained network, and where they arise: measured once, at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import DataSet
from ..data.batches import to_input
from ..equivariance.action import grid_elements
from ..equivariance.error import equivariance_error, equivariance_report
from ..layers import LiftingConv
from .evaluation import evaluate, log_odds
from .hardware import DEEP

ANGLES = range(0, 360, 15)  # degrees
ROTATED = 1000  # images; rotated by 24 angles they cost half of a test of 50,000


def diagnose(
    model: nn.Module,
    data: DataSet,
    precision: str,
    test_images: int | None,
    confusion: Sequence[Sequence[int]] | None,
) -> dict[str, Any]:
    """Measure the error on rotated test images, and the equivariance error of every layer.

    Returns:
        ``confusion``: as given; true class -> predicted class, numbers of images.
        ``class_names``: where the facts of the data set have none. ``turned``: angle
        in degrees -> test error in per cent on the first ``turned_images`` test images, rotated
        counter-clockwise by the angle (bilinear, so that angles off the grid blur, too).
        ``layers``: name -> largest relative equivariance error over the elements that keep the
        grid, on two test images, float32 or float64; None for a network of a hundred blocks and
        more, whose maps would fill the memory. ``log_odds``, where there are two classes: see
        :func:`pdoe.run.evaluation.log_odds`.
    """
    model.eval()
    count = count_rotated(test_images, len(data.test_images))
    errors = {str(a): measure_rotated_error(model, data, precision, count, a) for a in ANGLES}
    layers = None
    if len(getattr(model, "blocks", ())) < DEEP:
        report = equivariance_report(model, model.group, take_input(model, data, 2))
        layers = {name or "model": finite(error) for name, error in report.errors.items()}
    names = {"class_names": list(data.class_names)} if data.class_names else {}
    odds = log_odds(model, data, precision, test_images) if data.classes == 2 else None
    return {
        "confusion": confusion,
        **names,
        "turned_images": count,
        "turned": errors,
        "layers": layers,
        **({} if odds is None else {"log_odds": odds}),
    }


def count_rotated(test_images: int | None, there: int) -> int:
    """Return how many test images to rotate: a hundredth of those of a shortened test."""
    return min(there, ROTATED if test_images is None else max(1, test_images // 100))


def measure_rotated_error(
    model: nn.Module, data: DataSet, precision: str, count: int, degrees: float
) -> float:
    """Return the error in per cent on the first ``count`` test images, rotated by an angle."""
    return evaluate(model, data, precision, count, [degrees])


def measure_equivariance(model: nn.Module, data: DataSet) -> dict[str, float | None]:
    """Return the largest relative error over the elements that keep the grid, on 16 test images.

    None where the error is not a finite number, as for a network that maps everything to 0, and
    where only the identity keeps the grid.
    """
    if grid_elements(model.group) == [0]:
        return {"trunk": None, "logits": None}
    model.eval()
    x = take_input(model, data, 16)
    action = getattr(model, "act", None)  # the trunk's maps lie where the model's do
    return {
        name: finite(max(equivariance_error(part, model.group, x, action).values()))
        for name, part in {"trunk": model.trunk, "logits": model}.items()
    }


def take_input(model: nn.Module, data: DataSet, count: int) -> Tensor:
    """The first test images as the network's input, [count, C, H, W]."""
    dtype = next(model.parameters()).dtype
    return to_input(data.test_images[:count], data.mean, data.std, dtype)


def finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


@torch.no_grad()
def rotate_filters(model: nn.Module) -> np.ndarray | None:
    """Draw the first layer's filters of up to eight fields in the frame of every group element.

    A row is a field, a column a group element; blue is negative, white 0, red positive, each row on
    its own scale.

    Returns:
        uint8 [H, W, 3], 16 pixels for one of the filter; None for a network that lifts nothing.
    """
    layer = next((part for part in model.modules() if isinstance(part, LiftingConv)), None)
    if layer is None:
        return None
    kernel = layer.kernel().double().cpu()
    kernels = kernel.unflatten(0, (layer.out_channels, len(layer.group)))[:8, :, 0].numpy()
    scale = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    kernels = np.divide(kernels, scale, where=scale > 0, out=np.zeros_like(kernels))
    framed = np.pad(kernels, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    tiles = framed.transpose(0, 2, 1, 3).reshape(len(kernels) * framed.shape[2], -1)
    faded = 1 - np.abs(tiles)
    colours = np.stack([np.where(tiles > 0, 1, faded), faded, np.where(tiles < 0, 1, faded)], -1)
    pixels = np.where(np.isnan(tiles)[..., None], 0.5, colours)
    return np.rint(255 * pixels).astype(np.uint8).repeat(16, 0).repeat(16, 1)
