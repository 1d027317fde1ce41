"""The lines of a table: runs of a published row, averaged over seeds, with a verdict.

Errors and everything derived from them are in per cent. How a table looks: :mod:`.markdown`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..data.draws import is_regenerated
from ..data.facts import SETS
from ..run.overrides import index_overrides
from .paper import Published
from .runs import TEST_IMAGES, Run
from .statistics import NORMAL, Summary, Welch, holm, sampling_variance

DRAW = {"data.draw", "data.replacement"}  # overrides that choose a draw of regenerated data
EMBEDDED_TEST_IMAGES = SETS["mnist_rot"].other_images["embedded"][1]
# The end of a provenance whose test images are held-out training images.
HELD_OUT = re.compile(r", (\d+) held out$")
NETWORK = re.compile(r"\+*(group|model)\b")  # overrides that choose the network
COMMON = ("mnistrot_common", "cifar_common")  # recipes that are the same for all rows of a table
ONE_RECIPE = ("mnistrot_common", "cifar_short")  # those whose errors stand beside the rows' own
FEW_SEEDS = 3  # below this many the seed interval is missing, or too wide to decide anything


@dataclass(frozen=True)
class Line:
    """The runs of one published row that differ in nothing but their seeds.

    Attributes:
        another: empty for the newest configuration of these overrides and this provenance; the
            configuration's hash for an older one, or one at another precision.
        common: of a row's first line, its finished runs with the recipe of ``ONE_RECIPE``.
        draw_std: standard deviation of the error between draws of regenerated data, beyond that
            of seeds and test images; 0 where it was not measured.
    """

    paper: Published
    overrides: str
    provenance: str
    runs: tuple[Run, ...]
    scale: str = "full"
    another: str = ""
    common: Line | None = None
    draw_std: float = 0.0

    @cached_property
    def finished(self) -> list[Run]:
        """The runs that count: of each seed the first finished one, without uncommitted changes
        where there is one; its repetitions on other machines are listed and not averaged."""
        counted: dict[int, Run] = {}
        for run in sorted(self.runs, key=lambda run: run.priority):
            if run.finished:
                counted.setdefault(run["seed"], run)
        return sorted(counted.values(), key=lambda run: run.order)

    @property
    def settings(self) -> dict[str, str]:
        """Its overrides, name to value."""
        return index_overrides(self.overrides)

    @cached_property
    def ours(self) -> Summary | None:
        errors = [run["test_error"] for run in self.finished]
        return Summary.of(errors) if errors else None

    @property
    def others(self) -> dict[str, str]:
        """Its settings without those of the network; the common recipe has one name."""
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
        asked = {run.cells.get(TEST_IMAGES, "") for run in self.finished}
        asked.add(self.settings.get(TEST_IMAGES, ""))  # records without a manifest lack the column
        return min([whole, *(int(n) for n in asked if n.isdecimal() and int(n))])

    @property
    def comparable(self) -> bool:
        usual = self.scale == "full" and self.settings.keys() <= DRAW and bool(self.paper.error)
        return usual and has_published_counts(self.provenance)

    @property
    def difference(self) -> float:
        """Our mean minus the published error."""
        return self.ours.mean - float(self.paper.error)

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
        draws = 2 * self.draw_std**2  # the published figure has a draw of its own
        return math.hypot(self.ours.half_width or 0, NORMAL * math.sqrt(both + draws))

    @cached_property
    def judgement(self) -> tuple[str, list[str]]:
        """One of the words of the rule, and what limits it."""
        if not self.ours:
            statuses = Counter(run["status"] for run in self.runs)
            word = "own recipe not run" if self.common else "not run"
            return word, [f"{n} {status}" for status, n in sorted(statuses.items())]
        if not self.comparable:
            scale = "smoke scale" * (self.scale != "full")
            data = f"{self.provenance} data" * (not has_published_counts(self.provenance))
            figure = "" if self.paper.error else "no published figure"
            limits = [scale, "overrides" * bool(self.overrides), data, figure]
            return "not comparable", list(filter(None, limits))
        agrees = abs(self.difference) <= self.tolerance
        word = "reproduced" if agrees else "worse" if self.difference > 0 else "better"
        data = self.provenance.replace("regenerated", "regenerated data")
        data = data * is_regenerated(self.provenance)
        selected = "selected on the test set" * ("test_best" in self.selected)
        few = f"provisional: n = {self.ours.n}" if self.ours.n < FEW_SEEDS else ""
        return word, list(filter(None, [data, selected, few]))

    @property
    def verdict(self) -> str:
        """The judgement as text, its limits in brackets."""
        word, limits = self.judgement
        return f"{word} ({'; '.join(limits)})" if limits else word

    @property
    def machines(self) -> set[str]:
        """The devices of its finished runs, with the number of ranks."""
        ranks = (run.cells.get("ranks") for run in self.finished)
        return {f"{r['device']}, {n or 1}" for r, n in zip(self.finished, ranks, strict=True)}

    @property
    def selected(self) -> set[str]:
        """How its errors came about, other than in the last epoch on images as they are."""
        names = ("select", "tta_angles")
        return {run.cells.get(name, "") for run in self.finished for name in names} - {""}

    @property
    def marks(self) -> str:
        dirty = "\\*" if any(run["dirty"] for run in self.finished) else ""
        return dirty + "†" * (len(self.machines) > 1) + "‡" * bool(self.selected)


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
        for (_, overrides, provenance, config, _), members in sorted(mine, key=_newest_first):
            another = any((o.overrides, o.provenance) == (overrides, provenance) for o in own)
            name = config or "unknown" if another else ""
            own.append(Line(row, overrides, provenance or "unknown", tuple(members), scale, name))
        own.sort(key=lambda line: (line.overrides, _nearness(line.provenance), line.provenance))
        if row.beside and not own:
            continue
        if not own or own[0].overrides:
            own.insert(0, Line(row, "", "", (), scale))
        own[0] = replace(own[0], common=next(filter(_has_one_recipe, own), None))
        lines += own
    return lines


def _has_one_recipe(line: Line) -> bool:
    alone = line.settings.keys() == {"recipe"} and line.settings["recipe"] in ONE_RECIPE
    usual = has_published_counts(line.provenance) and not line.another
    return alone and usual and line.ours is not None


def _newest_first(group: tuple[tuple[str, ...], list[Run]]) -> tuple:
    """Order of the configurations of a row: finished ones first, the newest before the others."""
    key, members = group
    newest = max(run["started"] or "" for run in members)
    # Times are ISO texts of one form: the later one has the larger characters.
    return not any(run.finished for run in members), [-ord(c) for c in newest], key


def has_published_counts(provenance: str) -> bool:
    """Whether data of this provenance have the published numbers of images."""
    return provenance == "original" or is_regenerated(provenance)


def _nearness(provenance: str) -> int:
    """Place of a provenance in the order from the published data to anything else."""
    order = ("original", "regenerated", "embedded")
    return order.index(provenance) if provenance in order else len(order)


def is_held_out(run: Run) -> bool:
    """Whether a run was tested on held-out training images."""
    return HELD_OUT.search(run["data.provenance"] or "") is not None


# ---- Differences of lines -----------------------------------------------------------------------


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
        """Marks of dirty trees, and of more than one kind of machine or precision."""
        both = [self.first, self.second]
        dirty = "\\*" if any(run["dirty"] for line in both for run in line.finished) else ""
        machines = set().union(*(line.machines for line in both))
        precisions = {run["precision"] for line in both for run in line.finished}
        unlike = self.first.selected != self.second.selected
        return dirty + "†" * (max(len(machines), len(precisions)) > 1) + "‡" * unlike


def list_contrasts(lines: Sequence[Line]) -> list[Contrast]:
    """All pairs of lines that differ in row, group or model alone.

    The pairs are on the same data, with the same other overrides, at full scale, with two seeds or
    more; a configuration that a row no longer has is left out.
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
