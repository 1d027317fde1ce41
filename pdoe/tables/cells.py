"""Text cells that come from records: safe in CSV files, in Markdown and in HTML comments.

Records may be other people's (a W&B project, a copied folder), so no cell is trusted: a spreadsheet
must not compute it and Markdown must not interpret it.
"""

from __future__ import annotations

import re

_FORMULA = re.compile(r"['=+@\t-]")  # how a formula begins, and the sign that marks its escape
_MARKUP = re.compile(r"[\\`*_\[\]|]")


def one_line(text: str) -> str:
    """Printable text without line breaks: a run is a line, whatever its failure message holds."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def escape_formula(text: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula: an apostrophe stands before such text.

    >>> escape_formula("=1+1"), escape_formula("-0.5"), escape_formula("group=p4")
    ("'=1+1", '-0.5', 'group=p4')
    """
    return f"'{text}" if _FORMULA.match(text) and not is_number(text) else text


def unescape_formula(text: str) -> str:
    """The text that :func:`escape_formula` was given."""
    return text.removeprefix("'")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def escape_markdown(text: object) -> str:
    """Text from a record that Markdown shows as it is: no mark-up, no link, no HTML comment.

    >>> escape_markdown("a|b <!-- /table -->")
    'a\\\\|b &lt;!-- /table --&gt;'
    """
    text = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def format_code(text: object) -> str:
    """Text from a record as Markdown code; nothing in it ends the code, the cell or a comment."""
    text = str(text).replace("|", "\\|").replace("`", "'")
    return f"`{text.replace('<', '&lt;').replace('>', '&gt;')}`"
