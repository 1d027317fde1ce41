"""The style of every figure, and the way from panels to SVG.

Colours have names. An SVG file has a white background and the light colours. The same drawing
inside the page uses CSS variables of those names, so that it follows light and dark mode. The same
data give the same bytes: no date, no random ids. Matplotlib is imported only to draw.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from math import ceil, floor, log10
from typing import Any

# (light, dark). Text has a contrast of at least 4.5 to its background in both modes. Blue and
# orange stay distinct under every common colour blindness.
PALETTE = {
    "surface": ("#ffffff", "#16181d"),
    "ink": ("#1d232b", "#e7e8ea"),
    "muted": ("#5f6873", "#a0a7b0"),
    "faint": ("#dfe2e6", "#343941"),
    "accent": ("#0b62a4", "#66b3f2"),
    "second": ("#bb4d00", "#f59f58"),
    "third": ("#00745a", "#45c5a0"),
    "fourth": ("#84479b", "#cf9ae2"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
SURFACE, INK, MUTED, FAINT, ACCENT, SECOND, *_ = LIGHT.values()
SERIES = tuple(LIGHT[name] for name in ("accent", "second", "third", "fourth"))
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pdoe",
    "text.parse_math": False,  # a record may hold a dollar sign
    # The widest of the usual fonts: text that fits with it fits with the others.
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LIGHT["faint"],
    "grid.linewidth": 0.8,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": LIGHT["surface"],
    "axes.facecolor": "none",
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.06,
}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Draw = Callable[[Any], None]  # draws one panel on its matplotlib Axes


def render(panels: Sequence[Draw], width: int, height: int, columns: int = 1) -> str:
    """Draw panels of ``width x height`` CSS pixels as one SVG file with ``columns`` columns."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = ceil(len(panels) / columns)
    out = io.StringIO()
    with rc_context(STYLE):
        size = columns * width / 72, rows * height / 72  # a point of the file is a CSS pixel
        figure = Figure(figsize=size, layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).flat
        for axes, draw in zip_longest(places, panels):
            if draw:
                draw(axes)
            else:
                axes.set_axis_off()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    return re.sub(r"DejaVu Sans|'DejaVu Sans'", FONTS, out.getvalue())


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """Turn a file of :func:`render` into an element of the page, coloured by CSS variables.

    Ids without a reference are removed, the others get a ``prefix``. ``label`` is the escaped
    description for screen readers.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style .*?</style>\s*", "", svg, flags=re.S)
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{prefix}-", svg)
    svg = svg.replace(FONTS, "inherit")
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r"<!--.*?-->\s*|<defs/>\s*|<defs>\s*</defs>\s*", "", svg, flags=re.S)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    opening = (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}" '
        f'style="aspect-ratio: {width} / {height}">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1).strip() + "\n"


# ---- Axes ---------------------------------------------------------------------------------------


def format_number(value: float, _: int = 0) -> str:
    """A tick of a logarithmic axis: 0.5, 20, 30k, 2M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def format_power(value: float, _: int = 0) -> str:
    """A tick of an axis over many decades: 10⁻³."""
    return "10" + str(round(log10(value))).translate(SUPERSCRIPT)


def set_log_scale(axis: Any, low: float, high: float) -> None:
    """Make an axis logarithmic from low to high, with few ticks: numbers or powers of ten."""
    from matplotlib.ticker import NullLocator

    axes, name = axis.axes, axis.axis_name
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    span = log10(high / low)
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    if many := span > 3.5:
        decades = decades[:: ceil(len(decades) / 6)]
    steps: tuple[float, ...] = (1,)
    for most, finer in ((2.8, (1, 3)), (1.6, (1, 2, 5)), (0.5, (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8))):
        steps = finer if span < most else steps
    ticks = [step * 10.0**d for d in decades for step in steps]
    axis.set_ticks([tick for tick in ticks if low <= tick <= high])
    axis.set_major_formatter(format_power if many and high < 1e3 else format_number)
    axis.set_minor_locator(NullLocator())


def plot_by_angle(axes: Any, values: Mapping[float, float], **style: Any) -> None:
    """Plot values over one full rotation; the value of 0 degrees is repeated at 360."""
    whole = dict(values) | ({360: values[0]} if 0 in values else {})
    axes.plot(sorted(whole), [whole[angle] for angle in sorted(whole)], **style)
    axes.set_xlim(0, 360)
    axes.set_xticks([0, 90, 180, 270, 360], ["0°", "90°", "180°", "270°", "360°"])


def set_title(axes: Any, text: str, under: str = "") -> None:
    """Name a panel in bold, with smaller lines under the name."""
    axes.set_title(text, pad=9 + 13 * (1 + under.count("\n")) if under else 8)
    if under:
        place = {"xytext": (0, 5), "textcoords": "offset points", "va": "bottom"}
        axes.annotate(under, (0, 1), xycoords="axes fraction", **place, color=MUTED,
                      fontsize=9.5, linespacing=1.25)  # fmt: skip


def add_legend(axes: Any, place: str, **options: Any) -> None:
    """Name the labelled lines in their colours, legible on top of other lines."""
    options = {"framealpha": 0.75, "facecolor": SURFACE, "edgecolor": "none", **options}
    options |= {"frameon": True, "labelcolor": "linecolor", "borderaxespad": 0.2}
    axes.legend(loc=place, fontsize=9.5, **options)


def draw_cells(
    axes: Any, values: Sequence[Sequence[float]], corner: tuple[float, float] = (0, 0)
) -> None:
    """Draw values in [-1, 1] as unit squares: blue below 0, orange above.

    The shade is an opacity, so that 0 is the background in light and in dark mode.
    """
    from matplotlib.patches import Rectangle

    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if abs(value) > 1e-3:
                place = corner[0] + column, corner[1] + row
                colour = SECOND if value > 0 else ACCENT
                square = Rectangle(place, 1, 1, facecolor=colour, alpha=abs(value), linewidth=0)
                axes.add_patch(square)


def spread_labels(heights: Sequence[float], gap: float) -> list[float]:
    """Move increasing heights in [0, 1] as little as possible until they are ``gap`` apart.

    If there is not enough room for the gap, the labels are spread evenly.
    """
    gap = min(gap, 1 / max(1, len(heights) - 1))
    blocks: list[list[float]] = []  # [sum of the wanted places of the first label, labels]

    def first(block: list[float]) -> float:
        return min(max(block[0] / block[1], 0), 1 - gap * (block[1] - 1))

    for height in heights:
        blocks.append([height, 1])
        while len(blocks) > 1 and first(blocks[-2]) + gap * blocks[-2][1] > first(blocks[-1]):
            total, count = blocks.pop()
            blocks[-1][0] += total - count * gap * blocks[-1][1]
            blocks[-1][1] += count
    return [first(block) + gap * place for block in blocks for place in range(int(block[1]))]
