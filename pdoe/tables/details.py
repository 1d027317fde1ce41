"""What is kept of a run beside its line in runs.csv: curves, diagnostics, manifest.

``results/<table>/details/<run_id>.json``, written by ``scripts/compare.py`` from run folders and
from W&B alike, and read by :mod:`pdoe.report`. Nothing here imports torch. Anything that is damaged
is named and left out: it never keeps a run from its table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def of_folder(folder: Path, manifest: object) -> tuple[dict[str, Any], list[str]]:
    """The details in a run folder whose record has that manifest, and a line for what is damaged.

    A last line of metrics without an end was cut by a kill, and is no damage.
    """
    rows: list[object] = []
    problems = []
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text("utf-8").split("\n")[:-1]
        try:
            rows = json.loads(f"[{','.join(lines)}]")
        except (ValueError, RecursionError):
            rows, damaged = each_alone(lines)
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
    return made(rows, diagnostics, manifest), problems


def each_alone(lines: Iterable[str]) -> tuple[list[object], list[int]]:
    """The rows of the lines that can be read, and the numbers of the others."""
    rows, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            damaged.append(number)
    return rows, damaged


def made(rows: Iterable[object], diagnostics: object, manifest: object) -> dict[str, Any]:
    """Details: metrics as columns, of the same length, with None for what a row lacks."""
    whole = [row for row in rows if isinstance(row, dict) and isinstance(row.get("epoch"), int)]
    names = sorted(set().union(*whole) - {"epoch"})
    columns = {"epoch": [row["epoch"] for row in whole]} if whole else {}
    return {
        "metrics": columns | {name: numbers([row.get(name) for row in whole]) for name in names},
        "diagnostics": diagnostics if isinstance(diagnostics, dict) else None,
        "manifest": manifest if isinstance(manifest, dict) else None,
    }


def numbers(values: list[object]) -> list[float | None]:
    """Finite numbers as they are, and None for anything else."""
    if set(map(type, values)) <= {float, type(None)} and math.isfinite(sum(filter(None, values))):
        return values
    known = (isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return [
        float(value) if is_number and abs(value) < math.inf else None
        for value, is_number in zip(values, known, strict=True)
    ]


def completed(found: Mapping[str, Any], before: str) -> dict[str, Any]:
    """The details with what their file had and they lack: a folder may have lost a part since."""
    try:
        held = json.loads(before)
        old = made([], held["diagnostics"], held["manifest"]) | {"metrics": held["metrics"]}
        epochs = [len(one["metrics"].get("epoch", ())) for one in (found, old)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return dict(found)
    parts = {name: found[name] or old[name] for name in ("diagnostics", "manifest")}
    return {"metrics": (old if epochs[1] > epochs[0] else found)["metrics"], **parts}


def text(run_id: str, details: Mapping[str, Any]) -> str:
    """The file of a run: a line for each part, so that a change of one is seen in a diff.

    Curves have seven digits, which are a third of all; the run folder has the others.
    """
    columns = (
        f"{json.dumps(name)}: {column(values)}" for name, values in details["metrics"].items()
    )
    rest = (
        f'"{part}": {json.dumps(details[part], sort_keys=True)}'
        for part in ("diagnostics", "manifest")
    )
    parts = [f'"run_id": {json.dumps(run_id)}', f'"metrics": {{{", ".join(columns)}}}', *rest]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def column(values: Iterable[float | None]) -> str:
    return "[" + ", ".join(["null" if v is None else f"{v:.7g}" for v in values]) + "]"
