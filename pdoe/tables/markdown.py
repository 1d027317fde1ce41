"""Tables as Markdown: the whole of table.md and the short table of a README.

The text depends on the runs alone, so the committed runs.csv renders to the committed table.md byte
for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from .runs import TableError
from .table import EMBEDDED_TEST_IMAGES, Contrast, Line, Summary, contrasts

NONE = "–"
SMOKE = """\
> **smoke scale: not a reproduction.** Shortened runs that show that everything works, and measure
> nothing.
"""
RESULTS = (
    "row", "method", "group", "parameters, paper / ours", "paper, %", "its protocol", "ours, %",
    "common recipe, %", "95 % over seeds", "sampling", "difference ± h", "verdict", "best epoch, %",
)  # fmt: skip
RUNS = (
    "row", "data", "runs", "seeds", "epochs", "precision", "device", "seconds per run",
    "equivariance error, trunk / logits", "commit",
)  # fmt: skip
README = (
    "method", "group", "parameters, paper / ours", "paper, %", "ours, %", "verdict",
    "common recipe, %", "data", "device, precision, commit", "experiment=",
)  # fmt: skip
RULE = """\
**Verdict.** Counted are finished runs at full scale, without overrides, on `original` or
`regenerated` data; the latter is named, since it is not the published draw, which may hold a digit
more than once, in training and in the test. With m the mean over n seeds of the test error after
the last epoch and p the published error,

- `reproduced`: |m - p| <= h, `better`: m < p - h, `worse`: m > p + h, with h = sqrt(a² + b²);
- a is the half width of the 95 % Student t-interval of m over the seeds, 0 at n = 1;
- b = 1.96 sqrt(m (100 - m) / N + p (100 - p) / N) is the 95 % sampling error of both figures on
  N test images, taken as independent. How p varies over seeds is unknown and left out.
- n = 1: no seed spread, verdict provisional. n = 2: the interval is too wide to contradict much,
  verdict provisional too. The wider h, the less `reproduced` says.
- `not comparable`: other data, overrides or smoke scale. `not run`: no finished run.
"""
NOTES = """\
- Ours: mean ± standard deviation over seeds (n; min to max) of the error after the **last** epoch.
- Its protocol: how the published figure came about, in a few words; more in `paper.csv`. Figures
  with different protocols are not results of one experiment.
- Common recipe: the same for every row, so that these figures can be compared with each other: of
  MNIST-rot `recipe=mnistrot_common`, of CIFAR that of the authors, which all rows but HexaConv's
  have themselves. Whether pixels are normalised is the row's own.
- Sampling: 95 % half width, 1.96 sqrt(m (100 - m) / N), of our error on N test images. It does not
  shrink with seeds: all are tested on the same images. Embedded data has N = {embedded:,}, but only
  1,000 digits, so its true half width is larger.
- Best epoch: the authors' protocol, the best epoch **selected on the test set**. Not compared.
"""
DIFFERENCES = (
    "rows", "difference, paired by seed", "Welch's t (degrees of freedom)", "p", "p, Holm",
)  # fmt: skip
CONTRASTS = """\
- Difference: first minus second, mean with its 95 % t-interval over the seeds that both have. A
  seed fixes the initial weights, the order of the images in the first epoch, and in all where both
  augment alike; the interval says nothing about another draw of test images, on which both rows
  would move together.
- Welch's test compares the means over all seeds of either row, not paired. Holm's correction is
  over all lines of this table: where its p is below 0.05, the order of two rows is hardly chance.
- Compared are rows in their newest configuration, with the same overrides, group and model apart,
  on the same data; without overrides, each with its own recipe. `†`: not on one kind of machine in
  one precision; `‡`: one of them with a selected epoch or turned test images; `*`: uncommitted
  changes.
"""
MACHINES = "- `†`: its runs were made on several kinds of machine, or numbers of ranks.\n"
SELECTED = """\
- `‡`: not the last epoch counts but a selected one (`select` in `runs.csv`; on the test set,
  `test_best`, the error is too low), or every test image was turned several times (`tta_angles`).
"""
DIRTY = "- `*`: a run was made with uncommitted changes; its commit does not describe it fully.\n"
ANOTHER = """\
- `↳ configuration`: runs of the same row before its configuration changed, or at another precision;
  only runs that differ in nothing but the seed are averaged.
"""
MEASURED = """\
- Seconds per run: mean over the finished runs, on the device named. Equivariance error: the
  largest over them. Runs that did not finish stay listed and are averaged into nothing.
"""


def plain(text: object) -> str:
    """Text from a record as it may stand in a Markdown cell, code or not."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose source lines up, too: it is read in terminals and in diffs."""
    cells = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |\n"
        for row in cells
    )


def parameters(line: Line) -> str:
    counts = {run["parameters"] for run in line.finished} - {None}
    published = NONE if line.paper.parameters is None else f"{line.paper.parameters:,}"
    return f"{published} / {', '.join(f'{n:,}' for n in sorted(counts)) or NONE}"


def named(line: Line) -> str:
    """What tells a line from the row's first one."""
    return " ".join(f"`{plain(part)}`" for part in (line.another[:8], line.overrides) if part)


