"""Names of metrics in ``metrics.jsonl`` and in W&B, which groups charts by their first part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Charts are sorted by name. Numbers come first (test/, train/), tables and pictures last (view/).
TO_WANDB = {
    "learning_rate": "train/learning_rate",
    "train_loss": "train/loss",
    "train_error": "train/error",
    "seconds": "train/seconds",
    "test_error": "test/error",
    "validation_error": "test/validation_error",
}
FROM_WANDB = {new: old for old, new in TO_WANDB.items()}
STEP, STEP_LOSS, THROUGHPUT = "train/step", "train/step_loss", "train/images_per_second"
VIEW = "view/"


def rename_for_wandb(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the metrics of an epoch and leave out those without a value.

    >>> rename_for_wandb({"epoch": 1, "train_loss": 0.5, "test_error": None})
    {'epoch': 1, 'train/loss': 0.5}
    """
    return {TO_WANDB.get(key, key): value for key, value in row.items() if value is not None}


def rename_from_wandb(item: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the metrics of an epoch in a row of W&B's history, under the names of their file.

    Runs that were logged before metrics had ``train/`` and ``test/`` in their names read the same.
    W&B's own columns begin with ``_``; tables, pictures and steps are no metrics of an epoch.

    >>> rename_from_wandb({"_step": 1, "epoch": 1, "train/loss": 0.5, "train/step_loss": 0.7})
    {'epoch': 1, 'train_loss': 0.5}
    >>> rename_from_wandb({"epoch": 1, "train_loss": 0.5, "confusion_table.ncols": 3})
    {'epoch': 1, 'train_loss': 0.5}
    """
    renamed = {FROM_WANDB.get(key, key): value for key, value in item.items()}
    return {
        key: value
        for key, value in renamed.items()
        if not (key.startswith("_") or "." in key or "/" in key or isinstance(value, Mapping))
    }
