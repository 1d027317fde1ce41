"""`train.py` as a person uses it: real digits, real folders, real signals."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import train

ROOT = Path(train.__file__).parent
SMALL = ["recipe=smoke", "recipe.train_images=128", "recipe.test_images=100", "tracking=disabled"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A data root in which the embedded digits are made once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def launch(tmp_path, monkeypatch, digits):
    """Runs the command line in this process; the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PDOE_DATA", str(digits))
    before = signal.getsignal(signal.SIGTERM)

    def launch(*arguments):
        monkeypatch.setattr(train, "_statuses", [])
        flags = [word for word in arguments if word.startswith("-")]
        rest = [word for word in arguments if word not in flags]
        words = ["train.py", *flags, *SMALL, "data.source=embedded", *rest]
        monkeypatch.setattr(sys, "argv", words)
        try:
            train.main()
        except SystemExit as done:
            return done.code or 0
        return 0

    yield launch
    signal.signal(signal.SIGTERM, before)


def records(folder):
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text())
        for path in sorted(Path(folder).rglob("result.json"))
    }


SETTING = "data.source=embedded,recipe.test_images=100,recipe.train_images=128"
ROW = f"smoke/mnistrot_p4/{SETTING}/seed=0"


def test_a_run_leaves_a_whole_record_and_the_same_command_skips_it(launch, tmp_path, capsys):
    assert launch("experiment=mnistrot_p4") == 0
    folder = tmp_path / "outputs" / ROW
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint",
        "config.yaml",
        "metrics.jsonl",
        "result.json",
    }
    assert list(records(tmp_path / "outputs")) == [ROW]
    record = json.loads((folder / "result.json").read_text())
    assert list(record) == [
        "run_id",
        "experiment",
        "overrides",
        "seed",
        "status",
        "test_error",
        "test_error_best",
        "parameters",
        "epochs",
        "seconds",
        "seconds_per_epoch",
        "device",
        "precision",
        "threads",
        "torch",
        "commit",
        "dirty",
        "data",
        "config_hash",
        "equivariance_error",
        "started",
        "ended",
        "reason",
    ]
    assert record["status"] == "finished" and record["epochs"] == 1
    assert record["experiment"] == "mnistrot_p4" and record["overrides"] == SETTING
    assert record["parameters"] == 24_680 and record["data"]["provenance"] == "embedded"
    assert record["equivariance_error"]["trunk"] < 1e-4  # float32
    assert record["equivariance_error"]["logits"] < 1e-4  # the head pools over the group
    (row,) = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    assert row["epoch"] == 1 and row["test_error"] == record["test_error"]
    assert not list(tmp_path.glob("*.log")) and not (tmp_path / "wandb").exists()

    before = (folder / "result.json").read_bytes()
    capsys.readouterr()
    assert launch("experiment=mnistrot_p4") == 0
    assert "already finished" in capsys.readouterr().out
    assert (folder / "result.json").read_bytes() == before

    assert launch("experiment=mnistrot_p4", "restart=true") == 0
    again = json.loads((folder / "result.json").read_text())
    assert again["run_id"] == record["run_id"] and again["test_error"] == record["test_error"]
    assert again["ended"] >= record["ended"]


def test_a_sweep_has_a_folder_for_each_run_and_a_failure_does_not_stop_it(launch, tmp_path, capsys):
    """p8 does not keep the pixel grid: the pixel network cannot be built on it."""
    assert launch("-m", "experiment=mnistrot_p4", "group=p8,p2,p4") == 1
    found = records(tmp_path / "outputs" / "smoke" / "mnistrot_p4")
    assert {name: r["status"] for name, r in found.items()} == {
        f"{SETTING.replace(',', ',group=p2,', 1)}/seed=0": "finished",
        f"{SETTING.replace(',', ',group=p8,', 1)}/seed=0": "failed",
        f"{SETTING}/seed=0": "finished",  # p4 is the row itself
    }
    failed = next(r for r in found.values() if r["status"] == "failed")
    assert "bank 'pixels' has no filter for p8" in failed["reason"]
    assert failed["test_error"] is None and failed["parameters"] is None
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_of_another_configuration_is_refused_and_kept(launch, tmp_path, capsys):
    assert launch("experiment=mnistrot_p4") == 0
    path = tmp_path / "outputs" / ROW / "result.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "config_hash": "0123456789ab"}))
    before = path.read_bytes()
    assert launch("experiment=mnistrot_p4") == 1
    said = capsys.readouterr().err
    assert f"config_hash 0123456789ab, now {record['config_hash']}" in said
    assert "restart=true" in said
    assert path.read_bytes() == before


