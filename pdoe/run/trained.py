"""Networks that were trained: the configuration and the weights of a run on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..files import read_yaml
from .config import completed
from .recipe import Recipe
from .weights import weights_at

CONFIGURATION = "config.yaml"
NEEDED = {
    "data": {"name", "source"},
    "group": {"name"},
    "model": {"name"},
    "recipe": {"dropout", "norm", "evaluate", "test_images"},
}


def configuration_in(folder: Path) -> dict[str, Any] | None:
    """What ``config.yaml`` of a run holds, its seed included; None if it cannot be read."""
    try:
        found = read_yaml(folder / CONFIGURATION)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def configuration_at(path: Path) -> dict[str, Any] | None:
    """The configuration of the run that a folder, a checkpoint or a file belongs to.

    None for a file that lies in no run folder: nothing says what network it is of.

    Raises:
        ValueError: the folder is no run's, or its configuration is damaged.
    """
    near = (path, *path.resolve().parents[:3])
    folder = next((place for place in near if (place / CONFIGURATION).is_file()), None)
    if folder is None:
        if path.is_dir():
            raise ValueError(f"{path} is no run folder, and lies in none: it lacks {CONFIGURATION}")
        return None
    config = configuration_in(folder) or {}
    for part, keys in NEEDED.items():
        lacking = keys - set(config[part]) if isinstance(config.get(part), dict) else {"all of it"}
        if lacking:
            raise ValueError(
                f"{folder / CONFIGURATION} is not the configuration of a run: its {part} lacks "
                f"{', '.join(sorted(lacking))}"
            )
    try:
        Recipe.of(completed(config)["recipe"])
    except (ValueError, TypeError, KeyError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{folder / CONFIGURATION}: recipe: {said}") from None
    return config


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with the weights of a run folder, of a checkpoint or in a file.

    Raises:
        ValueError: they are another network's.
        CheckpointMismatch: there are none, or they are damaged.
    """
    try:
        model.load_state_dict(weights_at(path))
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} holds the weights of another network: {problem}") from None
    return model
