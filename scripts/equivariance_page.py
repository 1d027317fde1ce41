"""What was measured, as CSV; figures and tables made of it; both on this folder's page.

`angles.csv`, `order.csv` and `layers.csv` hold the lines of many calls: those of a network in a
state, or of a group, replace the ones that were there. Every line names the commit it was made at,
with a `*` where the tree had changes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pdoe.files import as_csv, write_whole
from pdoe.report import figures
from pdoe.tables.markdown import grid, insert

README = Path(__file__).with_name("README.md")
COLUMNS = {
    "layers": ("network", "state", "layer", "error", "reason", "commit"),
    "angles": ("network", "state", "angle", "error", "commit"),
    "order": ("group", "layer", "angle", "spacing", "error", "order", "commit"),
}
KEYS = {"layers": ("network", "state"), "angles": ("network", "state"), "order": ("group",)}
NUMBERS = {"angle", "error", "spacing", "order"}
Lines = Sequence[Mapping[str, object]]


def read(folder: Path, name: str) -> list[dict[str, str]]:
    """The lines of one file; none if it is not there. ValueError if it is another one's."""
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
                said = f"{column} is a number, not {line[column]!r}"
                raise ValueError(f"{path}, line {number}: {said}: measure anew") from None
    return lines


def check(folder: Path) -> None:
    """Refuse, before anything is measured, what could not be written or drawn afterwards."""
    for name in COLUMNS:
        read(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    if not find_spec("matplotlib"):
        raise ValueError("figures need matplotlib, which is missing: pip install '.[report]'")


def put(folder: Path, commit: str, dirty: bool, **measured: Lines) -> None:
    """Write lines in the place of those with the same network and state, or of the same group."""
    made_at = commit + "*" * dirty
    for name, new in measured.items():
        keyed: dict[tuple[str, ...], list[dict[str, str]]] = {}
        fresh = [{k: _cell(v) for k, v in line.items()} | {"commit": made_at} for line in new]
        replaced = {tuple(line[k] for k in KEYS[name]) for line in fresh}
        for line in read(folder, name):
            key = tuple(line[k] for k in KEYS[name])
            keyed.setdefault(key, []).extend([] if key in replaced else [line])
        for line in fresh:
            keyed.setdefault(tuple(line[k] for k in KEYS[name]), []).append(line)
        lines = (line for lines in keyed.values() for line in lines)
        write_whole(folder / f"{name}.csv", as_csv(COLUMNS[name], lines))


def draw(folder: Path) -> None:
    """The figures of what the folder holds, and those that need no measurement."""
    figures.stencils(folder / "stencils.svg")
    figures.turned_filter(folder / "turned.svg")
    if lines := read(folder, "angles"):
        figures.curves(lines, folder / "angles.svg")
    if lines := read(folder, "order"):
        figures.orders(lines, folder / "order.svg")


def fill(folder: Path, path: Path = README) -> None:
    """Put the tables of the folder's numbers between the marks of the page."""
    text = path.read_text("utf-8")
    for name, table in tables(folder).items():
        text = insert(text, name, f"{table}\n")
    write_whole(path, text)


def tables(folder: Path) -> dict[str, str]:
    """Name -> Markdown of the page's tables."""
    made = {"layers": summary_table, "angles": angle_table, "order": order_table}
    return {name: f"{table(read(folder, name))}" for name, table in made.items()}


def layer_table(lines: Lines) -> str:
    """One network, a line for each layer and a column for each state."""
    states = list(dict.fromkeys(line["state"] for line in lines))
    layers = list(dict.fromkeys(line["layer"] for line in lines))
    errors = {(line["layer"], line["state"]): float(line["error"]) for line in lines}
    rows = [[name, *(f"{errors[name, state]:.1e}" for state in states)] for name in layers]
    return grid(("layer", *states), rows)


def summary_table(lines: Lines) -> str:
    """Networks and states: errors of trunk and logits, the first layer that loses it, and why."""
    rows = []
    for (name, state), own in _grouped(lines, "network", "state"):
        errors = {line["layer"]: float(line["error"]) for line in own}
        lost = next((line for line in own if line["reason"]), None)
        layer, why = (f"`{lost['layer']}`", lost["reason"]) if lost else ("none", "")
        trunk, logits = (f"{errors[part]:.0e}" for part in ("trunk", "logits"))
        rows.append((f"`{name}`", state, trunk, logits, layer, why))
    return grid(("network", "state", "trunk", "logits", "first layer that loses it", "why"), rows)


def angle_table(lines: Lines) -> str:
    """The largest error over quarter turns, over the other multiples of 45 degrees, and beyond."""
    rows = []
    for (name, state), own in _grouped(lines, "network", "state"):
        largest = {90: 0.0, 45: 0.0, 0: 0.0}
        for line in own:
            angle = float(line["angle"])
            kind = next((step for step in (90, 45) if angle % step == 0), 0)
            largest[kind] = max(largest[kind], float(line["error"]))
        rows.append((name, state, *(f"{error:.1e}" for error in largest.values())))
    return grid(
        ("network", "state", "multiples of 90°", "45°, 135°, 225°, 315°", "all others"), rows
    )


def order_table(lines: Lines) -> str:
    """Error at the coarsest and at the finest spacing, and the fitted order."""
    rows = []
    for (group, angle, layer, order), own in _grouped(lines, "group", "angle", "layer", "order"):
        errors = {float(line["spacing"]): float(line["error"]) for line in own}
        ends = (f"{errors[h]:.1e} (h = 1/{1 / h:g})" for h in (max(errors), min(errors)))
        rows.append((group, f"{float(angle):g}°", layer, *ends, f"{float(order):.2f}"))
    return grid(("group", "turn", "layers", "coarse", "fine", "fitted order"), rows)


def _grouped(lines: Lines, *names: str) -> Iterable[tuple[tuple, list[Mapping[str, object]]]]:
    found: dict[tuple, list[Mapping[str, object]]] = {}
    for line in lines:
        found.setdefault(tuple(line[name] for name in names), []).append(line)
    return found.items()


def _cell(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)
