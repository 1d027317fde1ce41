"""What the figures of layers draw, as in :mod:`.run_charts`: equivariance, operators, speed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..banks import OPERATORS, operators
from ..groups import PointGroup, rotation
from .figures import (
    ACCENT,
    FAINT,
    MUTED,
    SECOND,
    SERIES,
    Draw,
    angles,
    cells,
    closed,
    logarithmic,
    named_lines,
    spread,
    title,
)

# ---- Equivariance -------------------------------------------------------------------------------


def by_angle(
    name: str, states: Mapping[str, Sequence[tuple[float, float]]], low: float, high: float
) -> Draw:
    """Equivariance error of a network against the angle, a line for each of its states.

    The axis goes from low to high; what is below stands on its edge.
    """

    def draw(axes: Any) -> None:
        logarithmic(axes.yaxis, low, high)
        for (_, points), colour in zip(states.items(), SERIES, strict=False):
            x, y = closed(dict(points))
            style = {"color": colour, "marker": "o", "markersize": 2.6, "linewidth": 1.2}
            axes.plot(x, np.maximum(y, low), **style)
        angles(axes)
        axes.set_xlabel("angle")
        axes.set_ylabel("equivariance error")
        title(axes, name)
        named_lines(axes, "bottom", dict(zip(states, SERIES, strict=False)))

    return draw


def by_spacing(
    name: str, series: Mapping[str, tuple[float, Sequence[tuple[float, float]]]]
) -> Draw:
    """Error against grid spacing, both logarithmic, named with the fitted order of each series."""

    def draw(axes: Any) -> None:
        spacings, errors = zip(*(p for _, points in series.values() for p in points), strict=True)
        bottom, top = min(errors) / 2, max(errors) * 2
        logarithmic(axes.xaxis, min(spacings) / 1.15, max(spacings) * 1.15)
        logarithmic(axes.yaxis, bottom, top)
        rising = sorted(series.items(), key=lambda item: max(item[1][1])[1])
        last = [max(points)[1] for _, (_, points) in rising]
        wanted = [math.log(error / bottom) / math.log(top / bottom) for error in last]
        colours = dict(zip(series, SERIES * len(series), strict=False))
        for (label, (order, points)), height in zip(rising, spread(wanted, 0.075), strict=True):
            slope, intercept = log_slope(points)
            ends = [min(points)[0], max(points)[0]]
            fit = [math.exp(intercept) * x**slope for x in ends]
            axes.plot(ends, fit, color=colours[label], linewidth=1)
            axes.plot(*zip(*points, strict=True), "o", color=colours[label], markersize=4)
            axes.annotate(
                f"{label}: order {order:.2f}", (1.02, height), xycoords="axes fraction",
                va="center", fontsize=9.5, color=colours[label],
            )  # fmt: skip
        axes.set_xlabel("grid spacing")
        axes.set_ylabel("error")
        title(axes, name)

    return draw


def turned_filters(n: int, offset: float, names: Sequence[str]) -> Draw:
    """Differential operators of p_n in the frame of every rotation, each row to its own scale."""

    def draw(axes: Any) -> None:
        turns = [offset + 2 * math.pi * r / n for r in range(n)]
        bank = operators(np.array([rotation(angle) for angle in turns]))
        size, step = bank.shape[-1], bank.shape[-1] + 0.8
        for row, name in enumerate(names):
            ours = bank[:, OPERATORS.index((name.count("u"), name.count("v")))]
            axes.text(-0.6, row * step + size / 2, f"∂{name}", ha="right", va="center",
                      style="italic")  # fmt: skip
            for place, values in enumerate(ours / np.abs(ours).max()):
                cells(axes, values, (place * step, row * step))
                box = [0, size, size, 0, 0], [0, 0, size, size, 0]
                axes.plot([place * step + x for x in box[0]], [row * step + y for y in box[1]],
                          color=FAINT, linewidth=0.8)  # fmt: skip
        for place, angle in enumerate(turns):
            axes.text(place * step + size / 2, -0.5, f"{math.degrees(angle):.1f}°", ha="center",
                      va="bottom", fontsize=9, color=MUTED)  # fmt: skip
        axes.set(xlim=(-3, n * step), ylim=(len(names) * step, -2), aspect="equal")
        axes.set_axis_off()

    return draw


# ---- Speed --------------------------------------------------------------------------------------


def ratios(name: str, lines: Sequence[dict]) -> Draw:
    """Our time over that of the plain network, median and quartiles, by case and phase."""

    def draw(axes: Any) -> None:
        cases = list(dict.fromkeys(line["case"] for line in lines))
        for line in lines:
            training = line["phase"] == "train"
            y = cases.index(line["case"]) + (-0.16 if training else 0.16)
            colour = ACCENT if training else SECOND
            axes.plot([line["ratio_q1"], line["ratio_q3"]], [y, y], color=colour, linewidth=1.2)
            axes.plot(line["ratio"], y, color=colour, marker="o" if training else "D",
                      markersize=5 if training else 4.2)  # fmt: skip
        axes.axvline(1, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(cases)), [case.partition(" ")[2] for case in cases], fontsize=9)
        axes.set_ylim(len(cases) - 0.4, -1.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("time, ours / plain")
        named_lines(axes, "top", {"training": ACCENT, "evaluation": SECOND})
        title(axes, name)

    return draw


def scaling(fits: Mapping[str, tuple[float, Sequence[tuple[int, float]]]]) -> Draw:
    """Time of a layer against its planar channels |G| x C, with the fitted exponents."""

    def draw(axes: Any) -> None:
        sizes, times = zip(*(p for _, points in fits.values() for p in points), strict=True)
        logarithmic(axes.xaxis, min(sizes) / 1.3, max(sizes) * 1.3)
        logarithmic(axes.yaxis, min(times) / 1.6, max(times) * 1.6)
        names = {}
        contestants = zip(fits.items(), (ACCENT, SECOND), "oD", strict=True)
        for (name, (slope, points)), colour, mark in contestants:
            points = zip(*points, strict=True)
            axes.plot(*points, mark, color=colour, markersize=5, fillstyle="none")
            names[f"{name}: exponent {slope:.2f}"] = colour
        axes.set_xlabel("planar channels |G| × C")
        axes.set_ylabel("evaluation of a layer, ms")
        named_lines(axes, "bottom", names)
        title(axes, "16 × 16 maps, batch 32; p4, p8, p16")

    return draw


SCALING = re.compile(r"scaling (p[1-9]\d*m?), (\d+) fields,")


def planar_channels(case: str) -> int | None:
    """|G| x C of a case of the benchmark that asks how cost grows with size; None for others."""
    found = SCALING.match(case)
    return len(PointGroup.named(found[1])) * int(found[2]) if found else None


def of_one_kind(lines: Sequence[dict]) -> list[dict]:
    """The lines of one precision and mode: fp32 before bf16, CUDA graphs before eager."""
    kinds = [(line["precision"], line["mode"]) for line in lines]
    first = max(kinds, default=None)  # as the words are ordered
    return [line for line, kind in zip(lines, kinds, strict=True) if kind == first]


def exponents(lines: Sequence[dict]) -> dict[str, tuple[float, list[tuple[int, float]]]]:
    """Fitted exponent of time against planar channels |G| x C, and the points, per contestant."""
    lines = of_one_kind([line for line in lines if planar_channels(line["case"])])
    sized = [(planar_channels(line["case"]), line) for line in lines]
    fits = {}
    for name, cost in (("ours", "ours_ms"), ("plain", "rival_ms")):
        points = sorted((size, float(line[cost])) for size, line in sized)
        if len({size for size, _ in points}) > 1:
            slope, _ = log_slope(points)
            fits[name] = slope, points
    return fits


def log_slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of log y against log x by least squares."""
    x = [math.log(a) for a, _ in points]
    y = [math.log(b) for _, b in points]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    slope /= sum((a - mx) ** 2 for a in x)
    return slope, my - slope * mx
