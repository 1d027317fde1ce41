"""What is kept of a run beside its line in runs.csv: curves, diagnostics, manifest.

``results/<table>/details/<run_id>.json``, written by ``scripts/compare.py`` from run folders and
from W&B alike, and read by :mod:`pdoe.report`. Nothing here imports torch. Anything that is damaged
is left out: it never keeps a run from its table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def of_folder(folder: Path, manifest: object) -> dict[str, Any]:
    """The details in a run folder whose record has that manifest."""
    try:
        lines = (folder / "metrics.jsonl").read_text("utf-8").split("\n")[:-1]  # the rest was cut
    except (OSError, UnicodeDecodeError):
        lines = []
    try:
        rows = json.loads(f"[{','.join(filter(None, lines))}]")
    except (ValueError, RecursionError):
        rows = []
    try:
        diagnostics = json.loads((folder / "diagnostics.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        diagnostics = None
    return made(rows, diagnostics, manifest)


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
