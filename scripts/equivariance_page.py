"""Measurements of `scripts/equivariance.py` as CSV, and the tables of experiments/equivariance.

`angles.csv`, `order.csv` and `layers.csv` hold the lines of many calls. Lines of a network in a
state, or of a group, replace earlier ones of the same. Every line names its commit, with a `*` if
the tree had changes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pdoe.files import as_csv, write_whole
from pdoe.tables.markdown import grid, insert

README = Path(__file__).resolve().parents[1] / "experiments" / "equivariance" / "README.md"
COLUMNS = {
    "layers": ("network", "state", "layer", "error", "reason", "commit"),
    "angles": ("network", "state", "angle", "error", "commit"),
    "order": ("group", "layer", "angle", "spacing", "error", "order", "commit"),
}
KEYS = {"layers": ("network", "state"), "angles": ("network", "state"), "order": ("group",)}
NUMBERS = {"angle", "error", "spacing", "order"}
Lines = Sequence[Mapping[str, object]]


def read_lines(folder: Path, name: str) -> list[dict[str, str]]:
    """Read the lines of one file, none if it is missing.

    Raises:
        ValueError: The file has other columns, or a cell that should be a number is none.
    """
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS[name]:
            found, wanted = ",".join(reader.fieldnames or ()), ",".join(COLUMNS[name])
            raise ValueError(f"{path} has the columns {found!r}, expected {wanted}: move it away")
        lines = list(reader)
    for number, line in enumerate(lines, start=2):
        for column in NUMBERS & set(line):
            try:
                float(line[column])
            except (TypeError, ValueError):
                problem = f"{column} is {line[column]!r}, expected a number"
                raise ValueError(f"{path}, line {number}: {problem}: measure again") from None
    return lines


def check_folder(folder: Path) -> None:
    """Refuse a folder with other files, before anything is measured; make it if it is missing."""
    for name in COLUMNS:
        read_lines(folder, name)
    folder.mkdir(parents=True, exist_ok=True)


def merge_lines(folder: Path, commit: str, **measured: Lines) -> None:
    """Write lines in the place of those with the same network and state, or the same group."""
    for name, new in measured.items():
        keyed: dict[tuple[str, ...], list[dict[str, str]]] = {}
        fresh = [
            {k: repr(v) if isinstance(v, float) else str(v) for k, v in line.items()}
            | {"commit": commit}
            for line in new
        ]
        replaced = {tuple(line[k] for k in KEYS[name]) for line in fresh}
        for line in read_lines(folder, name):
            key = tuple(line[k] for k in KEYS[name])
            keyed.setdefault(key, []).extend([] if key in replaced else [line])
        for line in fresh:
            keyed.setdefault(tuple(line[k] for k in KEYS[name]), []).append(line)
        lines = (line for lines in keyed.values() for line in lines)
        write_whole(folder / f"{name}.csv", as_csv(COLUMNS[name], lines))


def fill_tables(folder: Path, path: Path = README) -> None:
    """Write the tables of the folder's numbers between the marks of the page."""
    text = path.read_text("utf-8")
    tables = {"layers": summarise_layers, "angles": tabulate_angles, "order": tabulate_orders}
    for name, tabulate in tables.items():
        text = insert(text, name, f"{tabulate(read_lines(folder, name))}\n")
    write_whole(path, text)


def tabulate_layers(lines: Lines) -> str:
    """One network: a row for each layer, a column for each state."""
    states = list(dict.fromkeys(line["state"] for line in lines))
    layers = list(dict.fromkeys(line["layer"] for line in lines))
    errors = {(line["layer"], line["state"]): float(line["error"]) for line in lines}
    rows = [[name, *(f"{errors[name, state]:.1e}" for state in states)] for name in layers]
    return grid(("layer", *states), rows)


def summarise_layers(lines: Lines) -> str:
    """A row for each network and state: errors, the first layer that loses equivariance, why."""
    rows = []
    for (name, state), own in group_lines(lines, "network", "state"):
        errors = {line["layer"]: float(line["error"]) for line in own}
        lost = next((line for line in own if line["reason"]), None)
        layer, why = (f"`{lost['layer']}`", lost["reason"]) if lost else ("none", "")
        trunk, logits = (f"{errors[part]:.0e}" for part in ("trunk", "logits"))
        rows.append((f"`{name}`", state, trunk, logits, layer, why))
    return grid(("network", "state", "trunk", "logits", "first layer that loses it", "why"), rows)


def tabulate_angles(lines: Lines) -> str:
    """The largest error over multiples of 90, other multiples of 45, and all other degrees."""
    rows = []
    for (name, state), own in group_lines(lines, "network", "state"):
        largest = {90: 0.0, 45: 0.0, 0: 0.0}
        for line in own:
            angle = float(line["angle"])
            kind = next((step for step in (90, 45) if angle % step == 0), 0)
            largest[kind] = max(largest[kind], float(line["error"]))
        rows.append((name, state, *(f"{error:.1e}" for error in largest.values())))
    header = ("network", "state", "multiples of 90°", "45°, 135°, 225°, 315°", "all others")
    return grid(header, rows)


def tabulate_orders(lines: Lines) -> str:
    """The error at the coarsest and at the finest spacing, and the fitted order."""
    rows = []
    keys = ("group", "angle", "layer", "order")
    for (group, angle, layer, order), own in group_lines(lines, *keys):
        errors = {float(line["spacing"]): float(line["error"]) for line in own}
        ends = (f"{errors[h]:.1e} (h = 1/{1 / h:g})" for h in (max(errors), min(errors)))
        rows.append((group, f"{float(angle):g}°", layer, *ends, f"{float(order):.2f}"))
    return grid(("group", "rotation", "layers", "coarse", "fine", "fitted order"), rows)


def group_lines(
    lines: Lines, *names: str
) -> Iterable[tuple[tuple[object, ...], list[Mapping[str, object]]]]:
    """Lines with the same values in these columns, in order of appearance."""
    found: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for line in lines:
        found.setdefault(tuple(line[name] for name in names), []).append(line)
    return found.items()
