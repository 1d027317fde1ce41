"""Where runs come from: run folders and W&B, each run once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..run.overrides import split_overrides
from .cells import one_line
from .details import build_details, read_details
from .runs import Run, from_record

SHORTENING = ("recipe.epochs", "recipe.train_images", "recipe.test_images")


@dataclass(frozen=True)
class Found:
    """A run, where it was found, and a function that reads its details.

    Attributes:
        details: gives the details, see :mod:`.details`, and a line for each damaged part.
        scale: as the manifest has it; None where it has none.
        mirrored: it is W&B's copy of a record.
    """

    run: Run
    where: str
    details: Callable[[], tuple[dict[str, Any], list[str]]]
    scale: str | None
    mirrored: bool = False

    @property
    def shortened(self) -> str:
        """The overrides that make it a trial of fewer epochs or images than its recipe has."""
        words = split_overrides(self.run["overrides"] or "")
        return ", ".join(w for w in words if w.lstrip("+").partition("=")[0] in SHORTENING)


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
                details = partial(read_details, path.parent, record.get("manifest"))
                found.append(Found(run, str(path), details, read_scale(record)))
            except (OSError, ValueError, RecursionError) as error:
                problems.append(f"{path}: skipped: {one_line(str(error))}")
        elif Path(folder).name.startswith("seed=") and not mirrored:
            problems.append(f"{folder}: no result.json: still running, or ended before its record")
    return found, problems


def from_mirror(
    where: str, record: dict[str, Any], rows: list[dict[str, Any]], diagnostics: object
) -> Found:
    """A run as W&B has it; ValueError as :func:`pdoe.tables.runs.from_record`."""
    run = from_record(record)

    def details() -> tuple[dict[str, Any], list[str]]:
        return build_details(rows, diagnostics, record.get("manifest")), []

    return Found(run, where, details, read_scale(record), mirrored=True)


def read_scale(record: dict[str, Any]) -> str | None:
    """The scale of a run according to its manifest; the first runs had no manifest."""
    try:
        return str(record["manifest"]["configuration"]["recipe"]["scale"])
    except (KeyError, TypeError):
        return None


def drop_copies(found: Iterable[Found]) -> tuple[list[Found], list[str]]:
    """Each run once, and a line for each copy that is left out.

    Of identical copies one is used. Of different records of one run none is used, since nothing
    says which is true. A run's own record goes before its mirror, which may be older.
    """
    same: list[list[Found]] = []
    places: dict[str, list[list[Found]]] = {}
    for one in sorted(found, key=lambda one: one.mirrored):
        groups = places.setdefault(one.run["run_id"], [])
        group = next((g for g in groups if any(one.run.is_rerun_of(o.run) for o in g)), None)
        if group is None:
            groups.append(group := [])
            same.append(group)
        group.append(one)
    kept, problems = [], []
    for copies in same:
        run_id = copies[0].run["run_id"]
        own = [one for one in copies if not one.mirrored]
        if not own:  # W&B's copy of a start that was stopped is older than that of the end
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
