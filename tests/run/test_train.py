"""`train.py` as a person uses it: real digits, real folders, real signals."""

import contextlib
import io
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import train
from pdoe import export_plain
from pdoe.data import load_data
from pdoe.fast import jet
from pdoe.run import preparation, training
from pdoe.run.command_line import print_job_ends
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model, load_configured_data
from pdoe.run.folder import RunFolder

ROOT = Path(train.__file__).parent
SMALL = [
    *(
        "recipe=smoke",
        "recipe.scale=trial",
    ),  # a smoke run would discard what does not fit
    *("recipe.train_images=128", "recipe.test_images=100", "tracking=disabled"),
]


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A data root in which the embedded digits are made once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def launch(tmp_path, monkeypatch, digits, train_here):
    """Runs the command line in this process; the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PDOE_DATA", str(digits))

    def launch(*arguments):
        flags = [word for word in arguments if word.startswith("-")]
        rest = [word for word in arguments if word not in flags]
        return train_here(*flags, *SMALL, "data.source=embedded", *rest)

    return launch


def records(folder):
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text())
        for path in sorted(Path(folder).rglob("result.json"))
    }


def newest(folder):
    """The newest checkpoint of a run."""
    return max((folder / "checkpoint").glob("epoch=*"))


def test_the_algorithm_is_a_condition_of_resuming_but_no_part_of_a_name(launch, tmp_path, capsys):
    if jet.load() is None:
        pytest.skip("no C++ compiler")
    row = "experiment=mnistrot_pdo_p8", "model.widths=[2,2,2,2,2,2]", "max_time=00:00:00"
    assert launch(*row, "algorithm=jet") == 75
    assert "jet form: wherever possible" in capsys.readouterr().out
    assert launch(*row) == 1  # "auto" is dense for two fields
    assert "jet wherever possible, " in capsys.readouterr().err
    (folder,) = records(tmp_path)
    assert "algorithm" not in folder
    assert "algorithm" not in (tmp_path / folder / "config.yaml").read_text()


SETTING = "data.source=embedded,recipe.scale=trial,recipe.test_images=100,recipe.train_images=128"
ROW = f"trial/mnistrot_p4/{SETTING}/seed=0"


def test_a_run_leaves_a_whole_record_and_the_same_command_skips_it(launch, tmp_path, capsys):
    assert launch("experiment=mnistrot_p4") == 0
    folder = tmp_path / "outputs" / ROW
    assert {path.name for path in folder.iterdir() if path.suffix != ".png"} == {
        "checkpoint",
        "config.yaml",
        "diagnostics.json",
        "metrics.jsonl",
        "result.json",
    }
    assert list(records(tmp_path / "outputs")) == [ROW]
    record = json.loads((folder / "result.json").read_text())
    assert record["status"] == "finished" and record["epochs"] == 1
    (part,), (made_with,) = record["manifest"]["parts"], record["manifest"]["environments"]
    assert part["epochs"] == [0, 1] and part["ended"] == record["ended"]
    assert made_with["commit"] == record["commit"] and made_with["settings"]["threads"]
    assert record["manifest"]["configuration"]["group"] == "p4"
    found = json.loads((folder / "diagnostics.json").read_text())
    assert sum(map(sum, found["confusion"])) == 100
    assert record["test_error"] == 100 - sum(found["confusion"][k][k] for k in range(10))
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


def test_a_sweep_has_a_folder_for_each_run_and_a_refused_one_does_not_stop_it(
    launch, tmp_path, capsys
):
    """p8 does not map the pixel grid to itself, and p4n is no group. C4 is p4, which is the row."""
    assert launch("-m", "experiment=mnistrot_p4", "group=p8,p4n,D2,C4,p4") == 1
    found = records(tmp_path / "outputs" / "trial" / "mnistrot_p4")
    assert {name: r["status"] for name, r in found.items()} == {
        f"{SETTING.replace(',', ',group=p2m,', 1)}/seed=0": "finished",
        f"{SETTING}/seed=0": "finished",
    }
    captured = capsys.readouterr()
    assert "train.py: head 'group' has filters of bank 'pixels'" in captured.err
    assert "train.py: unknown group 'p4n'; did you mean p4?" in captured.err
    assert "already finished" in captured.out and "Traceback" not in captured.err
    assert all(f"run {number} of 5\n" in captured.out for number in range(1, 6))
    last = captured.err.splitlines()[-1]
    assert "2 of 5 runs did not finish" in last and last.endswith("#0 refused, #1 refused")


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
    data = load_data("mnist_rot", None, "embedded")
    model = build_model(config, data)
    model.load_state_dict(torch.load(newest(folder) / "model.pt"))
    program = torch.export.load(folder / "plain.pt2").module()
    for count in (1, 3):
        x = torch.randn(count, 1, 28, 28)
        torch.testing.assert_close(program(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    assert launch("experiment=mnistrot_p4", "recipe.average=0.5", "recipe.epochs=3") == 0
    other = next(p for p in folder.parents[1].glob("*average*/seed=0"))
    assert command([str(other)]) == 0
    state = torch.load(newest(other) / "averaged.pt")
    model.load_state_dict({k[7:]: v for k, v in state.items() if k != "n_averaged"})
    program = torch.export.load(other / "plain.pt2").module()
    torch.testing.assert_close(program(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    assert command([str(tmp_path)]) == 1
    assert "is no run folder with a checkpoint" in capsys.readouterr().err


def test_a_run_without_an_experiment_is_custom_and_its_group_may_be_any(launch, tmp_path):
    small = "model.widths=[2,2]", "model.pool_after=[1]"
    assert launch("model=mnistrot_pdo", "group=p5", *small) == 0
    (name,) = records(tmp_path / "outputs" / "trial")
    assert name.startswith("custom/data.source=embedded,group=p5,model.pool_after=_1_")


def test_a_smoke_run_discards_what_does_not_fit(launch, tmp_path, capsys):
    """Another configuration, other data, a damaged record, a checkpoint that cannot be resumed."""
    smoke = "experiment=mnistrot_p4", "recipe.scale=smoke"
    assert launch(*smoke) == 0
    (path,) = (tmp_path / "outputs").rglob("result.json")
    whole = json.loads(path.read_text())
    data = {**whole["data"], "sha256": "0" * 64}
    for text in (
        json.dumps({**whole, "config_hash": "0" * 12}),
        json.dumps({**whole, "data": data}),
        "{",
    ):
        path.write_text(text)
        assert launch(*smoke) == 0
        assert json.loads(path.read_text())["run_id"] == whole["run_id"]
    assert launch(*smoke, "recipe.epochs=2", "max_time=00:00:00") == 75
    (other,) = set((tmp_path / "outputs").rglob("result.json")) - {path}
    (newest(other.parent) / "model.pt").write_bytes(b"")
    assert launch(*smoke, "recipe.epochs=2") == 0
    assert json.loads(other.read_text())["status"] == "finished"
    assert "Traceback" not in capsys.readouterr().err


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


def test_a_full_disk_loses_nothing_and_the_run_goes_on_where_there_is_room(
    launch, tmp_path, capsys, monkeypatch
):
    arguments = ["experiment=mnistrot_p4", "recipe.epochs=3"]
    assert launch(*arguments, "max_time=00:00:00") == 75
    (before,) = (tmp_path / "outputs").rglob("epoch=*")
    save = torch.save

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert launch(*arguments) == 75
    assert "No space left on device; repeat the command to resume" in capsys.readouterr().out
    (record,) = records(tmp_path / "outputs").values()
    assert record["status"] == "interrupted" and before.is_dir()
    monkeypatch.setattr(torch, "save", save)
    assert launch(*arguments) == 0


def test_weights_that_are_there_are_tested_alone(launch, tmp_path, capsys):
    """A run, its checkpoint, a file of weights and the exported network have one test error."""
    arguments = ["experiment=mnistrot_p4", "recipe.average=0.5"]
    assert launch(*arguments) == 0
    folder = next((tmp_path / "outputs").rglob("result.json")).parent
    expected = json.loads((folder / "result.json").read_text())["test_error"]
    checkpoint = newest(folder)
    command = runpy.run_path(str(ROOT / "scripts" / "export.py"))["main"]
    assert command([str(folder)]) == 0
    elsewhere = tmp_path / "weights.pt"
    torch.save(torch.load(checkpoint / "averaged.pt"), elsewhere)
    capsys.readouterr()
    places = [folder, folder / "checkpoint", checkpoint, checkpoint / "averaged.pt"]
    for place in [*places, folder / "plain.pt2"]:
        assert launch("mode=evaluate", f"checkpoint={place}") == 0
        said = capsys.readouterr().out
        assert f"test error {expected:.3f} %" in said and "of 100 images" in said, place
    assert launch("mode=evaluate", f"checkpoint={elsewhere}", "experiment=mnistrot_p4") == 0
    assert f"test error {expected:.3f} %" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    config = "data: {name: a, source: b}\nmodel: {}\ngroup: {name: p1}\nrecipe: {}\n"
    (tmp_path / "other" / "config.yaml").write_text(config)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.yaml").write_text("data: [")
    for wrong, said in {
        "null": "needs checkpoint=",
        "nowhere": "does not exist",
        str(tmp_path): "lacks config.yaml",
        str(ROOT / "configs"): "is not the configuration of a run",
        str(tmp_path / "other"): "configuration of a run: its model lacks name",
        str(tmp_path / "damaged"): "config.yaml is damaged",
        "5": "5 does not exist",
    }.items():
        assert launch("mode=evaluate", f"checkpoint={wrong}") == 1
        assert said in capsys.readouterr().err
    assert launch("mode=evaluate", f"checkpoint={elsewhere}", "experiment=mnistrot_z2") == 1
    assert "holds the weights of another network" in capsys.readouterr().err
    elsewhere.write_bytes(b"nothing")
    assert launch("mode=evaluate", f"checkpoint={elsewhere}", "experiment=mnistrot_p4") == 1
    assert "weights.pt cannot be read" in capsys.readouterr().err
    assert launch("mode=test") == 1


class Crafted:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_an_exported_network_is_tested_without_running_code_from_its_file(launch, tmp_path):
    assert launch("experiment=mnistrot_p4") == 0
    folder = next((tmp_path / "outputs").rglob("result.json")).parent
    assert runpy.run_path(str(ROOT / "scripts" / "export.py"))["main"]([str(folder)]) == 0
    path, proof = folder / "plain.pt2", tmp_path / "proof"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    harmful = io.BytesIO()
    torch.save(Crafted(proof), harmful)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            crafted = name.endswith("sample_inputs/model.pt")
            archive.writestr(name, harmful.getvalue() if crafted else content)
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert proof.exists()  # the file does execute code where torch opens it
    proof.unlink()
    assert launch("mode=evaluate", f"checkpoint={path}") == 0
    assert not proof.exists()


@pytest.mark.parametrize("damage", ["cut", "shape", "names", "bytes", "text"])
def test_a_damaged_exported_network_is_refused(launch, digits, tmp_path, capsys, damage):
    config = compose_config("experiment=mnistrot_p4", "data.source=embedded")
    plain = export_plain(build_model(config, load_configured_data(config, str(digits))))
    path = tmp_path / "plain.pt2"
    program = torch.export.export(plain, (torch.zeros(2, 1, 28, 28),))
    torch.export.save(program, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    listing = next(name for name in entries if name.endswith("weights_config.json"))
    weights = json.loads(entries[listing])
    first = next(iter(weights["config"]))
    if damage == "shape":
        weights["config"][first]["tensor_meta"]["sizes"][0]["as_int"] += 1
    elif damage == "names":
        weights["config"]["other"] = weights["config"].pop(first)
    elif damage == "bytes":
        weights["config"][first]["path_name"] = "weight_1"
    entries[listing] = json.dumps(weights).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("nothing")
    assert launch("mode=evaluate", f"checkpoint={path}", "experiment=mnistrot_p4") == 1
    assert "plain.pt2" in capsys.readouterr().err


def test_weights_of_an_older_epoch_do_not_stand_for_the_run(launch, tmp_path, capsys):
    assert launch("experiment=mnistrot_p4", "recipe.epochs=2") == 0
    folder = next((tmp_path / "outputs").rglob("result.json")).parent
    last = newest(folder)
    older = last.with_name("epoch=0001,step=000000")
    (last / "model.pt").write_bytes(b"")
    assert launch("mode=evaluate", f"checkpoint={folder}") == 1
    said = capsys.readouterr().err
    assert f"{last / 'model.pt'} cannot be read" in said
    assert f"the one before it, {older}, is whole" in said
    assert launch("mode=evaluate", f"checkpoint={older}") == 0


@pytest.mark.parametrize("damaged", ["state.pt", "optimizer.pt"])
def test_weights_are_tested_though_the_run_could_not_be_resumed(launch, tmp_path, capsys, damaged):
    assert launch("experiment=mnistrot_p4") == 0
    (path,) = (tmp_path / "outputs").rglob("result.json")
    error = json.loads(path.read_text())["test_error"]
    checkpoint = newest(path.parent)
    (checkpoint / damaged).write_bytes(b"")
    for place in (path.parent, checkpoint):
        capsys.readouterr()
        assert launch("mode=evaluate", f"checkpoint={place}") == 0
        said = capsys.readouterr().out
        assert f"{checkpoint / damaged} cannot be read" in said
        assert f"test error {error:.3f} %" in said


@pytest.mark.parametrize(
    "had, has, said",
    [
        ("test_images: 100", "test_images: abc", "test_images is a positive integer, not abc"),
        ("tta_angles: []", "tta_angles: abc", "tta_angles are degrees"),
        ("  epochs: 1\n", "", "config.yaml lacks 'epochs'"),
        ("    eps:", "    epsilon:", "recipe.norm holds eps and momentum"),
        (
            "  bank: pixels",
            "  bonk: pixels",
            "model.bonk is no argument of plain_cnn",
        ),
    ],
)
def test_a_configuration_that_was_damaged_is_named(launch, tmp_path, capsys, had, has, said):
    assert launch("experiment=mnistrot_p4") == 0
    (path,) = (tmp_path / "outputs").rglob("config.yaml")
    text = path.read_text()
    assert text.count(had) == 1
    path.write_text(text.replace(had, has))
    assert launch("mode=evaluate", f"checkpoint={path.parent}") == 1
    captured = capsys.readouterr()
    assert said in captured.err and "Traceback" not in captured.err


def test_a_run_that_cannot_begin_leaves_what_is_there(launch, tmp_path, capsys, monkeypatch):
    """Neither where its recipe does not fit, nor while another process is at it."""

    def refuse(*_):
        raise ValueError("a batch of 128 cannot be shared evenly by 3 ranks")

    assert launch("experiment=mnistrot_p4") == 0
    folder = next((tmp_path / "outputs").rglob("result.json")).parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(preparation, "check", refuse)
        assert launch("experiment=mnistrot_p4", "restart=true") == 1
    assert "cannot be shared evenly" in capsys.readouterr().err
    with RunFolder(folder).lock():
        for more in ([], ["restart=true"]):
            assert launch("experiment=mnistrot_p4", *more) == 1
            assert "is in use by another process" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "metrics.jsonl").unlink()
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**record, "status": "interrupted"}))
    assert launch("experiment=mnistrot_p4") == 0
    assert "metrics.jsonl lacks epochs 1 to 1" in capsys.readouterr().out


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


def test_a_record_without_its_checkpoint_is_not_overwritten(launch, tmp_path, capsys):
    arguments = ["experiment=mnistrot_p4", "recipe.epochs=3"]
    assert launch(*arguments, "max_time=00:00:00") == 75
    (path,) = (tmp_path / "outputs").rglob("result.json")
    shutil.move(path.parent / "checkpoint", tmp_path / "elsewhere")
    before = path.read_bytes()
    assert launch(*arguments) == 1
    assert "record of 1 epochs but no checkpoint" in capsys.readouterr().err
    assert path.read_bytes() == before
    shutil.move(tmp_path / "elsewhere", path.parent / "checkpoint")
    path.unlink()  # now the record is lost: the configuration and the checkpoint are known
    other = path.parent / "config.yaml"
    other.write_text(other.read_text().replace("epochs: 3", "epochs: 4"))
    assert launch(*arguments) == 1
    assert "recipe.epochs 4, now 3" in capsys.readouterr().err


def test_a_run_that_is_killed_before_its_first_checkpoint_is_whole_begins_anew(
    launch, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    arguments = ["experiment=mnistrot_p4", "recipe.epochs=2"]
    with monkeypatch.context() as patched:
        patched.setattr(training, "save", killed)
        assert launch(*arguments) == 75
    (path,) = (tmp_path / "outputs").rglob("result.json")
    assert json.loads(path.read_text())["epochs"] == 1
    assert launch(*arguments) == 0
    epochs = [json.loads(line)["epoch"] for line in (path.parent / "metrics.jsonl").open()]
    assert epochs == [1, 2]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("metrics.jsonl", '{"epoch": 1}\n5\n{"epoch": 3}\n', "metrics.jsonl, line 2, is no row"),
        ("config.yaml", "- 1\n", None),
    ],
)
def test_damaged_files_of_a_run_are_named_or_made_anew(launch, tmp_path, capsys, name, text, said):
    arguments = ["experiment=mnistrot_p4", "recipe.epochs=2"]
    assert launch(*arguments, "max_time=00:00:00") == 75
    (path,) = (tmp_path / "outputs").rglob(name)
    path.write_text(text)
    assert launch(*arguments) == (1 if said else 0)
    assert path.read_text() == text if said else "recipe:" in path.read_text()
    err = capsys.readouterr().err
    assert said in err if said else "Traceback" not in err


REFUSED = {
    "compile=maybe": "compile is auto, true or false, not 'maybe'",
    "algorithm=fast": "algorithm is one of auto, dense, jet, not 'fast'",
    "algorithm=jet": "PlainCNN has no group convolution with bank operators or gaussian",
    "cuda_graph=true": "cuda_graph is not possible on a cpu",
    "checkpoint_activations=true": "PlainCNN has no blocks",
    "tracking=loud": "tracking is auto or online or offline or disabled",
    "recipe.sync_bn=maybe": "recipe.sync_bn is true or false",
    "resume=sometimes": "resume is exact or any",
    "restart=1": "restart is true or false",
    "model.name=vgg": "unknown model 'vgg'",
    "model.widths=3": "model.widths is a list of integers, such as [7, 7], not 3",
    "recipe.dropout=half": "dropout, is at least 0 and below 1, not 'half'",
    "recipe.augment=flip": "augment is one of none, rotation",
    "recipe.batch_size=-3": "batch_size is a positive integer, not -3",
    "recipe.batch_size=500": "a batch of 500 is larger than the 128 images",
    "recipe.norm.eps=abc": "recipe.norm.eps is a number above 0, not 'abc'",
    "+model.depth=3": "model.depth is no argument of plain_cnn: it has widths, bank",
    "+recipe.batch=3": "recipe has no key batch",
    "seed=-1": "seed is an integer from 0 to 2^63 - 1, not -1",
    "seed=1.5": "from 0 to 2^63 - 1, not 1.5",
    f"seed={2**63}": "from 0 to 2^63 - 1, not 9223372036854775808",
    "recipe.scale=../x": "recipe.scale is a word",
    "device=gpu": "device is auto, cpu, cuda or cuda:1",
    "outputs=null": "outputs is a folder",
    "recipe.evaluate=null": "recipe.evaluate has the keys every, last, select, tta_angles",
    "recipe=null": "unknown recipe 'null'",
    "group=null": "unknown group None",
    "group=p8n": "unknown group 'p8n'; did you mean p8?",
    "group.name=p8": "unknown key group.name: it is group now",
    "recipe.epoch=1": "unknown key recipe.epoch; did you mean recipe.epochs?",
    "sed=1": "unknown key sed; did you mean seed?",
    "recipe=mnistrot_comon": "did you mean mnistrot_common?",
    "model=mnistrot_gcn": "did you mean mnistrot_gcnn?",
    "experiment=mnistrot_p5": "did you mean mnistrot_p4?",
    "experiment=../data/mnist_rot": "unknown experiment '../data/mnist_rot'",
    "experiment=./mnistrot_z2": "did you mean mnistrot_z2?",
    "experiment=mnistrot_z2.yaml": "did you mean mnistrot_z2?",
    "experiment=choice(../data/mnist_rot)": "unknown experiment '../data/mnist_rot'",
    "recipe.epochs=[1": "cannot read 'recipe.epochs=[1'",
    "max_time=soon": "HH:MM:SS",
    "mode=test": "mode is train or evaluate",
    "precision=fp8": "auto, bf16, fp32 or fp64",
    "data.source=internet": "internet",
    "data.draw=-1": "data.draw is an integer from 0 to 2^32 - 1, not -1",
    "data.draw=1.5": "data.draw is an integer from 0 to 2^32 - 1, not 1.5",
    "data.draw=3": "data.source=embedded has one draw",
    "data.replacement=true": "data.source=embedded has one draw",
    "data.replacement=often": "data.replacement is true or false, not 'often'",
    "data.drow=1": "unknown key data.drow; did you mean data.draw?",
}


def test_an_impossible_word_is_refused_in_one_line_and_changes_nothing(launch, tmp_path, capsys):
    """Even with ``restart=true``, which discards a finished run where it is not refused."""
    assert launch("experiment=mnistrot_p4", "precision=fp64") == 0

    def files():
        paths = (path for path in (tmp_path / "outputs" / "trial").rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in paths}

    before = files()
    for word, expected in REFUSED.items():
        capsys.readouterr()
        flags = ["-m"] if "choice" in word else []
        restart = [] if word.startswith("restart") else ["restart=true"]
        code = launch(*flags, "experiment=mnistrot_p4", "precision=fp64", *restart, word)
        captured = capsys.readouterr()
        message = captured.err + (code if isinstance(code, str) else "")
        assert code not in (0, 75) and expected in message, (word, message)
        assert message.startswith("train.py: ") and message.strip().count("\n") == 0, message
    assert files() == before
    assert launch("experiment=mnistrot_p4", "outputs=/proc/x") == 1
    said = capsys.readouterr().err
    assert "/proc/x" in said and "cannot be made" in said and "outputs=" in said
    assert "has no run" in launch("-m", "experiment=glob(nothing*)")
    if not shutil.which("srun"):
        assert "needs Slurm" in launch("-m", "experiment=mnistrot_p4", "launcher=slurm")


@pytest.mark.parametrize("word", [w for w in REFUSED if re.match(r"data\.(draw|replacement)=", w)])
def test_a_draw_is_refused_before_data_are_read(launch, monkeypatch, word):
    monkeypatch.setattr(
        preparation, "load_configured_data", lambda *_: pytest.fail("data were read")
    )
    assert launch("experiment=mnistrot_p4", word) not in (0, 75)


def test_without_experiment_and_model_the_choices_are_listed(launch, tmp_path, capsys):
    assert launch() == launch("group=p4", "seed=1") == 2
    assert "choose an experiment" in (listed := capsys.readouterr().err)
    assert "mnistrot_pdo_p8\n" in listed and not (tmp_path / "outputs").exists()


STRANGE = "jos\u00e9 (1) [2] {3} ' \" # & ! ; < ~ = ,"


def test_a_path_may_hold_any_letter(launch, tmp_path, digits, capsys):
    data = tmp_path / STRANGE / "data"
    shutil.copytree(digits, data)
    words = ["experiment=mnistrot_p4", f"outputs={tmp_path / STRANGE}", f"data.root={data}"]
    assert launch("-m", *words, "seed=0,1") == 0
    for folder in (path.parent for path in (tmp_path / STRANGE).rglob("result.json")):
        assert launch("mode=evaluate", f"checkpoint={folder}", f"data.root={data}") == 0
        assert f"{folder}: test error" in capsys.readouterr().out


def test_a_value_written_in_another_way_is_a_run_of_its_own(launch, tmp_path):
    """0 and 0.0 have two hashes, so they must have two folders."""
    assert launch("experiment=mnistrot_p4") == 0
    assert launch("experiment=mnistrot_p4", "recipe.weight_decay=0") == 0
    assert len(records(tmp_path / "outputs")) == 2


def test_a_launcher_carries_out_the_runs_of_a_sweep_as_jobs(tmp_path, digits):
    """The path to a cluster with jobs that are processes here; a failed one fails the sweep."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra: cluster")
    command = [
        *(sys.executable, str(ROOT / "train.py"), "-m", "launcher=local", *SMALL),
        *("data.source=embedded", "model.widths=[2,2]", "model.pool_after=[1]"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PDOE_DATA": str(digits)}
    for sweep, code, ends in (
        ("group=p2,p4", 0, ["finished:", "finished:"]),
        ("group=p4,p8", 1, ["already", "train.py:"]),
    ):
        done = subprocess.run(
            [*command, "experiment=mnistrot_p4", sweep],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        last = done.stdout.splitlines()[-2:]
        assert sorted(line.split()[0] for line in last) == ends
    statuses = [record["status"] for record in records(tmp_path / "outputs").values()]
    assert statuses == ["finished"] * 2  # the other one is refused
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


def test_logs_of_another_sweep_are_not_printed(tmp_path, monkeypatch, capsys):
    log = tmp_path / "outputs" / ".sweep" / "jobs" / "7" / "7_0_log.out"
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\nfinished: test error 2.00 %, there\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    print_job_ends(["experiment=mnistrot_p4"], 0)
    assert capsys.readouterr().out == ""
    print_job_ends(["-m", "launcher=local", "experiment=mnistrot_p4"], 0)
    assert capsys.readouterr().out == "finished: test error 2.00 %, there\n"


def checkpoints(folder):
    """The complete checkpoints of the tiny run; one in writing is no place to look into."""
    return {path.name for path in folder.glob("outputs/trial/mnistrot_p4/*/seed=0/checkpoint/e*")}


def killed(command, folder, how, moment):
    """Start a run, send it a signal at a moment, and return its exit code and what it said."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 120
    while not moment() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    return process.communicate(timeout=60)[0].decode(), process.returncode


# Small, and many epochs: the signal arrives while it runs, however fast the machine is.
TINY = ["experiment=mnistrot_p4", "model.widths=[2,2,2,2,2,2]", "recipe.epochs=25"]
COMMAND = [str(ROOT / "train.py"), *SMALL, "data.source=embedded", *TINY]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, digits):
    """The weights of the tiny run that nothing has happened to."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        [sys.executable, *COMMAND],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PDOE_DATA": str(digits)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return torch.load(newest(next(folder.rglob("result.json")).parent) / "model.pt")


def assert_as_if_nothing_had_happened(launch, folder, whole):
    assert launch(*TINY) == 0
    path = next(folder.rglob("result.json")).parent
    epochs = [
        json.loads(line)["epoch"] for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == list(range(1, 26))
    weights = torch.load(newest(path) / "model.pt")
    assert all(torch.equal(weights[key], whole[key]) for key in whole)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.2, 0.6, 1.2, 2])
def test_a_stop_before_a_run_begins_is_obeyed(tmp_path, how, seconds):
    """While Python imports torch, or Hydra reads its files."""
    began = time.monotonic()
    text, code = killed(COMMAND, tmp_path, how, lambda: time.monotonic() - began > seconds)
    assert code == 75, text
    assert "stopped" in text and "Traceback" not in text


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_finishes_its_step(launch, tmp_path, how, uninterrupted):
    said, code = killed(COMMAND, tmp_path, how, lambda: checkpoints(tmp_path))
    (record,) = records(tmp_path / "outputs").values()
    assert record["status"] == "interrupted", said
    assert 1 <= record["epochs"] < 25
    assert code == 75
    assert "repeat the command to resume" in said and "Traceback" not in said
    assert_as_if_nothing_had_happened(launch, tmp_path, uninterrupted)


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(
    launch, tmp_path, uninterrupted
):
    """SIGKILL a random time after the first checkpoint of each attempt, in writing or wherever."""
    luck = random.Random(0)
    for attempt in range(4):
        had, wait = checkpoints(tmp_path), luck.uniform(0, 0.5)

        def later(had=had, wait=wait):
            if checkpoints(tmp_path) - had:
                time.sleep(wait)
                return True
            return False

        said, code = killed(COMMAND, tmp_path, signal.SIGKILL, later)
        if code == 0:
            break
        assert code == -signal.SIGKILL, (attempt, said)
        (record,) = records(tmp_path / "outputs").values()
        if record["status"] == "finished":  # all was done but its process, on a fast machine
            break
        assert record["status"] == "interrupted"
    assert_as_if_nothing_had_happened(launch, tmp_path, uninterrupted)


@pytest.mark.parametrize(
    "row, more",
    [
        ("mnistrot_sfcnn", ["model.widths=[1,1,1,1,1,2]"]),
        ("mnistrot_e2cnn_c16", ["model.widths=[1,1,1,1,1,2]"]),
        ("mnistrot_pdo_gauss_p8", []),
        ("mnistrot_orn8", []),
        ("mnistrot_or_tipooling", []),
        ("mnistrot_roteqnet", []),
        ("mnistrot_hnet", []),
        ("mnistrot_ptn_b", []),
        ("mnistrot_ptn_cnn", []),
    ],
)
def test_the_row_of_every_system_is_carried_out_to_its_diagnostics(launch, tmp_path, row, more):
    few = ["recipe.batch_size=8", "recipe.train_images=16", "recipe.test_images=10"]
    assert launch(f"experiment={row}", *few, *more) == 0
    (path,) = (tmp_path / "outputs").rglob("result.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["experiment"]) == ("finished", row)
    found = json.loads((path.parent / "diagnostics.json").read_text())
    assert found["turned_images"] == 1 and found["layers"]
    assert record["equivariance_error"].keys() == {"trunk", "logits"}
    assert launch("mode=evaluate", f"checkpoint={path.parent}") == 0


def test_a_run_says_which_epoch_it_selected_and_how_its_test_images_were_turned(launch, tmp_path):
    protocol = ["recipe.evaluate.select=train_best", "recipe.evaluate.tta_angles=[0,90]"]
    assert launch("experiment=mnistrot_p4", *protocol) == 0
    (path,) = (tmp_path / "outputs").rglob("result.json")
    record = json.loads(path.read_text())
    assert (record["select"], record["selected_epoch"]) == ("train_best", 1)
    assert record["tta_angles"] == 2
    assert (newest(path.parent) / "selected.pt").exists()
    assert launch("mode=evaluate", f"checkpoint={path.parent}") == 0
