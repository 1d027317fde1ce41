"""Sweeps and tables of runs: what there is to do, what it costs, what failed."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from pdoe.run import cost
from pdoe.run.config import select_hashed
from pdoe.run.folder import run_folder
from pdoe.run.record import digest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """The two scripts, with outputs in a folder of their own."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    reproduce, sweep = (importlib.import_module(name) for name in ("reproduce", "sweep_groups"))
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    yield reproduce, sweep
    for name in ("reproduce", "sweep_groups"):
        sys.modules.pop(name, None)


@pytest.fixture
def configuration(scripts):
    reproduce, _ = scripts
    return reproduce.compose_config("experiment=mnistrot_pdo_p8", "recipe=mnistrot_common")


def leave(tmp_path, cell, **record):
    record = {"config_hash": digest(select_hashed(cell.configuration()))} | record
    where = cell.experiment, cell.overrides, cell.seed, cell.scale
    folder = run_folder(tmp_path / "outputs", *where)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(record), "utf-8")


@pytest.mark.parametrize("group", ["p1", "p6", "p8m", "p2m"])
def test_the_width_is_the_largest_that_the_parameters_allow(scripts, configuration, group):
    _, sweep = scripts
    configuration["group"] = group
    width, count = sweep.find_width(configuration, 26_747)
    assert count == sweep.count_parameters(configuration, width) <= 26_747
    assert sweep.count_parameters(configuration, width + 1) > 26_747


def test_a_group_that_needs_more_than_there_is_is_named(scripts, configuration):
    _, sweep = scripts
    with pytest.raises(ValueError, match="one field of p8 has more than 100 parameters"):
        sweep.find_width(configuration, 100)


def test_the_cell_of_p8_is_the_row_itself_and_the_others_name_what_differs(scripts):
    _, sweep = scripts
    line, (cell,) = sweep.make_cells("p8", [3], 26_747)
    assert cell.overrides == ("recipe=mnistrot_common",) and cell.seed == 3 and "26,747" in line
    _, (cell,) = sweep.make_cells("p4m", [0], 26_747)  # as wide as p8
    assert cell.overrides == ("group=p4m", "recipe=mnistrot_common")
    _, (cell,) = sweep.make_cells("p4", [0], 26_747)
    assert cell.command == [
        "experiment=mnistrot_pdo_p8",
        "group=p4",
        "model.widths=[10,10,10,10,10,10]",
        "recipe=mnistrot_common",
        "seed=0",
    ]


def test_a_sweep_skips_what_is_finished_and_lists_what_failed(
    scripts, tmp_path, monkeypatch, capsys
):
    reproduce, sweep = scripts
    begun = []

    def run(script, *words):
        begun.append(words)
        if "group=p2" in words:
            (cell,) = sweep.make_cells("p2", [0], 26_747)[1]
            leave(tmp_path, cell, status="failed", reason="a fault")
            return 1
        return 0

    monkeypatch.setattr(reproduce, "run", run)
    monkeypatch.setattr(reproduce, "estimate_seconds", lambda config, device: 7200.0)
    leave(tmp_path, sweep.make_cells("p8", [0], 26_747)[1][0], status="finished")
    assert sweep.main(["--groups", "p2,p4,p8"]) == 1
    said = capsys.readouterr()
    assert [words[1] for words in begun[:-1]] == ["group=p2", "group=p4"]
    assert begun[-1] == ("mnist_rot",)
    assert "3 runs: 1 finished, 2 to do" in said.out and "about 4 h 00 min in all" in said.out
    assert "run 1 of 2: mnistrot_pdo_p8 group=p2" in said.out and "run 2 of 2" in said.out
    assert said.err.startswith("1 of 3 runs did not finish: mnistrot_pdo_p8 group=p2")
    assert said.err.endswith("seed 0: a fault\n") and said.err.count("\n") == 1


def test_a_sweep_that_is_stopped_begins_no_other_run(scripts, monkeypatch):
    reproduce, sweep = scripts
    begun = []
    monkeypatch.setattr(reproduce, "run", lambda *words: begun.append(words) or 75)
    monkeypatch.setattr(reproduce, "estimate_seconds", lambda config, device: 60.0)
    assert sweep.main(["--groups", "p1,p2"]) == 75 and len(begun) == 1


def test_a_wrong_group_does_not_cancel_the_others(scripts, monkeypatch, capsys):
    reproduce, sweep = scripts
    begun = []
    monkeypatch.setattr(reproduce, "run", lambda *words: begun.append(words) or 0)
    monkeypatch.setattr(reproduce, "estimate_seconds", lambda config, device: 60.0)
    assert sweep.main(["--groups", "p4,nonsense"]) == 1
    assert [words[0] for words in begun] == ["train.py", "scripts/compare.py"]
    assert capsys.readouterr().err.startswith("group 'nonsense' is left out: ")
    for words in ("nonsense", ","):
        with pytest.raises(SystemExit):
            sweep.main(["--groups", words])


