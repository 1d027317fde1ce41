"""The lines of runs.csv: what a run must hold, how lines are read, merged and written.

A run is a flat row of text cells, whatever its source (run folders, W&B, runs.csv), and
:func:`parse` is the one gate that every source passes. Errors are in per cent, times in seconds.
What is damaged is named and left out, never guessed; what would have to be overwritten unread
raises :class:`TableError`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..files import as_csv
from .cells import escape_formula, one_line, unescape_formula

# The columns of runs.csv and what they hold; "?" may be empty even in a finished run. A "name" is
# text, a "file name" may be part of a path.
FIELDS = {
    "run_id": "file name", "experiment": "file name", "overrides": "text?", "seed": "count",
    "status": "name", "test_error": "percent", "test_error_best": "percent?",
    "parameters": "count?", "epochs": "count", "seconds": "number",
    "seconds_per_epoch": "number?", "device": "text?", "precision": "text?", "threads": "count?",
    "torch": "text?", "commit": "text?", "dirty": "flag?", "data.name": "text?",
    "data.provenance": "name", "data.sha256": "text?", "config_hash": "text?",
    "equivariance_error.trunk": "number?", "equivariance_error.logits": "number?",
    "started": "text?", "ended": "text?",
}  # fmt: skip
TEST_IMAGES = "recipe.test_images"  # a column for runs tested on fewer images than the set has
STATUSES = ("finished", "interrupted", "failed", "diverged")
LIMIT = 1e15  # no time, count or error is larger; sums of what is smaller stay finite
ALWAYS = ("run_id", "experiment", "seed", "status")  # without these even a failed run is nameless
WHEN_FINISHED = tuple(name for name, kind in FIELDS.items() if not kind.endswith("?"))
TEXTS = ("name", "text", "file name")


class TableError(ValueError):
    """The table cannot be made without losing or guessing something."""


# ---- One run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The cells of one line of runs.csv and the values of the known fields (None if empty)."""

    cells: dict[str, str]
    values: dict[str, str | int | float | bool | None]

    def __getitem__(self, name: str):
        return self.values[name]

    @property
    def finished(self) -> bool:
        return self["status"] == "finished"

    @property
    def order(self) -> tuple:
        """The place of its line in runs.csv."""
        names = ("started", "device", "commit")
        first = self["experiment"], self["overrides"] or "", self["seed"], self["run_id"]
        return *first, *(self[name] or "" for name in names)

    @property
    def priority(self) -> tuple:
        """Of several finished runs of one seed the one with the smallest priority counts."""
        return bool(self["dirty"]), self.order

    def is_rerun_of(self, other: Run) -> bool:
        """Whether it takes the other's line: the same run, repeated or continued.

        That is the same configuration, seed and data on the same device at the same commit, or
        the same start. On another device or at another commit a run has a line of its own.
        """
        if self["run_id"] != other["run_id"]:
            return False
        same_place = all(self[name] == other[name] for name in ("device", "commit"))
        return same_place or (self["started"] or "") == other["started"]


def from_record(record: object) -> Run:
    """A decoded ``result.json``; ValueError says which field is wrong and what it holds."""
    if not isinstance(record, dict):
        raise ValueError(f"holds a {type(record).__name__}, expected an object of fields")
    flat: dict[str, object] = {}
    for name, value in record.items():
        if name == "manifest":  # kept in a file of its own
            continue
        if value is None:  # a run may fail before its "data" is known
            nested = [f.removeprefix(f"{name}.") for f in FIELDS if f.startswith(f"{name}.")]
            value = dict.fromkeys(nested) or None
        nest = isinstance(value, dict)
        flat |= {f"{name}.{key}": v for key, v in value.items()} if nest else {name: value}
    if asked := read_test_images(record.get("manifest")):
        flat[TEST_IMAGES] = asked
    return parse({one_line(name): format_cell(name, value) for name, value in flat.items()})


def read_test_images(manifest: object) -> int | None:
    """The first how many test images a run with this manifest was tested on; None for all."""
    try:
        count = manifest["configuration"]["recipe"]["test_images"]
    except (KeyError, TypeError):
        return None
    return count if type(count) is int and count > 0 else None


def format_cell(name: str, value: object) -> str:
    """A JSON value as text from which it can be read back with every digit."""
    kind = FIELDS.get(name, "text").rstrip("?")
    if value is None:
        return ""
    if isinstance(value, str):
        if kind not in TEXTS:
            raise ValueError(f"{name} is the text {value[:40]!r}, expected a {kind}")
        return one_line(value)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return one_line("+".join(value))  # a resumed run names several commits
    return one_line(json.dumps(value, sort_keys=True))


