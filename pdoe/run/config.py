"""What a resolved configuration, as plain values, stands for: its hash, its data, its network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..data import SETS, DataSet, load_data
from ..data.dataset import STATISTICS
from ..data.whitening import whiten
from ..groups import PointGroup
from ..models import MODELS, Images, Norm
from .hardware import SWITCHES, resolve_device, resolve_precision
from .recipe import is_number
from .record import digest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# What a run computes does not depend on these, or only in rounding: they neither name a run nor
# enter its hash.
BESIDE_THE_POINT = (
    *("seed", "device", "max_time", "restart", "resume", "outputs", "tracking"),
    *("mode", "checkpoint", "published"),
    *SWITCHES,
)
# Keys that came after the first committed runs. At these values they change nothing and stay out of
# the hash, so that those runs are still runs of their configuration.
LATER: dict[str, Any] = {
    "data": {"validation": 0, "statistics": "train"},
    "model": {"bank_width": None},
    "recipe": {
        "optimizer": "adam",
        "schedule": "step",
        "l1": 0.0,
        "evaluate": {"select": "last", "tta_angles": []},
        "label_smoothing": 0.0,
        "average": None,
        "sync_bn": False,
    },
}


def hashed(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """The part of a configuration that enters its hash."""
    return config and _without(config, LATER)


def _without(config: dict[str, Any], neutral: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the keys that have their neutral value."""
    kept = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(neutral.get(key), dict):
            kept[key] = _without(value, neutral[key])
        elif key not in neutral or digest(value) != digest(neutral[key]):
            kept[key] = value
    return kept


def completed(config: dict[str, Any], neutral: dict[str, Any] = LATER) -> dict[str, Any]:
    """A configuration with the neutral values of the keys that an older one lacks.

    Those of a model are the defaults of its constructor; not every model has each of them.

    Raises:
        ValueError: what should hold keys does not.
    """
    whole = dict(config)
    for key, value in neutral.items():
        if isinstance(value, dict) and not isinstance(config.get(key, {}), Mapping):
            raise ValueError(f"{key} holds {', '.join(value)}, ..., it is not {config[key]!r}")
        if isinstance(value, dict) and key != "model":
            whole[key] = completed(config.get(key, {}), value)
        elif key != "model":
            whole.setdefault(key, value)
    return whole


def configured_data(config: dict[str, Any], root: str | None) -> DataSet:
    """The data set of a configuration; keys that an older one lacks are neutral."""
    config = completed(config)
    chosen, select = config["data"], config["recipe"]["evaluate"]["select"]
    held_out, statistics = chosen["validation"], chosen["statistics"]
    if select == "validation" and not held_out:
        raise ValueError(
            "recipe.evaluate.select=validation needs images to select on: give data.validation, "
            "such as data.validation=2000"
        )
    if statistics not in (words := (*STATISTICS, "none", "whitened")):
        raise ValueError(f"data.statistics is one of {', '.join(words)}, not {statistics!r}")
    of_images = statistics if statistics in STATISTICS else "train"
    data = load_data(chosen["name"], root, chosen["source"], of_images)
    if held_out != 0:
        data = data.hold_out(held_out, keep_test=select == "validation")
    if statistics == "none":
        return data.without_normalisation()
    return whiten(data) if statistics == "whitened" else data


def build_model(config: dict[str, Any], data: DataSet | None = None) -> nn.Module:
    """The network of a resolved configuration, for ``data`` or for images like its data set's."""
    if data is None:
        shape, classes = SETS[config["data"]["name"]].shape, SETS[config["data"]["name"]].classes
    else:
        shape, classes = data.train_images.shape[1:], data.classes
    arguments = dict(config["model"])
    recipe = config["recipe"]
    name = arguments.pop("name")
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: it is one of {', '.join(MODELS)}")
    norm = recipe["norm"]
    if not isinstance(norm, Mapping) or not {"eps", "momentum"} <= set(norm):
        raise ValueError(f"recipe.norm holds eps and momentum, it is not {norm!r}")
    eps, momentum = norm["eps"], norm["momentum"]
    if not (is_number(eps) and eps > 0):
        raise ValueError(f"recipe.norm.eps is a number above 0, not {eps!r}")
    if momentum is not None and not (is_number(momentum) and 0 <= momentum <= 1):
        raise ValueError(f"recipe.norm.momentum is a number from 0 to 1, or null, not {momentum!r}")
    given: dict[str, Any] = {
        "dropout": recipe["dropout"],
        "batch_norm": Norm(eps, momentum),
        "images": Images(shape[0], classes, shape[-1]),
    }
    known = [key for key in signature(MODELS[name]).parameters if key not in ("group", *given)]
    for key, value in arguments.items():
        if key not in known:
            raise ValueError(f"model.{key} is no argument of {name}: it has {', '.join(known)}")
        widths = isinstance(value, list) and all(type(width) is int for width in value)
        if key.endswith("widths") and value is not None and not widths:
            raise ValueError(f"model.{key} is a list of integers, such as [7, 7], not {value!r}")
    return MODELS[name](PointGroup.named(config["group"]["name"]), **arguments, **given)


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved configuration of a command line, for scripts: ``experiment=... group=...``."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        chosen = [word.split("=")[1] for word in overrides if word.startswith("experiment=")]
        return resolved(hydra.compose("config", list(overrides)), *(chosen or ["custom"]))


def resolved(cfg: DictConfig, experiment: str) -> dict[str, Any]:
    """What determines the result of a run apart from seed and data, as plain values."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for key in BESIDE_THE_POINT:
        del config[key]
    del config["data"]["root"]
    config["precision"] = resolve_precision(cfg.precision, resolve_device(cfg.device))
    return {"experiment": experiment, **config}


def without_seed(config: dict[str, Any] | None) -> dict[str, Any] | None:
    return config and {key: value for key, value in config.items() if key != "seed"}


def effective_overrides(config: dict[str, Any], task: list[str]) -> list[str]:
    """The overrides that set this run apart from its experiment, sorted.

    An override that changes nothing (``group=p8`` for a row that is p8) does not count, nor does
    the smoke recipe, which has a folder of its own.
    """
    beside = "|".join(BESIDE_THE_POINT)
    kept = re.compile(rf"\+*(experiment|launcher|data\.root|({beside})(\.\w+)*)=")
    fixed = [o for o in task if kept.match(o)]
    needed = sorted(o for o in task if o not in fixed)

    def makes_no_difference(override: str) -> bool:
        others = fixed + [o for o in needed if o != override]
        without = resolved(hydra.compose("config", others), config["experiment"])
        return digest(hashed(without)) == digest(hashed(config))

    while idle := next(filter(makes_no_difference, needed), None):
        needed.remove(idle)
    return [o for o in needed if o != "recipe=smoke"]
