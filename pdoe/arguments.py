"""Arguments of the public door: their checks, and one sentence for each wrong one."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

LARGEST_SIZE = 33  # pixels of a kernel: a bank ``pixels`` grows with the fourth power

_OPTIONS_OF_TORCH = {
    "dilation": "a bank has a fixed spacing: for a larger field of view use bank 'gaussian' with a "
    "larger size, or a stride",
    "groups": "every output channel sees all input channels: split the map by x.chunk(groups, 1) "
    "and give each part a layer of its own",
    "padding_mode": "padding adds zeros: pad the map beforehand, by "
    "torch.nn.functional.pad(x, (p, p, p, p), mode='circular'), and give padding=0",
    "width": "the standard deviation of bank 'gaussian' is bank_width",
}


def require_integer(name: str, value: int, least: int) -> int:
    """Return ``value`` as an int of at least ``least``.

    Raises:
        TypeError: ``value`` is not an integer.
        ValueError: ``value`` is smaller.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer of at least {least}, not {value!r}") from None
    if value < least:
        raise ValueError(f"{name} is an integer of at least {least}, not {value}")
    return value


def require_number(name: str, value: float, expected: str) -> float:
    """Return ``value`` as a finite float; ``expected`` is the end of the sentence "name is ...".

    Raises:
        TypeError: ``value`` is not a real number.
        ValueError: ``value`` is infinite or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {expected}, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {expected}, not {value}")
    return float(value)


def require_bool(name: str, value: bool) -> bool:
    """Return ``value`` if it is a bool, else raise ``TypeError``."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r}")
    return value


def require_size(size: int | None) -> int | None:
    """Return the side of a kernel in pixels, None for that of the bank.

    Raises:
        TypeError: ``size`` is neither an integer nor None.
        ValueError: ``size`` is not positive, or larger than ``LARGEST_SIZE``.
    """
    if size is None:
        return None
    size = require_integer("size", size, 1)
    if size > LARGEST_SIZE:
        raise ValueError(
            f"size is at most {LARGEST_SIZE} pixels, not {size}: for a larger field of view stack "
            "layers, or pool between them"
        )
    return size


def read_size(layer: str, size: int | None, options: Mapping[str, Any]) -> int | None:
    """Return ``size`` or its alias ``kernel_size``, and refuse all other options by name.

    Raises:
        TypeError: an option that ``layer`` does not have, or two different sizes.
    """
    for name in options:
        if name in _OPTIONS_OF_TORCH:
            raise TypeError(f"{layer} has no argument {name!r}: {_OPTIONS_OF_TORCH[name]}")
        if name != "kernel_size":
            raise TypeError(f"{layer} has no argument {name!r}; see help(pdoe.{layer})")
    size, alias = require_size(size), require_size(options.get("kernel_size"))
    if None not in (size, alias) and alias != size:
        raise TypeError(f"size and its alias kernel_size differ: {size} and {alias}")
    return alias if size is None else size


def read_padding(padding: int | None, size: int) -> int:
    """Return the padding; None keeps height and width under a kernel of ``size`` at stride 1.

    Raises:
        TypeError: ``padding`` is neither an integer nor None.
        ValueError: ``padding`` is negative, or None with an even kernel.
    """
    if padding is not None:
        return require_integer("padding", padding, 0)
    if size % 2 == 0:
        raise ValueError(
            f"no padding keeps the size of a map under a {size}x{size} kernel: give padding, or an "
            "odd size"
        )
    return (size - 1) // 2
