"""Sections about layers: equivariance by angle and by grid spacing, stencils and filters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from ..banks import OPERATORS, operators, stencil
from ..groups import rotation
from . import figures
from .contents import MEDIUM, Panel, Report, format_commits, report_missing

COMMAND = (
    "`python scripts/equivariance.py outputs/mnistrot_pdo_p8/seed=0 --results results/equivariance`"
)
Points = list[tuple[float, float]]


# ---- Error against angle ------------------------------------------------------------------------


def add_angles(report: Report) -> None:
    """The error by angle in two panels: whole networks, and their pooled trunks."""
    lines = report.read_lines(
        "equivariance/angles.csv", ("network", "state", "commit"), ("angle", "error")
    )
    panels: dict[str, dict[str, dict[float, float]]] = {}
    for line in lines:
        network, _, part = line["network"].partition(", ")
        series = panels.setdefault(part or "logits", {})
        series.setdefault(f"{network}, {line['state']}", {})[line["angle"]] = line["error"]
    heading = "Equivariance error against angle"
    content = report_missing("No `results/equivariance/angles.csv` yet.", COMMAND)
    if panels:
        caption = (
            "Relative difference between rotating the input and rotating the output, for smooth "
            "random images that are evaluated at the rotated pixels. Pooled trunk: the trunk's "
            "output, its maximum over orientations and its mean over space (one network for each "
            f"line, n = 1, float64; {format_commits(lines)})."
        )
        drawn = [(partial(plot_angles, name, own), name) for name, own in panels.items()]
        size = MEDIUM[0], 400
        content = report.add_figure("equivariance/angles", heading, drawn, caption, size)
    report.add_section("equivariance", heading, content)


def plot_angles(name: str, series: Mapping[str, Mapping[float, float]], axes: Any) -> None:
    """Error against angle, a line for each network and state; trained networks have solid lines."""
    networks = list(dict.fromkeys(label.partition(", ")[0] for label in series))
    for label, curve in series.items():
        network, _, state = label.partition(", ")
        colour = figures.SERIES[networks.index(network) % len(figures.SERIES)]
        style = {"linestyle": "-" if state == "trained" else "--", "linewidth": 1.4}
        figures.plot_by_angle(axes, curve, color=colour, label=label, **style)
    axes.set(xlabel="angle", ylabel="equivariance error", ylim=(0, None))
    figures.set_title(axes, name)
    figures.add_legend(axes, "upper center", bbox_to_anchor=(0.5, -0.16), handlelength=2.5)


# ---- Error against grid spacing -----------------------------------------------------------------


def add_order(report: Report) -> None:
    """The error of layers as the grid becomes finer, a panel for each group."""
    numbers = ("angle", "spacing", "error", "order")
    lines = report.read_lines("equivariance/order.csv", ("group", "layer", "commit"), numbers)
    groups: dict[str, dict[str, Points]] = {}
    for line in lines:
        if line["error"] > 0 and line["spacing"] > 0:
            label = f"{line['layer']}, {line['angle']:g}°: order {line['order']:.2f}"
            points = groups.setdefault(line["group"], {}).setdefault(label, [])
            points.append((line["spacing"], line["error"]))
    panels: list[Panel] = []
    for group, series in groups.items():
        series = {label: points for label, points in series.items() if len(dict(points)) > 1}
        if series:
            panels.append((partial(plot_order, group, series), f"{group}; {'; '.join(series)}"))
    heading = "Equivariance error against grid spacing"
    content = report_missing("No `results/equivariance/order.csv` yet.", COMMAND)
    if panels:
        caption = (
            "Equivariance error of layers under a rotation by that angle as the grid becomes "
            "finer, on a smooth random image; both axes are logarithmic. Lines are least-squares "
            "fits. Their slope is the order: 2 in theory, 0 for layers without rotations, such as "
            "those of p1 (random weights, one draw for each line, n = 1, float64; "
            f"{format_commits(lines)})."
        )
        content = report.add_figure("equivariance/order", heading, panels, caption, MEDIUM)
    report.add_section("order", heading, content)


def plot_order(name: str, series: Mapping[str, Points], axes: Any) -> None:
    """Error against spacing, both logarithmic; the names of the series stand at the right."""
    spacings, errors = zip(*(p for points in series.values() for p in points), strict=True)
    bottom, top = min(errors) / 2, max(errors) * 2
    figures.set_log_scale(axes.xaxis, min(spacings) / 1.15, max(spacings) * 1.15)
    figures.set_log_scale(axes.yaxis, bottom, top)
    ordered = sorted(series.items(), key=lambda item: max(item[1])[1])
    wanted = [math.log(max(points)[1] / bottom, top / bottom) for _, points in ordered]
    heights = figures.spread_labels(wanted, 0.075)
    for (label, points), height, colour in zip(
        ordered, heights, cycle(figures.SERIES), strict=False
    ):
        slope, intercept = np.polyfit(*np.log(np.array(points).T), 1)
        ends = np.array([min(points)[0], max(points)[0]])
        axes.plot(ends, np.exp(intercept) * ends**slope, color=colour, linewidth=1)
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4)
        style = {"va": "center", "fontsize": 9.5, "color": colour}
        axes.annotate(label, (1.02, height), xycoords="axes fraction", **style)
    axes.set(xlabel="grid spacing", ylabel="error")
    figures.set_title(axes, name)


# ---- Filters ------------------------------------------------------------------------------------


def add_filters(report: Report) -> None:
    """The nine stencils, and filters in the frame of each rotation of p8: nothing is measured."""
    names = [name_operator(*powers, "xy") for powers in OPERATORS]
    caption = (
        "The nine basis operators as central differences on the pixel grid. Orange is positive, "
        "blue negative."
    )
    panels = [(partial(draw_stencils, names), ", ".join(names))]
    stencils = report.add_figure(
        "equivariance/stencils", "The nine basis stencils", panels, caption, (410, 430)
    )
    caption = (
        "Sobel's filter and two operators in the frame of each rotation of p8, as 5 × 5 stencils: "
        "constants of `pdoe.banks`. Orange is positive, blue negative; each row has its own scale. "
        "Two columns further is a rotation by 90°, which maps the pixel grid to itself and is "
        "exact. One column further is 45°, exact up to second order in the grid spacing."
    )
    panels = [(partial(draw_filters, 8), "Sobel, ∂u² and ∂u²∂v at eight angles")]
    title = "Filters in the frames of p8"
    filters = report.add_figure("equivariance/filters", title, panels, caption, (640, 280))
    report.add_section("filters", "Stencils and filters", stencils, filters)


def name_operator(i: int, j: int, axes: str) -> str:
    powers = {0: "", 1: "∂{}", 2: "∂{}²"}
    return powers[i].format(axes[0]) + powers[j].format(axes[1]) or "1"


def draw_kernel(
    axes: Any, values: np.ndarray, corner: tuple[float, float], darkest: float = 1
) -> None:
    """Draw a kernel in a box; its largest coefficient has the opacity ``darkest``."""
    figures.draw_cells(axes, darkest * values / np.abs(values).max(), corner)
    size, (x, y) = len(values), corner
    box = [x, x + size, x + size, x, x], [y, y, y + size, y + size, y]
    axes.plot(*box, color=figures.FAINT, linewidth=0.8)


def draw_stencils(names: Sequence[str], axes: Any) -> None:
    for number, (powers, name) in enumerate(zip(OPERATORS, names, strict=True)):
        taps = stencil(*powers)
        edge = (len(taps) - 3) // 2
        taps = taps[edge : edge + 3, edge : edge + 3]
        x, y = 3.8 * (number % 3), 4.2 * (number // 3)
        draw_kernel(axes, taps, (x, y), 0.6)  # numbers stay legible on it
        axes.text(x + 1.5, y - 0.2, name, ha="center", va="bottom")
        for row, column in np.argwhere(taps):
            text = f"{taps[row, column]:g}".replace("-", "\N{MINUS SIGN}")
            place = x + column + 0.5, y + row + 0.5
            axes.text(*place, text, ha="center", va="center", fontsize=9, color=figures.INK)
    axes.set(xlim=(-0.2, 10.8), ylim=(11.6, -0.9), aspect="equal")
    axes.set_axis_off()


def frame_filters(n: int) -> dict[str, np.ndarray]:
    """Filters in the frame of each rotation of p_n, ``[n, 5, 5]``, by name.

    Sobel's filter, divided by 8, is ``∂u + ∂u∂v² / 4`` in central differences.
    """
    frames = np.array([rotation(2 * math.pi * r / n) for r in range(n)])
    bank = dict(zip(OPERATORS, operators(frames).swapaxes(0, 1), strict=True))
    sobel = bank[1, 0] + bank[1, 2] / 4
    return {"Sobel": sobel, "∂u²": bank[2, 0], "∂u²∂v": bank[2, 1]}


def draw_filters(n: int, axes: Any) -> None:
    filters = frame_filters(n)
    step = 5.8
    for row, (name, kernels) in enumerate(filters.items()):
        axes.text(-0.6, row * step + 2.5, name, ha="right", va="center")
        for column, kernel in enumerate(kernels):
            draw_kernel(axes, kernel, (column * step, row * step))
    for column in range(n):
        style = {"ha": "center", "va": "bottom", "fontsize": 9, "color": figures.MUTED}
        axes.text(column * step + 2.5, -0.5, f"{360 * column / n:g}°", **style)
    axes.set(xlim=(-5, n * step), ylim=(len(filters) * step, -2), aspect="equal")
    axes.set_axis_off()