def test_a_run_is_exported_with_equal_outputs_for_batches_of_any_size(launch, tmp_path, capsys):
    assert launch("experiment=mnistrot_p4") == 0
    folder = tmp_path / "outputs" / ROW
    command = runpy.run_path(str(ROOT / "scripts" / "export.py"))["main"]
    assert command([str(folder)]) == 0
    assert "logits [B, 10]" in capsys.readouterr().out
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    data = train.load_data("mnist_rot", None, "embedded")
    model = train.build_model(config, data)
    model.load_state_dict(torch.load(folder / "checkpoint/state.pt")["model"])
    program = torch.export.load(folder / "plain.pt2").module()
    for count in (1, 3):
        x = torch.randn(count, 1, 28, 28)
        torch.testing.assert_close(program(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    assert launch("experiment=mnistrot_p4", "recipe.average=0.5", "recipe.epochs=3") == 0
    other = next(p for p in folder.parents[1].glob("*average*/seed=0"))
    assert command([str(other)]) == 0
    state = torch.load(other / "checkpoint/state.pt")["averaged"]
    model.load_state_dict({k[7:]: v for k, v in state.items() if k != "n_averaged"})
    program = torch.export.load(other / "plain.pt2").module()
    torch.testing.assert_close(program(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    assert command([str(tmp_path)]) == 1
    assert "is no run folder with a checkpoint" in capsys.readouterr().err


def test_a_run_without_an_experiment_is_custom(launch, tmp_path):
    assert launch("model=mnistrot_gcnn", "group=p4", "recipe.epochs=1") == 0
    (name,) = records(tmp_path / "outputs" / "smoke")
    assert name == f"custom/{SETTING.replace(',', ',group=p4,model=mnistrot_gcnn,', 1)}/seed=0"


def test_a_time_budget_interrupts_and_the_same_command_goes_on(launch, tmp_path):
    epochs = "recipe.epochs=3"
    assert launch("experiment=mnistrot_p4", epochs, "max_time=00:00:00") == 75
    (record,) = records(tmp_path / "outputs").values()
    assert (record["status"], record["epochs"]) == ("interrupted", 1)
    assert "max_time=00:00:00" in record["reason"]
    assert launch("experiment=mnistrot_p4", epochs) == 0
    (again,) = records(tmp_path / "outputs").values()
    assert (again["status"], again["epochs"], again["reason"]) == ("finished", 3, None)
    assert again["started"] == record["started"] and again["seconds"] > record["seconds"]


def test_a_damaged_checkpoint_is_named_and_the_record_kept(launch, tmp_path, capsys):
    arguments = ["experiment=mnistrot_p4", "recipe.epochs=3"]
    assert launch(*arguments, "max_time=00:00:00") == 75
    (state,) = (tmp_path / "outputs").rglob("state.pt")
    state.write_bytes(state.read_bytes()[:500])
    assert launch(*arguments) == 1
    assert "state.pt cannot be read" in capsys.readouterr().err
    (record,) = records(tmp_path / "outputs").values()
    assert (record["status"], record["epochs"]) == ("interrupted", 1)
    assert launch(*arguments, "restart=true") == 0


def test_a_run_that_cannot_go_on_here_keeps_its_record(launch, tmp_path, capsys):
    arguments = ["experiment=mnistrot_p4", "recipe.epochs=3"]
    assert launch(*arguments, "max_time=00:00:00") == 75
    (path,) = (tmp_path / "outputs").rglob("result.json")
    before, threads = path.read_bytes(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert launch(*arguments) == 1
    finally:
        torch.set_num_threads(threads)
    assert f"made with threads {threads}, now {threads + 1}" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert launch(*arguments) == 0


@pytest.mark.parametrize("word", ["no", "maybe", "1"])
def test_only_true_throws_a_finished_run_away(launch, tmp_path, capsys, word):
    assert launch("experiment=mnistrot_p4") == 0
    (path,) = (tmp_path / "outputs").rglob("result.json")
    before = path.read_bytes()
    assert launch("experiment=mnistrot_p4", f"restart={word}") == 1
    assert "restart is true or false" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_value_written_in_another_way_is_a_run_of_its_own(launch, tmp_path):
    """0 and 0.0 have two hashes, so they must have two folders."""
    assert launch("experiment=mnistrot_p4") == 0
    assert launch("experiment=mnistrot_p4", "recipe.weight_decay=0") == 0
    assert len(records(tmp_path / "outputs")) == 2


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("model.name=resnet", "unknown model 'resnet'"),
        ("recipe.augment=flip", "augment is one of none, rotation"),
        ("recipe.epochs=0", "epochs is a positive integer, not 0"),
    ],
)
def test_a_configuration_that_cannot_run_is_a_failed_run_with_its_reason(
    launch, tmp_path, capsys, wrong, said
):
    assert launch("experiment=mnistrot_p4", wrong) == 1
    (record,) = records(tmp_path / "outputs").values()
    assert record["status"] == "failed" and said in record["reason"]
    captured = capsys.readouterr()
    assert said in captured.out and "Traceback" not in captured.err


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["experiment=mnistrot_p4", "seed=-1"], "seed is an integer of at least 0, not -1"),
        (["experiment=mnistrot_p4", "seed=1.5"], "seed is an integer of at least 0, not 1.5"),
        (["experiment=mnistrot_p4", "device=gpu"], "device is auto, cpu, cuda or cuda:1"),
        (["experiment=mnistrot_p4", "outputs=/proc/x"], "/proc/x"),
        (["experiment=mnistrot_p5"], "mnistrot_p4"),  # the ones that there are
        (["experiment=mnistrot_p4", "recipe.epoch=1"], "epoch"),
        (["experiment=mnistrot_p4", "max_time=soon"], "HH:MM:SS"),
        (["experiment=mnistrot_p4", "precision=fp8"], "auto, bf16 or fp32"),
        (["experiment=mnistrot_p4", "data.source=internet"], "internet"),
        (["-m", "experiment=glob(nothing*)"], "names no run"),
    ],
)
def test_wrong_words_on_the_command_line_are_named(launch, tmp_path, capsys, wrong, said):
    code = launch(*wrong)
    captured = capsys.readouterr()
    assert code not in (0, 75)
    assert said in captured.err + captured.out + str(code)
    assert "Traceback" not in captured.err
    assert not records(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(launch, tmp_path, digits, how):
    # Small and many epochs: the signal arrives while it runs, however fast the machine is.
    arguments = ["experiment=mnistrot_p4", "model.widths=[2,2,2,2,2,2]", "recipe.epochs=50"]
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, "data.source=embedded", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "outputs").rglob("state.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    said = process.communicate(timeout=60)[0].decode()
    (record,) = records(tmp_path / "outputs").values()
    assert record["status"] == "interrupted", said
    assert 1 <= record["epochs"] < 50
    if how != signal.SIGKILL:
        assert process.returncode == 75
        assert "repeat the command to go on" in said and "Traceback" not in said

    assert launch(*arguments) == 0
    (state,) = (tmp_path / "outputs").rglob("state.pt")
    interrupted = torch.load(state, weights_only=True)["model"]
    (metrics,) = (tmp_path / "outputs").rglob("metrics.jsonl")
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert epochs == list(range(1, 51))

    assert launch(*arguments, "restart=true") == 0
    whole = torch.load(state, weights_only=True)["model"]
    assert all(torch.equal(interrupted[key], whole[key]) for key in whole)
