"""Trained networks: the configuration and the weights of a run on disk, and their test error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from ..data import DataSet
from ..export import export_plain, load_exported_weights
from ..files import read_yaml
from ..models import Images
from ..models.sources import is_own
from .compose import resolve_config
from .config import (
    build_model,
    fill_neutral,
    find_images,
    group_name,
    load_configured_data,
    parse_group,
)
from .evaluation import evaluate
from .folder import RunFolder
from .hardware import make_repeatable, resolve_device, resolve_precision
from .provenance import label_device
from .recipe import Recipe
from .weights import weights_at

CONFIGURATION = "config.yaml"
NEEDED = {
    "data": {"name", "source"},
    "model": {"name"},
    "recipe": {"dropout", "norm", "evaluate", "test_images"},
}


def read_configuration_in(folder: Path) -> dict[str, Any] | None:
    """Read ``config.yaml`` of a run, seed included; None if it cannot be read."""
    try:
        found = read_yaml(folder / CONFIGURATION)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def find_run(path: Path) -> Path | None:
    """Return the run folder of a folder, a checkpoint or a file; None for a file outside of any."""
    near = (path, *path.resolve().parents[:3])
    return next((place for place in near if (place / CONFIGURATION).is_file()), None)


def read_configuration_at(path: Path, source: str | None = None) -> dict[str, Any] | None:
    """Read the configuration of the run that a folder, a checkpoint or a file belongs to.

    Args:
        path: of the folder or file.
        source: the function that builds the network, if it is the user's own. A configuration that
            names another function is refused: it would be called.

    Returns:
        The configuration, or None for a file outside of any run folder.

    Raises:
        ValueError: the folder is not a run folder, or its configuration is damaged or refused.
    """
    folder = find_run(path)
    if folder is None:
        if path.is_dir():
            raise ValueError(f"{path} is not in a run folder: it lacks {CONFIGURATION}")
        return None
    place = folder / CONFIGURATION
    config = read_configuration_in(folder)
    if config is None:
        raise ValueError(
            f"{place} is damaged: the same training command writes it again if the run is not "
            "finished, or restart=true trains anew"
        )
    for part, keys in NEEDED.items():
        section = config.get(part)
        if not isinstance(section, dict):
            raise ValueError(f"{place} is not the configuration of a run: it has no section {part}")
        if lacking := keys - set(section):
            raise ValueError(
                f"{place} is not the configuration of a run: its {part} lacks "
                f"{', '.join(sorted(lacking))}"
            )
    named = config["model"].get("source")
    if is_own(named) and named != source:
        raise ValueError(
            f"{place} names {named}, a function that would be imported and called: if you trust "
            f"it, add model=converted model.source={named}"
        )
    try:
        parse_group(group_name(config))
        Recipe.of(fill_neutral(config)["recipe"])
    except KeyError as error:
        raise ValueError(f"{place} lacks {error}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from None
    return config


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load the weights of a run folder, a checkpoint or a file into ``model``, and return it.

    Raises:
        ValueError: the weights are those of another network.
        CheckpointMismatch: there are no weights, or they are damaged.
    """
    try:
        model.load_state_dict(weights_at(path))
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} holds the weights of another network: {problem}") from None
    return model


def read_images_form(path: Path, config: dict[str, Any]) -> Images:
    """Return the form of the images of a run; its record has that of the user's own.

    Raises:
        ValueError: the record is lost.
    """
    described = _read_data(path)
    if "image" in described:
        channels, size, _ = described["image"]
        return Images(channels, len(described["class_names"]), size)
    return find_images(config)


def _read_data(path: Path) -> dict[str, Any]:
    """Read what the record of a run says of its data; empty for a file outside of any run."""
    folder = find_run(path)
    return ((RunFolder(folder).read_result() if folder else None) or {}).get("data", {})


def check_class_names(path: Path, data: DataSet) -> None:
    """Refuse the user's own images of other classes than those of a run.

    Raises:
        ValueError: names both.
    """
    names = tuple(_read_data(path).get("class_names", data.class_names))
    if names != data.class_names:
        raise ValueError(
            f"{path} tells {', '.join(names)} apart, and the images of data.root are "
            f"{', '.join(data.class_names)}"
        )


def evaluate_checkpoint(cfg: DictConfig, experiment: str) -> None:
    """Print the test error of the weights at ``checkpoint=``.

    A run and its files are tested with their own network on their own data, a file of weights
    elsewhere with what the command line chooses. Of several ranks only the first one works.

    Raises:
        ValueError: there is no checkpoint, or it does not fit the network.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if cfg.checkpoint is None:
        raise ValueError("mode=evaluate needs checkpoint=: a run folder, a checkpoint or a file")
    path = Path(str(cfg.checkpoint))
    if not path.exists():
        raise ValueError(f"checkpoint={path} does not exist")
    device = resolve_device(cfg.device)
    precision = resolve_precision(cfg.precision, device)
    make_repeatable(device)
    trusted = cfg.model.get("source")
    config = fill_neutral(read_configuration_at(path, trusted) or resolve_config(cfg, experiment))
    data = load_configured_data(config, cfg.data.root).to(device)
    check_class_names(path, data)
    model = build_model(config, data)
    if path.suffix == ".pt2":
        model = load_exported_weights(export_plain(model), path)
    else:
        model = load_weights(model, path)
    model = model.to(device, torch.float64 if precision == "fp64" else None)
    count = len(data.test_images[: config["recipe"]["test_images"]])
    error = evaluate(model, data, precision, count, config["recipe"]["evaluate"]["tta_angles"])
    wrong = round(error * count / 100)
    print(
        f"{path}: test error {error:.3f} %, {wrong:,} of {count:,} images of {data.name} "
        f"({data.provenance}), {label_device(device)}, {precision}",
        flush=True,
    )
