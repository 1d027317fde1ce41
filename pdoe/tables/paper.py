"""The published tables: ``paper.csv`` has the paper's rows, ``beside.csv`` rows of our own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from .runs import TableError

PAPER_COLUMNS = ("row", "method", "group", "error", "parameters", "test_images")


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Attributes:
        row: the name of its experiment.
        error: published test error in per cent, with the digits that were printed; empty for a row
            of our own that nobody published.
        parameters: published count; None if unknown.
        flags: in a few words how the published error came about.
        recipe: whether the row's own recipe is that of its "source", or the "common" one of all
            rows.
        beside: a row of ``beside.csv``.
    """

    row: str
    method: str
    group: str
    error: str
    parameters: int | None
    test_images: int
    flags: str = ""
    recipe: str = "source"
    beside: bool = False


def read_rows(folder: Path) -> list[Published]:
    """The rows of ``paper.csv``, then those of ``beside.csv`` where there is one."""
    beside = folder / "beside.csv"
    own = read_paper(beside, beside=True) if beside.exists() else []
    return read_paper(folder / "paper.csv") + own


def read_paper(path: Path, beside: bool = False) -> list[Published]:
    """The rows of one file in their order; TableError names a line that cannot be used."""
    lines = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    rows: dict[str, Published] = {}
    for number, line in enumerate(lines, start=2):
        row, method, group, error, parameters, images = (line.get(c) or "" for c in PAPER_COLUMNS)
        try:
            value = 0 if beside and not error else float(error)
            if not row or row in rows or not 0 <= value <= 100 or int(images) < 1:
                raise ValueError("row, error or test_images")
            count = int(parameters) if parameters else None
        except ValueError as problem:
            raise TableError(f"{path}:{number}: wrong or repeated: {problem}") from None
        flags, recipe = line.get("flags") or "", line.get("recipe") or "source"
        numbers = error, count, int(images)
        rows[row] = Published(row, method, group, *numbers, flags, recipe, beside)
    return list(rows.values())
