"""W&B never stops a run, and an offline run can be read back."""

import json
import os
import subprocess
import sys

import pytest

from pdoe.tracking import Tracker


def tracker(mode, folder):
    return Tracker(
        mode,
        folder,
        project="pdoe",
        run_id="abc123",
        name="row, seed 0",
        group="row",
        tags=["smoke"],
        config={"seed": 0},
    )


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_disabled_leaves_nothing(tmp_path):
    run = tracker("disabled", tmp_path)
    run.log({"epoch": 1, "train_loss": 1.0})
    run.finish({"test_error": 1.0}, failed=False)
    assert not list(tmp_path.rglob("wandb*"))


def test_the_environment_decides_for_auto(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker("auto", tmp_path).finish({}, failed=False)
    assert not list(tmp_path.rglob("wandb*"))


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_login_a_run_goes_offline_and_reads_back(tmp_path, mode, capsys):
    run = tracker(mode, tmp_path)
    run.log({"epoch": 1, "train_loss": 2.5, "test_error": None})
    run.log({"epoch": 2, "train_loss": 1.5, "test_error": 9.0})
    run.finish({"test_error": 9.0, "status": "finished"}, failed=False)
    assert "tracking: offline" in capsys.readouterr().out
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-abc123")
    wandb = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
    shown = subprocess.run([*wandb, str(folder)], capture_output=True, text=True, check=True)
    summary = json.loads(shown.stdout)
    assert summary["summary"]["test_error"] == 9.0
    assert summary["summary"]["train_loss"] == 1.5
    assert summary["config"]["seed"] == 0


def test_a_tracker_that_cannot_write_is_left_behind(tmp_path, capsys, monkeypatch):
    import wandb

    def broken(**arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(wandb, "init", broken)
    run = tracker("offline", tmp_path)
    run.log({"epoch": 1, "train_loss": 1.0})
    run.finish({}, failed=False)
    assert "goes on without it" in capsys.readouterr().out


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(ValueError, match="auto, online, offline, disabled, not 'yes'"):
        tracker("yes", tmp_path)
