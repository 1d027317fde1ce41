"""ELPV: train networks on few and many labelled solar cells, and compare them.

    python scripts/elpv.py --train 0,1,2,3,4            # five seeds of all networks; resumable
    python scripts/elpv.py --train 0,1 --labels 50,200  # some of it
    python scripts/elpv.py                              # results/elpv from the finished runs

Seed s draws its own labelled cells (data.draw=s); more cells include the fewer ones. Writes
`runs.csv`, `table.md` and `figures/` under results/elpv. For each number of cells, the tables use
the seeds that every network has, so that all are compared on the same cells.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from reproduce import parse_seeds, run

from pdoe.conversion.report import count_multiplications
from pdoe.data import load_data
from pdoe.files import as_csv, write_whole
from pdoe.report.labels import draw_figures, write_tables
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model
from pdoe.run.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "elpv"
LABELS = "50,100,200,500,1000,1968"
GROUPS = {"elpv": ("p1", "p4", "p4m", "p8", "p8m"), "elpv_cost": ("p4", "p4m", "p8", "p8m")}
COLUMNS = (
    "match", "group", "labels", "seed", "balanced_accuracy", "auc", "accuracy", "parameters",
    "multiplications", "seconds", "run_id", "device", "precision", "threads", "torch", "commit",
    "dirty",
)  # fmt: skip


def train(seeds: Iterable[int], labels: str, outputs: Path) -> int:
    """Train all networks of one seed after the other; the first exit status that is not 0."""
    for seed in seeds:
        for experiment, groups in GROUPS.items():
            status = run(
                *("train.py", "-m", f"experiment={experiment}", f"seed={seed}"),
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
        record = folder.read_result()
        config = OmegaConf.to_container(OmegaConf.load(path.parent / "config.yaml"))
        if record["status"] == "finished" and is_of_grid(config):
            found.append(measure(record, config, folder.path))
    return found


def is_of_grid(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of its experiment, apart from group, seed and cells."""
    if config["experiment"] not in GROUPS:
        return False
    config = json.loads(json.dumps({key: config[key] for key in config if key != "seed"}))
    base = json.loads(json.dumps(compose(config["experiment"])))
    for one in (config, base):
        one["group"] = one["data"]["draw"] = one["recipe"]["train_images"] = one["precision"] = None
    return config == base


@cache
def compose(experiment: str) -> dict[str, Any]:
    return compose_config(f"experiment={experiment}")


def measure(record: Mapping[str, Any], config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the line of a run; measures of quality in per cent."""
    odds = json.loads((folder / "diagnostics.json").read_text("utf-8"))["log_odds"]
    quality = measure_quality(np.array(odds), test_labels())
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
def test_labels() -> np.ndarray:
    return load_data("elpv").test_labels.numpy()


@cache
def multiplications(experiment: str, group: str) -> int:
    """Multiplications of the convolutions and the linear layer for one image, kernels dense."""
    model = build_model({**compose(experiment), "group": group})
    return sum(count_multiplications(model, 1, 32)[0].values())


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


def select_complete(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs of those pairs of seed and number of cells that have every network."""
    pairs = Counter((run["seed"], run["labels"]) for run in runs)
    most = sum(map(len, GROUPS.values()))
    return [run for run in runs if pairs[run["seed"], run["labels"]] == most]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", metavar="SEEDS", help="train first; comma-separated seeds")
    parser.add_argument("--labels", default=LABELS, help="numbers of labelled cells to train on")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs", help="folder of the runs")
    options = parser.parse_args(arguments)
    outputs = options.outputs.resolve()
    if options.train is not None:
        if status := train(parse_seeds(options.train), options.labels, outputs):
            return status
    runs = read_runs(outputs)
    if not runs:
        print(f"no finished run under {outputs}: python scripts/elpv.py --train 0", file=sys.stderr)
        return 1
    runs.sort(key=lambda r: (r["seed"], r["labels"], r["match"] != "parameters", r["group"]))
    write_whole(RESULTS / "runs.csv", as_csv(COLUMNS, [[r[c] for c in COLUMNS] for r in runs]))
    lines = select_complete(runs)
    print(f"{len(runs)} runs, {len(lines)} of them with every network beside it")
    if lines:
        write_whole(RESULTS / "table.md", write_tables(lines))
        for name, svg in draw_figures(lines).items():
            write_whole(RESULTS / "figures" / name, svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
