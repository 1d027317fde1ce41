"""Write what made the gap to the published errors on MNIST-rot: recipe, draw, selection.

    python scripts/gap.py

Reads ``results/mnist_rot/runs.csv``: every published row with its own recipe, its runs on other
draws of the data, and its runs with another recipe, as far as they are there. Writes
``results/mnist_rot/gap.csv``, ``figures/gap.svg`` beside it, and the table in
``experiments/mnist_rot/finding.md``. The same runs give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ["MPLBACKEND"] = "Agg"

from pdoe.data.draws import read_draw
from pdoe.files import as_csv, write_whole
from pdoe.report.figures import ACCENT, INK, MUTED, SECOND, render, set_title
from pdoe.tables.cells import escape_formula, format_code
from pdoe.tables.draws import drop_draw
from pdoe.tables.markdown import NONE, grid, insert
from pdoe.tables.paper import read_rows
from pdoe.tables.runs import read_csv
from pdoe.tables.table import DRAW, Line, table_lines

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS, RESULTS = ROOT / "experiments" / "mnist_rot", ROOT / "results" / "mnist_rot"
# Overrides that change one thing of a row's recipe, or the way its error is taken.
RECIPE = (
    "recipe.dropout", "recipe.weight_decay", "recipe.norm.eps", "recipe.norm.momentum",
    "recipe.augment", "recipe.evaluate.every", "recipe.evaluate.select", "recipe.evaluate.last",
    "model.bias", "precision", "data.validation",
)  # fmt: skip
HEADER = (
    "experiment", "settings", "replacement", "draws", "seeds", "error, %", "best epoch, %",
    "published", "minus published",
)  # fmt: skip
COLUMNS = (
    "row", "settings", "replacement", "draws", "seeds", "runs", "error", "std", "low", "high",
    "best_epoch", "published", "parameters", "devices", "commits",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Runs of one row and one setting, on draws with or without replacement."""

    row: str
    published: str
    settings: str
    replacement: bool
    lines: tuple[Line, ...]

    @property
    def runs(self) -> list[Any]:
        return [run for line in self.lines for run in line.finished]

    @property
    def draws(self) -> list[int]:
        return sorted({read_draw(line.provenance).seed for line in self.lines})

    @property
    def values(self) -> list[float]:
        """Errors: of each draw the mean over seeds; of a single draw each seed."""
        if len(self.lines) == 1:
            return [run["test_error"] for run in self.runs]
        return [line.ours.mean for line in self.lines]

    @property
    def best_epoch(self) -> float | None:
        best = [run["test_error_best"] for run in self.runs]
        return None if None in best else fmean(best)


def collect_cells(lines: Iterable[Line]) -> list[Cell]:
    """The cells of published rows with their own recipe, with a change of it, or on other draws."""
    groups: dict[tuple[str, str, str, bool], list[Line]] = {}
    for line in lines:
        draw = read_draw(line.provenance)
        if draw is not None and line.ours and line.paper.error and not line.another:
            key = line.paper.row, line.paper.error, drop_draw(line), draw.replacement
            groups.setdefault(key, []).append(line)
    drawn = {key[:3] for key, found in groups.items() if len(found) > 1 or key[3]}

    def explains(key: tuple[str, str, str, bool], line: Line) -> bool:
        named = set(line.settings) - DRAW
        return key[:3] in drawn or named <= set(RECIPE)

    rows = list(dict.fromkeys(row for row, *_ in groups))
    kept = sorted(
        (key for key, found in groups.items() if explains(key, found[0])),
        key=lambda key: (rows.index(key[0]), key[2], key[3]),
    )
    return [
        Cell(*key, tuple(sorted(groups[key], key=lambda line: read_draw(line.provenance).seed)))
        for key in kept
    ]


