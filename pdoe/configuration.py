"""What a resolved configuration, as plain values, stands for: its hash, its data, its network."""

from __future__ import annotations

from typing import Any

from torch import nn

from .data import SHAPES, DataSet, load_data
from .groups import PointGroup
from .models import MODELS
from .records import digest

# Keys that came after the first committed runs. At these values they change nothing and stay out of
# the hash, so that those runs are still runs of their configuration.
LATER = {
    "data": {"validation": 0, "statistics": "train"},
    "recipe": {
        "optimizer": "adam",
        "schedule": "step",
        "label_smoothing": 0.0,
        "average": None,
        "sync_bn": False,
    },
}


def hashed(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """The part of a configuration that enters its hash."""
    if config is None:
        return None
    kept = dict(config)
    for name, neutral in LATER.items():
        if isinstance(config.get(name), dict):
            kept[name] = {
                key: value
                for key, value in config[name].items()
                if key not in neutral or digest(value) != digest(neutral[key])
            }
    return kept


def configured_data(config: dict[str, Any], root: str | None) -> DataSet:
    """The data set of a configuration; keys that an older one lacks are neutral."""
    config = {**LATER["data"], **config}
    data = load_data(config["name"], root, config["source"], config["statistics"])
    return data.held_out(config["validation"]) if config["validation"] != 0 else data


def build_model(config: dict[str, Any], data: DataSet | None = None) -> nn.Module:
    """The network of a resolved configuration, for ``data`` or for images like its data set's."""
    if data is None:
        shape, classes = SHAPES[config["data"]["name"]]
    else:
        shape, classes = data.train_images.shape[1:], data.classes
    arguments = dict(config["model"])
    recipe = config["recipe"]
    name = arguments.pop("name")
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: it is one of {', '.join(MODELS)}")
    return MODELS[name](
        PointGroup.named(config["group"]["name"]),
        **arguments,
        dropout=recipe["dropout"],
        norm_eps=recipe["norm"]["eps"],
        norm_momentum=recipe["norm"]["momentum"],
        in_channels=shape[0],
        classes=classes,
        image_size=shape[-1],
    )
