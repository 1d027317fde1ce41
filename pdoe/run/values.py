"""Values of a configuration that no run can have, refused before anything is read or written."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ..data import SETS
from ..data.draws import Draw, check_source
from ..data.folder import Wanted
from ..tracking.write import MODES
from .config import build_model
from .frames import RandomFrame
from .hardware import Settings, resolve_device
from .ranks import synchronise_norms
from .recipe import Recipe

KEYS = {  # of a resolved configuration; the keys of a model are those of its constructor
    "": {"experiment", "data", "group", "model", "recipe", "precision"},
    # And those of the data set itself.
    "data": {"name", "source", "statistics", "validation", "fold"},
    "recipe.evaluate": {"every", "last", "select", "tta_angles"},
    "recipe.norm": {"eps", "momentum"},
    "recipe": {"scale", "dropout", "norm", "evaluate", "sync_bn"}
    | {field.name for field in fields(Recipe) if not field.name.startswith("evaluate_")},
}
WORDS: dict[str, tuple[Any, ...]] = {
    "restart": (True, False),
    "resume": ("exact", "any"),
    "tracking": MODES,
    "recipe.sync_bn": (True, False),
    "recipe.random_frame": (True, False),
}


def check_words(cfg: DictConfig) -> None:
    """Check the values that have a fixed list, and those that name a run.

    Raises:
        ValueError: a value is not in its list, or not of its type.
    """
    for name, allowed in WORDS.items():
        value = OmegaConf.select(cfg, name)
        if not any(value is one or value == one and isinstance(one, str) for one in allowed):
            listed = " or ".join(str(one).lower() for one in allowed)
            raise ValueError(f"{name} is {listed}, not {value!r}")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**63:
        raise ValueError(f"seed is an integer from 0 to 2^63 - 1, not {cfg.seed!r}")
    if not isinstance(cfg.outputs, str) or not cfg.outputs:
        raise ValueError(f"outputs is a folder, such as outputs, not {cfg.outputs!r}")
    if not isinstance(cfg.project, str) or not cfg.project:
        raise ValueError(f"project is the name of a W&B project, not {cfg.project!r}")
    scale = cfg.recipe.scale
    if not isinstance(scale, str) or not re.fullmatch(r"[\w-]+", scale):  # it names a folder
        raise ValueError(f"recipe.scale is a word, such as full or smoke, not {scale!r}")
    Settings.check(cfg)


def check_keys(config: dict[str, Any]) -> None:
    """Check that no key was added (``+key=``) or deleted (``~key``).

    Raises:
        ValueError: a section of the configuration has other keys.
    """
    recipe = config.get("recipe", {})
    sections = {"": config, "data": config.get("data"), "recipe": recipe}
    sections |= {f"recipe.{name}": recipe.get(name, {}) for name in ("evaluate", "norm")}
    for name, found in sections.items():
        keys = KEYS[name]
        if not isinstance(found, dict):
            raise ValueError(f"{name} has the keys {', '.join(sorted(keys))}: it is not {found!r}")
        if name == "data" and (chosen := str(found.get("name"))) in SETS:
            keys = keys | set(SETS[chosen].keys)
        if wrong := keys ^ set(found):
            verb = "lacks" if wrong <= keys else "has no key"
            wrong = ", ".join(sorted(wrong - keys or wrong))
            known = ", ".join(sorted(keys))
            raise ValueError(f"{name or 'a run'} {verb} {wrong}: its keys are {known}")


def check_run(cfg: DictConfig, config: dict[str, Any]) -> Recipe:
    """Check that the data have these images and that recipe and network are possible.

    The network is built on the meta device: nothing is computed. That of the user's own images is
    not: it depends on them.

    Args:
        config: the resolved configuration of ``cfg``.

    Raises:
        ValueError: a value of the data, the recipe or the network is impossible.
    """
    check_keys(config)
    data = config["data"]
    if "replacement" in data:
        check_source(data["source"], Draw(data["draw"], data["replacement"]))
    recipe = Recipe.of(config["recipe"])
    if data["name"] in SETS and SETS[data["name"]].own:
        Wanted(**{key: data[key] for key in SETS[data["name"]].keys})
        return recipe  # the network is built once the images are read
    with torch.device("meta"):
        model = build_model(config)
    if recipe.random_frame:
        RandomFrame(model)
    device = resolve_device(cfg.device)
    Settings.resolve(cfg, device, model, int(os.environ.get("WORLD_SIZE", 1)))
    if config["recipe"]["sync_bn"]:
        synchronise_norms(model, device)
    return recipe


def parse_duration(duration: str | None) -> float | None:
    """Return the seconds of ``HH:MM:SS``; None for None.

    Raises:
        ValueError: the text has another form.
    """
    if duration is None:
        return None
    match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", str(duration))
    if not match:
        raise ValueError(f"max_time is HH:MM:SS, such as 00:30:00, not {duration}")
    hours, minutes, rest = map(int, match.groups())
    return 3600 * hours + 60 * minutes + rest