def join(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def format_cells(cells: Sequence[Cell]) -> str:
    """The table of the page."""
    rows = []
    for cell in cells:
        mean, spread = fmean(cell.values), ""
        if len(cell.values) > 1:
            spread = f" ± {stdev(cell.values):.3f}"
        best = NONE if cell.best_epoch is None else f"{cell.best_epoch:.3f}"
        rows.append(
            [f"`{cell.row}`", format_code(cell.settings) if cell.settings else "its own",
             "with" if cell.replacement else "without", join(cell.draws),
             join(sorted({run["seed"] for run in cell.runs})), f"{mean:.3f}{spread}", best,
             cell.published, f"{mean - float(cell.published):+.3f}"]
        )  # fmt: skip
    return grid(HEADER, rows)


def format_cells_csv(cells: Sequence[Cell]) -> str:
    rows = []
    for cell in cells:
        values, runs = cell.values, cell.runs
        commits = {(run["commit"] or "")[:7] + "*" * bool(run["dirty"]) for run in runs}
        rows.append(
            [cell.row, escape_formula(cell.settings), cell.replacement, join(cell.draws),
             join(sorted({run["seed"] for run in runs})), len(runs), fmean(values),
             stdev(values) if len(values) > 1 else None, min(values), max(values),
             cell.best_epoch, cell.published, join(sorted({run["parameters"] for run in runs})),
             escape_formula("+".join(sorted({run["device"] or "" for run in runs}))),
             escape_formula("+".join(sorted(commits)))]
        )  # fmt: skip
    return as_csv(COLUMNS, rows)


def draw_gap(cells: Sequence[Cell]) -> str:
    """Each row's runs beside its published error, one panel for a row."""
    rows = list(dict.fromkeys(cell.row for cell in cells if len(cell.runs) > 1))

    def panel_of(row: str) -> Any:
        own = [cell for cell in cells if cell.row == row]

        def panel(axes: Any) -> None:
            for place, cell in enumerate(own):
                colour = SECOND if cell.replacement else ACCENT
                axes.plot(cell.values, [place] * len(cell.values), "o", color=colour, alpha=0.5,
                          markersize=5)  # fmt: skip
                axes.plot(fmean(cell.values), place, "|", color=INK, markersize=16)
            axes.axvline(float(own[0].published), color=MUTED, linestyle="--", linewidth=1.2)
            names = [name_of(cell) for cell in own]
            axes.set_yticks(range(len(own)), names, fontsize=8.5)
            axes.set_ylim(len(own) - 0.5, -0.5)
            axes.set_xlabel("test error, %")
            set_title(axes, row.removeprefix("mnistrot_"), "dashed: published; line: mean")

        return panel

    return render(
        [panel_of(row) for row in rows], 620, 90 + 24 * max(map(len, _group_by_row(cells)))
    )


def _group_by_row(cells: Sequence[Cell]) -> list[list[Cell]]:
    return [[cell for cell in cells if cell.row == row] for row in {cell.row for cell in cells}]


def name_of(cell: Cell) -> str:
    """A short label: the draws and the first settings."""
    draws = f"draws {min(cell.draws)}–{max(cell.draws)}" if len(cell.draws) > 1 else "one draw"
    settings = cell.settings or "own recipe"
    settings = settings if len(settings) < 34 else f"{settings[:32]}…"
    return f"{settings}, {draws}{', repl.' if cell.replacement else ''}"


def main() -> None:
    lines = table_lines(read_rows(EXPERIMENTS), read_csv(RESULTS / "runs.csv").runs, "full")
    cells = collect_cells(lines)
    page = EXPERIMENTS / "finding.md"
    write_whole(RESULTS / "gap.csv", format_cells_csv(cells))
    write_whole(page, insert(page.read_text("utf-8"), "gap", format_cells(cells)))
    write_whole(RESULTS / "figures" / "gap.svg", draw_gap(cells))
    print(f"{len(cells)} lines in {page}; figures/gap.svg under {RESULTS}")


if __name__ == "__main__":
    main()
