"""A user's runs beside the committed ones and the published table, run by run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..files import write_whole
from .cells import escape_markdown, format_code, one_line
from .details import have_equal_curves
from .markdown import NONE, format_terminal, grid, read_text
from .paper import Published
from .results import Outcome, Table, select_first, write_table
from .runs import Run, RunsFile, merge
from .sources import Found
from .table import Line

HEADER = ("run", "paper, %", "committed, %", "yours, %", "difference", "identical", "device")


@dataclass(frozen=True)
class Pair:
    """One run of the user's, and what it is compared with.

    Attributes:
        committed: the committed run of the same configuration, seed and data, on the same device
            where there is one.
        line: the committed runs of the same row and settings.
        identical: whether yours repeats the committed run bit for bit; None without such a run.
    """

    paper: Published
    yours: Run
    committed: Run | None = None
    line: Line | None = None
    identical: bool | None = None

    @property
    def error(self) -> float | None:
        """The committed error that yours is compared with, in per cent."""
        if self.committed:
            return self.committed["test_error"]
        return self.line.ours.mean if self.line else None

    @property
    def difference(self) -> float | None:
        """Yours minus committed, in percentage points."""
        known = self.error is not None and self.yours.finished
        return self.yours["test_error"] - self.error if known else None


@dataclass(frozen=True)
class Comparison(Outcome):
    """The outcome for a user's runs: the pairs, their table for a terminal, and its page.

    Attributes:
        trials: the number of runs with fewer epochs or images than their recipe has.
    """

    pairs: Sequence[Pair] = ()
    trials: int = 0
    text: str = ""
    page: Path = Path()


def compare_runs(table: Table, found: Sequence[Found]) -> Comparison:
    """Write the comparison and the table of a user's runs below outputs/."""
    own = [one.run for one in found]
    by_run = {id(one.run): one for one in found}
    pairs, problems = [], []
    for pair in pair_runs(table, own):
        pair, problem = judge_pair(table, pair, by_run[id(pair.yours)])
        pairs.append(pair)
        problems += problem
    lines = write_table(table, table.own, merge(RunsFile(), own))
    if table.scale != "full":  # nothing that is committed is comparable
        return Comparison(own, lines, problems, pairs, page=table.own / "table.md")
    cells = list(map(pair_cells, pairs))
    page, text = table.own / "comparison.md", ""
    head = f"# {table.name}: your runs beside the committed ones\n"
    write_whole(page, "\n".join([head, grid(HEADER, cells), read_text("comparison")]))
    if pairs:
        shown = format_terminal(HEADER[:-1], [row[:-1] for row in cells])
        text = f"{table.name}\n{shown}\n"
    trials = 0 if table.held_out else sum(bool(one.shortened) for one in found)
    return Comparison(own, lines, problems, pairs, trials, text, page)


def judge_pair(table: Table, pair: Pair, found: Found) -> tuple[Pair, list[str]]:
    """The pair with the answer to whether yours is identical, and what could not be compared."""
    if pair.committed is None or not pair.yours.finished:
        return pair, []
    same, problems = has_same_errors(pair.yours, pair.committed), []
    run_id = pair.committed["run_id"]
    path = table.folder / "details" / f"{run_id}.json"
    if same and select_first(table.committed.runs)[run_id] is pair.committed and path.exists():
        try:
            known = json.loads(path.read_text("utf-8"))
            same = have_equal_curves(found.details()[0], known) is not False
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problems.append(f"{path}: not compared: {one_line(str(error))}")
    return replace(pair, identical=same), problems


