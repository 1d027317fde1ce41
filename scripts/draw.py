"""Measure how the draw of the digits changes the error: trained runs on digits of their training.

    python scripts/draw.py outputs/mnistrot_p4/seed=0 ...

The regenerated set takes every digit of MNIST at most once. The published one was made by picking
digits one after the other (Larochelle et al. 2007), which lets a digit come back, in training and
in the test. For each run this measures three errors: on test digits from MNIST's training part, on
those from its test part, and on the 12,000 digits of the training images, rotated by fresh angles.
Writes `results/mnist_rot/draw.csv`; lines of runs that are not named stay.

The last column is what they give for 50,000 digits picked at random from all 70,000, of which the
training images hold the share s of 12,000 random picks: (1 - s) new + s seen. It leaves out that
those training images hold about 1,000 fewer different digits, which acts the other way.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pdoe.data import DataSet, to_input
from pdoe.data.files import data_root, read_first
from pdoe.data.idx import read_mnist
from pdoe.data.rotation import rotate_digits
from pdoe.files import as_csv, write_whole
from pdoe.run.config import build_model, fill_neutral, load_configured_data
from pdoe.run.folder import RunFolder
from pdoe.run.record import repository_state
from pdoe.run.trained import load_weights, read_configuration_at
from pdoe.tables.cells import escape_formula, unescape_formula

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "mnist_rot" / "draw.csv"
TRAIN, ALL, MNIST_TRAIN = 12_000, 70_000, 60_000
SHARE = 1 - (1 - 1 / ALL) ** TRAIN
COLUMNS = (
    "experiment", "overrides", "seed", "run_id", "new_of_mnist_train", "new_of_mnist_test", "new",
    "seen", "picked", "commit", "dirty",
)  # fmt: skip


@torch.no_grad()
def find_errors(model: nn.Module, images: Tensor, labels: Tensor, data: DataSet) -> np.ndarray:
    """Which of the images [N, 1, 28, 28] are classified wrongly: bool [N]."""
    parts = zip(images.split(100), labels.split(100), strict=True)
    wrong = [model(to_input(x, data.mean, data.std)).argmax(1) != y for x, y in parts]
    return torch.cat(wrong).numpy()


def average_errors(new: np.ndarray, origin: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Errors in per cent; ``new``, ``seen``: which images are wrong; ``origin`` numbers digits."""
    of_train = origin < MNIST_TRAIN
    mean_new, mean_seen = 100 * new.mean(), 100 * seen.mean()
    return {
        "new_of_mnist_train": 100 * new[of_train].mean(),
        "new_of_mnist_test": 100 * new[~of_train].mean(),
        "new": mean_new,
        "seen": mean_seen,
        "picked": (1 - SHARE) * mean_new + SHARE * mean_seen,
    }


@cache  # the runs share it
def load_seen_digits(config: str) -> tuple[DataSet, Tensor, Tensor, np.ndarray]:
    """The data of a configuration (JSON), its training digits at fresh angles with their labels,
    and the numbers of its test digits.

    Raises:
        ValueError: the data were not made from the MNIST digits at hand.
    """
    data = load_configured_data(json.loads(config), None)
    digits, labels = read_first(read_mnist, data_root(None))
    order = np.random.RandomState(0).permutation(len(digits))  # as the regenerated set was made
    train, test = order[:TRAIN], order[TRAIN : TRAIN + len(data.test_images)]
    if labels[test].tolist() != data.test_labels.tolist():
        raise ValueError(f"{data.name} ({data.provenance}) is not what MNIST gives here")
    angles = np.random.RandomState(1).uniform(0, 2 * math.pi, TRAIN)
    images = torch.from_numpy(rotate_digits(digits, train, angles)[:, None])
    return data, images, torch.from_numpy(labels[train].astype(np.int64)), test


def measure_run(folder: Path) -> dict[str, str]:
    """The line of a finished run; ValueError if there is none in the folder."""
    record = RunFolder(folder).read_result()
    if record is None or record["status"] != "finished":
        raise ValueError(f"{folder} holds no finished run")
    config = fill_neutral(read_configuration_at(folder))
    of_data = {"data": config["data"], "recipe": {"evaluate": config["recipe"]["evaluate"]}}
    data, images, labels, origin = load_seen_digits(json.dumps(of_data))
    model = load_weights(build_model(config, data), folder).eval()
    new = find_errors(model, data.test_images, data.test_labels, data)
    errors = average_errors(new, origin, find_errors(model, images, labels, data))
    commit, dirty = repository_state(ROOT)
    named = {name: str(record[name]) for name in ("experiment", "overrides", "seed", "run_id")}
    numbers = {name: f"{value:.3f}" for name, value in errors.items()}
    return {**named, **numbers, "commit": commit, "dirty": str(dirty)}


def main(folders: list[str]) -> None:
    if not folders:
        sys.exit(__doc__)
    lines: dict[str, dict[str, str]] = {}
    if RESULTS.exists():
        with open(RESULTS, newline="", encoding="utf-8") as file:
            lines = {line["run_id"]: line for line in csv.DictReader(file)}
        for line in lines.values():
            line["overrides"] = unescape_formula(line["overrides"])
    for folder in folders:
        line = measure_run(Path(folder))
        lines[line["run_id"]] = line
        print(", ".join(f"{name} {value}" for name, value in line.items()), flush=True)
        ordered = sorted(
            lines.values(), key=lambda x: [x["experiment"], x["overrides"], int(x["seed"])]
        )
        escaped = [x | {"overrides": escape_formula(x["overrides"])} for x in ordered]
        write_whole(RESULTS, as_csv(COLUMNS, escaped))


if __name__ == "__main__":
    main(sys.argv[1:])
