"""Overrides of a run as one text and back, as they stand in records, folder names and tables."""

from __future__ import annotations

from collections.abc import Sequence

OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""


def join_overrides(overrides: Sequence[str]) -> str:
    """Join overrides with commas."""
    return ",".join(overrides)


def split_overrides(text: str) -> list[str]:
    """Split joined overrides: at every comma outside of brackets and quotes.

    >>> split_overrides("group=p4,model.widths=[2,2],recipe=mnistrot_common")
    ['group=p4', 'model.widths=[2,2]', 'recipe=mnistrot_common']
    """
    if not text:
        return []
    parts, depth, quote, escaped = [""], 0, "", False
    for character in text:
        if character == "," and not depth and not quote and not escaped:
            parts.append("")
            continue
        parts[-1] += character
        if escaped or character == "\\":
            escaped = not escaped
        elif quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        else:
            depth += (character in OPENING) - (character in CLOSING)
    return parts


def index_overrides(text: str) -> dict[str, str]:
    """Return the values of joined overrides by their keys.

    >>> index_overrides("group=p4,model.widths=[2,2]")
    {'group': 'p4', 'model.widths': '[2,2]'}
    """
    return {key: value for key, _, value in (word.partition("=") for word in split_overrides(text))}
