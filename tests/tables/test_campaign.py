"""A campaign: runs of a list in order of value, in calls of limited time, resumed by the next."""

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from pdoe.run.config import select_hashed
from pdoe.run.folder import run_folder
from pdoe.run.record import digest

ROOT = Path(__file__).resolve().parents[2]
HEADER = "experiment,recipe,overrides,seed,minutes,device\n"
RUNS = f"""{HEADER}mnistrot_z2,,,0,60,NVIDIA H200
mnistrot_p4,mnistrot_common,"model.widths=[2,2],recipe.epochs=2",1,,
mnistrot_orn8,,,0,30,
"""


@pytest.fixture(scope="module")
def scripts():
    """The scripts; what they composed and counted stays for the other tests."""
    names = ("campaign", "equal_cost_networks", "equal_cost_page")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield [importlib.import_module(name) for name in names]
    for name in (*names, "reproduce"):
        sys.modules.pop(name, None)


@pytest.fixture
def campaign(scripts):
    return scripts[0]


@pytest.fixture
def place(tmp_path):
    """A list of three runs, and options that name it and a folder for the runs."""
    (tmp_path / "list.csv").write_text(RUNS, "utf-8")
    return tmp_path, ["--list", str(tmp_path / "list.csv"), "--outputs", str(tmp_path / "outputs")]


def leave(folder, cell, status, **record):
    """Write the record of a cell."""
    record = {"status": status, "config_hash": digest(select_hashed(cell.configuration()))} | record
    path = run_folder(folder / "outputs", cell.experiment, cell.overrides, cell.seed)
    path.mkdir(parents=True, exist_ok=True)
    (path / "result.json").write_text(json.dumps(record), "utf-8")


@pytest.fixture
def trainer(campaign, place, monkeypatch):
    """Stands for train.py: the status and exit status that a test plans for an experiment."""
    begun, plan = [], {}

    def run(self, script, *words, seconds=None):
        begun.append((script, *words, seconds))
        if script != "train.py":
            return 0
        experiment = words[0].removeprefix("experiment=")
        status, code = plan.get(experiment, ("finished", 0))
        entries = campaign.read_list(place[0] / "list.csv", "outputs")
        (cell,) = [e.cell for e in entries if e.cell.experiment == experiment]
        leave(place[0], cell, status, reason="a fault", epochs=1, seconds_per_epoch=60.0)
        return code

    monkeypatch.setattr(campaign.Campaign, "run", run)
    return begun, plan


def trained(begun):
    return [words[1].removeprefix("experiment=") for words in begun if words[0] == "train.py"]


def test_runs_are_trained_in_the_order_of_the_list_within_the_limit(
    campaign, place, trainer, capsys
):
    begun, _ = trainer
    assert campaign.main([*place[1], "--limit", "9m"]) == 0
    said = capsys.readouterr().out
    assert trained(begun) == ["mnistrot_z2", "mnistrot_p4", "mnistrot_orn8"]
    overrides = "model.widths=[2,2]", "recipe.epochs=2", "recipe=mnistrot_common", "seed=1"
    assert begun[1][2:6] == overrides
    assert all(480 < words[-1] <= 540 - campaign.RESERVE for words in begun)
    assert "3 runs: 0 finished, 3 left" in said and "3 runs: 3 finished, 0 left" in said
    assert "at least 1 h 30 min left" in said  # one of the three has no estimate
    assert said.count("not merged yet: python scripts/compare.py mnist_rot --runs") == 3
    assert campaign.main([*place[1], "--limit", "0"]) == 0 and len(begun) == 3


def test_a_failure_is_reported_and_tried_again_after_all_others(campaign, place, trainer, capsys):
    begun, plan = trainer
    plan |= {"mnistrot_z2": ("diverged", 1), "mnistrot_p4": ("interrupted", 75)}
    assert campaign.main(place[1]) == 1
    assert trained(begun) == ["mnistrot_z2", "mnistrot_p4"]  # the time is over: no other begins
    said = capsys.readouterr()
    assert said.err == "failed: mnistrot_z2 seed 0: a fault\n"
    assert "interrupted after 1 epochs, 1 min left by its epochs" in said.out
    plan.clear()
    begun.clear()
    assert campaign.main(place[1]) == 0
    assert trained(begun) == ["mnistrot_p4", "mnistrot_orn8", "mnistrot_z2"]


def test_what_is_left_without_a_failure_is_75_and_a_call_without_time_begins_nothing(
    campaign, place, trainer
):
    begun, plan = trainer
    plan["mnistrot_z2"] = ("interrupted", 75)
    assert campaign.main(place[1]) == 75 and trained(begun) == ["mnistrot_z2"]
    begun.clear()
    assert campaign.main([*place[1], "--limit", "10s"]) == 75 and begun == []