def pair_runs(table: Table, yours: Iterable[Run]) -> list[Pair]:
    """Each of the user's runs in the order of the table, with the committed run and line."""
    rows = {row.row: row for row in table.paper}
    order, lines = list(rows), table.lines(table.committed.runs)
    known: dict[str, list[Run]] = {}
    for run in table.committed.runs:
        if run.finished:
            known.setdefault(run["run_id"], []).append(run)
    pairs = []
    for run in sorted(yours, key=lambda run: (order.index(run["experiment"]), run.order)):
        same = sorted(known.get(run["run_id"], ()), key=lambda other: _distance(run, other))
        line = next((line for line in lines if line.ours and _is_of(run, line)), None)
        pairs.append(Pair(rows[run["experiment"]], run, next(iter(same), None), line))
    return pairs


def _distance(run: Run, other: Run) -> tuple[bool, bool]:
    return run["device"] != other["device"], run["commit"] != other["commit"]


def _is_of(run: Run, line: Line) -> bool:
    mine = run["experiment"], run["overrides"] or "", run["data.provenance"]
    return mine == (line.paper.row, line.overrides, line.provenance)


def has_same_errors(run: Run, other: Run) -> bool:
    names = ("test_error", "test_error_best")
    return run.finished and all(run[name] == other[name] for name in names)


def format_error(pair: Pair) -> str:
    if not pair.yours.finished:
        return f"{pair.yours['status']} after epoch {pair.yours['epochs'] or 0}"
    return f"{pair.yours['test_error']:.3f}"


def format_committed(pair: Pair) -> str:
    if pair.committed:
        return f"{pair.error:.3f}"
    return f"{pair.error:.3f} (mean, n = {pair.line.ours.n})" if pair.line else NONE


def format_identical(pair: Pair) -> str:
    return NONE if pair.identical is None else "yes" if pair.identical else "no"


def format_run(pair: Pair) -> str:
    overrides = pair.yours["overrides"]
    settings = f" {format_code(overrides)}" if overrides else ""
    return f"`{pair.paper.row}` seed {pair.yours['seed']}{settings}"


def pair_cells(pair: Pair) -> list[str]:
    """One line of the comparison."""
    return [
        format_run(pair),
        NONE if pair.yours["overrides"] else pair.paper.error or NONE,
        format_committed(pair),
        format_error(pair),
        NONE if pair.difference is None else f"{pair.difference:+.3f}",
        format_identical(pair),
        escape_markdown(pair.yours["device"] or NONE),
    ]


def describe_pairs(pairs: Sequence[Pair]) -> str:
    """One sentence for a person who wants to know whether it worked."""
    finished = [pair for pair in pairs if pair.yours.finished]
    if not finished:
        return f"No run has finished yet ({len(pairs)} begun)."
    if len(finished) == 1:
        (pair,) = finished
        known = pair.error is not None
        parts = [f"{pair.yours['test_error']:.2f} % test error"]
        parts += [f"committed {pair.error:.2f} %"] if known else []
        published = "" if pair.yours["overrides"] else pair.paper.error
        parts += [f"paper {published} %"] if published else []
        if pair.identical is not None:
            parts.append(f"{'' if pair.identical else 'not '}identical bit for bit")
        return f"It works: {format_run(pair).replace('`', '')}: {', '.join(parts)}."
    same = sum(pair.identical is True for pair in finished)
    away = [abs(pair.difference) for pair in finished if pair.difference is not None]
    text = f"It works: {len(finished)} of {len(pairs)} runs finished"
    if not away:
        return f"{text}; no committed run is comparable."
    return (
        f"{text}, {same} identical bit for bit with the committed one; "
        f"largest difference {max(away):.2f} points."
    )


def describe_smoke(runs: Sequence[Run]) -> str:
    """One sentence about shortened runs."""
    finished = [run for run in runs if run.finished]
    if not finished:
        return "No smoke run has finished."
    epochs = max(run["epochs"] for run in finished)
    errors = ", ".join(f"{run['test_error']:.0f} % ({run['experiment']})" for run in finished)
    after = f"after {epochs} epoch{'s' * (epochs > 1)} on a few images"
    return f"It works: test error {errors} {after}, as expected."
