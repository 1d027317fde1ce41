"""Runs beside a published table: statistics over seeds and a verdict for every line.

Errors and everything derived from them are in per cent. How a table looks: :mod:`markdown`.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..files import as_csv
from ..run.overrides import settings_of
from .runs import TEST_IMAGES, Run, TableError
from .statistics import NORMAL, Summary, Welch, holm, sampling_variance

PUBLISHED_DATA = ("original", "regenerated")  # provenances with the published numbers of images
EMBEDDED_TEST_IMAGES = 10_000
# The end of a provenance whose test images are training images that were held out.
HELD_OUT = re.compile(r", (\d+) held out$")
NETWORK = re.compile(r"\+*(group|model)\b")  # those that choose the network
COMMON = ("mnistrot_common", "cifar_common")  # recipes that are the same for all rows of a table
FEW_SEEDS = 3  # below this many the seed interval is missing, or too wide to decide anything
PAPER_COLUMNS = ("row", "method", "group", "error", "parameters", "test_images")


# ---- Lines of a table ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """One line of paper.csv; ``error`` keeps the digits that were printed.

    ``flags`` says in a few words how the published figure came about, and ``recipe`` whether the
    row's own recipe is that of its "source" or the "common" one, which is the same for all rows.
    ``beside``: not a row of the paper's table but one of ours, whose ``error`` may be empty.
    """

    row: str
    method: str
    group: str
    error: str
    parameters: int | None
    test_images: int
    flags: str = ""
    recipe: str = "source"
    beside: bool = False


def read_rows(folder: Path) -> list[Published]:
    """The rows of ``paper.csv`` and, after them, those of ``beside.csv``, if there is one."""
    beside = folder / "beside.csv"
    own = read_paper(beside, beside=True) if beside.exists() else []
    return read_paper(folder / "paper.csv") + own


def read_paper(path: Path, beside: bool = False) -> list[Published]:
    """The published table in its order; TableError names a line that cannot be used."""
    lines = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    rows: dict[str, Published] = {}
    for number, line in enumerate(lines, start=2):
        row, method, group, error, parameters, images = (line.get(c) or "" for c in PAPER_COLUMNS)
        try:
            figure = 0 if beside and not error else float(error)
            if not row or row in rows or not 0 <= figure <= 100 or int(images) < 1:
                raise ValueError("row, error or test_images")
            count = int(parameters) if parameters else None
        except ValueError as problem:
            raise TableError(f"{path}:{number}: wrong or repeated: {problem}") from None
        flags, recipe = line.get("flags") or "", line.get("recipe") or "source"
        numbers = error, count, int(images)
        rows[row] = Published(row, method, group, *numbers, flags, recipe, beside)
    return list(rows.values())


@dataclass(frozen=True)
class Line:
    """The runs of one published row that differ in nothing but their seeds.

    ``another`` is empty for the newest configuration of that row, overrides and provenance, and
    names the others: a row's recipe may change, and its runs at another precision are others too.
    """

    paper: Published
    overrides: str
    provenance: str
    runs: tuple[Run, ...]
    scale: str = "full"
    another: str = ""
    common: Line | None = None  # of a row's first line: its runs with the recipe of all rows

    @cached_property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def settings(self) -> dict[str, str]:
        """In what it differs from its row, by name."""
        return settings_of(self.overrides)

    @cached_property
    def ours(self) -> Summary | None:
        errors = [run["test_error"] for run in self.finished]
        return Summary.of(errors) if errors else None

    @property
    def others(self) -> dict[str, str]:
        """Its settings but for the network, with one name for the recipe that all rows share."""
        kept = {name: v for name, v in self.settings.items() if not NETWORK.match(name)}
        if kept.get("recipe", self.paper.recipe) in ("common", *COMMON):
            kept["recipe"] = "common"
        return kept

    @property
    def test_images(self) -> int:
        whole = self.paper.test_images
        if held_out := HELD_OUT.search(self.provenance):
            whole = int(held_out[1])
        elif self.provenance == "embedded":
            whole = EMBEDDED_TEST_IMAGES
        told = {run.cells.get(TEST_IMAGES, "") for run in self.finished}
        told.add(self.settings.get(TEST_IMAGES, ""))  # records without a manifest do not tell
        return min([whole, *(int(asked) for asked in told if asked.isdecimal() and int(asked))])

    @property
    def comparable(self) -> bool:
        usual = self.scale == "full" and not self.overrides and bool(self.paper.error)
        return usual and self.provenance in PUBLISHED_DATA

    @property
    def sampling(self) -> float:
        """95 % half width of our mean as a measurement on a finite test set."""
        return NORMAL * math.sqrt(sampling_variance(self.ours.mean, self.test_images))

    @property
    def tolerance(self) -> float:
        """h of the rule: how far our mean may be from the published error and still agree."""
        both = sum(
            sampling_variance(error, self.test_images)
            for error in (self.ours.mean, float(self.paper.error))
        )
        return math.hypot(self.ours.half_width or 0, NORMAL * math.sqrt(both))

    @property
    def verdict(self) -> str:
        """One of the five words of the rule, with what limits it in brackets."""
        if not self.ours:
            others = Counter(run["status"] for run in self.runs)
            return noted("not run", [f"{n} {status}" for status, n in sorted(others.items())])
        if not self.comparable:
            data = f"{self.provenance} data" if self.provenance not in PUBLISHED_DATA else ""
            scale = "smoke scale" if self.scale != "full" else ""
            none = "" if self.paper.error else "no published figure"
            overrides = "overrides" if self.overrides else ""
            return noted("not comparable", [scale, overrides, data, none])
        away = self.ours.mean - float(self.paper.error)
        word = "reproduced" if abs(away) <= self.tolerance else "worse" if away > 0 else "better"
        data = "regenerated data" if self.provenance == "regenerated" else ""
        few = f"provisional: n = {self.ours.n}" if self.ours.n < FEW_SEEDS else ""
        cheating = "selected on the test set" if "test_best" in self.selected else ""
        return noted(word, [data, cheating, few])

    @property
    def machines(self) -> set[str]:
        """What its finished runs were made on."""
        ranks = (run.cells.get("ranks") for run in self.finished)
        return {f"{r['device']}, {n or 1}" for r, n in zip(self.finished, ranks, strict=True)}

    @property
    def selected(self) -> set[str]:
        """What its errors are, where they are not those of the last epoch on images as they are."""
        names = ("select", "tta_angles")
        return {run.cells.get(name, "") for run in self.finished for name in names} - {""}

    @property
    def marks(self) -> str:
        dirty = "\\*" if any(run["dirty"] for run in self.finished) else ""
        return dirty + "†" * (len(self.machines) > 1) + "‡" * bool(self.selected)


@dataclass(frozen=True)
class Contrast:
    """The difference of two lines on the same images.

    Attributes:
        paired: of the errors with the same seeds; None with fewer than two.
        welch: of all their seeds; ``p_holm`` is its p, corrected for all contrasts of the table.
    """

    first: Line
    second: Line
    paired: Summary | None
    welch: Welch | None
    p_holm: float | None = None

    @property
    def marks(self) -> str:
        """Of dirty trees, and of more than one kind of machine or precision on the two sides."""
        both = [self.first, self.second]
        dirty = "\\*" if any(run["dirty"] for line in both for run in line.finished) else ""
        machines = set().union(*(line.machines for line in both))
        precisions = {run["precision"] for line in both for run in line.finished}
        unlike = self.first.selected != self.second.selected
        return dirty + "†" * (max(len(machines), len(precisions)) > 1) + "‡" * unlike


def contrasts(lines: Sequence[Line]) -> list[Contrast]:
    """All pairs of lines that were made alike: what differs is row, group or model.

    On the same data, with the same other overrides, at full scale, with two seeds or more; a
    configuration that a row no longer has is left out.
    """
    alike: dict[tuple, list[Line]] = {}
    for line in lines:
        if line.scale == "full" and not line.another and line.ours and line.ours.n > 1:
            if data := line.finished[0]["data.sha256"]:
                alike.setdefault((data, *sorted(line.others.items())), []).append(line)
    pairs = []
    for first, second in itertools.chain(*(itertools.combinations(x, 2) for x in alike.values())):
        ours, theirs = ({r["seed"]: r["test_error"] for r in x.finished} for x in (first, second))
        differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        paired = Summary.of(differences) if len(differences) > 1 else None
        pairs.append(Contrast(first, second, paired, Welch.of(first.ours, second.ours)))
    tested = [pair for pair in pairs if pair.welch]
    corrected = iter(holm([pair.welch.p for pair in tested]))
    return [replace(pair, p_holm=next(corrected)) if pair.welch else pair for pair in pairs]


def noted(word: str, notes: Iterable[str]) -> str:
    text = "; ".join(filter(None, notes))
    return f"{word} ({text})" if text else word


def table_lines(paper: Sequence[Published], runs: Iterable[Run], scale: str) -> list[Line]:
    """Every published row, run or not, each followed by its runs with overrides; others if run.

    Only seeds are averaged: runs of another configuration or of other data are lines of their own,
    the newest configuration that has a finished run before the others.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.order):
        names = ("experiment", "overrides", "data.provenance", "config_hash", "data.sha256")
        groups.setdefault(tuple(run[name] or "" for name in names), []).append(run)
    lines = []
    for row in paper:
        own: list[Line] = []
        mine = [(key, members) for key, members in groups.items() if key[0] == row.row]
        for (_, overrides, provenance, config, _), members in sorted(mine, key=newest_first):
            another = any((o.overrides, o.provenance) == (overrides, provenance) for o in own)
            name = config or "unknown" if another else ""
            own.append(Line(row, overrides, provenance or "unknown", tuple(members), scale, name))
        own.sort(key=lambda line: (line.overrides, nearness(line.provenance), line.provenance))
        if row.beside and not own:
            continue
        if not own or own[0].overrides:
            own.insert(0, Line(row, "", "", (), scale))
        alike = [
            line
            for line in own
            if line.others == {"recipe": "common"}
            and set(line.settings) <= {"recipe"}
            and line.provenance in PUBLISHED_DATA
            and not line.another
        ]
        # Two names of the recipe make two lines: the one with more seeds is shown.
        common = max(alike, key=lambda line: len(line.finished), default=None)
        own[0] = replace(own[0], common=common)
        lines += own
    return lines


