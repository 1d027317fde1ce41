"""How a recipe is carried out, and whether it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import DataSet
from .progress import LogStep
from .ranks import Ranks
from .recipe import Recipe
from .state import Progress
from .stop import Stop


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a recipe is carried out, by one call of :class:`pdoe.run.training.Training`.

    Args:
        seed: of the order of the data, and of augmentation.
        precision: "fp32", "bf16" (autocast) or "fp64" (a model in float64).
        cuda_graph: replay the passes of a step, see :func:`pdoe.fast.graphs.replay_as_graphs`; one
            rank alone. It costs a step or two of time and the memory of one.
        checkpoint: folder of the resumable state, written after each epoch and every five minutes;
            None for none.
        conditions: what else must be as it was to resume, name -> value.
        any_conditions: resume under other conditions, too, if not bit for bit.
        max_seconds: stop when the next step, or evaluation, would end after this time; one is done
            in any case.
        stop: a request to stop after the current step.
        ranks: the processes that train together.
        log: called after each epoch with its row of metrics and the progress.
        log_step, label: see :class:`pdoe.run.progress.Display`.
    """

    seed: int = 0
    precision: str = "fp32"
    cuda_graph: bool = False
    checkpoint: Path | None = None
    conditions: Mapping[str, Any] | None = None
    any_conditions: bool = False
    max_seconds: float | None = None
    stop: Stop = field(default_factory=Stop)
    ranks: Ranks = Ranks()
    log: Callable[[dict[str, Any], Progress], None] = lambda row, progress: None
    log_step: LogStep | None = None
    label: str = ""


def check(recipe: Recipe, data: DataSet, ranks: int = 1) -> None:
    """Raise a ValueError if a recipe does not fit the data, or the number of ranks."""
    if recipe.evaluate_select == "validation" and data.validation is None:
        raise ValueError("evaluate.select is validation, and the data hold out no images for it")
    size, images = recipe.batch_size, len(data.train_images[: recipe.train_images])
    if recipe.epoch_images is not None and recipe.epoch_images < images:
        raise ValueError(
            f"recipe.epoch_images={recipe.epoch_images} leaves out some of the {images} training "
            "images: set it to as many or more, or recipe.train_images to fewer"
        )
    images = recipe.epoch_images or images
    if size % ranks:
        raise ValueError(f"a batch of {size} cannot be shared evenly by {ranks} ranks")
    if images < size:
        raise ValueError(
            f"a batch of {size} is larger than the {images} images: set recipe.batch_size"
        )
