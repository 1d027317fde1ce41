"""What each figure of the report draws: plain data -> one panel. No numbers are made here.

Each function returns the drawing of a panel for :func:`pdoe.figures.render`. Ours has the accent
colour everywhere; what was published is grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from .banks import OPERATORS, operators
from .figures import LIGHT, SERIES, Draw, angles, logarithmic, title
from .groups import rotation
from .measured import Details, log_slope

ACCENT, SECOND, MUTED, FAINT, INK = (
    LIGHT[name] for name in ("accent", "second", "muted", "faint", "ink")
)
SMALL, MEDIUM = (320, 250), (460, 330)


# ---- Runs ---------------------------------------------------------------------------------------


def learning(name: str, under: str, seeds: Sequence[Details], paper: float) -> Draw:
    """Training error as thin lines, test error as marked ones, the published error as a level."""

    def draw(axes: Any) -> None:
        last = max(epoch for one in seeds for epoch in one.epochs)
        for one in seeds:
            axes.plot(one.epochs, floored(one.train), color=SECOND, linewidth=0.9)
            tested = [(e, t) for e, t in zip(one.epochs, one.test, strict=True) if t is not None]
            axes.plot(*columns(floored_pairs(tested)), color=ACCENT, marker="o", markersize=3.2)
        axes.axhline(paper, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        logarithmic(axes.yaxis, 0.1, 100)
        axes.set_xlim(0, last * 1.02)
        axes.set_xlabel("epoch")
        axes.set_ylabel("error, %")
        beside(axes, 0.98, 0.96, [("test", ACCENT), ("training", SECOND), ("paper", MUTED)])
        title(axes, name, under)

    return draw


def floored(errors: Sequence[float], low: float = 0.1) -> list[float]:
    """Errors below the axis stand on its lower edge."""
    return [max(error, low) for error in errors]


def floored_pairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, max(y, 0.1)) for x, y in points]


def columns(points: Sequence[tuple]) -> tuple[list, list]:
    return [p[0] for p in points], [p[1] for p in points]


def beside(axes: Any, x: float, y: float, names: Sequence[tuple[str, str]]) -> None:
    """The names of the lines, in their colours, under each other from a corner."""
    for place, (name, colour) in enumerate(names):
        axes.annotate(name, (x, y), xycoords="axes fraction", xytext=(0, -14 * place),
                      textcoords="offset points", ha="right", va="top", color=colour)  # fmt: skip


def by_group(groups: Sequence[str], runs: Mapping[str, Sequence[tuple[float, int]]]) -> Draw:
    """(error, parameters) of every seed of a group; a bar at the mean; a gap where none ran."""

    def draw(axes: Any) -> None:
        measured = [error for seeds in runs.values() for error, _ in seeds]
        top = 1.12 * max(measured)
        for x, group in enumerate(groups):
            seeds = runs.get(group, ())
            if not seeds:
                axes.text(x, 0.03 * top, "not run", rotation=90, ha="center", color=MUTED)
                continue
            errors = [error for error, _ in seeds]
            mean = fmean(errors)
            axes.plot([x - 0.3, x + 0.3], [mean, mean], color=ACCENT, linewidth=2.4)
            axes.scatter([x] * len(errors), errors, s=22, color=ACCENT, alpha=0.55, linewidths=0)
            axes.text(x, max(errors) + 0.03 * top, f"{mean:.2f}", ha="center", color=INK)
        counts = [", ".join(f"{n:,}" for n in sorted({n for _, n in runs.get(g, ())})) for g in groups]  # fmt: skip # noqa: E501
        names = [f"{group}\n{count or '–'}" for group, count in zip(groups, counts, strict=True)]
        axes.set_xticks(range(len(groups)), names, fontsize=9)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_ylim(0, top)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("test error, %")
        axes.set_xlabel("group, and parameters of its network")

    return draw


@dataclass(frozen=True)
class Point:
    """A system in the plane of parameters and error; ``bar`` is a half width, in per cent."""

    name: str
    error: float
    parameters: int | None
    ours: bool = False
    bar: float = 0.0
    as_published: bool = True


def against_parameters(name: str, points: Sequence[Point]) -> Draw:
    """Error against parameters, both logarithmic, every point named at the right, by error.

    Systems whose count was not published stand in a strip of their own.
    """

    def draw(axes: Any) -> None:
        known = [p.parameters for p in points if p.parameters]
        low, high = min(known) / 1.6, max(known) * 1.6
        strip = high * (high / low) ** 0.09
        edge = strip * (high / low) ** 0.06 if len(known) < len(points) else high
        bottom = min(p.error - p.bar for p in points) / 1.12
        top = max(p.error + p.bar for p in points) * 1.1
        logarithmic(axes.xaxis, low, edge)
        ticks = [tick for tick in axes.get_xticks() if tick <= high]
        names = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
        if edge > high:
            axes.axvline(high, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
            ticks, names = [*ticks, strip], [*names, "?"]
        axes.set_xticks(ticks, names)
        logarithmic(axes.yaxis, bottom, top)
        ordered = sorted(points, key=lambda p: (p.error, p.name))
        span = math.log(top / bottom)
        heights = spread([math.log(p.error / bottom) / span for p in ordered], 0.062)
        for point, height in zip(ordered, heights, strict=True):
            x, colour = point.parameters or strip, ACCENT if point.ours else MUTED
            axes.annotate(
                f"{point.name}  {point.error:g}", (x, point.error), xytext=(1.03, height),
                textcoords="axes fraction", va="center", fontsize=9, color=colour,
                arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkA": 1,
                            "shrinkB": 4, "relpos": (0, 0.5)},
            )  # fmt: skip
            axes.errorbar(
                x, point.error, point.bar or None, color=colour, marker="o" if point.ours else "s",
                markersize=6 if point.ours else 5, elinewidth=1.4, linestyle="none",
                markerfacecolor=colour if point.as_published else LIGHT["surface"],
            )  # fmt: skip
        axes.set_xlabel("parameters" + " (?: not published)" * (edge > high))
        axes.set_ylabel("test error, %")
        title(axes, name)

    return draw


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights in [0, 1], moved as little as keeps each pair at least ``gap`` apart.

    Where there is no room for that gap, as far apart as there is room.
    """
    gap = min(gap, 1 / max(1, len(heights) - 1))
    blocks: list[list[float]] = []  # [sum of the places of its first one, how many]

    def first(block: list[float]) -> float:
        return min(max(block[0] / block[1], 0), 1 - gap * (block[1] - 1))

    for height in heights:
        blocks.append([height, 1])
        while len(blocks) > 1 and first(blocks[-2]) + gap * blocks[-2][1] > first(blocks[-1]):
            total, count = blocks.pop()
            blocks[-1][0] += total - count * gap * blocks[-1][1]
            blocks[-1][1] += count
    return [first(block) + gap * place for block in blocks for place in range(int(block[1]))]


