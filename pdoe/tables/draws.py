"""Draws of regenerated data: how much an error depends on which digits and angles were drawn.

The published figures come from a draw of their own, which is lost. So the spread of an error
between draws is a part of how far ours may be from the published one. Errors are in per cent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, variance

from ..data.draws import Draw, read_draw
from ..run.overrides import join_overrides, split_overrides
from .statistics import sampling_variance
from .table import DRAW, Line

FEWEST = 3  # draws whose spread is used


@dataclass(frozen=True)
class DrawSet:
    """Lines of one row that differ in the seed of the draw alone.

    Attributes:
        row: its experiment.
        settings: its overrides without those of the draw.
        replacement: whether digits may come more than once.
        lines: draw -> its line.
        seed_variance: of the row between seeds on one draw; None where it is not known.
    """

    row: str
    settings: str
    replacement: bool
    lines: dict[int, Line]
    seed_variance: float | None = None

    @property
    def mean(self) -> float:
        return fmean(line.ours.mean for line in self.lines.values())

    @property
    def std(self) -> float | None:
        """Standard deviation of the draws' errors; None for one draw."""
        means = [line.ours.mean for line in self.lines.values()]
        return math.sqrt(variance(means)) if len(means) > 1 else None

    @property
    def seeds(self) -> float:
        """The part of the variance between draws that is due to their seeds."""
        return fmean((self.seed_variance or 0) / line.ours.n for line in self.lines.values())

    @property
    def sampling(self) -> float:
        """The part that is due to the finite number of test images."""
        lines = self.lines.values()
        return fmean(sampling_variance(line.ours.mean, line.test_images) for line in lines)

    @property
    def between(self) -> float | None:
        """Variance between draws beyond seeds and test images, at least 0; None for few draws."""
        if len(self.lines) < FEWEST:
            return None
        return max(0.0, self.std**2 - self.seeds - self.sampling)


@dataclass(frozen=True)
class Spread:
    """The sets of draws of a table."""

    sets: Sequence[DrawSet]

    @cached_property
    def measured(self) -> list[DrawSet]:
        return [one for one in self.sets if one.between is not None]

    def variance_of(self, row: str) -> float | None:
        """Variance between draws of a row: of its own sets, else of all; None if unmeasured."""
        own = [one for one in self.measured if one.row == row] or self.measured
        degrees = [len(one.lines) - 1 for one in own]
        if not own:
            return None
        return sum(d * one.between for d, one in zip(degrees, own, strict=True)) / sum(degrees)


def collect_draws(lines: Iterable[Line]) -> Spread:
    """The sets of draws of a table's lines; a set of one draw is left out."""
    groups: dict[tuple[str, str, bool], dict[int, Line]] = {}
    for line in lines:
        draw = read_draw(line.provenance)
        if draw is None or line.another or not line.ours or line.scale != "full":
            continue
        key = line.paper.row, drop_draw(line), draw.replacement
        groups.setdefault(key, {})[draw.seed] = line
    rows = list(dict.fromkeys(row for row, _, _ in groups))
    keys = sorted(groups, key=lambda key: (rows.index(key[0]), key))
    return Spread(
        [
            DrawSet(*key, dict(sorted(groups[key].items())), _estimate_seed_variance(key, groups))
            for key in keys
            if len(groups[key]) > 1
        ]
    )


def drop_draw(line: Line) -> str:
    words = split_overrides(line.overrides)
    return join_overrides([w for w in words if w.lstrip("+").partition("=")[0] not in DRAW])


def _estimate_seed_variance(key: tuple[str, str, bool], groups: dict) -> float | None:
    """Variance between seeds on one draw, pooled over draws with and without replacement."""
    row, settings, _ = key
    lines = [
        line
        for replacement in (False, True)
        for line in groups.get((row, settings, replacement), {}).values()
        if line.ours.n > 1
    ]
    if not lines:
        return None
    degrees = [line.ours.n - 1 for line in lines]
    squares = sum(d * line.ours.std**2 for d, line in zip(degrees, lines, strict=True))
    return squares / sum(degrees)


def add_draw_spread(lines: Sequence[Line]) -> list[Line]:
    """The lines, those on a draw of regenerated data with the spread between draws."""
    spread = collect_draws(lines)
    result = []
    for line in lines:
        found = spread.variance_of(line.paper.row)
        regenerated = read_draw(line.provenance) is not None
        known = found is not None and regenerated
        result.append(replace(line, draw_std=math.sqrt(found)) if known else line)
    return result


def is_other_draw(line: Line) -> bool:
    """Whether a line is one of regenerated data, and not on the usual draw."""
    return read_draw(line.provenance) not in (None, Draw())
