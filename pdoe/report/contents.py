"""What the sections of the report share: the tables with their runs, numbered figures, words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..tables import runs
from ..tables import table as tables
from ..tables.paper import read_rows
from ..tables.runs import Run
from ..tables.table import Line
from .figures import Draw, render
from .inputs import Details, read_details, read_lines
from .page import Html, figure, inline, joined, prose

NONE = "–"
TITLES = {"mnist_rot": "MNIST-rot", "cifar": "CIFAR"}
SMALL, MEDIUM = (320, 250), (410, 330)  # pixels of a panel: three or two beside each other


@dataclass(frozen=True)
class Table:
    """One published table, what ran of it, and the details of the runs by their names."""

    name: str
    lines: list[Line]
    runs: list[Run]
    details: dict[str, Details]
    problems: list[str]

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name)

    @property
    def command(self) -> str:
        return f"`make reproduce-{self.name.replace('_', '')}`, then `make compare`"

    @property
    def rows(self) -> list[Line]:
        """The line by which each published row is judged: its first one."""
        return list({line.paper.row: line for line in reversed(self.lines)}.values())[::-1]

    def seeds(self, line: Line) -> list[Details]:
        return [self.details[r["run_id"]] for r in line.finished if r["run_id"] in self.details]


@dataclass
class Report:
    """The sections in their order, the figures as files, and what was damaged, a line each."""

    results: Path
    tables: list[Table]
    sections: list[tuple[str, str, Html]] = field(default_factory=list)
    files: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    numbered: int = 0

    def __post_init__(self):
        self.problems += [problem for one in self.tables for problem in one.problems]

    def section(self, anchor: str, heading: str, *content: Html) -> None:
        self.sections.append((anchor, heading, joined(content, "\n")))

    def figure(
        self, place: str, title: str, panels: Sequence[tuple[Draw, str]], caption: str,
        size: tuple[int, int] = SMALL,
    ) -> Html:  # fmt: skip
        """A numbered figure of (drawing, what it shows); ``place`` is <table>/<name> of its file.

        The file holds all panels; on the page each is a drawing of its own, so that a narrow screen
        has them below each other.
        """
        self.numbered += 1
        kind, columns = ("small", 3) if size[0] <= SMALL[0] else ("medium", 2)
        file = render([draw for draw, _ in panels], *size, columns)
        folder, name = place.split("/")
        self.files[self.results / folder / "figures" / f"{name}.svg"] = file
        alone = len(panels) == 1
        shown = [(file if alone else render([draw], *size), alt) for draw, alt in panels]
        return figure(self.numbered, title, shown, inline(caption), kind)

    def lines(self, path: Path, texts: Sequence[str], numbers: Sequence[str]) -> list[dict]:
        """The lines of a CSV file under results/; what is damaged is noted."""
        found, problems = read_lines(path, texts, numbers)
        self.problems += [f"{path.parent.name}/{problem}" for problem in problems]
        return found


def missing(what: str, command: str) -> Html:
    return prose(f"{what} To make it: {command}.", "missing")


def read_table(folder: Path, results: Path) -> Table:
    """A folder of experiments/ with its runs; TableError where runs.csv cannot be used at all."""
    found = runs.read_csv(results / "runs.csv")
    paper = read_rows(folder)
    details, damaged = read_details(results / "details")
    name, known = folder.name, {run["run_id"] for run in found.runs}
    problems = [problem.replace(f"{results}", name) for problem in found.problems]
    problems += [f"{name}/details/{problem}" for problem in damaged]
    problems += [
        f"{name}/details/{stray}.json: skipped: runs.csv has no such run"
        for stray in sorted(details.keys() - known)
    ]
    foreign = {run["experiment"] for run in found.runs} - {line.row for line in paper}
    problems += [f"{name}/runs.csv: no row of the table: {row}" for row in sorted(foreign)]
    lines = tables.table_lines(paper, found.runs, "full")
    lines.sort(key=partial(naturally, [line.row for line in paper]))
    return Table(name, lines, list(found.runs), details, problems)


def naturally(rows: Sequence[str], line: Line) -> tuple:
    """Order of lines: that of the rows, and within one p2 before p12."""
    parts = re.split(r"(\d+)", line.overrides)
    return rows.index(line.paper.row), [(int(p), "") if p.isdigit() else (0, p) for p in parts]


# ---- Words --------------------------------------------------------------------------------------


def counted(values: Iterable[str]) -> str:
    return ", ".join(f"{n} {value}" for value, n in sorted(Counter(values).items()))


def group_of(line: Line) -> str:
    return line.settings.get("group", line.paper.group)


def told(line: Line) -> tuple[str, str]:
    """What a panel is called: the system, and what tells its runs from others of its row."""
    shown = [f"{k.removeprefix('model.')}={v}" for k, v in line.settings.items() if k != "group"]
    if line.another:
        shown.append(f"configuration {line.another[:8]}")
    if line.provenance not in tables.PUBLISHED_DATA:
        shown.append(f"{line.provenance} data")
    return f"{line.paper.method}, {group_of(line)}", wrapped(shown)


def wrapped(parts: Sequence[str], width: int = 42) -> str:
    """Parts beside each other in up to three lines of that many characters; longer ones are cut."""
    lines: list[str] = []
    for part in parts:
        part = part if len(part) <= width else f"{part[: width - 1]}…"
        if lines and len(lines[-1]) + len(part) + 2 <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return "\n".join(lines[:3])


def seeds_of(counts: Iterable[int]) -> str:
    """How many seeds the panels of a figure have: n = 3, or n = 1 to 3."""
    counts = sorted(set(counts))
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def data_of(lines: Iterable[Line]) -> str:
    return " and ".join(sorted({line.provenance for line in lines})) + " data"