def test_a_smoke_run_begins_anew_and_its_error_comes_last(scripts, tmp_path, monkeypatch, capsys):
    """An old record is neither trusted nor shown; what failed is one line, without a table."""
    reproduce, _ = scripts
    begun, statuses = [], {"mnistrot_p4": 0, "mnistrot_z2": 1}

    def run(script, *words):
        begun.append((script, *words))
        return statuses[words[0].removeprefix("experiment=")] if script == "train.py" else 0

    monkeypatch.setattr(reproduce, "run", run)
    monkeypatch.setattr(reproduce, "list_rows", lambda table: list(statuses))
    for row in statuses:
        leave(tmp_path, reproduce.Cell(row, (), 0, "smoke"), status="finished")
    arguments = ["mnist_rot", "--scale", "smoke", "--rows"]
    assert reproduce.main([*arguments, "mnistrot_z2"]) == 1
    assert begun == [
        ("train.py", "experiment=mnistrot_z2", "seed=0", "recipe=smoke", "restart=true")
    ]
    said = capsys.readouterr()
    assert said.out == "" and said.err == (
        "1 of 1 runs did not finish: mnistrot_z2 seed 0: train.py ended with 1, see its message\n"
    )
    assert reproduce.main([*arguments, "mnistrot_*"]) == 1
    assert begun[-1][0] == "scripts/compare.py" and len(begun) == 4
    assert "run 2 of 2: mnistrot_z2" in capsys.readouterr().out


def test_only_what_is_left_of_a_run_counts(scripts, tmp_path, monkeypatch, capsys):
    reproduce, _ = scripts
    monkeypatch.setattr(reproduce, "estimate_seconds", lambda config, device: 36_000.0)
    cells = [reproduce.Cell("mnistrot_pdo_p8", (), seed) for seed in (0, 1, 2)]
    leave(tmp_path, cells[0], status="finished")
    leave(tmp_path, cells[1], status="interrupted", epochs=150)  # of 200
    reproduce.announce_cost(cells)
    said = capsys.readouterr().out
    assert "1 finished, 2 to do" in said and "about 12 h 30 min in all" in said
    leave(tmp_path, cells[1], status="finished")
    leave(tmp_path, cells[2], status="finished")
    reproduce.announce_cost(cells)
    assert capsys.readouterr().out == "3 runs: 3 finished, 0 to do\n"
    reproduce.announce_cost(cells[:1])
    assert capsys.readouterr().out == "1 run: 1 finished, 0 to do\n"


def test_a_run_of_an_older_configuration_is_not_the_finished_one(scripts, tmp_path, monkeypatch):
    reproduce, _ = scripts
    cell = reproduce.Cell("mnistrot_pdo_p8", (), 0)
    leave(tmp_path, cell, status="finished")
    assert cell.finished
    leave(tmp_path, cell, status="finished", config_hash="another")
    assert not cell.finished


def test_what_cannot_be_composed_is_refused_in_one_line(scripts):
    reproduce, _ = scripts
    with pytest.raises(SystemExit) as refused:
        reproduce.announce_cost([reproduce.Cell("mnistrot_pdo_p8", ("recipe=nope",), 0)])
    assert "nope" in str(refused.value) and "\n" not in str(refused.value)


def test_a_network_that_cannot_be_timed_does_not_stop_the_others(scripts, monkeypatch, capsys):
    reproduce, _ = scripts

    def timed(config, device):
        if config["experiment"] == "mnistrot_p4":
            raise RuntimeError("out of memory\nand more")
        return 3600.0

    monkeypatch.setattr(reproduce, "estimate_seconds", timed)
    reproduce.announce_cost([reproduce.Cell(f"mnistrot_{row}", (), 0) for row in ("p4", "z2")])
    said = capsys.readouterr().out
    assert "mnistrot_p4: no step of it could be timed (out of memory)" in said
    assert "at least 1 h 00 min in all" in said


def test_seeds_count_once(scripts):
    reproduce, _ = scripts
    assert reproduce.parse_seeds("0, 1,0,01") == [0, 1]


def test_an_estimate_counts_steps_tests_and_turns(configuration, monkeypatch):
    """40 epochs of 93 batches of 128; two tests of 50,000 images, 24 turns of 1,000."""
    monkeypatch.setattr(cost, "measure_seconds_per_image", lambda config, device: (0.01, 0.001))
    seconds = cost.estimate_seconds(configuration, torch.device("cpu"))
    assert seconds == pytest.approx(0.01 * 40 * 93 * 128 + 0.001 * (2 * 50_000 + 24 * 1000))
    configuration["recipe"].update(train_images=130, test_images=200)
    seconds = cost.estimate_seconds(configuration, torch.device("cpu"))
    assert seconds == pytest.approx(0.01 * 40 * 128 + 0.001 * (2 * 200 + 24 * 2))


def test_steps_and_tests_are_timed_on_the_network_itself(configuration, one_thread):
    configuration["model"]["widths"] = [1, 1, 1, 1, 1, 1]
    step, test = cost.measure_seconds_per_image(configuration, torch.device("cpu"))
    configuration["model"]["widths"] = [8, 8, 8, 8, 8, 8]
    larger, _ = cost.measure_seconds_per_image(configuration, torch.device("cpu"))
    assert 0 < test < step < larger  # sixty-four times the operations
