"""What the figures of runs draw: plain data -> the drawing of one panel. No numbers are made here.

Ours has the accent colour everywhere; what was published is grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from .figures import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    SECOND,
    SURFACE,
    Draw,
    angles,
    cells,
    closed,
    logarithmic,
    named_lines,
    spread,
    title,
)
from .inputs import Details

LOWEST = 0.1  # per cent: the edge of the learning curves


def learning(name: str, under: str, seeds: Sequence[Details], paper: float) -> Draw:
    """Training error as thin lines, test error as marked ones, the published error as a level."""

    def draw(axes: Any) -> None:
        last = max((epoch for one in seeds for epoch in one.epochs), default=1)
        for one in seeds:
            axes.plot(one.epochs, np.maximum(one.train, LOWEST), color=SECOND, linewidth=0.9)
            tested = [(e, t) for e, t in zip(one.epochs, one.test, strict=True) if t is not None]
            epochs, errors = zip(*tested, strict=True) if tested else ((), ())
            axes.plot(epochs, np.maximum(errors, LOWEST), color=ACCENT, marker="o", markersize=3.2)
        axes.axhline(max(paper, LOWEST), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        logarithmic(axes.yaxis, LOWEST, 100)
        axes.set_xlim(0, 1.02 * max(last, 1))
        axes.set_xlabel("epoch")
        axes.set_ylabel("error, %")
        named_lines(axes, "top", {"test": ACCENT, "training": SECOND, "paper": MUTED})
        title(axes, name, under)

    return draw


def by_group(groups: Sequence[str], runs: Mapping[str, Sequence[tuple[float, int]]]) -> Draw:
    """(error, parameters) of every seed of a group; a bar at the mean; a gap where none ran."""

    def draw(axes: Any) -> None:
        measured = [error for seeds in runs.values() for error, _ in seeds]
        top = 1.12 * max(measured) or 1
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
        counts = [sorted({count for _, count in runs.get(group, ())}) for group in groups]
        names = [
            f"{group}\n{', '.join(f'{count:,}' for count in own) or '–'}"
            for group, own in zip(groups, counts, strict=True)
        ]
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
    error: str  # with the digits to be shown
    parameters: int | None
    ours: bool = False
    bar: float = 0.0
    open: bool = False


def against_parameters(name: str, points: Sequence[Point]) -> Draw:
    """Error against parameters, both logarithmic, every point named at the right, by error.

    Systems whose count was not published stand in a strip of their own.
    """

    def draw(axes: Any) -> None:
        known = [point.parameters for point in points if point.parameters]
        low, high = min(known) / 1.6, max(known) * 1.6
        width = high / low
        strip, right = high * width**0.09, high * width**0.15
        some_unknown = len(known) < len(points)
        logarithmic(axes.xaxis, low, right if some_unknown else high)
        if some_unknown:
            # A number of the axis that stands too near to the strip would run into its mark.
            ticks = [tick for tick in axes.get_xticks() if tick * width**0.12 <= strip]
            names = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
            axes.set_xticks([*ticks, strip], [*names, "?"])
            axes.axvline(high, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
        errors = {point: float(point.error) for point in points}
        least = min((error for error in errors.values() if error), default=1)
        bottom = min(max(e - p.bar, least / 2) for p, e in errors.items()) / 1.12
        top = max(error + point.bar for point, error in errors.items()) * 1.1
        logarithmic(axes.yaxis, bottom, top)
        ordered = sorted(points, key=lambda point: (errors[point], point.name))
        share = math.log(top / bottom)
        wanted = [math.log(max(errors[p], bottom) / bottom) / share for p in ordered]
        last = math.log((right if some_unknown else high) / low)
        for point, y, height in zip(ordered, wanted, spread(wanted, 0.062), strict=True):
            x = point.parameters or strip
            colour, mark, size = (ACCENT, "o", 6) if point.ours else (MUTED, "s", 5)
            leader = [math.log(x / low) / last, 1.02], [y, height]  # in fractions of the axes
            whole = {"transform": axes.transAxes, "clip_on": False}
            axes.plot(*leader, **whole, color=FAINT, linewidth=0.8, zorder=1)
            axes.text(
                1.03, height, f"{point.error}\u2002{point.name}", transform=axes.transAxes,
                va="center", fontsize=9.5, color=colour,
            )  # fmt: skip
            style = {"color": colour, "marker": mark, "markersize": size, "elinewidth": 1.4}
            style["markerfacecolor"] = SURFACE if point.open else colour
            axes.errorbar(x, max(errors[point], bottom), point.bar or None, **style)
        axes.set_xlabel("parameters" + " (?: not published)" * some_unknown)
        axes.set_ylabel("test error, %")
        title(axes, name)

    return draw


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


def confusion(name: str, under: str, counts: np.ndarray) -> Draw:
    """Per cent of each true class (rows) that was taken for another one, [K, K] counts."""

    def draw(axes: Any) -> None:
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        wrong = shares * (1 - np.eye(len(shares)))
        cells(axes, 0.65 * wrong / max(wrong.max(), 1e-12), (0, 0))  # ink stays legible on it
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