STATISTICS = (
    "row", "overrides", "configuration", "data", "n", "mean", "std", "t_half_width", "min", "max",
    "sampling_half_width", "published", "difference", "tolerance", "verdict",
)  # fmt: skip
DIFFERENCES = (
    "first", "first_overrides", "second", "second_overrides", "n", "difference", "t_half_width",
    "welch_t", "degrees", "p", "p_holm", "marks",
)  # fmt: skip


def statistics_csv(lines: Iterable[Line]) -> str:
    """What the main table says in figures, with twelve digits; errors in per cent."""
    rows = []
    for line in lines:
        if ours := line.ours:
            away = (
                [ours.mean - float(line.paper.error), line.tolerance]
                if line.comparable
                else [None] * 2
            )
            rows.append(
                [line.paper.row, line.overrides, line.finished[0]["config_hash"], line.provenance,
                 ours.n, ours.mean, ours.std, ours.half_width, ours.low, ours.high, line.sampling,
                 line.paper.error, *away, line.verdict]
            )  # fmt: skip
    return as_csv(STATISTICS, rows)


def differences_csv(pairs: Iterable[Contrast]) -> str:
    """The differences of rows in figures."""
    rows = []
    for pair in pairs:
        names = [text for x in (pair.first, pair.second) for text in (x.paper.row, x.overrides)]
        paired, welch = pair.paired, pair.welch
        rows.append(
            [*names, *((paired.n, paired.mean, paired.half_width) if paired else [None] * 3),
             *((welch.t, welch.degrees, welch.p, pair.p_holm) if welch else [None] * 4),
             pair.marks.replace("\\", "")]
        )  # fmt: skip
    return as_csv(DIFFERENCES, rows)


def on_held_out(run: Run) -> bool:
    """Whether a run was tested on training images that it was not trained on."""
    return HELD_OUT.search(run["data.provenance"] or "") is not None


def newest_first(group: tuple[tuple[str, ...], list[Run]]) -> tuple:
    """Order of the configurations of a row: those that were carried out, the newest first."""
    key, members = group
    newest = max(run["started"] or "" for run in members)
    # Times are ISO texts of one form: the later one has the larger characters.
    return not any(run.finished for run in members), [-ord(c) for c in newest], key


def nearness(provenance: str) -> int:
    """Place of a provenance in the order from the published data to anything else."""
    order = (*PUBLISHED_DATA, "embedded")
    return order.index(provenance) if provenance in order else len(order)
