"""What a run shows while it trains, on a terminal and in a log."""

import io
import os
import re
import struct
import sys

import pytest
import torch
from torch import nn
from tqdm import tqdm

from pdoe.run import progress, training
from pdoe.run.recipe import Recipe
from pdoe.run.state import Progress
from pdoe.run.training import fit

SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": [[0, 0.01]], "evaluate_every": 1}


class Eager(tqdm):
    """A bar that shows every change, however fast the machine."""

    def __init__(self, **settings):
        super().__init__(**settings, mininterval=0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only where a test says so; it holds the seconds."""
    time = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: time[0])
    monkeypatch.setattr(training.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def train(two_sides, clock):
    """Trains for two epochs of five steps, which take 10 s each."""

    def train(**settings):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        model.register_forward_hook(lambda *_: clock.append(clock.pop() + 10))
        return fit(model, two_sides(40, 8), **{**SETTINGS, **settings})

    return train


def test_a_log_has_a_line_after_ten_seconds_and_every_thirty_and_one_for_each_epoch(train, capsys):
    train()
    lines = capsys.readouterr().out.splitlines()
    # Steps end at 10, 20, 30, 40 and 50 s, the test at 60 s.
    assert [line.partition(":")[0] for line in lines] == [
        *("epoch 1/2, step 1/5", "epoch 1/2, step 4/5", "epoch 1/2"),
        *("epoch 2/2, step 3/5", "epoch 2/2, test", "epoch 2/2"),
    ]
    # Four steps and a test are left of this epoch, five and a test of the next; a test is guessed.
    assert re.fullmatch(
        r"epoch 1/2, step 1/5: 0\.8 images/s, loss \d\.\d{4}, about 2 min left", lines[0]
    )
    assert lines[2].endswith("60.0 s, about 60 s left")
    assert lines[4] == "epoch 2/2, test: 40 of 40 images"
    assert "left" not in lines[-1]


def test_a_resumed_run_says_where_and_measures_its_own_speed(train, clock, capsys, tmp_path):
    train(checkpoint=tmp_path, max_seconds=25)
    assert capsys.readouterr().out.splitlines()[-1] == "stopped in epoch 1/2 after step 2/5"
    clock[0] += 1e6
    train(checkpoint=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "resuming from epoch 1, step 2"
    assert lines[1].startswith("epoch 1/2, step 5/5: 0.8 images/s")


def test_a_terminal_has_a_bar_over_the_images_of_an_epoch(train, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(progress, "tqdm", Eager)
    train(label="run 2 of 8")
    shown = terminal.getvalue()
    assert "run 2 of 8, epoch 1/2:" in shown and "epoch 2/2, test:" in shown
    assert "40.0/40.0" in shown and re.search(r"loss \d\.\d{4}, about \d+ \w+ left", shown)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"run 2 of 8, epoch {epoch}/2" for epoch in (1, 2)
    ]


def test_a_terminal_without_a_size_gets_the_lines_of_a_log():
    """As in a container or under `script`, where tqdm would show nothing."""
    fcntl, termios = (pytest.importorskip(name) for name in ("fcntl", "termios"))
    with open(os.openpty()[1], "w", encoding="utf-8") as stream:
        assert not progress.has_room_for_bar(stream)
        size = struct.pack("HHHH", 24, 80, 0, 0)
        fcntl.ioctl(stream, termios.TIOCSWINSZ, size)
        assert progress.has_room_for_bar(stream)


def test_the_loss_of_a_step_is_logged_at_most_every_ten_seconds(train, clock, monkeypatch):
    logged = []
    monkeypatch.setattr(progress, "STEP_SECONDS", 25.0)
    train(log_step=lambda *numbers: logged.append(numbers))
    assert [step for step, _, _ in logged] == [1, 4, 6, 9]  # after 10, 40, 70 and 100 s
    assert all(loss > 0 for _, loss, _ in logged)
    assert {rate for _, _, rate in logged} == {0.8}


def test_a_process_that_is_not_the_first_shows_nothing(capsys):
    recipe = Recipe(**SETTINGS)
    display = progress.Display(progress.Pace(recipe, 5, 1.0), False, "", lambda *_: 1 / 0)
    done = Progress(epoch=0, step=5)
    display.resume(done)
    display.begin_epoch(done)
    display.update(done, [1.0])
    display.begin_test(done, 5)(5)
    row = {"epoch": 1, "train_loss": 1.0, "train_error": 1.0, "seconds": 1.0}
    display.end_epoch(row, done)
    display.close()
    assert capsys.readouterr() == ("", "")


def test_the_loss_that_is_shown_is_the_mean_of_the_last_steps():
    display = progress.Display(progress.Pace(Recipe(**SETTINGS), 50, 1.0))
    display.begin_epoch(Progress())
    display.update(Progress(step=40), torch.arange(40.0).tolist())
    assert "loss 29.5000" in display._format_state(Progress(step=40))
