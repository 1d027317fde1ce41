"""The first screen: error against parameters, and the headline table; later, every line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..data.facts import SETS
from ..tables import table as tables
from ..tables.table import Line
from . import figures
from .contents import (
    LARGE,
    NONE,
    Report,
    Table,
    format_data,
    format_seeds,
    group_of,
    is_first_look,
    report_missing,
)
from .page import Html, fold, join, prose, table, tag

DATA = {name.replace("_", ""): facts.title for name, facts in SETS.items()}
COLUMNS = ("system", "group", "parameters", "paper, %", "ours, %", "verdict")
NUMBERS = "parameters|paper, %|ours, %"
NOTE = (
    "Ours: mean ± standard deviation over seeds (number of seeds) of the test error after the last "
    "epoch. A verdict compares runs with the row's own recipe and the published error; under it "
    "stands the difference with its 95 % interval, from the seeds and the finite test set. `*`: a "
    "run had uncommitted changes. The rule in full: `results/mnist_rot/verdicts.md`."
)
PROVENANCES = (
    "Data: `original` are the published files; `regenerated` follows the published procedure with "
    "the MNIST digits, another draw without repetitions; `embedded` is a small stand-in that is "
    "never compared."
)


@dataclass(frozen=True)
class Point:
    """A system in the plane of ``x`` and error; ``bar`` is a half width in per cent."""

    name: str
    error: str  # as it is printed
    x: float | None  # what an error costs: parameters, or seconds; None if not known
    ours: bool = False
    bar: float = 0.0
    open: bool = False


def write_head(report: Report, title: str) -> Html:
    """Title, one sentence, and figure with headline table of each published table."""
    rows = [row for one in report.tables for row in one.rows if not row.paper.beside]
    verdicts = Counter(row.verdict.partition(" (")[0] for row in rows if row.ours)
    ran = ", ".join(f"{n} {word}" for word, n in sorted(verdicts.items())) or "none yet"
    lead = (
        f"Equivariant convolutions from partial differential operators (Shen, He, Lin and Ma, ICML "
        f"2020): {sum(verdicts.values())} of {len(rows)} published rows were trained with the "
        f"recipe of their source ({ran}). Every error of ours is computed from logged runs."
    )
    parts = [tag("h1", title), prose(lead, "lead")]
    parts += [tag("div", *write_found(report, one), class_="found") for one in report.tables]
    return join([*parts, prose(NOTE, "note"), prose(PROVENANCES, "note")], "\n")


def write_found(report: Report, one: Table) -> list[Html]:
    """The figure of a table, and its rows that were run with a recipe of their own or another."""
    lines = [line for line in one.shown if set(line.settings) <= {"recipe"}]
    content = report_missing(f"{one.title}: nothing ran yet.", one.command)
    if lines:
        label = f"{one.title}: the published errors and ours"
        content = table(COLUMNS, map(write_row, lines), label, NUMBERS)
    return [draw_parameters(report, one), content]


def write_row(line: Line) -> list[object]:
    """A row of the tables on the page, its class first."""
    paper, ours = line.paper, line.ours
    settings = [f"{name}={value}" for name, value in line.settings.items()]
    if line.another:
        settings.insert(0, f"configuration {line.another[:8]}")
    counts = count_parameters(line) or filter(None, [paper.parameters])
    error = NONE
    if ours:
        star = "*" if any(run["dirty"] for run in line.finished) else ""
        spread = "" if ours.std is None else f" ± {ours.std:.3f}"
        error = f"{ours.mean:.3f}{star}{spread} ({ours.n})"
    word, _, limits = line.verdict.partition(" (")
    limits = limits.removesuffix(")")
    if line.comparable and ours:
        limits = f"{ours.mean - float(paper.error):+.3f} ± {line.tolerance:.3f}; {limits}"
    return [
        f".{'ours' if ours else 'quiet'}",
        join([paper.method, tag("small", tag("code", " ".join(settings) or paper.row))]),
        group_of(line).partition(" (")[0],
        ", ".join(f"{n:,}" for n in counts) or NONE,
        paper.error or NONE,
        error,
        NONE if line.overrides else join([word, tag("small", limits)]),
    ]


def count_parameters(line: Line) -> list[int]:
    return sorted({run["parameters"] for run in line.finished} - {None})


# ---- Error against parameters -------------------------------------------------------------------


def draw_parameters(report: Report, one: Table) -> Html:
    """The figure of the published systems and ours; a panel for each data set."""
    panels, ours = [], [line for line in one.shown if point_of_runs(line)]
    for name in dict.fromkeys(row.paper.row.split("_")[0] for row in one.rows):
        published = [row for row in one.rows if row.paper.error]
        theirs = [point_of_paper(r) for r in published if r.paper.row.startswith(f"{name}_")]
        own = [point_of_runs(line) for line in ours if line.paper.row.startswith(f"{name}_")]
        if any(point.x for point in [*theirs, *own]):
            title = DATA.get(name, name)
            panels.append((partial(plot_errors, title, [*theirs, *own], "parameters"), title))
    if not panels:
        what = f"{one.title}: no parameter count is known."
        return report_missing(what, f"fill in `experiments/{one.name}/paper.csv`")
    ran = f"{format_seeds(line.ours.n for line in ours)}, {format_data(ours)}" if ours else "none"
    caption = (
        f"Squares: published systems. Discs: our runs ({ran}); open discs: another recipe than "
        "the row's. Bars: 95 %, from the spread over seeds, where there are two or more, and the "
        "finite test set. Both axes are logarithmic."
    )
    title = f"Error against parameters, {one.title}"
    return report.add_figure(f"{one.name}/parameters", title, panels, caption, LARGE)


def point_of_paper(line: Line) -> Point:
    name = line.paper.method.rsplit(", CIFAR", 1)[0]
    name = f"{name}, {line.paper.group.partition(' (')[0]}"
    return Point(name, line.paper.error, line.paper.parameters)


def point_of_runs(line: Line) -> Point | None:
    """Our point of a line; None with other settings than a recipe, or with other data."""
    counts, recipe = count_parameters(line), line.settings.get("recipe", "")
    usual = set(line.settings) <= {"recipe"} and tables.has_published_counts(line.provenance)
    if not counts or not usual or is_first_look(line):
        return None
    bar = math.hypot(line.ours.half_width or 0, line.sampling)
    name = point_of_paper(line).name + (f", {recipe.partition('_')[2]} recipe" if recipe else "")
    return Point(name, f"{line.ours.mean:.3f}", max(counts), True, bar, bool(recipe))


def plot_errors(name: str, points: Sequence[Point], label: str, axes: Any) -> None:
    """Error against ``x``, called ``label``; names stand at the right, ordered by error.

    Systems whose ``x`` is not published have a strip of their own.
    """
    known = [point.x for point in points if point.x]
    some_unknown = len(known) < len(points)
    low, high = min(known) / 1.6, max(known) * 1.6
    width = high / low
    strip, right = high * width**0.06, high * width**0.1 if some_unknown else high
    figures.set_log_scale(axes.xaxis, low, right)
    if some_unknown:
        # A number of the axis too near to the strip would overlap its question mark.
        ticks = [tick for tick in axes.get_xticks() if tick * width**0.1 <= strip]
        names = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
        axes.set_xticks([*ticks, strip], [*names, "?"])
        axes.axvline(high, color=figures.MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
    points = sorted(points, key=lambda point: (float(point.error), point.name))
    errors = [float(point.error) for point in points]
    least = min(filter(None, errors), default=1)  # 0 has no place on a logarithmic axis
    lows = [max(e - p.bar, least / 2) for p, e in zip(points, errors, strict=True)]
    bottom = min(lows) / 1.12
    top = max(error + point.bar for point, error in zip(points, errors, strict=True)) * 1.1
    figures.set_log_scale(axes.yaxis, bottom, top)
    errors = [max(error, bottom) for error in errors]
    heights = [math.log(error / bottom, top / bottom) for error in errors]
    places = figures.spread_labels(heights, 0.046)
    for point, error, height, place in zip(points, errors, heights, places, strict=True):
        x = point.x or strip
        colour, mark = (figures.ACCENT, "o") if point.ours else (figures.MUTED, "s")
        leader = [math.log(x / low, right / low), 1.02], [height, place]
        whole = {"transform": axes.transAxes, "clip_on": False}
        axes.plot(*leader, **whole, color=figures.FAINT, linewidth=0.8, zorder=1)
        text = f"{point.error}\u2002{'ours: ' * point.ours}{point.name}"
        axes.text(1.03, place, text, transform=axes.transAxes, va="center", color=colour)
        style = {"color": colour, "markersize": 6, "elinewidth": 1.4}
        style["markerfacecolor"] = figures.SURFACE if point.open else colour
        axes.errorbar(x, error, point.bar or None, marker=mark, **style)
    axes.set_xlabel(label + " (?: not published)" * some_unknown)
    axes.set_ylabel("test error, %")
    figures.set_title(axes, name)


# ---- Every line ---------------------------------------------------------------------------------


def add_all_lines(report: Report) -> None:
    """Every line of the tables, folded."""
    parts = []
    for one in report.tables:
        label = f"{one.title}: every published row and every line of ours"
        lines = table(COLUMNS, map(write_row, one.lines), label, NUMBERS)
        parts.append(fold(f"{label} ({len(one.lines)})", lines))
    report.add_section("tables", "Every line of the tables", *parts)
