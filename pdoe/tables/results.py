"""A results folder: committed runs are read, runs are merged into it, its files are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files import write_whole
from .cross_validation import collect_candidates, format_candidates_csv
from .csv_files import format_differences_csv, format_statistics_csv
from .details import complete_details, format_details
from .draws import add_draw_spread
from .pages import PAGES, render_pages, render_validation
from .paper import Published
from .runs import Run, RunsFile, format_runs_csv, merge
from .sources import Found
from .table import Line, list_contrasts, table_lines


@dataclass(frozen=True)
class Table:
    """A published table with its committed runs.

    Attributes:
        folder: the committed results; ``committed`` is its runs.csv.
        own: where the comparison of a user's runs is written.
        held_out: its runs were tested on held-out training images.
    """

    name: str
    paper: list[Published]
    folder: Path
    own: Path
    committed: RunsFile
    scale: str = "full"
    held_out: bool = False

    @property
    def rows(self) -> list[str]:
        return [row.row for row in self.paper]

    def lines(self, runs: Sequence[Run]) -> list[Line]:
        return add_draw_spread(table_lines(self.paper, runs, self.scale))


@dataclass(frozen=True)
class Outcome:
    """The runs of a written table, the lines made of them, and problems, a line each."""

    runs: Sequence[Run]
    lines: list[Line]
    problems: list[str] = field(default_factory=list)


def publish(table: Table, found: Sequence[Found]) -> Outcome:
    """Merge runs into the results folder and write its pages.

    Trials with fewer epochs or images than their recipe has are left out. On held-out images every
    run is a trial, and is published.
    """
    trials = [] if table.held_out else [one for one in found if one.shortened]
    kept = [one for one in found if one not in trials]
    problems = [f"{one.where}: not published: a trial with {one.shortened}" for one in trials]
    merged = merge(table.committed, [one.run for one in kept])
    problems += merged.problems[len(table.committed.problems) :]
    if foreign := {run["experiment"] for run in merged.runs} - set(table.rows):
        problems.append(f"kept, but no row of {table.name}: {', '.join(sorted(foreign))}")
    lines = write_table(table, table.folder, merged)
    problems += keep_details(table.folder / "details", merged.runs, kept)
    return Outcome(merged.runs, lines, problems)


def write_table(table: Table, folder: Path, runs: RunsFile) -> list[Line]:
    """Write runs.csv, the pages and the figures; a page without content goes."""
    lines = table.lines(runs.runs)
    if table.held_out:
        text = render_validation(table.name, lines)
        if candidates := collect_candidates(lines):
            text["cross_validation.csv"] = format_candidates_csv(candidates)
    else:
        text = render_pages(table.name, lines, table.scale)
    write_whole(folder / "runs.csv", format_runs_csv(runs))
    for name, content in text.items():
        write_whole(folder / name, content)
    for name in set(PAGES) - set(text):
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / "statistics.csv", format_statistics_csv(lines))
    write_whole(folder / "differences.csv", format_differences_csv(list_contrasts(lines)))
    return lines


def select_first(runs: Sequence[Run]) -> dict[str, Run]:
    """By ``run_id`` the run that counts: its repetitions elsewhere have a line, no details."""
    first: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.priority):
        if run.finished:
            first.setdefault(run["run_id"], run)
    return first


def keep_details(folder: Path, runs: Sequence[Run], found: Sequence[Found]) -> list[str]:
    """Write the details of finished runs, and return a line for each damaged part.

    A part that is in the file and was not found again stays.
    """
    first, problems = select_first(runs), []
    for one in found:
        run_id = one.run["run_id"]
        if first.get(run_id) is not one.run:
            continue
        path = folder / f"{run_id}.json"
        parts, damaged = one.details()
        problems += damaged
        try:
            before = path.read_text("utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: written anew: {error}")
            before = ""
        parts = complete_details(parts, before)
        if any(parts.values()):
            text = format_details(run_id, parts)
            if text != before:
                write_whole(path, text, durable=False)  # it can be written again; there may be many
    return problems
