"""Error on MNIST-rot against seconds of training, every system timed on this machine.

    python scripts/seconds.py        # a minute or two; the machine must be quiet

The runs of the table come from several machines, so their own seconds cannot be compared. Here the
seconds of a whole run, with its tests, are estimated from a few steps of each system, one after
the other on one device, the median of three rounds (``pdoe.run.cost``). Errors come from
``results/mnist_rot/runs.csv``. Writes ``results/mnist_rot/seconds.csv``, and
``figures/seconds.svg`` beside it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ["MPLBACKEND"] = "Agg"

import torch

from pdoe.files import as_csv, write_whole
from pdoe.report.figures import render
from pdoe.report.headline import Point, plot_errors, point_of_runs
from pdoe.run.compose import compose_config
from pdoe.run.cost import estimate_seconds
from pdoe.run.hardware import resolve_device
from pdoe.run.overrides import split_overrides
from pdoe.run.provenance import label_device
from pdoe.run.repository import repository_state
from pdoe.tables.paper import read_rows
from pdoe.tables.runs import read_csv
from pdoe.tables.table import Line, table_lines

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "mnist_rot"
ROUNDS = 3
COLUMNS = (
    "experiment", "overrides", "error", "runs", "parameters", "seconds", "least", "most", "device",
    "threads", "precision", "torch", "commit", "dirty",
)  # fmt: skip


def collect_points(lines: list[Line]) -> list[tuple[Line, Point]]:
    """The lines of the figure of error against parameters, but those on other draws."""
    found = [(line, point_of_runs(line)) for line in lines if line.ours and not line.another]
    return [(line, point) for line, point in found if point]


def compose(line: Line) -> dict[str, Any]:
    return compose_config(f"experiment={line.paper.row}", *split_overrides(line.overrides))


def main() -> None:
    lines = table_lines(
        read_rows(ROOT / "experiments" / "mnist_rot"), read_csv(RESULTS / "runs.csv").runs, "full"
    )
    device = resolve_device("auto")
    name, commit, points, rows = label_device(device), repository_state(ROOT), [], []
    found = [(line, point, compose(line)) for line, point in collect_points(lines)]
    rounds = [[estimate_seconds(config, device) for *_, config in found] for _ in range(ROUNDS)]
    for (line, point, config), times in zip(found, zip(*rounds, strict=True), strict=True):
        seconds = median(times)
        print(f"{point.name}: {seconds:,.0f} s ({min(times):,.0f} to {max(times):,.0f})")
        points.append(replace(point, x=seconds))
        rows.append(
            [line.paper.row, line.overrides, line.ours.mean, line.ours.n, point.x,
             *(round(value, 1) for value in (seconds, min(times), max(times))), name,
             torch.get_num_threads(), config["precision"], torch.__version__, *commit]
        )  # fmt: skip
    label = f"seconds of a run with its tests, {name}, threads: {torch.get_num_threads()}"
    panel = partial(plot_errors, "MNIST-rot", points, label)
    write_whole(RESULTS / "seconds.csv", as_csv(COLUMNS, rows))
    write_whole(RESULTS / "figures" / "seconds.svg", render([panel], 640, 460))


if __name__ == "__main__":
    main()