def parse(cells: dict[str, str]) -> Run:
    """Check the cells of one run; ValueError says which field is wrong and what it holds."""
    values = {}
    for name, kind in FIELDS.items():
        if name not in cells:
            raise ValueError(f"{name} is missing")
        try:
            values[name] = parse_cell(cells[name], kind.rstrip("?"))
        except ValueError:
            message = f"{name} is {cells[name][:40]!r}, expected a {kind.rstrip('?')}"
            raise ValueError(message) from None
    if values["status"] and values["status"] not in STATUSES:
        raise ValueError(f"status is {values['status']!r}, expected one of {', '.join(STATUSES)}")
    for name in WHEN_FINISHED if values["status"] == "finished" else ALWAYS:
        if values[name] is None:
            raise ValueError(f"{name} is empty")
    return Run(cells, values)


def parse_cell(text: str, kind: str) -> str | int | float | bool | None:
    """The value of a cell, None for an empty one."""
    if not text or kind in TEXTS:
        if kind == "file name" and text and not re.fullmatch(r"[^./\\][^/\\]*", text):
            raise ValueError(text)
        return text or None
    if kind == "flag":
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    value = int(text) if kind == "count" else float(text)
    if not 0 <= value < LIMIT or (kind == "percent" and value > 100):  # NaN fails the first
        raise ValueError(text)
    return value


# ---- The file ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunsFile:
    """What runs.csv holds: its columns, its runs and, verbatim, the lines that are damaged."""

    columns: tuple[str, ...] = tuple(FIELDS)
    runs: tuple[Run, ...] = ()
    damaged: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_csv(path: Path) -> RunsFile:
    """Read runs.csv, empty if there is none; TableError where rewriting it would lose lines."""
    if not path.exists():
        return RunsFile()
    refused = f"{path} is left as it is: "
    try:
        header, *lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TableError(f"{refused}not UTF-8 text ({error.reason})") from None
    columns = tuple(map(unescape_formula, next(csv.reader([header]), [])))
    if missing := [name for name in FIELDS if name not in columns]:
        raise TableError(f"{refused}its header lacks {', '.join(missing[:3])}")
    if len(set(columns)) < len(columns):
        raise TableError(f"{refused}its header names a column twice")
    csv.field_size_limit(2**31 - 1)
    runs, damaged, problems = [], [], []
    for number, line in enumerate(lines, start=2):
        try:
            cells = next(csv.reader([line], strict=True), [])
            if line and len(cells) != len(columns):
                raise ValueError(f"{len(cells)} cells for {len(columns)} columns")
            texts = [unescape_formula(one_line(cell)) for cell in cells]
            runs += [parse(dict(zip(columns, texts, strict=True)))] if line else []
        except (ValueError, csv.Error) as error:
            damaged.append(line)
            problems.append(f"{path}:{number}: kept but not counted: {error}")
    by_id: dict[str, list[Run]] = {}
    for run in runs:
        others = by_id.setdefault(run["run_id"], [])
        if any(run.is_rerun_of(other) for other in others):
            where = "on one device at one commit"
            raise TableError(f"{refused}2 lines are named {run['run_id']} {where}; keep one")
        others.append(run)
    return RunsFile(columns, tuple(runs), tuple(damaged), tuple(problems))


def merge(committed: RunsFile, found: Iterable[Run]) -> RunsFile:
    """Committed lines with the runs that were found; a run replaces its own earlier line alone.

    A finished line gives way to finished runs alone, and to one with uncommitted changes only if it
    had such changes itself. A run on another device or at another commit is added as a line.
    """
    lines: dict[str, list[Run]] = {}
    for run in committed.runs:
        lines.setdefault(run["run_id"], []).append(run)
    columns, problems = dict.fromkeys(committed.columns), list(committed.problems)
    for run in sorted(found, key=lambda run: run.order):
        others = lines.setdefault(run["run_id"], [])
        earlier = [line for line in others if run.is_rerun_of(line)]
        if better := next((line for line in earlier if _worth(line) > _worth(run)), None):
            state = f"{run['status']}{', uncommitted changes' * bool(run['dirty'])}"
            problems.append(f"{run['run_id']}: {state}; the {better['status']} line stays")
            continue
        lines[run["run_id"]] = [line for line in others if line not in earlier] + [run]
        columns |= dict.fromkeys(run.cells)
    ordered = sorted((run for same in lines.values() for run in same), key=lambda run: run.order)
    return replace(committed, columns=tuple(columns), runs=tuple(ordered), problems=tuple(problems))


def _worth(run: Run) -> tuple[bool, bool]:
    return run.finished, run.finished and not run["dirty"]


def format_runs_csv(content: RunsFile) -> str:
    """runs.csv: one line per run in a stable order, then the damaged lines as they were."""
    rows = (
        [escape_formula(run.cells.get(name, "")) for name in content.columns]
        for run in content.runs
    )
    header = [escape_formula(name) for name in content.columns]
    return as_csv(header, rows) + "".join(f"{line}\n" for line in content.damaged)
