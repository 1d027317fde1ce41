"""The parts of a page: escaped elements, tables that scroll by themselves, figures, the frame.

A page is one file that loads nothing: its policy forbids everything but its own style.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from .figures import PALETTE, inlined


class Html(str):
    """Text that is HTML already; every other text is escaped where it enters a page."""


def html(value: object) -> Html:
    return value if isinstance(value, Html) else Html(escape(str(value)))


def joined(parts: Iterable[object], between: str = "") -> Html:
    return Html(html(between).join(map(html, parts)))


def tag(name: str, *content: object, **attributes: str) -> Html:
    """An element; ``class_`` and ``for_`` lose their underscore, others turn it into a hyphen."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    inside = "".join(f' {names[key]}="{escape(str(v))}"' for key, v in attributes.items())
    return Html(f"<{name}{inside}>{joined(content)}</{name}>")


def inline(text: str) -> Html:
    """A sentence of our own, in which `backticks` are code."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def prose(text: str, class_: str = "text") -> Html:
    return tag("p", inline(text), class_=class_)


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], label: str, figures: str = ""
) -> Html:
    """A table in a box of its own that scrolls; the columns named in ``figures`` are numbers.

    A row may begin with a class of its own, as ``".name"``.
    """
    numeric = {place for place, name in enumerate(header) if name in figures.split("|")}

    def cells(kind: str, row: Sequence[object]) -> Html:
        classes = ({"class_": "number"} if place in numeric else {} for place in range(len(header)))
        return joined(tag(kind, c, **own) for c, own in zip(row, classes, strict=True))

    body = []
    for row in rows:
        own = {}
        if len(row) > len(header):
            own, row = {"class_": str(row[0])[1:]}, row[1:]
        body.append(tag("tr", cells("td", row), **own))
    head = tag("thead", tag("tr", cells("th", header)))
    inside = tag("table", head, "\n", tag("tbody", joined(body, "\n")))
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=label)


def figure(
    number: int, title: str, panels: Sequence[tuple[str, str]], caption: Html, size: str
) -> Html:
    """A numbered figure of panels (SVG file, what it shows); ``size`` is small or medium."""
    drawn = (
        tag("div", Html(inlined(svg, f"f{number}-{place}", escape(alt))), class_="panel")
        for place, (svg, alt) in enumerate(panels, start=1)
    )
    name = tag("b", f"Figure {number}. {title}.")
    return tag(
        "figure",
        tag("div", joined(drawn, "\n"), class_="panels"),
        tag("figcaption", name, " ", caption),
        id=f"figure-{number}",
        class_=size + " single" * (len(panels) == 1),
    )


def frame(title: str, head: Html, sections: Sequence[tuple[str, str, Html]]) -> str:
    """The whole file: sections are (anchor, heading, content)."""
    links = (tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in sections)
    contents = tag("nav", tag("ol", joined(links)), aria_label="Contents")
    body = joined(
        (
            tag("section", tag("h2", tag("a", name, href=f"#{anchor}")), "\n", content, id=anchor)
            for anchor, name, content in sections
        ),
        "\n",
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{variables()}{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n{head}\n{contents}\n{body}\n</main>\n</body>\n</html>\n"
    )


def variables() -> str:
    light = " ".join(f"--{name}: {pair[0]};" for name, pair in PALETTE.items())
    dark = " ".join(f"--{name}: {pair[1]};" for name, pair in PALETTE.items())
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


STYLE = """\
*, ::before, ::after { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--surface); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 3.5rem 1.25rem 6rem; }
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.25rem); line-height: 1.2; letter-spacing: -0.015em;
  font-weight: 650; margin: 0 0 0.75rem; max-width: 24em; text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.3; letter-spacing: -0.01em; font-weight: 650;
  margin: 0 0 0.75rem; }
h2 a { color: inherit; text-decoration: none; }
h2 a:hover::after { content: " #"; color: var(--muted); font-weight: 400; }
h3 { font-size: 1rem; font-weight: 650; margin: 2rem 0 0.5rem; }
p, li { max-width: 42rem; }
p { margin: 0 0 1rem; text-wrap: pretty; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 0.2em; }
code { font: 0.875em ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
  overflow-wrap: anywhere; }
