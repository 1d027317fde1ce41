"""The generated pages of a results folder, ``table.md`` first, and the table of the README.

The pages depend on the runs alone: the committed runs.csv renders to the committed pages byte for
byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from . import columns
from .cells import escape_markdown, format_code
from .columns import format_table
from .cross_validation import collect_candidates, find_fold, render_candidates
from .draws import Spread, collect_draws, is_other_draw
from .markdown import DIFFERENCES, NONE, format_contrast, grid, read_text
from .table import Line, list_contrasts

PAGES = {
    "cross_validation.md": "candidates compared by cross-validation over all training images",
    "verdicts.md": "the verdicts, their rule, intervals and published protocols",
    "overrides.md": "runs with other settings",
    "configurations.md": "runs of earlier configurations and on other data",
    "differences.md": "differences between rows, with tests",
    "machines.md": "devices, times, equivariance errors and commits",
}


def select_rows(lines: Sequence[Line]) -> list[Line]:
    """The line of each row itself: the published rows, and others beside them if they were run."""
    first = {line.paper.row: line for line in reversed(lines) if not line.overrides}
    ordered = dict.fromkeys(line.paper.row for line in lines)
    rows = [first[row] for row in ordered if row in first]
    return [line for line in rows if line.ours or line.common or not line.paper.beside]


def format_readme_table(lines: Sequence[Line]) -> str:
    """The rows that were run: method, group, parameters, published error and ours."""
    return format_table(columns.SHORT, [line for line in select_rows(lines) if line.ours])


def format_summary(lines: Sequence[Line]) -> str:
    """One sentence: how many published rows were run, on what data, with what verdicts."""
    rows = [line for line in select_rows(lines) if not line.paper.beside]
    run = [line for line in rows if line.ours]
    words = Counter(line.judgement[0] for line in run)
    verdicts = ", ".join(f"{count} {word}" for word, count in words.items())
    data = " and ".join(sorted({escape_markdown(line.provenance) for line in run}))
    text = f"{len(run)} of the {len(rows)} published rows run with the recipe of their source"
    return f"{text}, on {data} data: {verdicts}." if run else f"{text}."


def render_pages(name: str, lines: Sequence[Line], scale: str) -> dict[str, str]:
    """Every page by its name; a page without content is left out."""
    rows, draws, overrides, others = select_rows(lines), [], [], []
    spread = collect_draws(lines)
    in_sets = {
        id(line) for one in spread.sets for line in one.lines.values() if is_other_draw(line)
    }
    seen: set[tuple[str, str]] = set()
    for line in lines:
        key = line.paper.row, line.overrides
        if key not in seen and line.overrides:
            if line.comparable or id(line) not in in_sets:  # else it is among the draws
                (draws if line.comparable else overrides).append(line)
        elif key in seen:
            others.append(line)
        seen.add(key)
    pages = {}
    if scale == "full":
        pages["verdicts.md"] = render_verdicts(rows, draws, spread)
    if overrides:
        table = format_table(columns.OVERRIDES, overrides)
        pages["overrides.md"] = "\n".join([table, read_text("overrides"), read_text("marks")])
    pages |= render_lists(lines, others)
    head = [f"# {name}: the published table and ours\n"]
    head += [read_text("smoke")] if scale != "full" else [f"**{format_summary(lines)}**\n"]
    head += [format_table(columns.MAIN, rows), read_text("table")]
    head += [f"{note}\n"] if (note := describe_spread(spread)) else []
    head += [read_text("marks")]
    return {"table.md": "\n".join([*head, list_pages(pages)])} | {
        page: f"# {name}: {PAGES[page]}\n\n{text}" for page, text in pages.items()
    }


def render_validation(name: str, lines: Sequence[Line]) -> dict[str, str]:
    """The pages of runs that were tested on held-out training images."""
    own = [line for line in lines if line.runs and not find_fold(line)]
    pages = render_lists(own, [line for line in own if line.another])
    if candidates := collect_candidates(lines):
        pages["cross_validation.md"] = render_candidates(candidates)
    table = format_table(columns.VALIDATION, [line for line in own if not line.another])
    head = [f"# {name}, validation: runs tested on held-out training images\n", table]
    text = "\n".join([*head, read_text("validation"), read_text("marks"), list_pages(pages)])
    return {"table.md": text} | {
        page: f"# {name}, validation: {PAGES[page]}\n\n{text}" for page, text in pages.items()
    }


def render_verdicts(rows: Sequence[Line], draws: Sequence[Line], spread: Spread) -> str:
    """The page of verdicts: a line for each row, then one for each other draw of its data."""
    run = [line for line in (*rows, *draws) if line.ours]
    table = [format_table(columns.VERDICTS, run)] if run else []
    protocols = format_table(columns.PROTOCOLS, [line for line in rows if line.paper.flags])
    parts = [*table, read_text("rule"), read_text("verdicts"), protocols]
    if spread.sets:
        parts += ["## Draws of the data\n", format_draws(spread), read_text("draws")]
    return "\n".join(parts)


def describe_spread(spread: Spread) -> str:
    """One sentence for the table: the standard deviations between draws; empty without any."""
    rows = dict.fromkeys(one.row for one in spread.measured)
    stds = ", ".join(f"{spread.variance_of(row) ** 0.5:.3f} (`{row}`)" for row in rows)
    text = f"Draws of the data add a standard deviation of {stds} to that of seeds and test images"
    return f"{text}; the verdicts contain it." if rows else ""


def format_draws(spread: Spread) -> str:
    """A line for each set of draws: their mean, and what their spread consists of."""
    cells = []
    for one in spread.sets:
        between = NONE if one.between is None else f"{one.between**0.5:.3f}"
        cells.append(
            [f"`{one.row}`", "with" if one.replacement else "without",
             ", ".join(map(str, one.lines)), f"{one.mean:.3f} ± {one.std:.3f}",
             NONE if one.seed_variance is None else f"{one.seeds**0.5:.3f}",
             f"{one.sampling**0.5:.3f}", between,
             format_code(one.settings) if one.settings else NONE]
        )  # fmt: skip
    header = ["experiment", "replacement", "draws", "error, %", "seeds", "sampling",
              "between draws", "settings"]  # fmt: skip
    return grid(header, cells, ragged=True)


def render_lists(lines: Sequence[Line], others: Sequence[Line]) -> dict[str, str]:
    """The pages of old configurations, of differences and of machines."""
    pages = {}
    if others:
        table = format_table(columns.CONFIGURATIONS, others)
        pages["configurations.md"] = f"{table}\n{read_text('configurations')}"
    if pairs := list_contrasts(lines):
        table = grid(DIFFERENCES, map(format_contrast, pairs))
        pages["differences.md"] = f"{table}\n{read_text('differences')}"
    if measured := [line for line in lines if line.runs]:
        table = format_table(columns.MACHINES, measured)
        pages["machines.md"] = f"{table}\n{read_text('machines')}"
    return pages


def list_pages(pages: dict[str, str]) -> str:
    """Links to the other pages."""
    links = [f"- [{page}]({page}): {PAGES[page]}\n" for page in PAGES if page in pages]
    files = "- `runs.csv`, `statistics.csv`, `differences.csv`: all runs and all numbers\n"
    return "".join([*links, files])
