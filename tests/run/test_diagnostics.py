"""What is measured at the end of a run, and what it was made with."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import git
from torch import nn

from pdoe import LiftingConv, PointGroup
from pdoe.data import DataSet
from pdoe.models import Images, PlainCNN
from pdoe.run import closing
from pdoe.run.checkpoints import Progress
from pdoe.run.diagnostics import ANGLES, diagnose, measure_rotated_error, rotate_filters
from pdoe.run.evaluation import log_odds
from pdoe.run.folder import RunFolder
from pdoe.run.provenance import (
    describe_environment,
    extend_manifest,
    hash_difference,
    measure_peak_memory,
    reset_peak_memory,
    update_last_part,
)


def bars(count=40):
    """Upright bars left (class 0) or right (class 1) of the centre, in 9x9 images."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, 9, 9, dtype=torch.uint8)
    images[labels == 0, :, 2:7, 2] = 255
    images[labels == 1, :, 2:7, 6] = 255
    return DataSet("bars", "made up", "0", images, labels, images, labels, 0.0, 1.0, 2)


class LeftOrRight(nn.Module):
    def forward(self, x):
        return torch.stack([x[..., :4].sum((1, 2, 3)), x[..., 5:].sum((1, 2, 3))], 1)


def network(group="p8"):
    return PlainCNN(
        PointGroup.named(group), [3, 3], images=Images(classes=2, size=9), pool_after=[]
    )


def test_a_turn_by_180_degrees_makes_left_right():
    model = LeftOrRight()
    assert measure_rotated_error(model, bars(), "fp32", 40, 0) == 0
    assert measure_rotated_error(model, bars(), "fp32", 40, 360) == 0
    assert measure_rotated_error(model, bars(), "fp32", 40, 30) == 0
    assert measure_rotated_error(model, bars(), "fp32", 40, 180) == 100


def test_turns_are_counter_clockwise():
    """The bar on the right turns up, not down."""

    class UpOrDown(nn.Module):
        def forward(self, x):
            return torch.stack([x[..., 5:, :].sum((1, 2, 3)), x[..., :4, :].sum((1, 2, 3))], 1)

    assert measure_rotated_error(UpOrDown(), bars(), "fp32", 40, 90) == 0


def test_diagnostics_hold_counts_turns_and_layers():
    model, data = network().eval(), bars()
    found = diagnose(model, data, "fp32", None, [[20, 0], [5, 15]])
    assert found["confusion"] == [[20, 0], [5, 15]]
    assert found["turned_images"] == 40
    assert list(found["turned"]) == [str(angle) for angle in ANGLES] and len(ANGLES) == 24
    assert found["turned"]["0"] == measure_rotated_error(model, data, "fp32", 40, 0)
    assert found["layers"]["trunk"] < 1e-5 < found["layers"]["model"]  # the head is not invariant
    assert diagnose(model, data, "fp32", 100, None)["turned_images"] == 1


def test_the_log_odds_of_two_classes_are_kept_and_tell_the_classes_apart():
    data = bars()
    found = diagnose(network(), data, "fp32", 30, None)["log_odds"]
    assert len(found) == 30
    odds = torch.tensor(log_odds(LeftOrRight(), data))
    assert torch.equal(odds > 0, data.test_labels == 1)
    assert odds.abs().unique().tolist() == pytest.approx([5 * 255 / 256])
    three = PlainCNN(PointGroup(4), [3, 3], images=Images(classes=3, size=9), pool_after=[])
    assert "log_odds" not in diagnose(three, replace(data, classes=3), "fp32", 30, None)


@pytest.mark.parametrize("group, fields", [("p1", 3), ("p6m", 3), ("p8", 11)])
def test_the_picture_of_the_filters_has_a_row_a_field_and_a_column_an_element(group, fields):
    group = PointGroup.named(group)
    layer = LiftingConv(group, 2, fields)
    picture = rotate_filters(nn.Sequential(layer))
    side = layer.kernel_size + 1
    assert picture.dtype == np.uint8
    assert picture.shape == (16 * side * min(8, fields), 16 * side * len(group), 3)
    assert rotate_filters(nn.Linear(2, 2)) is None


