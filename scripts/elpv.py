"""ELPV: train networks on few and many labelled solar cells, and compare them.

    python scripts/elpv.py --train 0,1,2,3,4            # five seeds of all networks; resumable
    python scripts/elpv.py --train 0,1 --labels 50,200  # some of it
    python scripts/elpv.py --train 0,1,2 --recipe elpv_long --labels 200,1968
    python scripts/elpv.py                              # results/elpv from the finished runs
    python scripts/elpv.py --time                       # milliseconds for one cell (quiet machine)

Seed s draws its own labelled cells (data.draw=s); more cells include the fewer ones. Writes
`cells.csv` and `figures/` under results/elpv, and the tables of experiments/elpv. A line of
`cells.csv` is kept, unless its run was repeated on the same device at the same commit. For each
number of cells, tables and figures use the seeds that every network has, so that all are compared
on the same cells. Plain networks are tested a second time, with the mean log odds over eight
symmetries.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reproduce import parse_seeds, run

from pdoe.conversion.report import count_multiplications
from pdoe.data import DataSet, load_data
from pdoe.files import as_csv, write_whole
from pdoe.report.labels import describe_runs, draw_figures, make_tables
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model
from pdoe.run.cost import measure_seconds_per_image
from pdoe.run.evaluation import log_odds
from pdoe.run.folder import RunFolder
from pdoe.run.hardware import device_name, resolve_device
from pdoe.run.trained import load_weights, read_configuration_in
from pdoe.tables.markdown import insert

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "elpv"
README = ROOT / "experiments" / "elpv" / "README.md"
LABELS = "50,100,200,500,1000,1968"
GROUPS = {  # of each experiment, by recipe
    "elpv_common": {
        "elpv": ("p1", "p4", "p4m", "p8", "p8m"),
        "elpv_cost": ("p4", "p4m", "p8", "p8m"),
    },
    "elpv_long": {"elpv": ("p1", "p4", "p4m", "p8"), "elpv_cost": ("p4",)},
}
COLUMNS = (
    "recipe", "match", "group", "labels", "seed", "balanced_accuracy", "auc", "accuracy",
    "parameters", "multiplications", "run_id", "device", "precision", "threads", "torch", "commit",
    "dirty",
)  # fmt: skip


def train(recipe: str, seeds: Iterable[int], labels: str, outputs: Path) -> int:
    """Train all networks of one seed after the other; the first exit status that is not 0."""
    for seed in seeds:
        for experiment, groups in GROUPS[recipe].items():
            status = run(
                *("train.py", "-m", f"experiment={experiment}", f"recipe={recipe}", f"seed={seed}"),
                *(f"data.draw={seed}", f"recipe.train_images={labels}"),
                *(f"group={','.join(groups)}", f"outputs={outputs}", "tracking=disabled"),
            )
            if status:
                return status
    return 0


def read_runs(outputs: Path) -> list[dict[str, Any]]:
    """Read the finished runs of the two experiments with their own recipe."""
    found = []
    for path in sorted(outputs.glob("elpv*/*/seed=*/result.json")):
        folder = RunFolder(path.parent)
        record, config = folder.read_result(), read_configuration_in(folder.path)
        recipe = find_recipe(config) if record["status"] == "finished" and config else None
        if recipe is None:
            continue
        diagnostics = json.loads((folder.path / "diagnostics.json").read_text("utf-8"))
        found.append(measure(record, config, np.array(diagnostics["log_odds"])))
        if config["group"] == "p1":
            found.append(measure(record, config, view_odds(config, folder.path)))
            found[-1].update(match="views", multiplications=8 * found[-1]["multiplications"])
            found[-2]["recipe"] = recipe
        found[-1]["recipe"] = recipe
    return found


def find_recipe(config: Mapping[str, Any]) -> str | None:
    """Return the recipe of a run of the grid: group, seed, cells and precision are free in it."""
    for recipe in GROUPS:
        if config["experiment"] in GROUPS[recipe]:
            base = compose(config["experiment"], recipe)
            if leave_open(config) == leave_open(base):
                return recipe
    return None


def leave_open(config: Mapping[str, Any]) -> dict[str, Any]:
    config = json.loads(json.dumps({key: config[key] for key in config if key != "seed"}))
    config["group"] = config["precision"] = None
    config["data"]["draw"] = config["recipe"]["train_images"] = None
    return config


@cache
def compose(experiment: str, recipe: str = "elpv_common") -> dict[str, Any]:
    return compose_config(f"experiment={experiment}", f"recipe={recipe}")


def measure(record: Mapping[str, Any], config: dict[str, Any], odds: np.ndarray) -> dict[str, Any]:
    """Return the line of a run; measures of quality in per cent."""
    quality = measure_quality(odds, data_set().test_labels.numpy())
    return {
        "match": config["model"]["match"],
        "group": config["group"],
        "labels": config["recipe"]["train_images"],
        "seed": record["seed"],
        **{name: round(100 * value, 4) for name, value in quality.items()},
        "multiplications": multiplications(config["experiment"], config["group"]),
        **{key: record[key] for key in COLUMNS if key in record and key != "seed"},
    }


@cache
def data_set() -> DataSet:
    return load_data("elpv", size=compose("elpv")["data"]["size"])


def view_odds(config: dict[str, Any], folder: Path) -> np.ndarray:
    """Return the mean log odds of a trained network over the eight symmetries of each test cell."""
    data = data_set()
    model = load_weights(build_model(config, data), folder)
    turned = [torch.rot90(data.test_images, k, (2, 3)) for k in range(4)]
    views = [view for images in turned for view in (images, images.flip(3))]
    odds = [log_odds(model, replace(data, test_images=v), config["precision"]) for v in views]
    return np.mean(odds, axis=0)


@cache
def multiplications(experiment: str, group: str) -> int:
    """Multiplications of the convolutions and the linear layer for one image, kernels dense."""
    model = build_model({**compose(experiment), "group": group}, data_set())
    _, channels, size, _ = data_set().test_images.shape
    return sum(count_multiplications(model, channels, size)[0].values())


def measure_quality(odds: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measure log odds ``[N]`` against labels 0 or 1 ``[N]``.

    ``auc`` is the probability that a defective cell has larger log odds than a functional one,
    ties counting half. The other two measures call a cell defective where the log odds exceed 0.
    """
    positive, negative = odds[labels == 1], odds[labels == 0]
    above = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    recalls = (positive > 0).mean(), (negative <= 0).mean()
    accuracy = ((odds > 0) == (labels == 1)).mean()
    return {"balanced_accuracy": sum(recalls) / 2, "auc": above, "accuracy": accuracy}


