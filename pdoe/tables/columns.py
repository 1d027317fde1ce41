"""The columns of the tables: a heading, and a function from a line to its cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from .cells import escape_markdown, format_code
from .markdown import NONE, format_name, format_row, grid
from .runs import Run
from .statistics import Summary
from .table import Line


def format_mean(line: Line | None, spread: bool = False) -> str:
    """Mean ± standard deviation (n), with the marks of the line; NONE without a finished run."""
    if not line or not (ours := line.ours):
        return NONE
    if spread or ours.std is None:
        return f"{ours}{line.marks}"
    return f"{ours.mean:.3f} ± {ours.std:.3f} (n = {ours.n}){line.marks}"


def format_parameters(line: Line) -> str:
    runs = line.finished or (line.common or line).finished
    counts = {run["parameters"] for run in runs} - {None}
    published = NONE if line.paper.parameters is None else f"{line.paper.parameters:,}"
    return f"{published} / {', '.join(f'{n:,}' for n in sorted(counts)) or NONE}"


def format_verdict(line: Line) -> str:
    """The verdict without the name of the data, which verdicts.md has."""
    word, limits = line.judgement
    shown = [limit for limit in limits if limit != "regenerated data"]
    return escape_markdown(f"{word} ({'; '.join(shown)})" if shown else word)


def format_interval(line: Line) -> str:
    ours = line.ours
    if not ours or ours.half_width is None:
        return NONE
    return f"{ours.mean - ours.half_width:.3f} to {ours.mean + ours.half_width:.3f}"


def format_sampling(line: Line) -> str:
    return f"± {line.sampling:.3f}" if line.ours and line.scale == "full" else NONE


def format_draw_std(line: Line) -> str:
    return f"{line.draw_std:.3f}" if line.draw_std and line.comparable else NONE


def format_difference(line: Line) -> str:
    if not line.ours or not line.comparable:
        return NONE
    return f"{line.difference:+.3f} ± {line.tolerance:.3f}"


def format_best(line: Line) -> str:
    best = [run["test_error_best"] for run in line.finished if run["test_error_best"] is not None]
    return str(Summary.of(best)) if best else NONE


def format_settings(line: Line) -> str:
    return format_code(line.overrides) if line.overrides else NONE


def collect_cells(runs: Iterable[Run], name: str) -> str:
    return ", ".join(sorted({escape_markdown(r[name]) for r in runs if r[name]})) or NONE


def format_statuses(line: Line) -> str:
    statuses = Counter(run["status"] for run in line.runs)
    return ", ".join(f"{n} {status}" for status, n in sorted(statuses.items()))


def format_seeds(line: Line) -> str:
    return ", ".join(map(str, sorted({run["seed"] for run in line.runs})))


def format_epochs(line: Line) -> str:
    return ", ".join(map(str, sorted({run["epochs"] for run in line.finished}))) or NONE


def format_seconds(line: Line) -> str:
    return f"{fmean(run['seconds'] for run in line.finished):,.0f}" if line.finished else NONE


def format_equivariance(line: Line) -> str:
    def largest(part: str) -> str:
        errors = [run[f"equivariance_error.{part}"] for run in line.finished]
        known = [error for error in errors if error is not None]
        return f"{max(known):.1e}" if known else NONE

    return f"{largest('trunk')} / {largest('logits')}"


def format_commits(line: Line) -> str:
    commits = {
        format_code(commit[:7]) + ("\\*" if run["dirty"] else "")
        for run in line.runs
        for commit in (run["commit"] or "unknown").replace("+", ",").split(",")
    }
    return ", ".join(sorted(commits))


Column = tuple[str, Callable[[Line], str]]
METHOD: Column = ("method", lambda line: line.paper.method)
OURS: Column = ("ours, %", lambda line: format_mean(line))
SPREAD: Column = ("ours, %", lambda line: format_mean(line, spread=True))
PARAMETERS: Column = ("parameters, paper / ours", format_parameters)
EXPERIMENT: Column = ("experiment", format_row)
SETTINGS: Column = ("settings", format_settings)
INTERVAL: Column = ("95 % over seeds", format_interval)
SAMPLING: Column = ("sampling", format_sampling)
SHORT: tuple[Column, ...] = (
    METHOD,
    ("group", lambda line: line.paper.group),
    PARAMETERS,
    ("paper, %", lambda line: line.paper.error or NONE),
    OURS,
)
COMMON: Column = ("one recipe, %", lambda line: format_mean(line.common))
MAIN: tuple[Column, ...] = (*SHORT, ("verdict", format_verdict), COMMON, EXPERIMENT)
VERDICTS: tuple[Column, ...] = (
    ("experiment", format_name),
    ("paper, %", lambda line: line.paper.error or NONE),
    SPREAD,
    INTERVAL,
    SAMPLING,
    ("between draws", format_draw_std),
    ("difference ± h", format_difference),
    ("verdict", lambda line: escape_markdown(line.verdict)),
    ("best epoch, %", format_best),
)
PROTOCOLS: tuple[Column, ...] = (
    EXPERIMENT,
    ("protocol of the published error", lambda line: line.paper.flags or NONE),
)
OVERRIDES: tuple[Column, ...] = (EXPERIMENT, PARAMETERS, SPREAD, INTERVAL, SAMPLING, SETTINGS)
VALIDATION: tuple[Column, ...] = (EXPERIMENT, SPREAD, SAMPLING, SETTINGS)
CONFIGURATIONS: tuple[Column, ...] = (
    EXPERIMENT,
    ("configuration", lambda line: format_code(line.another[:8]) if line.another else NONE),
    ("data", lambda line: escape_markdown(line.provenance)),
    SPREAD,
    ("verdict", lambda line: escape_markdown(line.verdict)),
    SETTINGS,
)
MACHINES: tuple[Column, ...] = (
    EXPERIMENT,
    ("data", lambda line: escape_markdown(line.provenance)),
    ("runs", format_statuses),
    ("seeds", format_seeds),
    ("epochs", format_epochs),
    ("precision", lambda line: collect_cells(line.runs, "precision")),
    ("device", lambda line: collect_cells(line.runs, "device")),
    ("seconds per run", format_seconds),
    ("equivariance error", format_equivariance),
    ("commit", format_commits),
    ("settings", lambda line: format_name(line).removeprefix(format_row(line)).strip() or NONE),
)


def format_table(columns: Sequence[Column], lines: Iterable[Line]) -> str:
    """The lines as a Markdown table of these columns."""
    rows = ([cell(line) for _, cell in columns] for line in lines)
    header = [name for name, _ in columns]
    return grid(header, rows, ragged=header[-1] == "settings")
