"""Sections about runs: learning curves, groups, added rotations, confusion matrices.

Ours has the accent colour everywhere; published errors are grey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ..tables.table import Line
from . import figures
from .contents import (
    MEDIUM,
    SMALL,
    Panel,
    Report,
    Table,
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


def add_per_table(
    report: Report,
    anchor: str,
    heading: str,
    use: Callable[[Details], bool],
    draw: Callable[[Table, list[tuple[Line, list[Details]]]], tuple[list[Panel], str]],
    size: tuple[int, int] = SMALL,
) -> None:
    """Add a section with a figure for each table, a panel for each line with usable details."""
    parts = []
    for one in report.tables:
        shown = [(line, [d for d in one.seeds(line) if use(d)]) for line in one.shown]
        shown = [(line, seeds) for line, seeds in shown if seeds]
        shown.sort(key=lambda item: len(item[0].settings))  # the rows' own recipes first
        if not shown:
            what = f"{one.title}: no run of more than a few epochs has what this figure shows."
            parts.append(report_missing(what, one.command))
            continue
        panels, caption = draw(one, shown)
        seeds = format_seeds(len(seeds) for _, seeds in shown)
        caption += f" ({seeds} per panel, {format_data(line for line, _ in shown)})."
        title = f"{heading}, {one.title}"
        parts.append(report.add_figure(f"{one.name}/{anchor}", title, panels, caption, size))
    report.add_section(anchor, heading, *parts)


# ---- Learning curves ----------------------------------------------------------------------------


def add_curves(report: Report) -> None:
    add_per_table(report, "learning-curves", "Learning curves", lambda d: len(d.epochs) > 0, curves)


def curves(one: Table, shown: list[tuple[Line, list[Details]]]) -> tuple[list[Panel], str]:
    panels = []
    for line, seeds in shown:
        name, under = name_panel(line)
        published = float(line.paper.error or "nan")
        panels.append((plot_curves(name, under, seeds, published), f"{name} {under}"))
    return panels, (
        "Error after each epoch, a line for each seed; training error as it was measured during "
        "training; dashed: the published test error of the row. The axis is logarithmic, and "
        "errors below 0.1 % are drawn on its edge"
    )


def plot_curves(name: str, under: str, seeds: Sequence[Details], paper: float) -> Draw:
    def draw(axes: Any) -> None:
        for number, one in enumerate(seeds):
            labels = ("training", "test") if number == 0 else (None, None)
            train = np.maximum(one.train, LOWEST)
            axes.plot(one.epochs, train, color=figures.SECOND, linewidth=0.9, label=labels[0])
            tested = np.isfinite(one.test)
            style = {"marker": "o", "markersize": 3.2} if tested.sum() <= 40 else {}
            errors = np.maximum(one.test[tested], LOWEST)
            axes.plot(one.epochs[tested], errors, color=figures.ACCENT, label=labels[1], **style)
        level = max(paper, LOWEST) if paper == paper else paper
        axes.axhline(level, color=figures.MUTED, linewidth=1, linestyle=(0, (4, 3)), label="paper")
        figures.set_log_scale(axes.yaxis, LOWEST, 100)
        axes.set_xlim(0, 1.02 * max(one.epochs.max() for one in seeds))
        axes.set_xlabel("epoch")
        axes.set_ylabel("error, %")
        figures.add_legend(axes, "upper right", handlelength=1.2)
        figures.set_title(axes, name, under)

    return draw


# ---- Error against group ------------------------------------------------------------------------


def add_groups(report: Report) -> None:
    """The sweep over groups: of each group the widest network within the row's parameters."""
    row, recipe = SWEEP
    chosen: dict[str, Line] = {}
    for line in (line for one in report.tables for line in one.shown):
        settings, group = line.settings, group_of(line)
        of_sweep = line.paper.row == row and settings.get("recipe") == recipe
        if not of_sweep or settings.keys() - {"recipe", "group", "model.widths"}:
            continue
        most = max(count_parameters(line), default=0)
        if group in GROUPS and 0 < most <= MOST:
            other = chosen.get(group)
            if other is None or most > max(count_parameters(other)):
                chosen[group] = line
    name = "Error against group"
    if not chosen:
        missing = report_missing("No run of the sweep over groups yet.", "`make sweep-groups`")
        report.add_section("groups", name, missing)
        return
    lines = chosen.values()
    caption = (
        f"Test error of the network of `{row}` with other groups, all with the recipe `{recipe}` "
        "and the operators' offset π/8; p1 and p4 are therefore not the CNN and the G-CNN of the "
        "table. Point: a seed; bar and number: the mean; below: parameters "
        f"({format_seeds(len(line.finished) for line in lines)} per group, {format_data(lines)})."
    )
    panels = [(plot_groups(chosen), ", ".join(chosen))]
    figure = report.add_figure("mnist_rot/groups", name, panels, caption, MEDIUM)
    report.add_section("groups", name, figure)


