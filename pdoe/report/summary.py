"""The head of the report and its tables: what ran, beside what was published."""

from __future__ import annotations

import re
from collections import Counter

from ..tables import markdown
from ..tables.table import Contrast, Line, contrasts
from .contents import NONE, Report, counted, group_of, missing
from .page import Html, inline, joined, prose, table, tag

SIGNS = {"reproduced": "=", "better": "▼", "worse": "▲", "not comparable": "≠", "not run": "○"}
LEAD = (
    "A PyTorch implementation of equivariant convolutions made of partial differential operators "
    "(Shen, He, Lin and Ma, ICML 2020), held against the tables of the paper. Every number of ours "
    "is computed from logged runs: the test error after the last epoch, in per cent."
)
PROVENANCES = (
    "`original`: the published files; `regenerated`: the published procedure on the MNIST digits, "
    "another draw without repetitions; `embedded`: a small stand-in that is never compared."
)
COLUMNS = (
    "system", "group", "paper", "ours", "difference ± h", "verdict", "n", "spread",
    "parameters",
)  # fmt: skip
NUMBERS = "paper|ours|difference ± h|n|parameters"
NOTE = (
    "Below a row, indented: its runs with other settings, which are averaged on their own and held "
    "against nothing. Spread: standard deviation over seeds, smallest and largest error. `*`: a "
    "run was made with uncommitted changes. Below our error: the data; below our parameters: the "
    "published count."
)


def head(report: Report, title: str) -> Html:
    every = [run for one in report.tables for run in one.runs]
    published = (line for one in report.tables for line in one.rows)
    rows = [line for line in published if not line.paper.beside]
    verdicts = Counter(line.verdict.partition(" (")[0] for line in rows)
    hours = sum(run["seconds"] or 0 for run in every) / 3600
    figures = [
        (f"{len(every):,}", f"runs: {counted(run['status'] for run in every) or 'none'}"),
        (f"{hours:,.1f}", "hours of training and testing"),
        *((verdicts[word], f"of {len(rows)} rows {word}") for word in SIGNS),
    ]
    counts = (tag("div", tag("dt", name), tag("dd", value)) for value, name in figures)
    data = counted(run["data.provenance"] or "unknown" for run in every) or "none"
    parts = [
        tag("h1", title),
        prose(LEAD, "lead"),
        tag("dl", *counts, class_="counts"),
        prose(f"Data of the runs: {data}. {PROVENANCES}", "note"),
        *(tag("p", f"Damaged: {problem}", class_="problem") for problem in report.problems),
    ]
    return joined(parts, "\n")


def published(report: Report) -> None:
    parts: list[Html] = []
    for one in report.tables:
        parts.append(tag("h3", one.title, id=f"table-{one.name}"))
        if not one.runs:
            parts.append(missing("Nothing of this table ran yet.", one.command))
        label = f"{one.title}: the published errors and ours"
        parts.append(table(COLUMNS, map(result, one.lines), label, NUMBERS))
        if pairs := contrasts(one.lines):
            rows = ([compared(pair), *markdown.contrast_cells(pair)[1:]] for pair in pairs)
            label = f"{one.title}: differences between rows"
            parts.append(table(markdown.DIFFERENCES, rows, label, "p|p, Holm"))
            notes = re.split(r"\n?- ", markdown.CONTRASTS)[1:]
            parts.append(tag("ul", *(tag("li", inline(note)) for note in notes), class_="note"))
    opening, *items = re.split(r"\n+- ", markdown.RULE.removeprefix("**Verdict.** "))
    rule = tag("ul", *(tag("li", inline(item)) for item in items))
    parts.append(tag("details", tag("summary", "How a verdict is reached"), prose(opening), rule))
    parts.append(prose(NOTE, "note"))
    report.section("tables", "The published tables and ours", *parts)


def result(line: Line) -> list[object]:
    """A row of the main table, its class first."""
    paper, ours = line.paper, line.ours
    word, _, limits = line.verdict.partition(" (")
    verdict = joined([tag("span", f"{SIGNS[word]} {word}", class_="verdict"),
                      tag("small", limits.removesuffix(")"))])  # fmt: skip
    numbers: list[object] = [NONE, NONE, verdict, NONE, NONE]
    if ours:
        star = "*" if any(run["dirty"] for run in line.finished) else ""
        away = NONE
        if line.comparable:
            away = f"{ours.mean - float(paper.error):+.3f} ± {line.tolerance:.3f}"
        spread: object = NONE
        if ours.std is not None:
            span = tag("small", f"{ours.low:.3f} to {ours.high:.3f}")
            spread = joined([f"± {ours.std:.3f}", span])
        mean = joined([f"{ours.mean:.3f}{star}", tag("small", line.provenance)])
        numbers = [mean, away, verdict, ours.n, spread]
    counts = sorted({run["parameters"] for run in line.finished} - {None})
    published = "" if paper.parameters is None else f"paper {paper.parameters:,}"
    group, _, remark = group_of(line).partition(" (")
    under = bool(line.overrides or line.another)
    return [
        f".{'under' if under else 'row'}{'' if ours else ' quiet'}",
        different(line) if under else named(line),
        joined([group, tag("small", remark.removesuffix(")"))]),
        paper.error or NONE,
        *numbers,
        joined([", ".join(f"{count:,}" for count in counts) or NONE, tag("small", published)]),
    ]


def named(line: Line) -> Html:
    return joined([line.paper.method, tag("small", tag("code", line.paper.row))])


def different(line: Line) -> Html:
    """What tells a line from the row above it."""
    parts = [f"{name}={value}" for name, value in line.settings.items()]
    if line.another:
        parts.insert(0, f"configuration {line.another[:8]}")
    return joined((tag("code", part) for part in parts), " ")


def compared(pair: Contrast) -> Html:
    """The two lines of a difference."""
    names = (f"{line.paper.row} {line.overrides}".strip() for line in (pair.first, pair.second))
    return joined((tag("code", name) for name in names), " − ")