section { margin-top: 3rem; padding-top: 1.75rem; border-top: 1px solid var(--faint); }
.lead { font-size: 1.1rem; color: var(--muted); }
.counts { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.2rem, 1fr));
  gap: 1.25rem 1rem; margin: 2rem 0; padding: 0; }
.counts div { border-left: 2px solid var(--faint); padding-left: 0.9rem; }
.counts dd { order: -1; margin: 0; font-size: 1.7rem; line-height: 1.2; font-weight: 600;
  font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }
.counts dt { color: var(--muted); font-size: 0.875rem; line-height: 1.4; }
.counts div { display: flex; flex-direction: column; }
nav ol { columns: 15rem; column-gap: 2rem; margin: 1.5rem 0 0; padding-left: 1.5rem;
  font-size: 0.94rem; }
nav li { break-inside: avoid; padding: 0.1rem 0 0.1rem 0.2rem; }
nav li::marker { color: var(--muted); font-variant-numeric: tabular-nums; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin: 1rem 0; max-width: 100%;
  /* A shade at an edge beyond which the table goes on: only its covers scroll along. */
  background: linear-gradient(to right, var(--surface) 1rem, transparent) left / 2.5rem 100%,
    linear-gradient(to left, var(--surface) 1rem, transparent) right / 2.5rem 100%,
    linear-gradient(to right, var(--faint), transparent) left / 0.8rem 100%,
    linear-gradient(to left, var(--faint), transparent) right / 0.8rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
table { border-collapse: collapse; font-size: 0.875rem; line-height: 1.4; width: max-content;
  min-width: 100%;
  font-variant-numeric: tabular-nums lining-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.45rem 0.85rem 0.45rem 0; }
th:last-child, td:last-child { padding-right: 0; }
th { color: var(--muted); font-weight: 500; vertical-align: bottom; white-space: nowrap;
  border-bottom: 1px solid var(--muted); }
td { border-bottom: 1px solid var(--faint); }
td.number, th.number { text-align: right; white-space: nowrap; }
td { max-width: 19rem; }
tr.under td:first-child { padding-left: 1.2rem; }
tr.under code { display: inline-block; margin-right: 0.4rem; max-width: 12.5rem; }
tr.under td:first-child { max-width: 14rem; }
tr.quiet td { color: var(--muted); }
td small { display: block; color: var(--muted); font-size: 0.9em; max-width: 11rem; }
td small:empty { display: none; }
.verdict { font-weight: 600; white-space: nowrap; }
.quiet .verdict { font-weight: 400; }
figure { margin: 1.5rem 0 2.5rem; }
.panels { display: grid; gap: 1.5rem 1.75rem; }
figure.small .panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 18.5rem), 1fr)); }
figure.medium .panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.panel { min-width: 0; max-width: 31rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible;
  stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: 1rem; font-size: 0.9rem; line-height: 1.5; color: var(--muted);
  max-width: 46rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.missing, .problem { color: var(--muted); border-left: 2px solid var(--second);
  padding-left: 0.9rem; font-size: 0.94rem; overflow-wrap: anywhere; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); }
.note { font-size: 0.9rem; color: var(--muted); }
@media (max-width: 34rem) {
  main { padding-top: 2rem; }
  th, td { padding-right: 0.75rem; }
  td small { max-width: 6.5rem; }
  td:first-child, tr.under td:first-child { max-width: 8.5rem; padding-left: 0; }
  tr.under td:first-child { padding-left: 0.6rem; }
}
@media (min-width: 60rem) {
  figure.single { display: grid; grid-template-columns: minmax(0, 34rem) minmax(14rem, 1fr);
    gap: 2.25rem; align-items: start; }
  figure.single figcaption { margin-top: 0.4rem; }
  figure.small.single { grid-template-columns: minmax(0, 23rem) minmax(14rem, 1fr); }
}
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 10pt; }
  section { margin-top: 1.5rem; padding-top: 1rem; }
  .panel, tr, figcaption, h2, h3 { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
}
"""
