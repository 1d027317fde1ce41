"""Ordinary networks by name: of torchvision, of timm, or a function of the user's own."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

FORMS = "torchvision.NAME, timm.NAME, or package.module:function"
# Arguments that would load weights, which a conversion does not use, or files.
REFUSED = re.compile(r"weights|pretrained|checkpoint|cache_dir")


def is_own(source: Any) -> bool:
    """Whether a source is a function of the user's own, which is imported and called.

    >>> is_own("torchvision.resnet18"), is_own("networks:small")
    (False, True)
    """
    return isinstance(source, str) and ":" in source


def build_source(
    source: str, arguments: Mapping[str, Any] | None, classes: int, channels: int, size: int
) -> nn.Module:
    """Build an ordinary network for images of a form.

    The first convolution of a network of torchvision is made anew for other channels than 3. Your
    own function gets those of ``num_classes``, ``in_channels`` and ``image_size`` that it has.

    Args:
        source: ``torchvision.NAME``, ``timm.NAME`` or ``package.module:function``.
        arguments: more arguments of the function.
        classes: number of logits.
        channels: of the images.
        size: side of the images in pixels.

    Raises:
        ValueError: there is no such network, or it does not take these arguments.
    """
    if not isinstance(source, str):
        raise ValueError(f"model.source is {FORMS}, not {source!r}")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise ValueError(f"model.arguments are names and values, not {arguments!r}")
    if wrong := next(filter(REFUSED.search, arguments), None):
        raise ValueError(
            f"model.arguments.{wrong}: a converted network has new weights, so none are loaded; "
            "leave it out"
        )
    library, _, name = source.partition(".")
    if is_own(source):
        build, given = _find_own(source), {}
        given = {"num_classes": classes, "in_channels": channels, "image_size": size}
        given = {key: value for key, value in given.items() if key in _parameters(build)}
    elif library == "timm":
        build, given = _find_timm(name), {"num_classes": classes, "in_chans": channels}
    elif library == "torchvision":
        build, given = _find_torchvision(name), {"num_classes": classes}
    else:
        raise ValueError(f"model.source is {FORMS}, not {source!r}")
    try:
        model = build(**{**given, **arguments})
    except (TypeError, ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise ValueError(f"model.source={source} cannot be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model.source={source} gives a {type(model).__name__}, not a module")
    if library == "torchvision":
        _set_channels(model, channels)
    return model


def _find_torchvision(name: str) -> Callable[..., nn.Module]:
    import torchvision.models  # with the network alone: it takes a second

    return torchvision.models.get_model_builder(
        _find_name(name, "torchvision", torchvision.models.list_models(torchvision.models))
    )


def _find_timm(name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ImportError:
        raise ValueError("model.source=timm.NAME needs timm: pip install '.[convert]'") from None
    name = _find_name(name, "timm", timm.list_models())
    return lambda **arguments: timm.create_model(name, **arguments)


def _find_name(name: str, library: str, known: list[str]) -> str:
    if name not in known:
        near = get_close_matches(name, known, 1)
        suggestion = f"; did you mean {library}.{near[0]}?" if near else ""
        raise ValueError(f"{library} has no network {name!r} for images{suggestion}")
    return name


def _find_own(source: str) -> Callable[..., nn.Module]:
    module, _, name = source.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(
            f"model.source={source}: {error}; the folder of the module must be in PYTHONPATH, or "
            "be that of train.py"
        ) from error
    except AttributeError:
        raise ValueError(f"model.source={source}: {module} has no {name!r}") from None
    if not callable(found):
        raise ValueError(f"model.source={source} is a {type(found).__name__}, not a function")
    return found


def _parameters(function: Callable[..., Any]) -> set[str]:
    """Names of the arguments that a function takes."""
    return set(inspect.signature(function).parameters)


def _set_channels(model: nn.Module, channels: int) -> None:
    """Make the first convolution anew for other channels than it has."""
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == channels:
        return
    new = type(conv)(
        channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
        bias=conv.bias is not None, padding_mode=conv.padding_mode,
    )  # fmt: skip
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, new)
