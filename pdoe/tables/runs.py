"""The lines of runs.csv: where they come from, what they must hold, how they are kept.

A run is a flat row of text cells, whatever its source (run folders, W&B, runs.csv), and
:func:`parse` is the one gate that every source passes. Errors are in per cent, times in seconds.
What is damaged is named and left out, never guessed; what would have to be overwritten unread
raises :class:`TableError`. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..files import as_csv
from .details import made, of_folder

# The columns of runs.csv and what they hold; "?" may be empty even in a finished run.
FIELDS = {
    "run_id": "name", "experiment": "name", "overrides": "text?", "seed": "count",
    "status": "name", "test_error": "percent", "test_error_best": "percent?",
    "parameters": "count?", "epochs": "count", "seconds": "number",
    "seconds_per_epoch": "number?", "device": "text?", "precision": "text?", "threads": "count?",
    "torch": "text?", "commit": "text?", "dirty": "flag?", "data.name": "text?",
    "data.provenance": "name", "data.sha256": "text?", "config_hash": "text?",
    "equivariance_error.trunk": "number?", "equivariance_error.logits": "number?",
    "started": "text?", "ended": "text?",
}  # fmt: skip
TEST_IMAGES = "recipe.test_images"  # a column where a run was tested on the first so many alone
STATUSES = ("finished", "interrupted", "failed", "diverged")
LIMIT = 1e15  # no time, count or error is larger; sums of what is smaller stay finite
ALWAYS = ("run_id", "experiment", "seed", "status")  # without these even a failed run is nameless
WHEN_FINISHED = tuple(name for name, kind in FIELDS.items() if not kind.endswith("?"))


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
        return self["experiment"], self["overrides"] or "", self["seed"], self["run_id"]


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
    if asked := asked_images(record.get("manifest")):
        flat[TEST_IMAGES] = asked
    return parse({one_line(name): cell(name, value) for name, value in flat.items()})


def asked_images(manifest: object) -> int | None:
    """The first how many test images a run with this manifest was tested on; None for all."""
    try:
        count = manifest["configuration"]["recipe"]["test_images"]
    except (KeyError, TypeError):
        return None
    return count if type(count) is int and count > 0 else None


def cell(name: str, value: object) -> str:
    """A JSON value as text from which it can be read back with every digit."""
    kind = FIELDS.get(name, "text").rstrip("?")
    if value is None:
        return ""
    if isinstance(value, str):
        if kind not in ("name", "text"):
            raise ValueError(f"{name} is the text {value[:40]!r}, expected a {kind}")
        return one_line(value)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return one_line("+".join(value))  # a resumed run names several commits
    return one_line(json.dumps(value, sort_keys=True))


def one_line(text: str) -> str:
    """Printable text without line breaks: a run is a line, whatever its failure message holds."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def parse(cells: dict[str, str]) -> Run:
    """Check the cells of one run; ValueError says which field is wrong and what it holds."""
    values = {}
    for name, kind in FIELDS.items():
        if name not in cells:
            raise ValueError(f"{name} is missing")
        try:
            values[name] = value_of(cells[name], kind.rstrip("?"))
        except ValueError:
            message = f"{name} is {cells[name][:40]!r}, expected a {kind.rstrip('?')}"
            raise ValueError(message) from None
    if values["status"] and values["status"] not in STATUSES:
        raise ValueError(f"status is {values['status']!r}, expected one of {', '.join(STATUSES)}")
    for name in WHEN_FINISHED if values["status"] == "finished" else ALWAYS:
        if values[name] is None:
            raise ValueError(f"{name} is empty")
    return Run(cells, values)


def value_of(text: str, kind: str) -> str | int | float | bool | None:
    """The value of a cell, None for an empty one."""
    if not text or kind in ("name", "text"):
        return text or None
    if kind == "flag":
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    value = int(text) if kind == "count" else float(text)
    if not 0 <= value < LIMIT or (kind == "percent" and value > 100):  # NaN fails the first
        raise ValueError(text)
    return value


# ---- Sources ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A run, where it was found, and what gives its details (see :mod:`pdoe.tables.details`)."""

    run: Run
    where: str
    details: Callable[[], tuple[dict[str, Any], list[str]]]
    scale: str | None  # None: its manifest does not say
    mirrored: bool = False  # by W&B: the run's own record, where there is one, is the true one


