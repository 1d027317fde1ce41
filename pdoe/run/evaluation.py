"""The test of a network: its confusion matrix, its error, on images as they are or turned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSet
from ..data.augmentation import rotate
from ..data.batches import to_input
from .ranks import Ranks


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def confusion_matrix(
    model: nn.Module,
    data: DataSet,
    precision: str = "fp32",
    count: int | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - a frozen value
    stopped: Callable[[], bool] = lambda: False,
    tta_angles: Sequence[float] = (),
) -> Tensor | None:
    """How many test images of a class (row) are taken for which one (column): int64, on the CPU.

    Over the first ``count`` test images or all of them; the ranks share them. With ``tta_angles``
    (degrees, counter-clockwise, test-time augmentation) an image's class is the one with the
    largest mean of the probabilities of the image turned by each of them. None where ``stopped``,
    asked after each batch, ended it early.
    """
    model.eval()
    device, dtype = data.test_images.device, number_type(precision)
    images, labels = data.test_images[:count], data.test_labels[:count]
    own, truths = ranks.share(images), ranks.share(labels)
    size = 100 if device.type == "cpu" else 2000  # on a CPU the maps of a batch stay in its cache

    def input_of(batch: Tensor) -> Tensor:
        return to_input(batch, data.mean, data.std, dtype)

    counts = torch.zeros(data.classes**2, dtype=torch.int64, device=device)
    most = -(-len(images) // ranks.count)  # of a rank: each of them takes part as often
    for start in range(0, most, size):
        batch, truth = own[start : start + size], truths[start : start + size]
        if len(batch):
            if start and len(batch) < size:  # one shape, for a compiled network
                batch = torch.cat([batch, own[: size - len(batch)]])
            with autocast(device, precision):
                if tta_angles:
                    outputs = (model(input_of(view)) for view in turned(batch, tta_angles))
                    logits = sum(F.softmax(output.to(dtype), 1) for output in outputs)
                else:
                    logits = model(input_of(batch))
            if logits.shape[1] != data.classes:
                raise ValueError(
                    f"the network tells {logits.shape[1]} classes apart, {data.name} has "
                    f"{data.classes}"
                )
            cells = truth * data.classes + logits[: len(truth)].argmax(1)
            counts += torch.bincount(cells, minlength=len(counts))
        if start + size < most and stopped():
            return None
    return ranks.total(counts).view(data.classes, data.classes).cpu()


def turned(images: Tensor, degrees: Sequence[float]) -> Iterator[Tensor]:
    """The images turned counter-clockwise by each angle (bilinear)."""
    for angle in degrees:
        angles = torch.full((len(images),), math.radians(angle), dtype=torch.float64)
        yield images if angle % 360 == 0 else rotate(images, angles)


def error_of(confusion: Tensor) -> float:
    """The error in per cent of a confusion matrix."""
    images = confusion.sum().item()
    return 100 * (images - confusion.trace().item()) / images


def evaluate(
    model: nn.Module,
    data: DataSet,
    precision: str = "fp32",
    count: int | None = None,
    tta_angles: Sequence[float] = (),
) -> float:
    """Test error in per cent, over the first ``count`` test images or all of them."""
    return error_of(confusion_matrix(model, data, precision, count, tta_angles=tta_angles))


def number_type(precision: str) -> torch.dtype:
    """What images are given to a network as: float32 under autocast, too."""
    return torch.float64 if precision == "fp64" else torch.float32