def merge(runs: Iterable[Mapping[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``cells.csv`` with those of new runs added.

    A new run of a cell that has a line on another device or of another commit is printed and left
    out. The order is by cell of the grid. ``path`` need not exist.
    """
    cell = ("recipe", "seed", "labels", "match", "group")
    lines = csv.DictReader(path.read_text("utf-8").splitlines()) if path.exists() else []
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in [*lines, *runs]:
        line = {**line, "seed": int(line["seed"]), "labels": int(line["labels"])}
        key = tuple(line[column] for column in cell)
        old = merged.setdefault(key, line)
        if all(str(old[column]) == str(line[column]) for column in ("device", "commit")):
            merged[key] = line
        else:
            print(f"{line['run_id']} left out: {old['run_id']} of {old['device']} is the same cell")
    return sorted(merged.values(), key=lambda line: [line[column] for column in cell])


def select_complete(runs: Sequence[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """Return a recipe's runs of those pairs of seed and number of cells that have all networks."""
    runs = [run for run in runs if run["recipe"] == recipe]
    pairs = Counter((run["seed"], run["labels"]) for run in runs)
    most = sum(map(len, GROUPS[recipe].values())) + 1  # the plain network has two lines
    return [run for run in runs if pairs[run["seed"], run["labels"]] == most]


def print_times() -> None:
    """Print how long each network takes to classify a cell here, a batch of 32 at a time."""
    device = resolve_device("auto")
    print(f"{device_name(device)}, threads: {torch.get_num_threads()}")
    for experiment, groups in GROUPS["elpv_common"].items():
        for group in groups:
            config = compose_config(f"experiment={experiment}", f"group={group}")
            _, seconds = measure_seconds_per_image(config, device)
            print(f"{experiment} {group}: {1000 * seconds:.3f} ms, {config['precision']}")


def publish(runs: Sequence[dict[str, Any]]) -> None:
    """Write the tables of the page, and the figures."""
    text = README.read_text("utf-8")
    for recipe in GROUPS:
        lines = select_complete(runs, recipe)
        print(f"{recipe}: {len(lines)} runs with every network beside them")
        if lines:
            prefix = "long" if recipe == "elpv_long" else "common"
            for name, table in {"runs": describe_runs(lines), **make_tables(lines)}.items():
                text = insert(text, f"{prefix}_{name}", table)
            for name, svg in draw_figures(lines).items():
                write_whole(RESULTS / "figures" / f"{prefix}-{name}", svg)
    write_whole(README, text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", metavar="SEEDS", help="train first; comma-separated seeds")
    parser.add_argument("--labels", default=LABELS, help="numbers of labelled cells to train on")
    parser.add_argument("--recipe", default="elpv_common", choices=GROUPS, help="to train with")
    parser.add_argument("--time", action="store_true", help="time the networks, and nothing else")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs", help="folder of the runs")
    options = parser.parse_args(arguments)
    if options.time:
        print_times()
        return 0
    outputs = options.outputs.resolve()
    if options.train is not None:
        if status := train(options.recipe, parse_seeds(options.train), options.labels, outputs):
            return status
    lines = merge(read_runs(outputs), RESULTS / "cells.csv")
    if not lines:
        print(f"no finished run under {outputs}: python scripts/elpv.py --train 0", file=sys.stderr)
        return 1
    write_whole(RESULTS / "cells.csv", as_csv(COLUMNS, [[r[c] for c in COLUMNS] for r in lines]))
    publish(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