def test_a_picture_is_red_where_the_filter_is_positive_and_blue_where_it_is_negative():
    layer = LiftingConv(PointGroup.named("p1"), 1, 1, bank="pixels")
    with torch.no_grad():
        layer.weight[:] = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0, -0.5])
    picture = rotate_filters(layer)[8::16, 8::16]
    assert picture[0, 0].tolist() == [255, 0, 0] and picture[1, 1].tolist() == [255, 255, 255]
    assert picture[2, 2].tolist() == [128, 128, 255] and picture[3, 3].tolist() == [128, 128, 128]


# ---- Manifest -----------------------------------------------------------------------------------


def test_the_hash_of_a_difference_is_that_of_its_contents_and_of_nothing_else(repository):
    clean = hash_difference(repository)
    (repository / "results" / "runs.csv").write_text("1")
    (repository / "ignored").write_text("1")
    assert hash_difference(repository) == clean
    (repository / "new.py").write_text("1")
    new = hash_difference(repository)
    (repository / "new.py").write_text("2")
    assert len({clean, new, hash_difference(repository)}) == 3
    (repository / "new.py").unlink()
    (repository / "code.py").write_text("2")
    changed = hash_difference(repository / "results")
    assert changed == hash_difference(repository) != clean
    (repository / "code.py").write_text("1")
    assert hash_difference(repository) == clean


def test_without_git_nothing_is_claimed(tmp_path):
    assert hash_difference(tmp_path) is None
    here = describe_environment(torch.device("cpu"), tmp_path, {})
    assert (here["commit"], here["dirty"], here["diff_sha256"]) == ("unknown", True, None)


def test_an_environment_names_code_packages_and_machine(repository):
    here = describe_environment(torch.device("cpu"), repository, {"threads": 2})
    assert len(here["commit"]) == 40 and not here["dirty"] and here["diff_sha256"] is None
    assert torch.__version__.startswith(here["packages"]["torch"]) and here["packages"]["numpy"]
    assert here["cores"] >= 1 and here["settings"] == {"threads": 2} and here["cuda"] is None
    (repository / "code.py").write_text("2")
    assert len(describe_environment(torch.device("cpu"), repository, {})["diff_sha256"]) == 64


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux counts so alone")
def test_the_peak_of_a_run_is_not_that_of_the_one_before_in_its_process():
    held = np.ones(40_000_000)  # 320 MB
    first = measure_peak_memory()
    del held
    reset_peak_memory()
    assert measure_peak_memory() < first - 2e8


def test_a_fault_of_the_diagnostics_does_not_undo_the_run(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no memory for it")

    monkeypatch.setattr(closing, "diagnose", broken)
    said = []
    config = {"precision": "fp32", "recipe": {"test_images": None}}
    mirrored = closing.measure_trained(
        network(), bars(), config, Progress(), RunFolder(tmp_path), said.append
    )
    assert said == ["diagnostics are left out: RuntimeError: no memory for it"]
    assert mirrored == {"weights": None}


def test_a_difference_has_one_hash_whatever_the_settings_of_git(repository, monkeypatch):
    (repository / "code.py").write_text("2")
    plain = hash_difference(repository)
    for setting in (("diff.noprefix", "true"), ("core.abbrev", "20"), ("color.ui", "always")):
        git(repository, "config", *setting)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "true")
    assert hash_difference(repository) == plain


def test_a_run_in_parts_names_each_environment_once():
    manifest = extend_manifest(None, {"cores": 2}, {"a": 1}, "2026-01-01", 0)
    update_last_part(manifest, "2026-01-02", 3)
    manifest = extend_manifest(manifest, {"cores": 4}, {"a": 1}, "2026-01-03", 3)
    manifest = extend_manifest(manifest, {"cores": 2}, {"a": 1}, "2026-01-04", 3)
    update_last_part(manifest, "2026-01-05", 9)
    assert manifest["environments"] == [{"cores": 2}, {"cores": 4}]
    assert [part["environment"] for part in manifest["parts"]] == [0, 1, 0]
    assert [part["epochs"] for part in manifest["parts"]] == [[0, 3], [3, 3], [3, 9]]
    assert manifest["parts"][0]["ended"] == "2026-01-02"
    assert manifest["parts"][2]["peak_memory_bytes"] > 1e6
    assert manifest["configuration"] == {"a": 1}
