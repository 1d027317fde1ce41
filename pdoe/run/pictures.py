"""Pictures of a finished run, as PNG files beside its ``result.json``, and its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import SETS, DataSet
from ..data.batches import to_input
from ..files import write_whole
from ..tracking.media import Mistake, name_classes
from .evaluation import autocast, choose_batch_size, number_type

MISTAKES = 32  # images
_SEARCHED = 2000  # test images: a good network makes 32 mistakes in some thousands


@torch.no_grad()
def find_mistakes(
    model: nn.Module, data: DataSet, precision: str = "fp32", count: int | None = None
) -> list[Mistake]:
    """Return the first misclassified images, at most 32, among the first 2,000 test images.

    Images are upright, also those of a set that stores them transposed. Pixels of whitened images
    are scaled to 0..255. ``count`` limits the test images further.
    """
    model.eval()
    mistakes: list[Mistake] = []
    searched = min(_SEARCHED, count or _SEARCHED)
    images, labels = data.test_images[:searched], data.test_labels[:searched]
    size, dtype = min(100, choose_batch_size(images)), number_type(precision)
    for batch, truth in zip(images.split(size), labels.split(size), strict=True):
        with autocast(images.device, precision):
            predicted = model(to_input(batch, data.mean, data.std, dtype)).argmax(1)
        for index in (predicted != truth).nonzero().flatten().tolist():
            image = batch[index].cpu()
            if image.is_floating_point():
                image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-9) * 255
            upright = image.mT if data.name in SETS and SETS[data.name].transposed else image
            pixels = upright.to(torch.uint8).numpy()
            mistakes.append(Mistake(pixels, int(truth[index]), int(predicted[index])))
        if len(mistakes) >= MISTAKES:
            break
    return mistakes[:MISTAKES]


def write_pictures(
    folder: Path,
    name: str,
    metrics: Sequence[Mapping[str, Any]],
    confusion: Sequence[Sequence[int]] | None = None,
    filters: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> list[str]:
    """Write ``learning_curve.png``, ``confusion.png`` and ``filters.png`` where there is content.

    Args:
        folder: of the run.
        name: of the data set, for its class names.
        metrics: rows of ``metrics.jsonl``.
        confusion: counts, [true class][predicted class].
        filters: uint8 [H, W, 3].
        class_names: where the facts of the data set have none.

    Returns:
        The names of the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib.image
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    def save(file: str, draw: Callable[[Figure], object], size: tuple[float, float]) -> None:
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        write_whole(folder / file, lambda out: figure.savefig(out, format="png", dpi=110))
        written.append(file)

    written: list[str] = []
    if metrics:
        save("learning_curve.png", lambda figure: draw_curve(figure, metrics), (6, 4))
    if confusion:
        known = SETS[name].class_names if name in SETS else ()
        names = name_classes(class_names or known, len(confusion))
        save("confusion.png", lambda figure: draw_confusion(figure, confusion, names), (6, 5.5))
    if filters is not None:
        write_whole(
            folder / "filters.png", lambda out: matplotlib.image.imsave(out, filters, format="png")
        )
        written.append("filters.png")
    return written


def draw_curve(figure: Any, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw training and test error against the epoch, on a logarithmic axis."""
    axes = figure.subplots()
    for key, label, mark in (("train_error", "training", "-"), ("test_error", "test", "o-")):
        points = [(row["epoch"], row[key]) for row in metrics if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), mark, label=label, markersize=3)
    axes.set(xlabel="epoch", ylabel="error (%)", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()


def draw_confusion(
    figure: Any, confusion: Sequence[Sequence[int]], class_names: Sequence[str]
) -> None:
    """Draw the shares of each true class; the counts stand in the cells of up to 20 classes."""
    counts = np.array(confusion, dtype=float)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(counts) > 20:
        return
    positions = range(len(counts))
    axes.set_xticks(positions, class_names[: len(counts)], rotation=45, ha="right")
    axes.set_yticks(positions, class_names[: len(counts)])
    for true, predicted in zip(*counts.nonzero(), strict=True):
        colour = "white" if shares[true, predicted] > 0.5 else "black"
        text = f"{counts[true, predicted]:.0f}"
        axes.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=7)
