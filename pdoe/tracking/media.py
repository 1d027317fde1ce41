"""Tables and pictures of a finished run, as W&B shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .names import VIEW


@dataclass(frozen=True)
class Mistake:
    """A misclassified image: uint8 ``[C, H, W]``, its class, and the class it was taken for."""

    image: np.ndarray
    true: int
    predicted: int


def make_tables(
    wandb: Any, diagnostics: Mapping[str, Any], class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """Make the tables of the diagnostics; those that are missing are left out.

    ``wandb.plot.confusion_matrix`` would need every image: this makes its chart from counts.
    """
    made: dict[str, Any] = {}
    if confusion := diagnostics.get("confusion"):
        names = name_classes(class_names, len(confusion))
        columns = ["Actual", "Predicted", "nPredictions"]
        counts = [
            [names[true], names[predicted], count]
            for true, row in enumerate(confusion)
            for predicted, count in enumerate(row)
        ]
        made[f"{VIEW}confusion"] = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=columns, data=counts),
            fields={name: name for name in columns},
            string_fields={"title": "test images: true class, predicted class"},
        )
    if rotated := diagnostics.get("turned"):
        columns = ["angle", "test error"]
        points = [[int(angle), error] for angle, error in rotated.items()]
        made[f"{VIEW}rotated"] = wandb.plot.line(
            wandb.Table(columns=columns, data=points),
            *columns,
            title="test error (%) against the angle (degrees) by which test images are rotated",
        )
    if layers := diagnostics.get("layers"):
        errors = [[name, error] for name, error in layers.items()]
        columns = ["layer", "equivariance error"]
        made[f"{VIEW}layers"] = wandb.Table(columns=columns, data=errors)
    return made


def make_pictures(
    wandb: Any,
    filters: np.ndarray | None,
    mistakes: Sequence[Mistake],
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Make a picture of the filters, uint8 ``[H, W, 3]``, and one of each misclassified image."""
    made: dict[str, Any] = {}
    if filters is not None:
        caption = "first layer: a row is a field, a column a group element"
        made[f"{VIEW}filters"] = wandb.Image(np.asarray(filters), caption=caption)
    if mistakes:
        names = name_classes(class_names, 1 + max(max(m.true, m.predicted) for m in mistakes))
        made[f"{VIEW}misclassified"] = [
            wandb.Image(
                mistake.image[0] if len(mistake.image) == 1 else mistake.image.transpose(1, 2, 0),
                caption=f"true {names[mistake.true]}, predicted {names[mistake.predicted]}",
            )
            for mistake in mistakes
        ]
    return made


def name_classes(class_names: Sequence[str], count: int) -> Sequence[str]:
    """Return the class names, or the numbers of ``count`` classes where the names are fewer.

    >>> name_classes(("cat", "dog"), 3)
    ['0', '1', '2']
    """
    return class_names if len(class_names) >= count else [str(label) for label in range(count)]
