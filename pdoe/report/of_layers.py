"""Sections of the report about layers: equivariance by angle and by grid spacing, operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import layer_charts as charts
from .contents import MEDIUM, Report, missing
from .page import Html, joined, table, tag

COMMAND = (
    "`python scripts/equivariance.py outputs/mnistrot_pdo_p8/seed=0 --results results/equivariance`"
)


def angles(report: Report) -> None:
    path = report.results / "equivariance" / "angles.csv"
    lines = report.lines(path, ("network", "state", "commit"), ("angle", "error"))
    networks: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in lines:
        states = networks.setdefault(line["network"], {})
        states.setdefault(line["state"], []).append((line["angle"], line["error"]))
    heading = "Equivariance error against angle"
    content = missing("No `results/equivariance/angles.csv` yet.", COMMAND)
    if networks:
        panels = []
        positive = [line["error"] for line in lines if line["error"] > 0] or [1.0]
        edges = min(positive) / 3, max(positive) * 3
        for name, states in networks.items():
            most = (f"{s}, at most {max(p[1] for p in points):.2g}" for s, points in states.items())
            alt = f"{name}: equivariance error against angle; {'; '.join(most)}"
            panels.append((charts.by_angle(name, states, *edges), alt))
        caption = (
            "Relative difference between turning the input and turning the output, against the "
            "angle, for smooth random images that are evaluated at the turned pixels (one network "
            "for each line, n = 1, float64; one logarithmic axis for all, on whose edge 0 stands; "
            f"{commits_of(lines)})."
        )
        content = report.figure("equivariance/angles", heading, panels, caption)
    report.section("equivariance", heading, content, *first_layers(report))


def commits_of(lines: Sequence[dict]) -> str:
    commits = sorted({line["commit"][:10] or "unknown" for line in lines})
    return f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"


def first_layers(report: Report) -> list[Html]:
    """A line for each network and state: the first layer that loses equivariance, and why."""
    path = report.results / "equivariance" / "layers.csv"
    lines = report.lines(path, ("network", "state", "layer", "reason", "commit"), ("error",))
    if not lines:
        return [missing("No `results/equivariance/layers.csv` yet.", COMMAND)]
    rows = []
    for key in dict.fromkeys((line["network"], line["state"]) for line in lines):
        own = [line for line in lines if (line["network"], line["state"]) == key]
        culprits = (line for line in own if line["reason"])
        first: object = "none"
        if culprit := next(culprits, None):
            first = joined([tag("code", culprit["layer"]), f": {culprit['reason']}"])
        rows.append([*key, len(own), f"{max(line['error'] for line in own):.1e}", first])
    header = ("network", "state", "layers", "largest error", "first layer that loses it")
    label = "The first layer of each network that loses equivariance"
    heading = tag("h3", "Where equivariance is lost")
    return [heading, table(header, rows, label, "layers|largest error")]


def spacing(report: Report) -> None:
    path = report.results / "equivariance" / "order.csv"
    numbers = ("angle", "spacing", "error", "order")
    lines = report.lines(path, ("group", "layer", "commit"), numbers)
    series: dict[str, dict[str, tuple[float, list[tuple[float, float]]]]] = {}
    for line in lines:
        if line["error"] > 0 and line["spacing"] > 0:
            label = f"{line['layer']}, {line['angle']:g}°"
            own = series.setdefault(line["group"], {}).setdefault(label, (line["order"], []))
            own[1].append((line["spacing"], line["error"]))
    panels = []
    for group, every in series.items():
        fitted = {label: own for label, own in every.items() if len(dict(own[1])) > 1}
        if fitted:
            orders = "; ".join(
                f"{label}: order {order:.2f}" for label, (order, _) in fitted.items()
            )
            alt = f"{group}: equivariance error against grid spacing; {orders}"
            panels.append((charts.by_spacing(group, fitted), alt))
    heading = "Equivariance error against grid spacing"
    content = missing("No `results/equivariance/order.csv` yet.", COMMAND)
    if panels:
        caption = (
            "Equivariance error of layers, on a smooth random image, under a turn of that angle "
            "as the grid becomes finer; both axes logarithmic. Lines are least squares fits, the "
            "order is their slope: 2 in theory, 0 for layers that do not turn, such as those of p1 "
            "(layers with random weights, one draw for each line, n = 1, float64; "
            f"{commits_of(lines)})."
        )
        content = report.figure("equivariance/order", heading, panels, caption, MEDIUM)
    report.section("order", heading, content)


def filters(report: Report) -> None:
    caption = (
        "Differential operators in the frame of each of the eight rotations of p8, offset π/8, as "
        "5 × 5 stencils; above each the angle of its axis u. Computed by `pdoe.banks` in float64: "
        "nothing is measured or learnt (n = 1). Orange is positive, blue negative, the background "
        "zero, each row to the scale of its largest coefficient. Two places on is a turn by 90 "
        "degrees, which maps the pixel grid to itself and is exact; one place on is 45 degrees, "
        "exact up to the second order in the grid spacing."
    )
    draw = charts.turned_filters(8, math.pi / 8, ("u", "uu", "uuv"))
    panels = [(draw, "Heat maps of the operators ∂u, ∂uu and ∂uuv at eight angles")]
    heading = "Filters turned through the group"
    place, title = "equivariance/filters", "Operators turned through p8"
    report.section("filters", heading, report.figure(place, title, panels, caption, (410, 180)))