def result_cells(line: Line) -> list[str]:
    """One line of the main table."""
    name = f"↳ `{plain(line.overrides)}`" if line.overrides else f"`{line.paper.row}`"
    if line.another:
        name = f"↳ configuration {named(line)}"
    group = "" if line.overrides else line.paper.group
    flags = "" if line.overrides or line.another else plain(line.paper.flags)
    cells = [name, line.paper.method, group, parameters(line), line.paper.error or NONE]
    cells.append(flags or NONE)
    alike = line.common
    common = f"{alike.ours}{alike.marks}" if alike and alike.ours else NONE
    if not (ours := line.ours):
        return [*cells, NONE, common, NONE, NONE, NONE, plain(line.verdict), NONE]
    away, half = ours.mean - float(line.paper.error or "nan"), ours.half_width
    best = [run["test_error_best"] for run in line.finished if run["test_error_best"] is not None]
    return [
        *cells,
        f"{ours}{line.marks}",
        common,
        NONE if half is None else f"{ours.mean - half:.3f} to {ours.mean + half:.3f}",
        f"± {line.sampling:.3f}" if line.scale == "full" else NONE,
        f"{away:+.3f} ± {line.tolerance:.3f}" if line.comparable else NONE,
        plain(line.verdict),
        str(Summary.of(best)) if best else NONE,
    ]


def measured_cells(line: Line) -> list[str]:
    """What produced a line: one line of the second table."""

    def together(name: str) -> str:
        return ", ".join(sorted({plain(run[name]) for run in line.runs if run[name]})) or NONE

    def most(name: str) -> str:
        return f"{max(values):.1e}" if (values := column(name)) else NONE

    def column(name: str) -> list[float]:
        return [run[name] for run in line.finished if run[name] is not None]

    statuses = Counter(run["status"] for run in line.runs)
    commits = {
        f"`{plain(commit[:10])}`" + ("\\*" if run["dirty"] else "")
        for run in line.runs
        for commit in (run["commit"] or "unknown").replace("+", ",").split(",")
    }
    return [
        f"`{line.paper.row}` {named(line)}".strip(),
        plain(line.provenance),
        ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())),
        ", ".join(map(str, sorted({run["seed"] for run in line.runs}))),
        ", ".join(map(str, sorted(set(column("epochs"))))) or NONE,
        together("precision"),
        together("device"),
        f"{fmean(seconds):,.0f}" if (seconds := column("seconds")) else NONE,
        f"{most('equivariance_error.trunk')} / {most('equivariance_error.logits')}",
        ", ".join(sorted(commits)),
    ]


def contrast_cells(pair: Contrast) -> list[str]:
    """One line of the table of differences."""
    marks = f" {pair.marks}" if pair.marks else ""
    names = " − ".join(
        f"`{line.paper.row}` {named(line)}".strip() for line in (pair.first, pair.second)
    )
    paired, welch = pair.paired, pair.welch
    return [
        names + marks,
        f"{paired.mean:+.3f} ± {paired.half_width:.3f} (n = {paired.n})" if paired else NONE,
        f"{welch.t:.2f} ({welch.degrees:.1f})" if welch else NONE,
        f"{welch.p:.2g}" if welch else NONE,
        f"{pair.p_holm:.2g}" if welch else NONE,
    ]


def render(name: str, lines: Sequence[Line], scale: str, rule: bool = True) -> str:
    """The whole of table.md; without the rule of verdicts where nothing can be compared."""
    parts = [f"# {name}: the published table and ours\n"]
    if scale != "full":
        parts.append(SMOKE)
    parts.append(grid(RESULTS, map(result_cells, lines)))
    dirty = any(run["dirty"] for line in lines for run in line.runs)
    another = any(line.another for line in lines)
    machines = any(len(line.machines) > 1 for line in lines)
    notes = NOTES.format(embedded=EMBEDDED_TEST_IMAGES)
    marks = DIRTY * dirty + MACHINES * machines + SELECTED * any(line.selected for line in lines)
    parts.append(notes + ANOTHER * another + marks)
    if rule:
        parts.append(RULE)
    if pairs := contrasts(lines):
        parts.append("## Differences between rows\n")
        parts.append(grid(DIFFERENCES, map(contrast_cells, pairs)))
        parts.append(CONTRASTS)
    if measured := [line for line in lines if line.runs]:
        parts.append("## How these were measured\n")
        parts.append(grid(RUNS, map(measured_cells, measured)))
        parts.append(MEASURED)
    return "\n".join(parts)


def readme_table(lines: Sequence[Line]) -> str:
    """The compact table for the README: published rows and our runs of them as they stand."""
    rows = []
    for line in lines:
        shown = not line.paper.beside or line.ours or line.common
        if shown and not line.overrides and not line.another:
            _, method, group, count, error, _, ours, common, *_, verdict, _ = result_cells(line)
            data = line.provenance or (line.common.provenance if line.common else NONE)
            made = [made_by(line)] if line.ours else []
            if line.common and line.common.ours and line.common.overrides:
                made.append(f"common: {made_by(line.common)}")
            name = f"`{line.paper.row}`"
            cells = [method, group, count, error, ours, verdict, common, data]
            rows.append([*cells, "; ".join(made) or NONE, name])
    return grid(README, rows)


def made_by(line: Line) -> str:
    """Device, precision and commits of the finished runs of a line."""
    runs = line.finished
    commits = {part[:7] for run in runs for part in (run["commit"] or "unknown").split("+")}
    parts = [
        {run["device"] or "unknown" for run in runs},
        {run["precision"] for run in runs} - {None},
    ]
    return ", ".join(plain(text) for part in [*parts, commits] for text in sorted(part)) or NONE


def insert(text: str, name: str, table: str) -> str:
    """``text`` with the table between ``<!-- table:name -->`` and the next ``<!-- /table -->``."""
    begin, end = f"<!-- table:{name} -->", "<!-- /table -->"
    before, found, rest = text.partition(begin)
    if not found or end not in rest or begin in rest or "<!-- table:" in rest.partition(end)[0]:
        raise TableError(f"expected one {begin} followed by {end}")
    return f"{before}{begin}\n{table}{end}{rest.partition(end)[2]}"
