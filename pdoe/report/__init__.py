"""The report: everything committed under experiments/ and results/ as one page with its figures.

The page depends on those files alone: the same files give the same bytes. A section without data
says which command makes them. Nothing here imports torch.
"""

from __future__ import annotations

from pathlib import Path

from . import cost, headline, layers, learning
from .contents import Report, read_table
from .page import frame, join, tag

SECTIONS = (
    learning.add_curves,
    learning.add_groups,
    learning.add_rotated,
    learning.add_confusion,
    layers.add_angles,
    layers.add_order,
    layers.add_filters,
    cost.add_speed,
    headline.add_all_lines,
    cost.add_runs,
)  # in the order of the page


def compose(experiments: Path, results: Path) -> tuple[str, dict[Path, str], list[str]]:
    """Compose the page, the figures by the path of their file, and a line for each damaged input.

    Raises:
        TableError: A table or a runs.csv cannot be read without losing or guessing something.
    """
    paths = sorted(experiments.glob("*/paper.csv"), key=lambda path: path.parent.name, reverse=True)
    report = Report(
        results, [read_table(path.parent, results / path.parent.name) for path in paths]
    )
    title = "PDO-eConvs: our runs beside the published tables"
    head = headline.write_head(report, title)  # first: its figures have the first numbers
    for add_section in SECTIONS:
        add_section(report)
    damaged = (tag("p", f"Damaged: {problem}", class_="problem") for problem in report.problems)
    page = frame(title, join([head, *damaged], "\n"), report.sections)
    return page, report.files, report.problems
