"""What the report reads beside runs.csv: the details of single runs, and lines of CSV files.

Damaged files and lines are named and left out; a file that does not exist is empty. Errors are in
per cent, angles in degrees. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..tables.runs import one_line


@dataclass(frozen=True)
class Details:
    """What one run left: a line per epoch, and what was measured at its end (None if not).

    ``test`` has None where an epoch was not evaluated; ``confusion`` is counts, true x predicted;
    ``turned`` the test error with the first ``turned_images`` images (None: it does not say how
    many) turned by that many degrees.
    """

    run_id: str
    epochs: list[int]
    train: list[float]
    test: list[float | None]
    confusion: list[list[int]] | None
    turned: dict[int, float] | None
    turned_images: int | None


def read_details(folder: Path) -> tuple[dict[str, Details], list[str]]:
    """Every ``<run_id>.json`` of a folder that can be used, and a line for each that cannot."""
    found, problems = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            details = details_of(json.loads(path.read_text("utf-8")))
            if details.run_id != path.stem:
                raise ValueError(f"run_id is {details.run_id[:40]!r}, expected the file's name")
            found[details.run_id] = details
        except (ValueError, OSError, RecursionError) as error:
            problems.append(f"{path.name}: skipped: {one_line(str(error))}")
    return found, problems


def details_of(content: object) -> Details:
    """The checked content of a file; ValueError says what is wrong."""
    metrics = entry(content, "metrics", dict)
    epochs = column(metrics, "epoch")
    train = column(metrics, "train_error")
    # A run whose epoch is chosen on other images is tested in the end, after the last row.
    test = column({"test_error": [None] * len(epochs)} | metrics, "test_error", missing=True)
    if not len(epochs) == len(train) == len(test):
        lengths = f"{len(epochs)}, {len(train)} and {len(test)}"
        raise ValueError(f"epoch, train_error and test_error have {lengths} values")
    confusion = turned = images = None
    if isinstance(content, dict) and content.get("diagnostics") is not None:
        diagnostics = entry(content, "diagnostics", dict)
        confusion = matrix(diagnostics.get("confusion"))
        turned = by_angle(diagnostics.get("turned"))
        if (images := diagnostics.get("turned_images")) is not None:
            images = int(number(images, "turned_images", 1e9))
    name = entry(content, "run_id", str)
    return Details(name, [int(e) for e in epochs], train, test, confusion, turned, images)


def entry(content: object, name: str, kind: type):
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, expected an object")
    if not isinstance(value := content.get(name), kind):
        raise ValueError(f"{name} is {shown(value)}, expected a {kind.__name__}")
    return value


def shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:40]


def number(value: object, name: str, high: float = math.inf) -> float:
    """A finite figure that is not negative."""
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not 0 <= value <= high or value == math.inf:  # NaN fails the second
        raise ValueError(f"{name} holds {shown(value)}, expected a number from 0 to {high:g}")
    return value


def column(metrics: dict, name: str, missing: bool = False) -> list:
    high = 100 if name.endswith("error") else 1e9
    values = entry(metrics, name, list)
    return [None if missing and v is None else number(v, name, high) for v in values]


def matrix(rows: object) -> list[list[int]] | None:
    if rows is None:
        return None
    square = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == len(rows) for row in rows
    )
    if not rows or not square:
        raise ValueError(f"confusion is {shown(rows)}, expected a square table of counts")
    return [[int(number(count, "confusion", 1e12)) for count in row] for row in rows]


def by_angle(turned: object) -> dict[int, float] | None:
    if turned is None:
        return None
    if not isinstance(turned, dict) or not all(re.fullmatch(r"\d{1,3}", a) for a in turned):
        raise ValueError(f"turned is {shown(turned)}, expected an error for each angle in degrees")
    return {int(a): number(e, "turned", 100) for a, e in sorted(turned.items(), key=in_degrees)}


def in_degrees(pair: tuple[str, object]) -> int:
    return int(pair[0])


def read_lines(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> tuple[list, list]:
    """The lines of a CSV file as dicts of those columns, and a line for each that is damaged."""
    if not path.exists():
        return [], []
    lines, problems = [], []
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path.name}: skipped: {one_line(str(error))}"]
    for place, row in enumerate(rows, start=2):
        try:
            values = {name: one_line(row.get(name) or "") for name in texts}
            for name in numbers:
                cell = row.get(name) or ""
                try:
                    values[name] = float(cell)
                except ValueError:
                    raise ValueError(f"{name} is {cell[:40]!r}, expected a number") from None
                if not math.isfinite(values[name]):
                    raise ValueError(f"{name} is {cell[:40]!r}, expected a finite number")
            lines.append(values)
        except ValueError as error:
            problems.append(f"{path.name}:{place}: skipped: {one_line(str(error))}")
    return lines, problems
