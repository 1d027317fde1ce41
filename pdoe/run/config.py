"""A configuration as plain values: its hash, its data and its network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import nn

from ..data import SETS, DataSet, load_data
from ..data.dataset import STATISTICS
from ..data.whitening import whiten
from ..groups import PointGroup
from ..models import MODELS, Images, Norm
from .recipe import is_number
from .record import digest

# Keys that were added after the first committed runs, with the values at which they change nothing.
# At these values they stay out of the hash, so that the older runs keep their hash.
LATER: dict[str, Any] = {
    "data": {
        "validation": 0,
        "fold": None,
        "statistics": "train",
        "draw": 0,
        "replacement": False,
    },
    "model": {
        "bank_width": None,
        "size": None,
        "first_bank": None,
        "first_size": None,
        "dropout_kind": "elements",
        "head_dropout": 0.0,
        "space_pool": "mean",
        "match": "parameters",
        "stem_pool": 1,
    },
    "recipe": {
        "optimizer": "adam",
        "schedule": "step",
        "l1": 0.0,
        "evaluate": {"select": "last", "tta_angles": []},
        "label_smoothing": 0.0,
        "average": None,
        "sync_bn": False,
        "random_frame": False,
        "epoch_images": None,
    },
}


def select_hashed(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the part of a configuration that enters its hash."""
    kept = config and _drop_neutral(config, LATER)
    if kept and isinstance(kept.get("group"), str):
        kept["group"] = {"name": kept["group"]}  # as in the configurations of older runs
    return kept


def group_name(config: Mapping[str, Any]) -> str:
    """Return the name of a configuration's group, which older runs keep as ``{"name": "p8"}``."""
    group = config["group"]
    return group["name"] if isinstance(group, Mapping) else group


def parse_group(name: Any) -> PointGroup:
    """Return the group of a name: of this package (p8, p6m) or of escnn (C8, D6).

    >>> parse_group("p6m") == parse_group("D6")
    True

    Raises:
        ValueError: no group has this name.
    """
    text = str(name)
    if escnn := re.fullmatch(r"([CD])([1-9]\d*)", text):
        return PointGroup(int(escnn[2]), reflections=escnn[1] == "D")
    try:
        return PointGroup.named(text)
    except ValueError:
        order = re.search(r"[1-9]\d*", text)
        near = f"; did you mean p{order[0]}{'m' * (text[-1] in 'mM')}?" if order else "."
        raise ValueError(
            f"unknown group {name!r}{near} A group is pN for any number N of rotations, or pNm "
            "with reflections: p1, p4, p5, p8, p4m, p6m; or, as in escnn, C8, D4"
        ) from None


def _drop_neutral(config: dict[str, Any], neutral: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the keys that have their neutral value."""
    kept = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(neutral.get(key), dict):
            kept[key] = _drop_neutral(value, neutral[key])
        elif key not in neutral or digest(value) != digest(neutral[key]):
            kept[key] = value
    return kept


def fill_neutral(config: dict[str, Any], neutral: dict[str, Any] = LATER) -> dict[str, Any]:
    """Fill in the neutral values of the keys that an older configuration lacks.

    Keys of a model are left out: its constructor has them as defaults.

    Raises:
        ValueError: a section of the configuration is not a mapping.
    """
    whole = dict(config)
    for key, value in neutral.items():
        if isinstance(value, dict) and not isinstance(config.get(key, {}), Mapping):
            raise ValueError(f"{key} holds {', '.join(value)}, ..., it is not {config[key]!r}")
        if isinstance(value, dict) and key != "model":
            whole[key] = fill_neutral(config.get(key, {}), value)
        elif key != "model":
            whole.setdefault(key, value)
    return whole


def load_configured_data(config: dict[str, Any], root: str | None) -> DataSet:
    """Load the data set of a configuration, held-out images and normalisation included."""
    config = fill_neutral(config)
    chosen, select = config["data"], config["recipe"]["evaluate"]["select"]
    held_out, statistics = chosen["validation"], chosen["statistics"]
    if select == "validation" and not held_out:
        raise ValueError(
            "recipe.evaluate.select=validation selects on held-out images: set data.validation, "
            "such as data.validation=2000"
        )
    if chosen["fold"] is not None and not held_out:
        raise ValueError(
            "data.fold chooses which images data.validation holds out: set both, such as "
            "data.validation=2000 data.fold=0"
        )
    if statistics not in (words := (*STATISTICS, "none", "whitened")):
        raise ValueError(f"data.statistics is one of {', '.join(words)}, not {statistics!r}")
    of_images = statistics if statistics in STATISTICS else "train"
    name = chosen["name"]
    options = {key: chosen[key] for key in (SETS[name].keys if name in SETS else ())}
    data = load_data(name, root, chosen["source"], of_images, **options)
    if held_out != 0:
        data = data.hold_out(held_out, select == "validation", chosen["fold"])
    if statistics == "none":
        return data.without_normalisation()
    return whiten(data) if statistics == "whitened" else data


def find_images(config: dict[str, Any], data: DataSet | None = None) -> Images:
    """Return the form of the images: of ``data``, or of the data set of a configuration.

    Raises:
        ValueError: there is no such set, or its images are known once they are read.
    """
    if data is not None:
        shape, classes = data.train_images.shape[1:], data.classes
    else:
        name = config["data"]["name"]
        if name not in SETS:
            raise ValueError(f"data.name is one of {', '.join(SETS)}, not {name!r}")
        if SETS[name].own:
            raise ValueError(
                f"the images of data={name} are the user's, so their size and classes are unknown "
                "before they are read"
            )
        shape, classes = SETS[name].shape, SETS[name].classes
        return Images(shape[0], classes, config["data"].get("size") or shape[-1])
    return Images(shape[0], classes, shape[-1])


def build_model(config: dict[str, Any], images: DataSet | Images | None = None) -> nn.Module:
    """Build the network of a configuration, for ``images`` or for those of its data set.

    Raises:
        ValueError: a value of the configuration is impossible.
    """
    if not isinstance(images, Images):
        images = find_images(config, images)
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
        "images": images,
    }
    known = [key for key in signature(MODELS[name]).parameters if key not in ("group", *given)]
    for key, value in arguments.items():
        if key not in known:
            raise ValueError(f"model.{key} is no argument of {name}: it has {', '.join(known)}")
        widths = isinstance(value, list) and all(type(width) is int for width in value)
        if key.endswith("widths") and value is not None and not widths:
            raise ValueError(f"model.{key} is a list of integers, such as [7, 7], not {value!r}")
    try:
        return MODELS[name](PointGroup.named(group_name(config)), **arguments, **given)
    except ValueError:
        raise
    except Exception as error:  # the constructors of layers check much, but not everything
        raise ValueError(f"the network cannot be built: {error}") from error


def drop_seed(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a configuration without its seed."""
    return config and {key: value for key, value in config.items() if key != "seed"}