def plot_groups(lines: Mapping[str, Line]) -> Draw:
    def draw(axes: Any) -> None:
        top = 1.12 * max(line.ours.high for line in lines.values()) or 1
        names = []
        for x, group in enumerate(GROUPS):
            line = lines.get(group)
            counts = ", ".join(f"{n:,}" for n in count_parameters(line)) if line else "not run"
            names.append(f"{group}\n{counts}")
            if line:
                errors, mean = [run["test_error"] for run in line.finished], line.ours.mean
                axes.plot([x - 0.3, x + 0.3], [mean, mean], color=figures.ACCENT, linewidth=2.4)
                axes.scatter(
                    [x] * len(errors), errors, s=22, color=figures.ACCENT, alpha=0.55, linewidths=0
                )
                axes.text(
                    x, max(errors) + 0.03 * top, f"{mean:.2f}", ha="center", color=figures.INK
                )
        axes.set_xticks(range(len(GROUPS)), names, fontsize=9)
        axes.set(xlim=(-0.6, len(GROUPS) - 0.4), ylim=(0, top), ylabel="test error, %")
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("group, and parameters of its network")

    return draw


# ---- Error against an added rotation ------------------------------------------------------------


def add_rotated(report: Report) -> None:
    def use(details: Details) -> bool:
        images = details.rotated_images
        return bool(details.rotated) and (images is None or images >= FEW_IMAGES)

    add_per_table(report, "rotated", "Error against an added rotation", use, rotations)


def rotations(one: Table, shown: list[tuple[Line, list[Details]]]) -> tuple[list[Panel], str]:
    top = 1.1 * max(max(d.rotated.values()) for _, seeds in shown for d in seeds) or 1
    panels = []
    for line, seeds in shown:
        name, under = name_panel(line)
        panels.append((plot_rotations(name, under, seeds, top), f"{name} {under}"))
    counts = {d.rotated_images for _, seeds in shown for d in seeds} - {None}
    images = " or ".join(f"the first {n:,}" for n in sorted(counts)) or "the"
    return panels, (
        f"Test error on {images} test images, each rotated by a further angle. Bilinear "
        "interpolation blurs at all angles but multiples of 90°. All panels have the same axes. "
        "Thin: seeds; with markers: their mean"
    )


def plot_rotations(name: str, under: str, seeds: Sequence[Details], top: float) -> Draw:
    def draw(axes: Any) -> None:
        for seed in seeds if len(seeds) > 1 else ():
            figures.plot_by_angle(
                axes, seed.rotated, color=figures.ACCENT, linewidth=0.8, alpha=0.6
            )
        common = set.intersection(*(set(seed.rotated) for seed in seeds))
        mean = {angle: fmean(seed.rotated[angle] for seed in seeds) for angle in common}
        figures.plot_by_angle(axes, mean, color=figures.ACCENT, marker="o", markersize=3.2)
        axes.set(ylim=(0, top), xlabel="added rotation", ylabel="test error, %")
        figures.set_title(axes, name, under)

    return draw


# ---- Confusion matrix ---------------------------------------------------------------------------


def add_confusion(report: Report) -> None:
    def use(details: Details) -> bool:
        return details.confusion is not None

    add_per_table(report, "confusion", "Confusion matrix", use, confusions, (SMALL[0], 340))


def confusions(one: Table, shown: list[tuple[Line, list[Details]]]) -> tuple[list[Panel], str]:
    """A panel for each row: its line with the fewest settings."""
    panels, rows = [], set()
    for line, seeds in shown:
        if line.paper.row in rows or len({d.confusion.shape for d in seeds}) > 1:
            continue
        rows.add(line.paper.row)
        total, (name, under) = sum(d.confusion for d in seeds), name_panel(line)
        names = CIFAR10 if line.paper.row.startswith("cifar10_") else range(len(total))
        panels.append((plot_confusion(name, under, total, names), f"{name} {under}"))
    return panels, (
        "Percentage of the test images of each true class (a row) by predicted class, all seeds "
        "together. The shade shows the errors alone. For each row of the table the runs with the "
        "fewest other settings"
    )


def plot_confusion(name: str, under: str, counts: np.ndarray, classes: Sequence[object]) -> Draw:
    def draw(axes: Any) -> None:
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        wrong = shares * (1 - np.eye(len(shares)))
        opacity = 0.65 * wrong / max(wrong.max(), 1e-12)  # text stays legible on 0.65
        figures.draw_cells(axes, opacity)
        if len(shares) <= 10:
            for row, column in np.ndindex(*shares.shape):
                if row == column or shares[row, column] >= 0.05:
                    colour = figures.MUTED if row == column else figures.INK
                    style = {"fontsize": 7.5, "ha": "center", "va": "center", "color": colour}
                    axes.text(column + 0.5, row + 0.5, f"{shares[row, column]:.1f}", **style)
        ticks = range(0, len(shares), max(1, len(shares) // 10))
        places, names = [tick + 0.5 for tick in ticks], [str(classes[tick]) for tick in ticks]
        axes.set_xticks(places, names, rotation=90 if len(max(names, key=len)) > 2 else 0)
        axes.set_yticks(places, names)
        axes.set(xlim=(0, len(shares)), ylim=(len(shares), 0), aspect="equal")
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.grid(visible=False)
        figures.set_title(axes, name, under)

    return draw
