"""Sections of the report about runs: learning, groups, parameters, turned images, confusion."""

from __future__ import annotations

import math

import numpy as np

from ..data.facts import SETS
from ..tables import table as tables
from ..tables.table import Line
from . import run_charts as charts
from .contents import MEDIUM, Report, Table, data_of, group_of, missing, seeds_of, told

GROUPS = ("p1", "p2", "p4", "p6", "p8", "p12", "p4m", "p8m")
SWEEP = "mnistrot_pdo_p8", "mnistrot_common"  # the row and the recipe of the sweep over groups
MOST = 26_747  # parameters: those of the row
DATA = {name.replace("_", ""): facts.title for name, facts in SETS.items()}


def without_details(one: Table, what: str) -> str:
    return missing(f"{one.title}: no run here has {what}.", one.command)


def learning(report: Report) -> None:
    parts = []
    for one in report.tables:
        shown = [line for line in one.lines if one.seeds(line)]
        if not shown:
            parts.append(without_details(one, "its epochs"))
            continue
        panels = []
        for line in shown:
            seeds, (name, under) = one.seeds(line), told(line)
            alt = f"{name} {under}: error against epoch, {len(seeds)} seeds, test error "
            alt += f"{line.ours.mean:.3f} % after the last epoch"
            published = float(line.paper.error or "nan")  # a level that is nowhere
            panels.append((charts.learning(name, under, seeds, published), alt))
        caption = (
            "Error after each epoch on a logarithmic axis, every seed a line of its own "
            f"({seeds_of(len(one.seeds(line)) for line in shown)} per panel, {data_of(shown)}). "
            "Thin: on the training images, as they were trained on; marked: on the test images, "
            "where they were evaluated; dashed: the published test error of the row, whatever the "
            "settings. Errors below 0.1 % stand on the edge."
        )
        place = f"{one.name}/learning-curves"
        parts.append(report.figure(place, f"Learning curves, {one.title}", panels, caption))
    report.section("learning", "Learning curves", *parts)


def groups(report: Report) -> None:
    row, recipe = SWEEP
    chosen: dict[str, Line] = {}
    left_out = 0
    for line in (line for one in report.tables for line in one.lines):
        choices, group = line.settings, group_of(line)
        of_sweep = line.paper.row == row and choices.get("recipe") == recipe and line.ours
        if not of_sweep or choices.keys() - {"recipe", "group", "model.widths"}:
            continue
        if group not in GROUPS or not 0 < most_parameters(line) <= MOST:
            left_out += len(line.finished)
            continue
        other = chosen.get(group)
        if other is None or most_parameters(line) > most_parameters(other):
            line, chosen[group] = other, line  # the widest is the sweep's
        left_out += len(line.finished) if line else 0
    if not chosen:
        what, command = "No run of the sweep over groups yet.", "`make sweep-groups`"
        report.section("groups", "Error against group", missing(what, command))
        return
    errors = {
        group: [(run["test_error"], run["parameters"] or 0) for run in line.finished]
        for group, line in chosen.items()
    }
    caption = (
        f"Test error of the network of `{row}` over other groups, all with the recipe `{recipe}` "
        "and the offset π/8 of the operators: p1 and p4 are therefore not the CNN and the G-CNN of "
        "the table. Point: a seed; bar and figure: their mean; below: parameters "
        f"({seeds_of(len(line.finished) for line in chosen.values())} per group, "
        f"{data_of(chosen.values())})."
    )
    if left_out:
        caption += f" Left out: {left_out} runs of another configuration, group or data."
    alt = "Mean test error by group: "
    alt += ", ".join(f"{g} {chosen[g].ours.mean:.3f} %" for g in GROUPS if g in chosen)
    panels = [(charts.by_group(GROUPS, errors), alt)]
    name = "Error against group"
    report.section("groups", name, report.figure("mnist_rot/groups", name, panels, caption, MEDIUM))


def most_parameters(line: Line) -> int:
    return max((run["parameters"] or 0 for run in line.finished), default=0)


