"""The details of a run beside its line in runs.csv: learning curves, diagnostics, manifest.

They are ``results/<table>/details/<run_id>.json``, written by ``scripts/compare.py`` from run
folders and from W&B alike, and read by :mod:`pdoe.report`. A damaged part is named and left out: it
never keeps a run from its table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CURVES = ("train_loss", "train_error", "test_error")  # metrics that a repetition has again


def read_details(folder: Path, manifest: object) -> tuple[dict[str, Any], list[str]]:
    """The details in a run folder whose record has that manifest, and a line per damaged part.

    A last line of metrics without a line end was cut off by a kill, which is no damage.
    """
    rows: list[object] = []
    problems = []
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text("utf-8").split("\n")[:-1]
        try:
            rows = json.loads(f"[{','.join(lines)}]")
        except (ValueError, RecursionError):
            rows, damaged = read_each(lines)
            problems.append(f"{path}: left out: damaged lines {', '.join(map(str, damaged[:5]))}")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: left out: {type(error).__name__}")
    diagnostics, path = None, folder / "diagnostics.json"
    try:
        diagnostics = json.loads(path.read_bytes())
        if not isinstance(diagnostics, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path}: left out: {' '.join(str(error).split())}")
    return build_details(rows, diagnostics, manifest), problems


def read_each(lines: Iterable[str]) -> tuple[list[object], list[int]]:
    """The rows of the lines that can be decoded, and the numbers of the other lines."""
    rows, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            damaged.append(number)
    return rows, damaged


def build_details(rows: Iterable[object], diagnostics: object, manifest: object) -> dict[str, Any]:
    """Details with metrics as columns of the same length; None where a row has no value."""
    whole = [row for row in rows if isinstance(row, dict) and isinstance(row.get("epoch"), int)]
    names = sorted(set().union(*whole) - {"epoch"})
    columns = {"epoch": [row["epoch"] for row in whole]} if whole else {}
    return {
        "metrics": columns
        | {name: keep_numbers([row.get(name) for row in whole]) for name in names},
        "diagnostics": diagnostics if isinstance(diagnostics, dict) else None,
        "manifest": manifest if isinstance(manifest, dict) else None,
    }


def keep_numbers(values: list[object]) -> list[float | None]:
    """Finite numbers as they are, and None for anything else."""
    if set(map(type, values)) <= {float, type(None)} and math.isfinite(sum(filter(None, values))):
        return values
    known = (isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return [
        float(value) if is_number and abs(value) < math.inf else None
        for value, is_number in zip(values, known, strict=True)
    ]


def complete_details(found: Mapping[str, Any], before: str) -> dict[str, Any]:
    """The details, completed from their earlier file: a folder may have lost a part since."""
    try:
        earlier = json.loads(before)
        old = build_details([], earlier["diagnostics"], earlier["manifest"])
        old["metrics"] = earlier["metrics"]
        epochs = [len(one["metrics"].get("epoch", ())) for one in (found, old)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return dict(found)
    parts = {name: found[name] or old[name] for name in ("diagnostics", "manifest")}
    return {"metrics": (old if epochs[1] > epochs[0] else found)["metrics"], **parts}


def format_details(run_id: str, details: Mapping[str, Any]) -> str:
    """The file of a run, a line for each part, so that a diff shows which part changed.

    Curves have seven digits, a third of the file's size; the run folder has all digits.
    """
    columns = (
        f"{json.dumps(name)}: {format_column(values)}"
        for name, values in details["metrics"].items()
    )
    rest = (
        f'"{part}": {json.dumps(details[part], sort_keys=True)}'
        for part in ("diagnostics", "manifest")
    )
    parts = [f'"run_id": {json.dumps(run_id)}', f'"metrics": {{{", ".join(columns)}}}', *rest]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def have_equal_curves(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool | None:
    """Whether losses and errors of every epoch are the same to seven digits; None without any."""
    pairs = [
        [format_column(one["metrics"][name]) for one in (first, second)]
        for name in CURVES
        if all(one["metrics"].get(name) for one in (first, second))
    ]
    return all(ours == theirs for ours, theirs in pairs) if pairs else None


def format_column(values: Iterable[float | None]) -> str:
    return "[" + ", ".join(["null" if v is None else f"{v:.7g}" for v in values]) + "]"
