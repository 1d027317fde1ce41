"""What can be told to a run on the command line, and what is refused before anything is done."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from ..tracking.write import MODES
from .hardware import Settings

PATHS = ("checkpoint", "outputs", "data.root")


def as_path(word: str) -> str:
    """An override whose value is a path: Hydra must not read the `=` and `,` of a run's folder.

    >>> as_path("checkpoint=outputs/a/seed=0")
    "checkpoint='outputs/a/seed=0'"
    """
    name, _, value = word.partition("=")
    if name not in PATHS or not re.search("[=,]", value):
        return word
    if value[0] in "'\"":  # said so by hand
        return word
    return "{}='{}'".format(name, value.replace("'", r"\'"))


def check_groups(words: Sequence[str]) -> None:
    """Refuse with a ValueError to choose nothing where something has to be chosen."""
    for word in words:
        if name := re.fullmatch(r"(data|group|model|recipe|tracking)=(null|None)", word):
            raise ValueError(f"{name[1]} is a file of configs/{name[1]}, by its name; not null")


def check_words(cfg: DictConfig) -> None:
    """Refuse with a ValueError what no run can be told, before anything is done."""
    for name, allowed in {
        "restart": (True, False),  # it throws results away
        "resume": ("exact", "any"),
        "tracking.mode": MODES,
        "recipe.sync_bn": (True, False),
    }.items():
        value = OmegaConf.select(cfg, name)
        if not any(value is one or value == one and isinstance(one, str) for one in allowed):
            said = " or ".join(str(one).lower() for one in allowed)
            raise ValueError(f"{name} is {said}, not {value!r}")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**63:
        raise ValueError(f"seed is an integer from 0 to 2^63 - 1, not {cfg.seed!r}")
    if not isinstance(cfg.outputs, str) or not cfg.outputs:
        raise ValueError(f"outputs is a folder, such as outputs, not {cfg.outputs!r}")
    scale = cfg.recipe.scale
    if not isinstance(scale, str) or not re.fullmatch(r"[\w-]+", scale):  # it names a folder
        raise ValueError(f"recipe.scale is a word, such as full or smoke, not {scale!r}")
    Settings.check(cfg)


def seconds(duration: str | None) -> float | None:
    """Seconds of ``HH:MM:SS``."""
    if duration is None:
        return None
    match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", str(duration))
    if not match:
        raise ValueError(f"max_time is HH:MM:SS, such as 00:30:00, not {duration}")
    hours, minutes, rest = map(int, match.groups())
    return 3600 * hours + 60 * minutes + rest