def parameters(report: Report) -> None:
    parts = []
    for one in report.tables:
        panels, ours = [], [line for line in one.lines if of_runs(line)]
        for name in dict.fromkeys(row.paper.row.split("_")[0] for row in one.rows):
            published = [row for row in one.rows if row.paper.error]  # others are ours alone
            theirs = [of_paper(r) for r in published if r.paper.row.startswith(f"{name}_")]
            own = [of_runs(line) for line in ours if line.paper.row.startswith(f"{name}_")]
            if any(point.parameters for point in [*theirs, *own]):
                title = DATA.get(name, name)
                alt = f"{title}: error and parameters of {len(theirs)} published systems and "
                draw = charts.against_parameters(title, [*theirs, *own])
                panels.append((draw, f"{alt}{len(own)} of ours"))
        if not panels:
            what = f"{one.title}: no parameter count is known."
            parts.append(missing(what, f"fill in `experiments/{one.name}/paper.csv`"))
            continue
        ran = f"{seeds_of(line.ours.n for line in ours)}, {data_of(ours)}" if ours else "none yet"
        caption = (
            f"Published systems (squares) and our runs (discs; {ran}; open: with other settings "
            "than the row's; without the first looks of a few epochs). Bars: 95 %, from the spread "
            "over seeds, where there are two or more, and the finite test set. Both axes are "
            "logarithmic."
        )
        place, title = f"{one.name}/parameters", f"Error against parameters, {one.title}"
        parts.append(report.figure(place, title, panels, caption, MEDIUM))
    report.section("parameters", "Error against parameters", *parts)


def of_paper(line: Line) -> charts.Point:
    name = line.paper.method.rsplit(", CIFAR", 1)[0]
    name = f"{name}, {line.paper.group.partition(' (')[0]}"
    return charts.Point(name, line.paper.error, line.paper.parameters)


def of_runs(line: Line) -> charts.Point | None:
    """Our point of a line; none of other groups (they have a figure), first looks, other data."""
    counts = {run["parameters"] for run in line.finished} - {None}
    choices = line.settings
    usual = not line.another and line.provenance in tables.PUBLISHED_DATA
    first_look = choices.get("recipe", "").endswith("common_short")
    if not counts or not usual or "group" in choices or first_look:
        return None
    bar = math.hypot(line.ours.half_width or 0, line.sampling)
    name = ", ".join([f"ours: {of_paper(line).name}", *choices.values()])
    name = name if len(name) <= 42 else f"{name[:41]}…"
    return charts.Point(name, f"{line.ours.mean:.3f}", max(counts), True, bar, bool(choices))


def turned(report: Report) -> None:
    parts = []
    for one in report.tables:
        every = [(line, [d.turned for d in one.seeds(line) if d.turned]) for line in one.lines]
        shown = [(line, seeds) for line, seeds in every if seeds]
        if not shown:
            parts.append(without_details(one, "its error on turned images"))
            continue
        most = [max(max(seed.values()) for seed in seeds) for _, seeds in shown]
        panels = []
        for (line, seeds), highest in zip(shown, most, strict=True):
            name, under = told(line)
            alt = f"{name} {under}: test error against an added turn, at most {highest:.3f} %"
            panels.append((charts.turned(name, under, seeds, 1.1 * max(most) or 1), alt))
        counts = {d.turned_images for line, _ in shown for d in one.seeds(line) if d.turned}
        images = " or ".join(f"the first {n:,}" for n in sorted(counts - {None})) or "the"
        caption = (
            f"Test error of the trained networks on {images} test images, each turned once more, "
            "against the angle of that turn (bilinear interpolation, which blurs all turns but "
            f"multiples of 90°; {seeds_of(len(seeds) for _, seeds in shown)} per panel, "
            f"{data_of(line for line, _ in shown)}; all panels have the "
            "same axes). Thin: seeds; marked: their mean."
        )
        place, title = f"{one.name}/turned", f"Error against an added turn, {one.title}"
        parts.append(report.figure(place, title, panels, caption))
    report.section("turned", "Error against an added turn", *parts)


def confusion(report: Report) -> None:
    parts = []
    for one in report.tables:
        shown: dict[str, tuple[Line, list[np.ndarray]]] = {}
        for line in sorted(one.lines, key=lambda line: len(line.settings)):
            counts = [np.array(d.confusion) for d in one.seeds(line) if d.confusion]
            if counts := [c for c in counts if c.shape == counts[0].shape]:
                shown.setdefault(line.paper.row, (line, counts))
        if not shown:
            parts.append(without_details(one, "a confusion matrix"))
            continue
        panels = []
        for line, counts in shown.values():
            total, (name, under) = np.sum(counts, axis=0), told(line)
            right = 100 * np.trace(total) / max(total.sum(), 1)
            alt = f"{name} {under}: confusion matrix, {right:.3f} % right"
            panels.append((charts.confusion(name, under, total), alt))
        caption = (
            "Of the test images of each true class (a row) the per cent that were taken for each "
            "class. The shade shows errors alone; the diagonal is what was right. Seeds together "
            f"({seeds_of(len(counts) for _, counts in shown.values())}, "
            f"{data_of(line for line, _ in shown.values())}); of each row the runs with the fewest "
            "other settings."
        )
        place, title = f"{one.name}/confusion", f"Confusion, {one.title}"
        parts.append(report.figure(place, title, panels, caption, (320, 340)))
    report.section("confusion", "Confusion matrix", *parts)
