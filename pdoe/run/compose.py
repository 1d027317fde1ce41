"""A command line as a configuration: composed by Hydra, resolved, and named by its overrides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from .config import parse_group, select_hashed
from .hardware import SWITCHES, resolve_device, resolve_precision
from .record import digest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Keys that change nothing a run computes, or only its rounding. They neither name a run nor enter
# its hash.
NOT_HASHED = (
    *("seed", "device", "max_time", "restart", "resume", "outputs", "tracking", "project"),
    *("mode", "checkpoint"),
    *SWITCHES,
)


def compose_config(*overrides: str) -> dict[str, Any]:
    """Compose and resolve a configuration, for scripts: ``experiment=... group=...``."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        chosen = [word.split("=")[1] for word in overrides if word.startswith("experiment=")]
        return resolve_config(hydra.compose("config", list(overrides)), *(chosen or ["custom"]))


def resolve_config(cfg: DictConfig, experiment: str) -> dict[str, Any]:
    """Return what determines the result of a run, apart from seed and data, as plain values."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for key in NOT_HASHED:
        del config[key]
    del config["data"]["root"]
    config["group"] = parse_group(cfg.group).name
    config["precision"] = resolve_precision(cfg.precision, resolve_device(cfg.device))
    return {"experiment": experiment, **config}


def reduce_overrides(config: dict[str, Any], task: list[str]) -> list[str]:
    """Return the overrides that set this run apart from its experiment, sorted.

    An override that changes nothing (``group=p8`` for a row on p8) does not count, nor does the
    smoke recipe, which has a folder of its own.
    """
    beside = "|".join(NOT_HASHED)
    beside_the_point = re.compile(rf"\+*(experiment|launcher|data\.root|({beside})(\.\w+)*)=")
    fixed = [o for o in task if beside_the_point.match(o)]
    named = (f"group={config['group']}" if o.startswith("group=") else o for o in task)
    # A sweep writes booleans as Python does (True), a command line as YAML does.
    named = (re.sub(r"=(True|False)$", lambda match: match[0].lower(), o) for o in named)
    needed = sorted(set(named) - set(fixed))

    def makes_no_difference(override: str) -> bool:
        others = fixed + [o for o in needed if o != override]
        try:
            without = resolve_config(hydra.compose("config", others), config["experiment"])
        except ConfigCompositionException:  # another override is of a key that this one brings
            return False
        return digest(select_hashed(without)) == digest(select_hashed(config))

    while idle := next(filter(makes_no_difference, needed), None):
        needed.remove(idle)
    return [o for o in needed if o != "recipe=smoke"]
