"""Candidates compared by cross-validation: each fold of the training images is held out once.

A candidate is all runs of a row that differ in nothing but seed and fold (``data.fold``). It is
compared with the candidate that it extends, fold by fold. Errors are in per cent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

from ..data.facts import SETS
from ..files import as_csv
from ..run.overrides import join_overrides, split_overrides
from .cells import escape_formula, escape_markdown, format_code
from .columns import collect_cells
from .markdown import NONE, grid, read_text
from .runs import Run
from .table import Line

FOLD = re.compile(r"(?P<data>.*), fold (?P<fold>\d+), (?P<size>[1-9]\d*) held out")
WHERE = ("data.fold=", "data.validation=")  # overrides that say which images are held out
HEADER = (
    "no.", "experiment", "parameters", "error, %", "folds", "seeds", "compared with",
    "difference ± standard error", "seconds per run", "settings",
)  # fmt: skip
COLUMNS = (
    "number", "row", "settings", "data", "parameters", "folds", "seeds", "error", "compared_with",
    "common_folds", "difference", "standard_error", "seconds", "device", "precision", "commits",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """Runs of one row that differ in seed and fold alone.

    Attributes:
        row: its experiment.
        words: its overrides but for those that hold out images.
        data: the provenance of the images.
        size: images of a fold.
        runs: fold -> the finished runs that count, one for each seed.
    """

    row: str
    words: tuple[str, ...]
    data: str
    size: int
    runs: dict[int, list[Run]]

    @property
    def settings(self) -> str:
        return join_overrides(self.words)

    @property
    def every_run(self) -> list[Run]:
        return [run for fold in self.runs.values() for run in fold]

    @cached_property
    def error(self) -> float:
        """The mean over folds of the mean over seeds."""
        return fmean(fmean(run["test_error"] for run in runs) for runs in self.runs.values())

    @property
    def of(self) -> str:
        """How many folds the training images have."""
        facts = SETS.get(self.every_run[0]["data.name"] or "")
        return str(facts.images[0] // self.size) if facts else "?"

    def extends(self, other: Candidate) -> bool:
        """Whether it has all settings of the other and more, on the same data and some folds."""
        same = (self.row, self.data, self.size) == (other.row, other.data, other.size)
        common = self.runs.keys() & other.runs.keys()
        return same and set(other.words) < set(self.words) and bool(common)

    def subtract(self, base: Candidate) -> Difference:
        """Its error minus that of another candidate, on the folds and seeds that both have."""
        found = []
        for fold in sorted(self.runs.keys() & base.runs.keys()):
            ours, theirs = (
                {run["seed"]: run["test_error"] for run in one.runs[fold]} for one in (self, base)
            )
            if common := ours.keys() & theirs.keys():
                found.append(fmean(ours[seed] - theirs[seed] for seed in common))
        return Difference(found)


@dataclass(frozen=True)
class Difference:
    """Paired differences of two candidates, one for each fold, in percentage points."""

    by_fold: Sequence[float]

    @property
    def mean(self) -> float | None:
        return fmean(self.by_fold) if self.by_fold else None

    @property
    def standard_error(self) -> float | None:
        """Of the mean, from the spread over folds; None for fewer than two."""
        count = len(self.by_fold)
        return stdev(self.by_fold) / math.sqrt(count) if count > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            return NONE
        if self.standard_error is None:
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} ± {self.standard_error:.3f}"


def find_fold(line: Line) -> re.Match[str] | None:
    """The data, the number and the size of the fold that a line's runs were tested on."""
    return FOLD.fullmatch(line.provenance)


def collect_candidates(lines: Iterable[Line]) -> list[Candidate]:
    """The candidates with a finished run, row by row, those of least error first."""
    order: list[str] = []
    groups: dict[tuple, dict[int, list[Run]]] = {}
    for line in lines:
        found = find_fold(line)
        if found is None or line.another or not line.finished:
            continue
        order += [line.paper.row]
        words = [w for w in split_overrides(line.overrides) if not w.lstrip("+").startswith(WHERE)]
        key = line.paper.row, tuple(words), found["data"], int(found["size"])
        groups.setdefault(key, {})[int(found["fold"])] = line.finished
    candidates = [Candidate(*key, runs) for key, runs in groups.items()]
    return sorted(candidates, key=lambda one: (order.index(one.row), one.error, one.settings))


def find_base(candidate: Candidate, others: Iterable[Candidate]) -> Candidate | None:
    """The candidate that it extends: of these the one with most settings, then of least error."""
    extended = [other for other in others if candidate.extends(other)]
    return max(extended, key=lambda one: (len(one.words), -one.error), default=None)


def render_candidates(candidates: Sequence[Candidate]) -> str:
    """The page: a line for each candidate."""
    rows = []
    for number, one in enumerate(candidates, start=1):
        base = find_base(one, candidates)
        rows.append(
            [str(number), f"`{one.row}`", _parameters(one), f"{one.error:.3f}",
             f"{len(one.runs)} of {one.of}", _seeds(one),
             NONE if base is None else str(candidates.index(base) + 1),
             NONE if base is None else str(one.subtract(base)),
             f"{fmean(run['seconds'] for run in one.every_run):,.0f}",
             format_code(one.settings) if one.settings else NONE]
        )  # fmt: skip
    data = ", ".join(sorted({f"{one.data}, folds of {one.size:,}" for one in candidates}))
    devices = collect_cells([run for one in candidates for run in one.every_run], "device")
    notes = f"Data: {escape_markdown(data)} images. Devices: {devices}.\n"
    return "\n".join([grid(HEADER, rows, ragged=True), notes, read_text("cross_validation")])


def format_candidates_csv(candidates: Sequence[Candidate]) -> str:
    """The numbers of the page with all digits."""
    rows = []
    for number, one in enumerate(candidates, start=1):
        base = find_base(one, candidates)
        away = Difference([]) if base is None else one.subtract(base)
        runs = one.every_run
        commits = {(run["commit"] or "")[:7] + "*" * bool(run["dirty"]) for run in runs}
        rows.append(
            [number, one.row, escape_formula(one.settings),
             escape_formula(f"{one.data}, folds of {one.size}"), _parameters(one).replace(",", ""),
             len(one.runs), _seeds(one), one.error,
             None if base is None else candidates.index(base) + 1, len(away.by_fold),
             away.mean, away.standard_error, fmean(run["seconds"] for run in runs),
             *("+".join(sorted({run[name] or "" for run in runs}))
               for name in ("device", "precision")),
             escape_formula("+".join(sorted(commits)))]
        )  # fmt: skip
    return as_csv(COLUMNS, rows)


def _parameters(one: Candidate) -> str:
    counts = {run["parameters"] for run in one.every_run} - {None}
    return " ".join(f"{count:,}" for count in sorted(counts)) or NONE


def _seeds(one: Candidate) -> str:
    return " ".join(map(str, sorted({run["seed"] for run in one.every_run})))
