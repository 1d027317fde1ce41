"""Runs on own images and with converted networks, from the command line to the export."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from pdoe.run.compose import compose_config

ROOT = Path(train.__file__).parent
pytestmark = pytest.mark.usefixtures("one_thread")
OWN = "small_networks:plain"
RECIPE = (
    *("recipe.epochs=3", "recipe.batch_size=8", "recipe.learning_rate=[[0,0.05]]"),
    *("tracking=disabled", "precision=fp32", "device=cpu"),
)
CONVERTED = ("model=converted", f"model.source={OWN}", "group=p4")


@pytest.fixture
def launch(tmp_path, monkeypatch, train_here):
    """Runs the command line in this process; the exit code. `photos/` has 24 images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PDOE_DATA", raising=False)
    random = np.random.default_rng(0)
    for name, low in (("bright", 150), ("dark", 0)):
        for number in range(12):
            path = Path("photos", name, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(low, low + 100, (9, 12, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    return train_here


def run_in(outputs):
    return next(path.parent for path in Path(outputs).rglob("result.json"))


def weights_in(outputs):
    newest = max((run_in(outputs) / "checkpoint").glob("epoch=*"))
    return torch.load(newest / "model.pt")


def test_a_converted_network_on_own_images_trains_resumes_and_is_evaluated(launch, capsys):
    command = "data=folder", "data.root=photos", "data.size=8", *CONVERTED, *RECIPE
    assert launch(*command, "outputs=whole") == 0
    assert launch(*command, "outputs=parts", "max_time=00:00:00") == 75
    assert json.loads((run_in("parts") / "result.json").read_text())["epochs"] < 3
    shutil.move("photos", "moved")
    moved = "data.root=moved", *(word for word in command if word != "data.root=photos")
    assert launch(*moved, "outputs=parts") == 0
    whole, parts = weights_in("whole"), weights_in("parts")
    assert list(whole) == list(parts) and all(map(torch.equal, whole.values(), parts.values()))

    record = json.loads((run_in("parts") / "result.json").read_text())
    assert record["status"] == "finished" and record["data"]["name"] == "folder"
    assert record["data"]["class_names"] == ["bright", "dark"]
    assert record["data"]["image"] == [3, 8, 8]
    assert record["equivariance_error"]["trunk"] < 1e-4
    assert record["equivariance_error"]["logits"] < 1e-4
    found = json.loads((run_in("parts") / "diagnostics.json").read_text())
    assert found["class_names"] == ["bright", "dark"] and sum(map(sum, found["confusion"])) == 4

    evaluate = "mode=evaluate", f"checkpoint={run_in('parts')}", "device=cpu", "precision=fp32"
    capsys.readouterr()
    assert launch(*evaluate, "data.root=moved") == 1
    assert f"if you trust it, add model=converted model.source={OWN}" in capsys.readouterr().err
    assert launch(*evaluate, "data.root=moved", *CONVERTED[:2]) == 0
    said = capsys.readouterr().out
    assert f"test error {record['test_error']:.3f} %" in said and "4 images of folder" in said
    Path("moved/bright").rename("moved/bare")
    assert launch(*evaluate, "data.root=moved", *CONVERTED[:2]) == 1
    assert (
        "tells bright, dark apart, and the images of data.root are bare" in capsys.readouterr().err
    )
    Path("moved/bare").rename("moved/bright")

    export = runpy.run_path(str(ROOT / "scripts" / "export.py"))["main"]
    assert export([str(run_in("parts")), "--root", "moved"]) == 1
    assert export([str(run_in("parts")), "--root", "moved", "--source", OWN]) == 0
    assert "[B, 3, 8, 8] -> logits [B, 2]" in capsys.readouterr().out
    exported = *evaluate[:1], f"checkpoint={run_in('parts') / 'plain.pt2'}", *evaluate[2:]
    assert launch(*exported, "data.root=moved", *CONVERTED[:2]) == 0
    assert f"test error {record['test_error']:.3f} %" in capsys.readouterr().out


def test_the_command_of_the_readme_needs_no_recipe(launch, capsys):
    """Two epochs of a smaller network, and no more words than that."""
    assert compose_config("data=folder", "model=resnet_26")["recipe"]["epochs"] == 15
    assert compose_config("data=folder", "recipe=smoke")["recipe"]["scale"] == "smoke"
    small = "model.depth=8", "model.plain_widths=[3,3,3]", "data.size=8", "recipe.batch_size=16"
    command = "data=folder", "data.root=photos", "model=resnet_26", "group=p8", "device=cpu"
    assert launch(*command, *small[:3]) == 1
    assert "a batch of 128 is larger than the 20 images: set recipe.batch_size" in (
        capsys.readouterr().err
    )
    assert launch(*command, *small, "recipe.epochs=1", "tracking=disabled") == 0
    assert json.loads((run_in("outputs") / "result.json").read_text())["status"] == "finished"
    equivariance = runpy.run_path(str(ROOT / "scripts" / "equivariance.py"))["main"]
    capsys.readouterr()
    assert equivariance([str(run_in("outputs"))]) == 0
    assert "trained: first lost at" in capsys.readouterr().out


@pytest.mark.parametrize("words, message", [
    (("data.root=nowhere",), "data.root names nowhere, which does not exist"),
    ((), "data=folder needs data.root, the folder of your images"),
    (("data.root=photos",), "pixels, and the networks take squares: set data.size=9"),
    (("data.root=photos", "data.channels=2"), "data.channels is 1, 3, 4 or null, not 2"),
    (("data.root=photos", "data.draw=1"), "unknown key data.draw"),
    (("data.root=photos", "data.size=9", "data.statistics=whitened"), "'data': 0"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_and_leaves_no_run(launch, capsys, words, message):
    if "data.statistics=whitened" in words:
        words, message = (
            (*words[:1], "data.size=65", *words[2:]),
            "12,675 numbers, and the covariance",
        )
    code = launch("data=folder", "model=resnet_26", "device=cpu", *words)
    said = f"{code} {capsys.readouterr().err}"  # what ends the process is printed by Python
    assert message in said and "Traceback" not in said
    assert not Path("outputs").exists()


def test_a_network_that_cannot_be_converted_is_refused_before_anything_is_read(launch, capsys):
    words = "model=converted", f"model.source={OWN}", "model.arguments={widht:3}", "device=cpu"
    assert launch(*words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "unexpected keyword argument 'widht'" in line
    assert not Path("outputs").exists()