def read_folders(root: Path, skip: Sequence[str] = ()) -> tuple[list[Found], list[str]]:
    """Every ``result.json`` below root, and a line for each that cannot be used.

    Folders named in ``skip`` are not entered, nor those of W&B and of checkpoints.
    """
    found, problems = [], []
    for folder, subfolders, files in os.walk(root):
        path = Path(folder, "result.json")
        mirrored = "wandb" in subfolders
        subfolders[:] = sorted(set(subfolders) - {*skip, "checkpoint", "wandb"})
        if path.name in files:
            try:
                record = json.loads(path.read_bytes())
                run = from_record(record)
                details = partial(of_folder, path.parent, record.get("manifest"))
                found.append(Found(run, str(path), details, scale_of(record)))
            except (OSError, ValueError, RecursionError) as error:
                problems.append(f"{path}: skipped: {one_line(str(error))}")
        elif Path(folder).name.startswith("seed=") and not mirrored:
            problems.append(f"{folder}: no result.json: still running, or ended before its record")
    return found, problems


def from_mirror(
    where: str, record: dict[str, Any], rows: list[dict[str, Any]], diagnostics: object
) -> Found:
    """A run as W&B has it; ValueError as :func:`from_record`."""
    run = from_record(record)

    def details() -> tuple[dict[str, Any], list[str]]:
        return made(rows, diagnostics, record.get("manifest")), []

    return Found(run, where, details, scale_of(record), mirrored=True)


def scale_of(record: dict[str, Any]) -> str | None:
    """The scale of a run as its manifest tells it; the first runs had none."""
    try:
        return str(record["manifest"]["configuration"]["recipe"]["scale"])
    except (KeyError, TypeError):
        return None


def distinct(found: Iterable[Found]) -> tuple[list[Found], list[str]]:
    """Each run once.

    Of identical copies one is used; of different records under one run_id none is, since nothing
    says which is true. A run's own record goes before its mirror, which may be older.
    """
    places: dict[str, list[Found]] = {}
    for one in found:
        places.setdefault(one.run["run_id"], []).append(one)
    kept, problems = [], []
    for run_id, copies in places.items():
        own = [one for one in copies if not one.mirrored]
        if not own:  # what W&B has of a start that was stopped is older than what it has of the end
            own = [one for one in copies if one.run.finished] or copies
        first, *others = own
        names = ", ".join(one.where for one in others)
        if all(one.run.cells == first.run.cells for one in others):
            kept.append(first)
            if others:
                problems.append(f"{names}: skipped: same run {run_id} as {first.where}")
        else:
            problems.append(f"{first.where}, {names}: skipped: different runs named {run_id}")
        problems += [
            f"{one.where}: skipped: {first.where} is the record of the same run {run_id}"
            for one in copies
            if one not in own
        ]
    return kept, problems


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
    columns = tuple(next(csv.reader([header]), []))
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
            runs += [parse(dict(zip(columns, map(one_line, cells), strict=True)))] if line else []
        except (ValueError, csv.Error) as error:
            damaged.append(line)
            problems.append(f"{path}:{number}: kept but not counted: {error}")
    for run_id, times in Counter(run["run_id"] for run in runs).items():
        if times > 1:
            raise TableError(f"{refused}{times} lines are named {run_id}; keep the true one")
    return RunsFile(columns, tuple(runs), tuple(damaged), tuple(problems))


def merge(committed: RunsFile, found: Iterable[Run]) -> RunsFile:
    """Committed lines stay; a run replaces the line of its own run_id and no other.

    A finished line only gives way to a finished run: starting a run again does not erase it.
    """
    runs = {run["run_id"]: run for run in committed.runs}
    columns, problems = dict.fromkeys(committed.columns), list(committed.problems)
    for run in sorted(found, key=lambda run: run.order):
        old = runs.get(run["run_id"])
        if old and old.finished and not run.finished:
            problems.append(f"{run['run_id']}: {run['status']}; the finished line before it stays")
            continue
        runs[run["run_id"]] = run
        columns |= dict.fromkeys(run.cells)
    ordered = sorted(runs.values(), key=lambda run: run.order)
    return replace(committed, columns=tuple(columns), runs=tuple(ordered), problems=tuple(problems))


def csv_text(content: RunsFile) -> str:
    """runs.csv: one line per run in a stable order, then the damaged lines as they were."""
    rows = ([run.cells.get(name, "") for name in content.columns] for run in content.runs)
    return as_csv(content.columns, rows) + "".join(f"{line}\n" for line in content.damaged)