def turned(name: str, under: str, seeds: Sequence[Mapping[int, float]], top: float) -> Draw:
    """Test error with all test images turned by an angle: every seed thin, the mean thick."""

    def draw(axes: Any) -> None:
        common = sorted(set.intersection(*(set(seed) for seed in seeds)))
        for seed in seeds if len(seeds) > 1 else ():
            axes.plot(*closed(seed), color=ACCENT, linewidth=0.8, alpha=0.6)
        mean = {angle: fmean(seed[angle] for seed in seeds) for angle in common}
        axes.plot(*closed(mean), color=ACCENT, marker="o", markersize=3.2)
        angles(axes)
        axes.set_ylim(0, top)
        axes.set_xlabel("added turn")
        axes.set_ylabel("test error, %")
        title(axes, name, under)

    return draw


def closed(values: Mapping[int, float]) -> tuple[list, list]:
    """Values by angle, in order, with that of 0 again at 360."""
    whole = dict(values) | ({360: values[0]} if 0 in values else {})
    return columns(sorted(whole.items()))


def confusion(name: str, under: str, counts: np.ndarray) -> Draw:
    """Per cent of each true class (rows) that was taken for another one, [K, K] counts."""

    def draw(axes: Any) -> None:
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        wrong = shares * (1 - np.eye(len(shares)))
        cells(axes, wrong / max(wrong.max(), 1e-12), ACCENT, ACCENT, 0, 0)
        if len(shares) <= 10:
            for row, column in np.ndindex(*shares.shape):
                if row == column or shares[row, column] >= 0.05:
                    axes.text(
                        column + 0.5, row + 0.5, f"{shares[row, column]:.1f}", fontsize=7.5,
                        ha="center", va="center", color=MUTED if row == column else INK,
                    )  # fmt: skip
        ticks = range(0, len(shares), max(1, len(shares) // 10))
        axes.set_xticks([t + 0.5 for t in ticks], ticks)
        axes.set_yticks([t + 0.5 for t in ticks], ticks)
        axes.set(xlim=(0, len(shares)), ylim=(len(shares), 0), aspect="equal")
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.grid(visible=False)
        title(axes, name, under)

    return draw


def cells(axes: Any, values: np.ndarray, above: str, below: str, x: float, y: float) -> None:
    """Values in [-1, 1] as squares: the background at 0, a colour for each sign.

    The shade is an opacity, so that 0 is the background of a light page and of a dark one.
    """
    from matplotlib.patches import Rectangle

    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        if abs(value) > 1e-3:
            place = x + column, y + row
            colour = above if value > 0 else below
            axes.add_patch(Rectangle(place, 1, 1, facecolor=colour, alpha=abs(value), linewidth=0))


# ---- Equivariance -------------------------------------------------------------------------------


def by_angle(name: str, states: Mapping[str, Sequence[tuple[float, float]]]) -> Draw:
    """Equivariance error of a network against the angle, one line for each of its states."""

    def draw(axes: Any) -> None:
        every = [error for points in states.values() for _, error in points if error > 0]
        low = max(min(every, default=1e-16) / 3, 1e-18)
        logarithmic(axes.yaxis, low, 3 * max(every, default=1))
        for (_, points), colour in zip(states.items(), SERIES, strict=False):
            x, y = columns(sorted(points))
            axes.plot(x, [max(v, low) for v in y], color=colour, marker="o", markersize=2.6,
                      linewidth=1.2)  # fmt: skip
        angles(axes)
        axes.set_xlabel("angle")
        axes.set_ylabel("equivariance error")
        title(axes, name, ", ".join(states))
        named = list(zip(states, SERIES, strict=False))
        beside(axes, 0.98, 0.02 + 0.06 * len(named), named)

    return draw


def by_spacing(name: str, series: Mapping[str, tuple[float, Sequence[tuple[float, float]]]]) -> Draw:
    """Error against grid spacing, logarithmic, with the line of the fitted order of each series."""

    def draw(axes: Any) -> None:
        spacings = [x for _, points in series.values() for x, _ in points]
        errors = [y for _, points in series.values() for _, y in points]
        axes.set(xscale="log", yscale="log")
        right = max(spacings)
        heights = [math.log(max(points)[1]) for _, points in series.values()]
        bottom, top = min(errors) / 2, max(errors) * 2
        logarithmic(axes.xaxis, min(spacings) / 1.15, right * 1.15)
        logarithmic(axes.yaxis, bottom, top)
        span = math.log(top / bottom)
        ranked = sorted(range(len(heights)), key=lambda i: heights[i])
        places = spread([(heights[i] - math.log(bottom)) / span for i in ranked], 0.085)
        place = dict(zip(ranked, places, strict=True))
        for number, (label, (order, points)) in enumerate(series.items()):
            colour = SERIES[number % len(SERIES)]
            points = sorted(points)
            slope, intercept = log_slope(points)
            ends = (points[0][0], points[-1][0])
            axes.plot(ends, [math.exp(intercept) * x**slope for x in ends], color=colour,
                      linewidth=1)  # fmt: skip
            axes.plot(*columns(points), color=colour, marker="o", markersize=4, linestyle="none")
            axes.annotate(f"{label}: order {order:.2f}", points[-1], xytext=(1.02, place[number]),
                          textcoords="axes fraction", va="center", fontsize=9, color=colour)  # fmt: skip # noqa: E501
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
            axes.text(-0.6, row * step + size / 2, f"d{name}", ha="right", va="center",
                      style="italic")  # fmt: skip
            for place, values in enumerate(ours / np.abs(ours).max()):
                cells(axes, values, SECOND, ACCENT, place * step, row * step)
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
        beside(axes, 1.0, 1.0, [("training", ACCENT), ("evaluation", SECOND)])
        title(axes, name)

    return draw


def scaling(fits: Mapping[str, tuple[float, Sequence[tuple[int, float]]]]) -> Draw:
    """Time of a layer against its planar channels |G| x C, with the fitted exponents."""

    def draw(axes: Any) -> None:
        every = [point for _, points in fits.values() for point in points]
        sizes, times = columns(every)
        logarithmic(axes.xaxis, min(sizes) / 1.3, max(sizes) * 1.3)
        logarithmic(axes.yaxis, min(times) / 1.6, max(times) * 1.6)
        names = []
        for (name, (slope, points)), colour, mark in zip(
            fits.items(), (ACCENT, SECOND), "oD", strict=True
        ):
            axes.plot(*columns(points), mark, color=colour, markersize=5, fillstyle="none")
            names.append((f"{name}: exponent {slope:.2f}", colour))
        axes.set_xlabel("planar channels |G| × C")
        axes.set_ylabel("evaluation of a layer, ms")
        beside(axes, 0.98, 0.2, names)
        title(axes, "16 × 16 maps, batch 32; p4, p8, p16")

    return draw
