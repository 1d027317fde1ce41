"""Quality against the number of labels: measures, labels needed, tables."""

from __future__ import annotations

import math

import elpv
import numpy as np
import pytest

from pdoe.files import as_csv, write_whole
from pdoe.report.labels import (
    compare,
    describe_runs,
    draw_figures,
    labels_needed,
    make_tables,
)

NETWORKS = [("parameters", "p1"), ("views", "p1"), ("parameters", "p4m"), ("cost", "p4m")]


def line(network, labels, seed, auc):
    costs = {"parameters": 1000, "multiplications": 2_000_000}
    found = {"auc": auc, "balanced_accuracy": auc - 5, "accuracy": auc, "device": "CPU"}
    names = {"match": network[0], "group": network[1], "labels": labels, "seed": seed}
    return names | costs | found | {"precision": "bf16", "commit": "abc"}


def grid(gain=4.0):
    """The plain network has 70, 80 and 90; the others ``gain`` more; seeds differ by 2."""
    return [
        line(network, labels, seed, mean + 2 * seed + gain * (network != NETWORKS[0]))
        for network in NETWORKS
        for labels, mean in ((50, 70.0), (100, 80.0), (200, 90.0))
        for seed in (0, 1)
    ]


def test_the_area_under_the_curve_is_that_of_the_curve():
    random = np.random.RandomState(0)
    odds, labels = random.randint(-3, 4, 60) / 1.0, random.randint(0, 2, 60)
    curve = [(1.0, 1.0)]
    for threshold in np.unique(odds):
        above = odds > threshold
        curve.append((above[labels == 0].mean(), above[labels == 1].mean()))
    x, y = zip(*curve, strict=True)
    found = elpv.measure_quality(odds, labels)
    assert found["auc"] == pytest.approx(-np.trapezoid(y, x))
    recalls = (odds > 0)[labels == 1].mean(), (odds <= 0)[labels == 0].mean()
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["accuracy"] == pytest.approx(((odds > 0) == labels).mean())


def test_the_labels_needed_are_interpolated_in_the_logarithm():
    plain, lines = NETWORKS[0], grid()
    assert labels_needed(lines, plain, 86, "auc") == pytest.approx(100 * math.sqrt(2))
    assert labels_needed(lines, plain, 60, "auc") == 50
    assert labels_needed(lines, plain, 99, "auc") == math.inf
    assert labels_needed(lines, NETWORKS[1], 91, "auc") == pytest.approx(100 * 2**0.6)


def test_differences_are_paired_by_seed():
    mean, half = compare(grid(), NETWORKS[2], 100, "auc")
    assert mean == pytest.approx(4) and half == pytest.approx(0)


def test_only_pairs_of_seed_and_labels_with_every_network_are_compared(monkeypatch):
    few = {"elpv": ("p1", "p4m"), "elpv_cost": ("p4m",)}
    monkeypatch.setattr(elpv, "GROUPS", {"few": few})
    lines = [{**line, "recipe": "few"} for line in grid()]
    missing = lines.pop(3)
    kept = elpv.select_complete([*lines, {**missing, "recipe": "other"}], "few")
    assert len(kept) == len(lines) - (len(NETWORKS) - 1)
    assert (missing["seed"], missing["labels"]) not in {(k["seed"], k["labels"]) for k in kept}


def test_new_runs_are_added_and_replace_no_line_of_another_machine(tmp_path, capsys):
    made = {"recipe": "few", "device": "old", "commit": "a", "run_id": "1"}
    lines = [{**line, **made} for line in grid()]
    path = tmp_path / "cells.csv"
    write_whole(path, as_csv(list(lines[0]), [line.values() for line in lines]))
    elsewhere = {**lines[5], "device": "new", "run_id": "2"}
    again = {**lines[6], "run_id": "3"}
    merged = elpv.merge([elsewhere, again, {**elsewhere, "seed": 7}], path)
    assert len(merged) == len(lines) + 1 and "2 left out: 1 of old" in capsys.readouterr().out
    assert [line["seed"] for line in merged if line["device"] == "new"] == [7]
    assert [line["run_id"] for line in merged if line["run_id"] == "3"] == ["3"]
    assert [line["seed"] for line in merged] == sorted(line["seed"] for line in merged)
    assert elpv.merge([again], tmp_path / "absent.csv") == [again]


def test_tables_and_figures_name_every_network_and_number():
    tables = {name: " ".join(table.split()) for name, table in make_tables(grid()).items()}
    assert "| p4m " in tables["auc"] and "| 75.0 ± 1.4 | 85.0 ± 1.4 | 95.0 ± 1.4 |" in tables["auc"]
    assert "| plain, 8 views | equal parameters | **+4.0 ± 0.0** |" in tables["difference"]
    assert "| 2.0 M | ≤ 50 " in tables["needed"] and "| 100 " in tables["needed"]
    assert "2 with 50, 2 with 100, 2 with 200 labelled cells; device CPU" in describe_runs(grid())
    assert set(draw_figures(grid())) == {"auc.svg", "cost.svg"}