def test_only_some_runs_are_trained(campaign, place, trainer, capsys):
    begun, _ = trainer
    assert campaign.main([*place[1], "--only", "*p4, mnistrot_o*"]) == 0
    assert trained(begun) == ["mnistrot_p4", "mnistrot_orn8"]
    assert campaign.main([*place[1], "--only", "nope"]) == 2
    assert "no run of the list matches 'nope'" in capsys.readouterr().err


@pytest.mark.parametrize("dirty", [False, True])
def test_records_are_merged_from_a_clean_tree_alone(
    campaign, place, trainer, monkeypatch, capsys, dirty
):
    begun, _ = trainer
    monkeypatch.setattr(campaign, "repository_state", lambda folder: ("a" * 40, dirty))
    assert campaign.main([*place[1], "--only", "mnistrot_z2", "--publish"]) == 0
    merged = ("scripts/compare.py", "mnist_rot", *place[1][2:], "--publish")
    merged = tuple("--runs" if word == "--outputs" else word for word in merged)
    assert begun[1:] == ([] if dirty else [(*merged, None)])
    assert ("not merged, the code has uncommitted changes" in capsys.readouterr().out) == dirty


@pytest.mark.parametrize(
    "line, said",
    [
        ("mnistrot_z2,,,x,,", "the seed a number"),
        ("mnistrot_z2,,0", "the seed a number"),
        ("mnistrot_z2,,,0,,,more", "the seed a number"),
        ("mnistrot_z9,,,0,,", "unknown experiment 'mnistrot_z9'"),
    ],
)
def test_a_line_that_is_no_run_is_refused(campaign, place, capsys, line, said):
    (place[0] / "list.csv").write_text(f"{HEADER}{line}\n", "utf-8")
    assert campaign.main(place[1]) == 2
    error = capsys.readouterr().err
    assert f"list.csv:2: {'a line is' if 'seed' in said else ''}" in error and said in error


@pytest.mark.parametrize("limit", ["9", "9d", "-1m", ""])
def test_a_limit_has_a_unit(campaign, place, capsys, limit):
    assert campaign.main([*place[1], f"--limit={limit}"]) == 2
    assert "a limit is 90s, 9m or 8h" in capsys.readouterr().err


