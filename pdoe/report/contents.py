"""What the sections of the report share: tables with their runs, numbered figures, wording."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..tables import runs
from ..tables import table as tables
from ..tables.draws import add_draw_spread
from ..tables.paper import read_rows
from ..tables.runs import Run
from ..tables.table import Line
from .figures import Draw, render
from .inputs import Details, read_details, read_lines
from .page import Html, figure, join, prose

NONE = "–"
TITLES = {"mnist_rot": "MNIST-rot", "cifar": "CIFAR"}
SMALL, MEDIUM, LARGE = (320, 250), (410, 330), (640, 460)  # CSS pixels of a panel
FEW_EPOCHS = 10  # runs with fewer epochs are first looks: in the lists, not in the figures
Panel = tuple[Draw, str]  # a drawing, and its name for screen readers


@dataclass(frozen=True)
class Table:
    """One published table, its runs, and the details of the runs by run id."""

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
        """The first line of each published row, which decides its verdict."""
        return list({line.paper.row: line for line in reversed(self.lines)}.values())[::-1]

    @property
    def shown(self) -> list[Line]:
        """The lines that figures show: newest configuration, more than a few epochs."""
        return [line for line in self.lines if not line.another and not is_first_look(line)]

    def seeds(self, line: Line) -> list[Details]:
        return [self.details[r["run_id"]] for r in line.finished if r["run_id"] in self.details]


@dataclass
class Report:
    """The sections in their order, the figures as files, and a line for each damaged input."""

    results: Path
    tables: list[Table]
    sections: list[tuple[str, str, Html]] = field(default_factory=list)
    files: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    figures: int = 0

    def __post_init__(self):
        self.problems += [problem for one in self.tables for problem in one.problems]

    def add_section(self, anchor: str, heading: str, *content: Html) -> None:
        self.sections.append((anchor, heading, join(content, "\n")))

    def add_figure(
        self, place: str, title: str, panels: Sequence[Panel], caption: str,
        size: tuple[int, int] = SMALL,
    ) -> Html:  # fmt: skip
        """Draw a numbered figure; ``place`` is <table>/<name> of its file.

        The file holds all panels. On the page each panel is a drawing of its own, so that a narrow
        screen shows them below each other.
        """
        self.figures += 1
        names = {SMALL[0]: ("small", 3), MEDIUM[0]: ("medium", 2)}
        kind, columns = names.get(size[0], ("large", 1))
        folder, name = place.split("/")
        file = render([draw for draw, _ in panels], *size, columns)
        self.files[self.results / folder / "figures" / f"{name}.svg"] = file
        alone = len(panels) == 1
        drawn = [
            (file if alone else render([draw], *size), f"{title}: {label}")
            for draw, label in panels
        ]
        return figure(self.figures, title, drawn, caption, kind)

    def read_lines(self, path: str, texts: Sequence[str], numbers: Sequence[str]) -> list[dict]:
        """Read a CSV file under results/ and record what is damaged."""
        found, problems = read_lines(self.results / path, texts, numbers)
        self.problems += [f"{path.partition('/')[0]}/{problem}" for problem in problems]
        return found


def read_table(folder: Path, results: Path) -> Table:
    """Read a folder of experiments/ with its runs; TableError if runs.csv cannot be used at all."""
    found = runs.read_csv(results / "runs.csv")
    paper = read_rows(folder)
    details, damaged = read_details(results / "details")
    name = folder.name
    problems = [problem.replace(f"{results}", name) for problem in found.problems]
    problems += [f"{name}/details/{problem}" for problem in damaged]
    lines = add_draw_spread(tables.table_lines(paper, found.runs, "full"))
    lines.sort(key=partial(order_naturally, [line.row for line in paper]))
    return Table(name, lines, list(found.runs), details, problems)


def order_naturally(rows: Sequence[str], line: Line) -> tuple:
    """Order of lines: that of the rows, and within a row p2 before p12."""
    parts = re.split(r"(\d+)", line.overrides)
    return rows.index(line.paper.row), [(int(p), "") if p.isdigit() else (0, p) for p in parts]


def is_first_look(line: Line) -> bool:
    """Whether a line has no finished run of ``FEW_EPOCHS`` epochs or more."""
    return max((run["epochs"] or 0 for run in line.finished), default=0) < FEW_EPOCHS


# ---- Wording ------------------------------------------------------------------------------------


def report_missing(what: str, command: str) -> Html:
    return prose(f"{what} To make it: {command}.", "missing")


def group_of(line: Line) -> str:
    return line.settings.get("group", line.paper.group)


def name_panel(line: Line) -> tuple[str, str]:
    """The title of a panel: the system and its group, and the settings that differ from its row."""
    parts = [f"{k.removeprefix('model.')}={v}" for k, v in line.settings.items() if k != "group"]
    if not tables.has_published_counts(line.provenance):
        parts.append(f"{line.provenance} data")
    under = textwrap.wrap(", ".join(parts), 42, break_on_hyphens=False)[:3]
    group = group_of(line).partition(" (")[0]
    return f"{line.paper.method}, {group}", "\n".join(under)


def format_seeds(counts: Iterable[int]) -> str:
    """The numbers of seeds in the panels of a figure: n = 3, or n = 1 to 3."""
    counts = sorted(set(counts))
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def format_data(lines: Iterable[Line]) -> str:
    return " and ".join(sorted({line.provenance for line in lines})) + " data"


def format_commits(lines: Sequence[dict]) -> str:
    commits = sorted({line["commit"][:10] or "unknown" for line in lines})
    return f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
