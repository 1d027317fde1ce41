"""The test of a network: its confusion matrix and its error, on images as they are or rotated."""

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
    """The context in which a network of a precision runs its forward pass."""
    # In a CUDA graph the casts of weights that autocast caches would be part of the recording.
    recording = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=not recording
    )


def number_type(precision: str) -> torch.dtype:
    """The dtype of a network's input: float32 under autocast, too."""
    return torch.float64 if precision == "fp64" else torch.float32


def choose_batch_size(images: Tensor) -> int:
    """The number of images [N, C, H, W] that are tested at once, fewer of larger ones.

    On a CPU the maps of a batch stay in its cache, and on a GPU in its memory.

    >>> choose_batch_size(torch.empty(5, 1, 28, 28)), choose_batch_size(torch.empty(5, 3, 224, 224))
    (100, 2)
    """
    pixels = max(images.shape[-2] * images.shape[-1], 32 * 32)
    return max(1, (100 if images.device.type == "cpu" else 2000) * 32 * 32 // pixels)


@torch.no_grad()
def confusion_matrix(
    model: nn.Module,
    data: DataSet,
    precision: str = "fp32",
    count: int | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - a frozen value
    stopped: Callable[[], bool] = lambda: False,
    tta_angles: Sequence[float] = (),
    show: Callable[[int], None] = lambda images: None,
) -> Tensor | None:
    """Count the test images of each class (row) by their predicted class (column).

    Args:
        model: images [B, C, H, W] -> logits [B, classes].
        count: use the first ``count`` test images; None for all. The ranks share them.
        stopped: asked after each batch; true ends the test.
        tta_angles: test-time augmentation: the predicted class has the largest mean probability
            over the image rotated by each angle (degrees, counter-clockwise).
        show: called after each batch with the number of images that are done.

    Returns:
        int64 [classes, classes] on the CPU; None if ``stopped``.

    Raises:
        ValueError: the network has another number of classes than the data.
    """
    model.eval()
    device, dtype = data.test_images.device, number_type(precision)
    images, labels = data.test_images[:count], data.test_labels[:count]
    own, truths = ranks.share(images), ranks.share(labels)
    size = choose_batch_size(images)

    def compute_logits(batch: Tensor) -> Tensor:
        with autocast(device, precision):
            if not tta_angles:
                return model(to_input(batch, data.mean, data.std, dtype))
            views = rotate_each(batch, tta_angles)
            outputs = (model(to_input(view, data.mean, data.std, dtype)) for view in views)
            return sum(F.softmax(output.to(dtype), 1) for output in outputs)

    counts = torch.zeros(data.classes**2, dtype=torch.int64, device=device)
    most = -(-len(images) // ranks.count)  # of a rank: each of them takes part as often
    for start in range(0, most, size):
        batch, truth = own[start : start + size], truths[start : start + size]
        if len(batch):
            if start and len(batch) < size:  # one shape, for a compiled network
                batch = torch.cat([batch, own[: size - len(batch)]])
            logits = compute_logits(batch)
            if logits.shape[1] != data.classes:
                raise ValueError(
                    f"the network has {logits.shape[1]} classes, {data.name} has {data.classes}"
                )
            cells = truth * data.classes + logits[: len(truth)].argmax(1)
            counts += torch.bincount(cells, minlength=len(counts))
        show(min(len(images), (start + size) * ranks.count))
        if start + size < most and stopped():
            return None
    return ranks.total(counts).view(data.classes, data.classes).cpu()


@torch.no_grad()
def log_odds(
    model: nn.Module, data: DataSet, precision: str = "fp32", count: int | None = None
) -> list[float]:
    """The second logit minus the first one, for each of the first ``count`` test images."""
    model.eval()
    dtype, odds = number_type(precision), []
    images = data.test_images[:count]
    for batch in images.split(choose_batch_size(images)):
        with autocast(batch.device, precision):
            logits = model(to_input(batch, data.mean, data.std, dtype))
        odds += (logits[:, 1] - logits[:, 0]).double().tolist()
    return odds


def rotate_each(images: Tensor, degrees: Sequence[float]) -> Iterator[Tensor]:
    """The images rotated counter-clockwise by each angle (bilinear)."""
    for angle in degrees:
        angles = torch.full((len(images),), math.radians(angle), dtype=torch.float64)
        yield images if angle % 360 == 0 else rotate(images, angles)


def compute_error(confusion: Tensor) -> float:
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
    """The test error in per cent, see :func:`confusion_matrix`."""
    return compute_error(confusion_matrix(model, data, precision, count, tta_angles=tta_angles))
