"""statistics.csv and differences.csv: the numbers of the tables with twelve digits."""

from __future__ import annotations

from collections.abc import Iterable

from ..files import as_csv
from .cells import escape_formula
from .table import Contrast, Line

STATISTICS = (
    "row", "overrides", "configuration", "data", "n", "mean", "std", "t_half_width", "min", "max",
    "sampling_half_width", "published", "difference", "tolerance", "verdict",
)  # fmt: skip
DIFFERENCES = (
    "first", "first_overrides", "second", "second_overrides", "n", "difference", "t_half_width",
    "welch_t", "degrees", "p", "p_holm", "marks",
)  # fmt: skip


def format_statistics_csv(lines: Iterable[Line]) -> str:
    """A row for each line with a finished run; errors in per cent."""
    rows = []
    for line in lines:
        if ours := line.ours:
            away = [line.difference, line.tolerance] if line.comparable else [None] * 2
            rows.append(
                [line.paper.row, escape_formula(line.overrides),
                 escape_formula(line.finished[0]["config_hash"] or ""),
                 escape_formula(line.provenance),
                 ours.n, ours.mean, ours.std, ours.half_width, ours.low, ours.high, line.sampling,
                 line.paper.error, *away, line.verdict]
            )  # fmt: skip
    return as_csv(STATISTICS, rows)


def format_differences_csv(pairs: Iterable[Contrast]) -> str:
    """A row for each pair of lines; differences in percentage points."""
    rows = []
    for pair in pairs:
        names = [
            text
            for line in (pair.first, pair.second)
            for text in (line.paper.row, escape_formula(line.overrides))
        ]
        paired, welch = pair.paired, pair.welch
        rows.append(
            [*names, *((paired.n, paired.mean, paired.half_width) if paired else [None] * 3),
             *((welch.t, welch.degrees, welch.p, pair.p_holm) if welch else [None] * 4),
             pair.marks.replace("\\", "")]
        )  # fmt: skip
    return as_csv(DIFFERENCES, rows)
