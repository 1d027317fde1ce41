"""Overrides of a run as one text, as records and tables hold them, and back as single overrides."""

from __future__ import annotations

from collections.abc import Iterable

_CLOSING = {"[": "]", "{": "}", "(": ")"}


def join_overrides(overrides: Iterable[str]) -> str:
    """One text of several overrides; :func:`split_overrides` is the inverse.

    >>> join_overrides(["group=p4", "model.widths=[7,7]"])
    'group=p4,model.widths=[7,7]'
    """
    return ",".join(overrides)


def split_overrides(text: str) -> list[str]:
    """The overrides of a joined text: commas inside brackets or quotes belong to a value.

    >>> split_overrides("group=p4,model.widths=[7,7]")
    ['group=p4', 'model.widths=[7,7]']
    """
    parts, open_brackets, quote, start = [], [], "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote and text[place - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif character == "," and not open_brackets:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]] if text else []
