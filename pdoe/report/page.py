"""Parts of the page: escaped elements, tables that scroll sideways, figures, and the frame.

The page is one file that loads nothing: its content policy forbids everything but its own style.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from .figures import PALETTE, inline_svg

VISIBLE_PANELS = 6  # of a figure; the others are folded


class Html(str):
    """Text that is HTML already; all other text is escaped."""


def to_html(value: object) -> Html:
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[object], separator: str = "") -> Html:
    return Html(to_html(separator).join(map(to_html, parts)))


def tag(name: str, *content: object, **attributes: str) -> Html:
    """Write an element; ``class_`` loses its underscore, other underscores become hyphens."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    inside = "".join(f' {names[key]}="{escape(str(v))}"' for key, v in attributes.items())
    return Html(f"<{name}{inside}>{join(content)}</{name}>")


def inline(text: str) -> Html:
    """A sentence of ours in which `backticks` mean code."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def prose(text: str, class_: str = "text") -> Html:
    return tag("p", inline(text), class_=class_)


def fold(summary: str, *content: object) -> Html:
    return tag("details", tag("summary", summary), *content)


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], label: str, numeric: str = ""
) -> Html:
    """A table in a box that scrolls; ``numeric`` names the columns of numbers, split by ``|``.

    A row may begin with an additional cell, its class, as ``".name"``.
    """
    right = [{"class_": "number"} if name in numeric.split("|") else {} for name in header]

    def write_cells(kind: str, row: Sequence[object]) -> Html:
        return join(tag(kind, cell, **own) for cell, own in zip(row, right, strict=True))

    body = []
    for row in rows:
        own = {}
        if len(row) > len(header):
            own, row = {"class_": str(row[0])[1:]}, row[1:]
        body.append(tag("tr", write_cells("td", row), **own))
    head = tag("thead", tag("tr", write_cells("th", header)))
    inside = tag("table", head, "\n", tag("tbody", join(body, "\n")))
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=label)


def figure(
    number: int, title: str, panels: Sequence[tuple[str, str]], caption: str, size: str
) -> Html:
    """A numbered figure of panels (SVG file, description); ``size`` is small, medium or large."""
    drawn = [
        tag("div", Html(inline_svg(svg, f"f{number}-{place}", escape(alt))), class_="panel")
        for place, (svg, alt) in enumerate(panels, start=1)
    ]
    parts = [tag("div", join(drawn[:VISIBLE_PANELS], "\n"), class_="panels")]
    if more := drawn[VISIBLE_PANELS:]:
        parts.append(
            fold(f"More panels ({len(more)})", tag("div", join(more, "\n"), class_="panels"))
        )
    name = tag("b", f"Figure {number}. {title}.")
    parts.append(tag("figcaption", name, " ", inline(caption)))
    return tag("figure", *parts, id=f"figure-{number}", class_=size)


def frame(title: str, head: Html, sections: Sequence[tuple[str, str, Html]]) -> str:
    """The whole file; sections are (anchor, heading, content)."""
    links = (tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in sections)
    contents = tag("nav", tag("ol", join(links)), aria_label="Contents")
    body = join(
        (
            tag("section", tag("h2", tag("a", name, href=f"#{anchor}")), "\n", content, id=anchor)
            for anchor, name, content in sections
        ),
        "\n",
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    light, dark = (
        " ".join(f"--{name}: {pair[which]};" for name, pair in PALETTE.items()) for which in (0, 1)
    )
    style = (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        + Path(__file__).with_name("page.css").read_text("utf-8")
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<main>\n{head}\n{contents}\n{body}\n</main>\n</body>\n</html>\n"
    )
