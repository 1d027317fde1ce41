"""The report: everything committed under experiments/ and results/ as one page, and its figures.

The page depends on those files alone and has no date of its own: the same files give the same
bytes. What is missing keeps its place, with a line that says which command makes it. Nothing here
imports torch.
"""

from __future__ import annotations

from pathlib import Path

from . import cost, of_layers, of_runs, summary
from .contents import Report, read_table
from .page import frame

# In the order of the page.
SECTIONS = (
    summary.published,
    of_runs.learning,
    of_runs.groups,
    of_runs.parameters,
    of_runs.turned,
    of_layers.angles,
    of_layers.spacing,
    of_layers.filters,
    of_runs.confusion,
    cost.speed,
    cost.places,
)


def compose(experiments: Path, results: Path) -> tuple[str, dict[Path, str], list[str]]:
    """The page, the figures by the path of their file, and a line for everything damaged.

    Raises:
        TableError: a table or a runs.csv cannot be read without losing or guessing something.
    """
    paths = sorted(experiments.glob("*/paper.csv"), key=lambda path: path.parent.name, reverse=True)
    tables = [read_table(path.parent, results / path.parent.name) for path in paths]
    report = Report(results, tables)
    for section in SECTIONS:
        section(report)
    title = "PDO-eConvs: our runs beside the published tables"
    page = frame(title, summary.head(report, title), report.sections)
    return page, report.files, report.problems
