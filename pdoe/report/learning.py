"""Sections about runs: learning curves, groups, added rotations, confusion matrices.

Ours has the accent colour everywhere; published errors are grey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from ..tables.table import Line
from . import figures
from .contents import (
    MEDIUM,
    SMALL,
    Report,
    format_data,
    format_seeds,
    group_of,
    name_panel,
    report_missing,
)
from .figures import Draw
from .headline import count_parameters
from .inputs import Details

LOWEST = 0.1  # per cent: the lower edge of the learning curves
GROUPS = ("p1", "p2", "p4", "p6", "p8", "p12", "p4m", "p8m")
SWEEP = "mnistrot_pdo_p8", "mnistrot_common"  # the row and the recipe of the sweep over groups
MOST = 26_747  # parameters of that row
FEW_IMAGES = 500  # rotated images below which an error rate is too coarse to draw
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Shown = list[tuple[Line, list[Details]]]


@dataclass(frozen=True)
class Kind:
    """A kind of figure with a panel for each line: which details it needs, and how it is drawn.

    ``plot`` draws on axes, given a line with its details and all lines of the figure.
    """

    name: str
    heading: str
    caption: str
    is_usable: Callable[[Details], bool]
    plot: Callable[[Any, Line, list[Details], Shown], None]
    size: tuple[int, int] = SMALL
    one_per_row: bool = False


def add_kind(kind: Kind, report: Report) -> None:
    """Add a section with a figure for each table."""
    parts = []
    for one in report.tables:
        shown = [(line, list(filter(kind.is_usable, one.seeds(line)))) for line in one.shown]
        shown = [(line, seeds) for line, seeds in shown if seeds]
        shown.sort(key=lambda item: len(item[0].settings))  # the rows' own recipes first
        if kind.one_per_row:
            rows = [line.paper.row for line, _ in shown]
            shown = [item for place, item in enumerate(shown) if rows.index(rows[place]) == place]
        if not shown:
            what = f"{one.title}: no run of more than a few epochs has what this figure shows."
            parts.append(report_missing(what, one.command))
            continue
        panels = [(draw_panel(kind, *item, shown), " ".join(name_panel(item[0]))) for item in shown]
        counts = {d.rotated_images for _, seeds in shown for d in seeds} - {None}
        images = " or ".join(f"the first {n:,}" for n in sorted(counts)) or "the"
        seeds = format_seeds(len(seeds) for _, seeds in shown)
        data = format_data(line for line, _ in shown)
        caption = f"{kind.caption.format(images=images)} ({seeds} per panel, {data})."
        title, place = f"{kind.heading}, {one.title}", f"{one.name}/{kind.name}"
        parts.append(report.add_figure(place, title, panels, caption, kind.size))
    report.add_section(kind.name, kind.heading, *parts)


def draw_panel(kind: Kind, line: Line, seeds: list[Details], shown: Shown) -> Draw:
    def draw(axes: Any) -> None:
        kind.plot(axes, line, seeds, shown)
        figures.set_title(axes, *name_panel(line))

    return draw


# ---- Learning curves ----------------------------------------------------------------------------


def plot_curves(axes: Any, line: Line, seeds: list[Details], shown: Shown) -> None:
    for number, one in enumerate(seeds):
        names = ("training", "test") if number == 0 else (None, None)
        train, tested = np.maximum(one.train, LOWEST), np.isfinite(one.test)
        axes.plot(one.epochs, train, color=figures.SECOND, linewidth=0.9, label=names[0])
        style = {"marker": "o", "markersize": 3.2} if tested.sum() <= 40 else {}
        test = np.maximum(one.test[tested], LOWEST)
        axes.plot(one.epochs[tested], test, color=figures.ACCENT, label=names[1], **style)
    if line.paper.error:
        level = max(float(line.paper.error), LOWEST)
        style = {"linewidth": 1, "linestyle": (0, (4, 3)), "label": "paper"}
        axes.axhline(level, color=figures.MUTED, **style)
    figures.set_log_scale(axes.yaxis, LOWEST, 100)
    axes.set_xlim(0, 1.02 * max(one.epochs.max() for one in seeds))
    axes.set(xlabel="epoch", ylabel="error, %")
    figures.add_legend(axes, "upper right", handlelength=1.2)


CURVES = Kind(
    "learning-curves",
    "Learning curves",
    "Error after each epoch, a line for each seed; training error as it was measured during "
    "training; dashed: the published test error of the row. The axis is logarithmic, and errors "
    "below 0.1 % are drawn on its edge",
    lambda details: len(details.epochs) > 0,
    plot_curves,
)
add_curves = partial(add_kind, CURVES)


# ---- Error against an added rotation ------------------------------------------------------------


def plot_rotations(axes: Any, line: Line, seeds: list[Details], shown: Shown) -> None:
    for seed in seeds if len(seeds) > 1 else ():
        figures.plot_by_angle(axes, seed.rotated, color=figures.ACCENT, linewidth=0.8, alpha=0.6)
    common = set.intersection(*(set(seed.rotated) for seed in seeds))
    mean = {angle: fmean(seed.rotated[angle] for seed in seeds) for angle in common}
    figures.plot_by_angle(axes, mean, color=figures.ACCENT, marker="o", markersize=3.2)
    top = 1.1 * max(max(d.rotated.values()) for _, seeds in shown for d in seeds) or 1
    axes.set(ylim=(0, top), xlabel="added rotation", ylabel="test error, %")


ROTATED = Kind(
    "rotated",
    "Error against an added rotation",
    "Test error on {images} test images, each rotated by a further angle. Bilinear interpolation "
    "blurs at all angles but multiples of 90°. All panels have the same axes. Thin: seeds; with "
    "markers: their mean",
    lambda details: bool(details.rotated) and (details.rotated_images or FEW_IMAGES) >= FEW_IMAGES,
    plot_rotations,
)
add_rotated = partial(add_kind, ROTATED)


# ---- Confusion matrix ---------------------------------------------------------------------------


def plot_confusion(axes: Any, line: Line, seeds: list[Details], shown: Shown) -> None:
    counts = sum(seed.confusion for seed in seeds if len(seed.confusion) == len(seeds[0].confusion))
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = shares * (1 - np.eye(len(shares)))
    opacity = 0.65 * wrong / max(wrong.max(), 1e-12)  # text stays legible on 0.65
    figures.draw_cells(axes, opacity)
    for row, column in np.ndindex(*shares.shape) if len(shares) <= 10 else ():
        if row == column or shares[row, column] >= 0.05:
            colour = figures.MUTED if row == column else figures.INK
            style = {"fontsize": 7.5, "ha": "center", "va": "center", "color": colour}
            axes.text(column + 0.5, row + 0.5, f"{shares[row, column]:.1f}", **style)
    known = CIFAR10 if line.paper.row.startswith("cifar10_") else ()
    known = seeds[0].class_names or (known if len(known) == len(shares) else ())
    ticks = range(0, len(shares), max(1, len(shares) // 10))
    places, names = [t + 0.5 for t in ticks], [known[t] if known else str(t) for t in ticks]
    axes.set_xticks(places, names, rotation=90 if known else 0)
    axes.set_yticks(places, names)
    axes.set(xlim=(0, len(shares)), ylim=(len(shares), 0), aspect="equal")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)


CONFUSION = Kind(
    "confusion",
    "Confusion matrix",
    "Percentage of the test images of each true class (a row) by predicted class, all seeds "
    "together. The shade shows the errors alone. For each row of the table the runs with the "
    "fewest other settings",
    lambda details: details.confusion is not None,
    plot_confusion,
    (SMALL[0], 340),
    one_per_row=True,
)
add_confusion = partial(add_kind, CONFUSION)


# ---- Error against group ------------------------------------------------------------------------


def add_groups(report: Report) -> None:
    """The sweep over groups: for each group the widest network within the row's parameters."""
    row, recipe = SWEEP
    chosen: dict[str, Line] = {}
    for line in (line for one in report.tables for line in one.shown):
        settings, group = line.settings, group_of(line)
        of_sweep = line.paper.row == row and settings.get("recipe") == recipe
        if not of_sweep or settings.keys() - {"recipe", "group", "model.widths"}:
            continue
        most = max(count_parameters(line), default=0)
        if group in GROUPS and 0 < most <= MOST:
            if group not in chosen or most > max(count_parameters(chosen[group])):
                chosen[group] = line
    name = "Error against group"
    figure = report_missing("No run of the sweep over groups yet.", "`make sweep-groups`")
    if chosen:
        lines = chosen.values()
        caption = (
            f"Test error of the network of `{row}` with other groups, all with the recipe "
            f"`{recipe}` and the operators' offset π/8; p1 and p4 are therefore not the CNN and "
            "the G-CNN of the table. Point: a seed; bar and number: the mean; below: parameters "
            f"({format_seeds(len(line.finished) for line in lines)} per group, "
            f"{format_data(lines)})."
        )
        panels = [(partial(plot_groups, chosen), ", ".join(chosen))]
        figure = report.add_figure("mnist_rot/groups", name, panels, caption, MEDIUM)
    report.add_section("groups", name, figure)


def plot_groups(lines: Mapping[str, Line], axes: Any) -> None:
    top = 1.12 * max(line.ours.high for line in lines.values()) or 1
    names = []
    for x, group in enumerate(GROUPS):
        line = lines.get(group)
        counts = ", ".join(f"{n:,}" for n in count_parameters(line)) if line else "not run"
        names.append(f"{group}\n{counts}")
        if line:
            errors, mean = [run["test_error"] for run in line.finished], line.ours.mean
            axes.plot([x - 0.3, x + 0.3], [mean, mean], color=figures.ACCENT, linewidth=2.4)
            axes.plot([x] * len(errors), errors, "o", color=figures.ACCENT, alpha=0.55, mew=0)
            axes.text(x, max(errors) + 0.03 * top, f"{mean:.2f}", ha="center", color=figures.INK)
    axes.set_xticks(range(len(GROUPS)), names, fontsize=9)
    axes.set(xlim=(-0.6, len(GROUPS) - 0.4), ylim=(0, top), ylabel="test error, %")
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("group, and parameters of its network")