@pytest.mark.parametrize("limit, sent", [("0", True), ("30s", False)])
def test_a_signal_or_the_end_of_the_time_stops_the_run_and_no_other_begins(
    campaign, place, monkeypatch, limit, sent
):
    folder, words = place
    (folder / "train.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "pathlib.Path('begun').write_text('x')\n"
        "time.sleep(60)\n",
        "utf-8",
    )
    begun, run = [], campaign.Campaign.run

    def run_here(self, *words, seconds):
        begun.append(words)
        return run(self, "train.py", seconds=seconds)

    monkeypatch.setattr(campaign.Campaign, "run", run_here)
    monkeypatch.setattr(campaign, "RESERVE", 27.0)
    listed = campaign.read_list(Path(words[1]), words[3])
    monkeypatch.setattr(campaign, "read_list", lambda *_: listed)
    monkeypatch.setattr(campaign, "ROOT", folder)
    before = signal.getsignal(signal.SIGTERM)

    def send():
        while not (folder / "begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    if sent:
        threading.Thread(target=send, daemon=True).start()
    assert campaign.main([*words, "--limit", limit]) == 75
    assert len(begun) == 1 and signal.getsignal(signal.SIGTERM) == before


# --- the committed lists --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["campaign", "equal_cost", "fractions"])
def test_every_run_of_a_list_can_be_composed_and_is_listed_once(campaign, name):
    entries = campaign.read_list(ROOT / "experiments" / "cifar" / f"{name}.csv", "outputs")
    cells = [entry.cell for entry in entries]
    assert len(set(cells)) == len(cells) > 10
    for cell in {(c.experiment, c.overrides): c for c in cells}.values():
        own = (ROOT / "configs" / "experiment" / f"{cell.experiment}.yaml").read_text("utf-8")
        for word in cell.overrides:  # one that changes nothing would name another folder
            assert not word.startswith("recipe=") or f"/recipe: {word[7:]}\n" not in own
        assert cell.configuration()["experiment"] == cell.experiment


def test_the_widened_networks_cost_what_pdo_econv_costs(scripts):
    """Within 1 %: as dense convolutions, in the jet form, and equal in parameters within 2 %."""
    _, equal, _ = scripts
    pdo, plain, jet, dense = (equal.count_cost("cifar10", network) for network in equal.NETWORKS)
    assert plain.parameters == pytest.approx(pdo.parameters, rel=0.02)
    assert jet.dense == pytest.approx(pdo.jet, rel=0.01)
    assert dense.dense == pytest.approx(pdo.dense, rel=0.01)
    assert all(cost.jet == cost.dense for cost in (plain, jet, dense))


def test_the_jet_form_is_counted_as_its_page_says(scripts):
    """Two fields of p6 to three on 5x5 pixels: 130 products for a pair, 36 for a transform."""
    from pdoe import GroupConv, PointGroup

    _, equal, _ = scripts
    layer = GroupConv(PointGroup(6), 2, 3)
    dense = 25 * (12 * 18 * 25)
    assert equal.count_jet(layer, dense) == 25 * (130 * 6 + 36 * 5)
    assert equal.count_jet(GroupConv(PointGroup(6), 2, 3, bank="point"), 5) == 5
    with pytest.raises(ValueError, match="another count"):
        equal.count_jet(GroupConv(PointGroup(5), 2, 3), dense)


def test_the_lists_hold_the_runs_that_the_page_shows(scripts):
    campaign, equal, _ = scripts
    lists = (ROOT / "experiments" / "cifar" / f"{name}.csv" for name in ("equal_cost", "fractions"))
    cells = [entry.cell for path in lists for entry in campaign.read_list(path, "outputs")]
    listed = {(cell.experiment, ",".join(cell.overrides)) for cell in cells}
    rows = {n.name: n.row for n in equal.NETWORKS}
    shown = {(f"{r['data']}_{rows[r['network']]}", r["overrides"]) for r in equal.collect({})}
    assert shown == listed


def test_few_images_have_the_cycle_of_all_images_over_other_epochs(scripts):
    _, equal, _ = scripts
    compose = equal.compose_config
    recipes = {
        images: compose("experiment=cifar10_resnet_26", f"recipe={name}")["recipe"]
        for images, name in equal.FRACTIONS.items()
    }
    whole = recipes[50_000]
    own = {"train_images", "epochs", "learning_rate", "batch_size", "evaluate"}
    for images, recipe in recipes.items():
        assert recipe["train_images"] == (None if images == 50_000 else images)
        assert images // recipe["batch_size"] * recipe["batch_size"] > 0.9 * images
        longer = recipe["epochs"] / whole["epochs"]
        cycle = [[epoch * longer, rate] for epoch, rate in whole["learning_rate"]]
        assert sum(recipe["learning_rate"], []) == pytest.approx(sum(cycle, []))
        assert {k: v for k, v in recipe.items() if k not in own} == {
            k: v for k, v in whole.items() if k not in own
        }


def test_errors_are_those_of_the_published_runs(scripts, tmp_path):
    _, equal, _ = scripts
    folder = ROOT / "experiments" / "cifar"
    header, *lines = (ROOT / "results" / "cifar" / "runs.csv").read_text("utf-8").splitlines()
    lines = [line.replace("cifar_short", "cifar_fast") for line in lines if "cifar_short" in line]
    (tmp_path / "runs.csv").write_text("\n".join([header, *lines]) + "\n", "utf-8")
    found = {
        (row["network"], row["train_images"]): sorted(row["errors"])
        for row in equal.collect(equal.read_results(folder, tmp_path))
        if row["data"] == "cifar10" and row["errors"]
    }
    assert found == {
        ("PDO-eConv p6", 50_000): [8.77, 9.02],
        ("ResNet, equal parameters", 50_000): [11.39, 11.46],
    }


def test_a_page_shows_the_runs_there_are(scripts, tmp_path):
    _, equal, pages = scripts
    page, rows = tmp_path / "page.md", equal.collect({})
    marks = "<!-- table:{} --><!-- /table -->\n"
    page.write_text("".join(map(marks.format, ("recipes", "equal_cost", "few_images"))), "utf-8")
    pages.write_page(rows, page, tmp_path)
    assert "not run" in page.read_text("utf-8") and not (tmp_path / "figures").exists()
    for row in rows:
        if (row["data"], row["network"]) == ("cifar10", "PDO-eConv p6"):
            row |= {"errors": [6.0, 7.0], "n": 2, "mean": 6.5, "std": 0.5, "low": 6.0, "high": 7.0}
    pages.write_page(rows, page, tmp_path)
    text = page.read_text("utf-8")
    assert text.count("6.50 ± 0.50 (n = 2)") == 4 and text.count(".svg)") == 2
    for name in ("equal-cost", "few-images"):
        assert "PDO-eConv p6" in (tmp_path / "figures" / f"{name}.svg").read_text("utf-8")
    assert ",2,6.5,0.5,6,7" in (tmp_path / "equal_cost.csv").read_text("utf-8")
