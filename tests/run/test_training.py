"""What training promises: a schedule, bit-identical repetition, and resumption without a trace."""

import copy
import hashlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pdoe import GroupConv, LiftingConv, PointGroup
from pdoe.data import to_input
from pdoe.fast import Dropout, release_graphs
from pdoe.models import Images, PlainCNN
from pdoe.run import checkpoint_files, checkpoints, selection, training
from pdoe.run.checkpoints import CheckpointMismatch, Progress, newest_whole
from pdoe.run.divergence import Diverged
from pdoe.run.evaluation import confusion_matrix, evaluate
from pdoe.run.hardware import resolve_device, resolve_precision
from pdoe.run.optimizer import group_parameters, make_moving_average
from pdoe.run.recipe import Recipe, is_evaluated, learning_rate_at
from pdoe.run.stop import Stop
from pdoe.run.training import Training, fit

SETTINGS = {"epochs": 4, "batch_size": 8, "learning_rate": [[0, 0.01]], "evaluate_every": 2}


@pytest.fixture(scope="module")
def data(two_sides):
    return two_sides(40, 8)


def counts(wrong):
    """A confusion matrix of a hundred images."""
    return torch.tensor([[100 - wrong, wrong], [0, 0]])


def network(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    group = PointGroup(4)
    return nn.Sequential(
        LiftingConv(group, 1, 2),
        nn.BatchNorm3d(2),
        nn.ReLU(),
        Dropout(dropout),
        GroupConv(group, 2, 2, bias=True),
        nn.Flatten(),
        nn.Linear(512, 2),
    )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def change_state(folder, change):
    """Change the state in the newest checkpoint, and its digest."""
    path = max(folder.iterdir())
    state = torch.load(path / "state.pt", weights_only=True)
    change(state)
    torch.save(state, path / "state.pt")
    sums = json.loads((path / "sha256.json").read_text(encoding="utf-8"))
    sums["state.pt"] = hashlib.sha256((path / "state.pt").read_bytes()).hexdigest()
    (path / "sha256.json").write_text(json.dumps(sums), encoding="utf-8")


def trained(data, seed=0, **settings):
    model, rows = network(seed), []
    progress = fit(
        model, data, **{**SETTINGS, **settings}, seed=seed, log=lambda row, _: rows.append(row)
    )
    return model.state_dict(), rows, progress


def test_a_model_that_was_replayed_is_its_own_again():
    model = network()
    model.forward = lambda x: "what was recorded"
    release_graphs(model)
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 2)
    release_graphs(model)


def test_the_same_seed_gives_bit_identical_weights_and_another_seed_others(data):
    first, again, other = (trained(data, seed)[0] for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


def in_slices(data, folder, slices=range(200), **settings):
    """Trained in calls whose time is used up at once: each does one step, or one evaluation."""
    parts = []
    for number in slices:
        weights, part, now = trained(data, **settings, checkpoint=folder, max_seconds=0)
        parts += part
        torch.rand(number)  # the random state of the process that goes on is another one
        if now.epoch == SETTINGS["epochs"]:
            break
        assert now.stopped == "time"
    return weights, parts, now, number + 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": "rotation", "optimizer": "sgd"},
        {"augment": "quarter_turns", "average": 0.9, "schedule": "linear"},
        {"augment": "crop_flip"},
        {
            **{"augment": "crop_altflip", "optimizer": "sgd", "schedule": "linear"},
            **{"average": 0.9, "label_smoothing": 0.1, "weight_decay": 0.01},
        },
    ],
)
def test_resuming_at_any_step_equals_no_interruption_bit_for_bit(data, tmp_path, settings):
    settings = {**settings, "learning_rate": [[0, 0.01], [4, 0.0]]}
    whole, rows, progress = trained(data, **settings)
    weights, parts, now, calls = in_slices(data, tmp_path / "checkpoint", **settings)
    assert calls == 22  # 4 epochs of 5 steps, and 2 evaluations
    assert same(whole, weights)

    def numbers(rows):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert numbers(parts) == numbers(rows)
    assert now.test_error_best == progress.test_error_best


def test_a_request_to_stop_is_obeyed_after_the_step_at_hand(data, tmp_path):
    stop, seen, model = Stop(), [], network()

    def interrupt(module, inputs, output):
        seen.append(stop.listening)
        stop.requested = len(seen) == 8

    model.register_forward_hook(interrupt)
    progress = fit(model, data, **SETTINGS, checkpoint=tmp_path, stop=stop)
    assert len(seen) == 8 and all(seen) and not stop.listening
    assert (progress.epoch, progress.step, progress.stopped) == (1, 3, "signal")
    weights, _, _ = trained(data, checkpoint=tmp_path)
    assert same(weights, trained(data)[0])


def test_a_request_to_stop_ends_an_evaluation_which_is_made_up_for(data, tmp_path):
    many = replace(
        data,
        test_images=data.test_images.repeat(10, 1, 1, 1),
        test_labels=data.test_labels.repeat(10),
    )
    stop, model = Stop(), network()
    model.register_forward_hook(
        lambda module, *_: None if module.training else setattr(stop, "requested", True)
    )
    progress = fit(model, many, **SETTINGS, checkpoint=tmp_path, stop=stop)
    assert (progress.epoch, progress.step, progress.stopped) == (1, 5, "signal")
    weights, rows, _ = trained(many, checkpoint=tmp_path)
    whole, expected, _ = trained(many)
    assert same(weights, whole)
    assert [row["test_error"] for row in rows] == [row["test_error"] for row in expected[1:]]


def test_long_epochs_are_saved_in_between(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    seen = []
    save = training.save
    monkeypatch.setattr(
        training, "save", lambda *a: (save(*a), seen.append((a[6].epoch, a[6].step)))
    )
    trained(data, epochs=2, checkpoint=tmp_path)
    assert seen == [*((0, s) for s in range(1, 5)), (1, 0), *((1, s) for s in range(1, 5)), (2, 0)]


def test_an_epoch_that_was_logged_but_not_saved_is_repeated(data, tmp_path):
    def die(row, progress):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), data, **SETTINGS, checkpoint=tmp_path, log=die)
    weights, rows, _ = trained(data, checkpoint=tmp_path)
    assert [row["epoch"] for row in rows] == [3, 4]
    assert same(weights, trained(data)[0])


def test_a_time_budget_counts_from_the_start_of_the_process(data, tmp_path, monkeypatch):
    load = training.load

    def long_ago(*arguments):
        progress, position = load(*arguments)
        progress.seconds = 1e6  # spent by earlier processes
        return progress, position

    trained(data, checkpoint=tmp_path, max_seconds=0)
    monkeypatch.setattr(training, "load", long_ago)
    _, _, progress = trained(data, checkpoint=tmp_path, max_seconds=1000)
    assert progress.epoch == 4 and progress.seconds > 1e6


def test_the_time_left_is_estimated_from_the_steps_of_this_process(
    data, tmp_path, monkeypatch, capsys
):
    load = training.load

    def slow(*arguments):
        progress, position = load(*arguments)
        progress.epoch_seconds = 1e6  # of the step that an earlier process did
        return progress, position

    trained(data, checkpoint=tmp_path, max_seconds=0)
    monkeypatch.setattr(training, "load", slow)
    _, rows, _ = trained(data, checkpoint=tmp_path)
    assert rows[0]["seconds"] > 1e6
    assert re.search(r"^epoch 1/4: .*, about \d+ s left$", capsys.readouterr().out, re.M)


def test_a_finished_state_trains_no_further(data, tmp_path):
    weights, _, _ = trained(data, checkpoint=tmp_path)
    again, rows, progress = trained(data, checkpoint=tmp_path)
    assert rows == [] and progress.epoch == 4 and same(weights, again)


def test_training_learns(data):
    _, rows, progress = trained(data, epochs=12)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert progress.test_error < 10


def test_the_authors_schedule_has_its_steps_where_they_have_them():
    recipe = OmegaConf.load("configs/recipe/mnistrot_paper.yaml")
    rates = [learning_rate_at(epoch, recipe.learning_rate) for epoch in range(recipe.epochs)]
    assert rates == [1e-4] * 6 + [1e-3] * 94 + [1e-4] * 50 + [1e-5] * 50


def test_a_linear_schedule_goes_straight_from_pair_to_pair():
    rates = [[0, 0.0], [2, 1.0], [6, 0.5]]
    found = [learning_rate_at(epoch, rates, "linear") for epoch in (0, 0.5, 2, 3, 6, 9)]
    assert found == [0, 0.25, 1, 0.875, 0.5, 0.5]
    jump = [[0, 1.0], [4, 1.0], [4, 0.5], [8, 0.0]]
    assert [learning_rate_at(e, jump, "linear") for e in (3.9, 4, 6)] == [1, 0.5, 0.25]


def test_the_rate_of_a_linear_schedule_changes_with_every_step(data, monkeypatch):
    rates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda self: (rates.extend(part["lr"] for part in self.param_groups), step(self))[1],
    )
    trained(data, epochs=2, learning_rate=[[0, 0.0], [1, 1e-3], [2, 0]], schedule="linear")
    expected = [0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 8e-4, 6e-4, 4e-4, 2e-4]
    assert rates[::2] == rates[1::2] == pytest.approx(expected)


def test_the_average_is_exponential_and_is_what_is_tested_and_kept(data, monkeypatch):
    steps, tested = [], []
    step = torch.optim.Adam.step
    model = network()

    def note(self):
        step(self)
        steps.append({name: value.clone() for name, value in model.state_dict().items()})

    monkeypatch.setattr(torch.optim.Adam, "step", note)
    monkeypatch.setattr(
        selection,
        "confusion_matrix",
        lambda net, *_: tested.append(copy.deepcopy(net.state_dict())) or counts(1),
    )
    fit(model, data, **{**SETTINGS, "evaluate_every": 4}, average=0.8)
    kept = model.state_dict()
    for name, average in steps[0].items():
        if average.is_floating_point():  # weights and running statistics
            for later in steps[1:]:
                average = 0.8 * average + 0.2 * later[name]
            torch.testing.assert_close(kept[name], average)
            assert not torch.equal(kept[name], steps[-1][name])
    assert same(tested[-1], kept)


def test_the_network_that_is_tested_has_its_index_tables(data, monkeypatch):
    """The tables of a layer are buffers, too: averages of them would be other numbers."""
    model = PlainCNN(PointGroup(8), [3, 3], images=Images(classes=2, size=8))
    tested = []
    monkeypatch.setattr(
        selection, "confusion_matrix", lambda net, *_: tested.append(net) or counts(1)
    )
    fit(model, data, **{**SETTINGS, "epochs": 8}, average=0.9)
    assert tested[-1] is not model
    (table,) = [part.quotient for part in tested[-1].modules() if isinstance(part, GroupConv)]
    assert torch.equal(table, PointGroup(8).quotient)


def test_only_numbers_are_averaged():
    model = GroupConv(PointGroup(8), 1, 1)
    averaged = AveragedModel(model, multi_avg_fn=make_moving_average(0.9), use_buffers=True)
    for _ in range(40):
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.quotient, model.quotient)


def test_the_version_of_the_numbers_is_a_condition(data, tmp_path, monkeypatch):
    trained(data, checkpoint=tmp_path, max_seconds=0)
    monkeypatch.setattr(checkpoints, "NUMBERS", 2)
    with pytest.raises(CheckpointMismatch, match="numbers 1, now 2.*resume=any"):
        trained(data, checkpoint=tmp_path)
    assert trained(data, checkpoint=tmp_path, any_conditions=True)[2].epoch == 4


@pytest.mark.parametrize("name", sorted(checkpoints.INSTRUCTIONS))
def test_a_cpu_with_other_instructions_does_not_resume_bit_for_bit(
    data, tmp_path, monkeypatch, name
):
    trained(data, checkpoint=tmp_path, max_seconds=0)
    here = checkpoints.instruction_set()
    assert set(here) == checkpoints.INSTRUCTIONS
    monkeypatch.setattr(checkpoints, "instruction_set", lambda: {**here, name: "other"})
    with pytest.raises(CheckpointMismatch, match=f"{name} {here[name]}, now other.*resume=any"):
        trained(data, checkpoint=tmp_path)


def test_a_state_from_before_a_condition_was_recorded_is_resumed(data, tmp_path):
    trained(data, checkpoint=tmp_path, max_seconds=0)

    def as_it_was(state):
        del state["schema"]
        for name in ("numbers", *checkpoints.INSTRUCTIONS):
            del state["conditions"][name]

    change_state(tmp_path, as_it_was)
    assert same(trained(data, checkpoint=tmp_path)[0], trained(data)[0])


def test_a_state_of_a_newer_version_is_refused_and_kept(data, tmp_path):
    in_slices(data, tmp_path, range(3))
    change_state(tmp_path, lambda state: state.update(schema=2))
    with pytest.raises(CheckpointMismatch, match="schema 2.*update the package"):
        trained(data, checkpoint=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.clear(),
        lambda state: state.update(progress=None),
        lambda state: state.update(progress={**state["progress"], "epoch": -1}),
        lambda state: state.update(progress={**state["progress"], "epoch": 10**9}),
        lambda state: state.update(progress={**state["progress"], "step": 1.5}),
        lambda state: state.update(progress={"unknown": 1}),
        lambda state: state.update(ranks=[]),
        lambda state: state.update(ranks=[{"sums": "ab", "random": None}]),
        lambda state: state.update(order=torch.zeros(3)),
        lambda state: state.update(generator=None),
        lambda state: state.update(conditions=None),
        lambda state: state.update(schema="1"),
    ],
)
def test_a_state_that_no_run_has_is_refused(data, tmp_path, change):
    trained(data, checkpoint=tmp_path, max_seconds=0)
    change_state(tmp_path, change)
    with pytest.raises(CheckpointMismatch, match="epoch=0000,step=000001|which this run does not"):
        trained(data, checkpoint=tmp_path)


def test_a_state_with_another_average_is_refused(data, tmp_path):
    trained(data, checkpoint=tmp_path, max_seconds=0)
    with pytest.raises(CheckpointMismatch, match="average None, now 0.9"):
        trained(data, checkpoint=tmp_path, average=0.9)


def test_smoothed_labels_are_in_the_loss(data):
    rows = [trained(data, epochs=1, label_smoothing=share)[1] for share in (0.0, 0.5)]
    assert rows[0][0]["train_loss"] != rows[1][0]["train_loss"]
    even = trained(data, epochs=30, label_smoothing=0.5)[1][-1]["train_loss"]
    floor = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)  # entropy of the smoothed labels
    assert floor <= even < floor + 0.05


def test_evaluation_is_sparse_until_the_last_quarter():
    epochs = [epoch for epoch in range(1, 201) if is_evaluated(epoch, 200, 10, 0.25)]
    assert epochs == [*range(10, 151, 10), *range(151, 201)]
    assert [e for e in range(1, 8) if is_evaluated(e, 7, 10, 0.0)] == [7]


def test_weight_decay_is_on_convolution_and_linear_weights_only():
    model = network()
    decayed, free = group_parameters(model, 0.01)
    assert decayed["weight_decay"] == 0.01 and free["weight_decay"] == 0.0
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"0.weight", "4.weight", "6.weight"}
    assert {names[id(p)] for p in free["params"]} == {"1.weight", "1.bias", "4.bias", "6.bias"}


def test_the_l2_term_is_in_the_gradient_as_in_the_authors_loss(data):
    """Adam sees gradient + decay * w (their `wl * l2_loss`), which AdamW would not."""
    start = network().state_dict()
    # Adam's first step is the rate times the sign of the gradient; a term this large decides it.
    decayed = trained(data, epochs=1, weight_decay=1e6, train_images=8)[0]
    for name in ("0.weight", "4.weight", "6.weight"):
        step = decayed[name] - start[name]
        torch.testing.assert_close(step, -0.01 * start[name].sign(), atol=1e-4, rtol=0)
    plain = trained(data, epochs=1, train_images=8)[0]
    torch.testing.assert_close(decayed["4.bias"].abs(), plain["4.bias"].abs(), atol=1e-4, rtol=0)
    assert not same(plain, decayed)


def test_an_epoch_of_few_images_repeats_them_with_all_classes_equally_often(data):
    seen = []
    model = network()
    model.register_forward_pre_hook(
        lambda module, inputs: seen.extend(inputs[0].flatten(1)) if module.training else None
    )
    labels = data.train_labels[:5]
    assert labels.sum() not in (0, 5)
    fit(model, data, **{**SETTINGS, "epochs": 1}, train_images=5, epoch_images=24)
    given = to_input(data.train_images[:5], data.mean, data.std).flatten(1)
    times = (torch.stack(seen)[:, None] == given).all(2).sum(0)
    assert times.sum() == 24 and times[labels == 0].sum() == times[labels == 1].sum() == 12
    with pytest.raises(ValueError, match="epoch_images=4 leaves out some of the 5 training images"):
        fit(model, data, **SETTINGS, train_images=5, epoch_images=4)


@pytest.mark.parametrize("augment", ["rotation", "quarter_turns"])
def test_augmentation_changes_what_is_learnt(data, augment):
    assert not same(trained(data)[0], trained(data, augment=augment)[0])


def test_only_so_many_images_are_tested(data):
    seen = []
    model = network()
    model.register_forward_hook(
        lambda module, inputs, output: None if module.training else seen.append(len(output))
    )
    fit(model, data, **{**SETTINGS, "evaluate_every": 1}, test_images=7)
    assert seen == [7] * 4


def test_the_best_error_is_the_smallest_evaluated_one_and_the_last_one_counts(data, monkeypatch):
    errors = iter([50, 20, 30, 40])
    monkeypatch.setattr(selection, "confusion_matrix", lambda *_: counts(next(errors)))
    _, rows, progress = trained(data, evaluate_every=1)
    assert [row["test_error"] for row in rows] == [50, 20, 30, 40]
    assert (progress.test_error, progress.test_error_best) == (40, 20)
    assert progress.confusion == counts(40).tolist()


@pytest.mark.parametrize("budget, epochs", [(None, 4), (299, 1), (301, 2)])
def test_evaluation_counts_in_the_time_that_is_left(data, monkeypatch, capsys, budget, epochs):
    clock = [0.0]

    def pass_time(seconds, result=None):
        clock[0] += seconds
        return result

    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(selection, "confusion_matrix", lambda *_: pass_time(100, counts(1)))
    model = network()
    model.register_forward_hook(lambda *_: pass_time(10))
    settings = {**SETTINGS, "evaluate_every": 1}
    progress = fit(model, data, **settings, max_seconds=budget)  # epochs of 5 * 10 + 100 s
    assert progress.epoch == epochs
    assert "about 8 min left" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"epochs": 0}, "epochs is a positive integer, not 0"),
        ({"epochs": 1.5}, "epochs is a positive integer, not 1.5"),
        ({"batch_size": True}, "batch_size is a positive integer, not True"),
        ({"learning_rate": 0.1}, "needs a rate for epoch 0.*not 0.1"),
        ({"learning_rate": [0.1]}, "needs a rate for epoch 0"),
        ({"learning_rate": [[0, "a"]]}, "needs a rate for epoch 0"),
        ({"evaluate_every": 0}, "evaluate.every is a positive integer, not 0"),
        ({"train_images": -5}, "train_images is a positive integer, not -5"),
        ({"test_images": 0}, "test_images is a positive integer, not 0"),
        (
            {"augment": "flip"},
            "augment is one of none, rotation, .*shift_flip, not 'flip'",
        ),
        ({"optimizer": "lamb"}, "optimizer is one of adam, sgd, momentum, adadelta, not 'lamb'"),
        ({"schedule": "cosine"}, "schedule is step or linear, not 'cosine'"),
        ({"average": 1}, "average is a decay between 0 and 1, or null, not 1"),
        ({"average": "ema"}, "average is a decay between 0 and 1, or null, not 'ema'"),
        ({"label_smoothing": 1.5}, "label_smoothing is at least 0 and below 1, not 1.5"),
        ({"learning_rate": []}, "needs a rate for epoch 0"),
        ({"learning_rate": [[0, -0.1]]}, "rates of learning_rate are at least 0"),
        ({"learning_rate": [[0, math.nan]]}, "rates of learning_rate are at least 0"),
        ({"weight_decay": -1}, "weight_decay is a number of at least 0, not -1"),
        ({"weight_decay": "abc"}, "weight_decay is a number of at least 0, not 'abc'"),
        ({"evaluate_last": -3}, "evaluate.last is a part, from 0 to 1, not -3"),
        ({"evaluate_last": "abc"}, "evaluate.last is a part, from 0 to 1, not 'abc'"),
        ({"learning_rate": [[5, 0.1]]}, "needs a rate for epoch 0.*not \\[\\[5, 0.1"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused(data, wrong, said):
    with pytest.raises(ValueError, match=said):
        trained(data, **wrong)


def test_the_last_partial_batch_is_dropped(data):
    seen = []
    model = network()
    model[0].register_forward_hook(
        lambda module, inputs, output: seen.append(len(output)) if module.training else None
    )
    fit(model, data, **{**SETTINGS, "epochs": 1, "batch_size": 16})
    assert seen == [16, 16]


def test_the_error_is_counted_over_all_images(data):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    assert evaluate(Constant(), data) == 50
    assert evaluate(Constant(), data, count=1) == 0
    counts = confusion_matrix(Constant(), data)
    assert counts[:, 1].sum() == 0 and counts[0, 0] == counts[1, 0] == len(data.test_labels) / 2


def test_a_network_of_another_number_of_classes_is_refused(data):
    class Ten(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 10)

    with pytest.raises(ValueError, match="the network has 10 classes, toy has 2"):
        evaluate(Ten(), data)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(data, tmp_path):
    trained(data, checkpoint=tmp_path, epochs=1)
    with pytest.raises(Diverged, match="step 2 of epoch 2 of 4"):
        trained(data, checkpoint=tmp_path, learning_rate=[[0, 0.01], [1, 1e38]])
    assert newest_whole(tmp_path)[1]["state"]["progress"]["epoch"] == 1
    _, rows, _ = trained(data, checkpoint=tmp_path)
    assert math.isfinite(rows[-1]["train_loss"])


def test_weights_that_are_not_finite_are_never_saved(data, tmp_path):
    with pytest.raises(Diverged, match="weight is not finite in step 1 of epoch 1 of 4"):
        trained(data, checkpoint=tmp_path, max_seconds=0, learning_rate=[[0, math.inf]])
    assert newest_whole(tmp_path) is None


@pytest.mark.parametrize("part", ["model.pt", "optimizer.pt", "state.pt", "sha256.json", None])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(data, tmp_path, part, capsys):
    settings = {"average": 0.9}
    in_slices(data, tmp_path, range(8), **settings)
    before, newest = sorted(tmp_path.iterdir())
    assert (before.name, newest.name) == ("epoch=0001,step=000002", "epoch=0001,step=000003")
    if part is None:
        (newest / "averaged.pt").unlink()
    else:
        (newest / part).write_bytes((newest / part).read_bytes()[:-40])
    weights, _, _ = trained(data, checkpoint=tmp_path, **settings)
    said = capsys.readouterr().out
    assert f"{newest / (part or 'averaged.pt')} cannot be read" in said
    assert f"going on from the one before, {before}" in said
    assert same(weights, trained(data, **settings)[0])


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(data, tmp_path):
    in_slices(data, tmp_path, range(8))
    (max(tmp_path.iterdir()) / "model.pt").write_bytes(b"")
    in_slices(data, tmp_path, range(1))
    assert [checkpoints.read(path)["state"]["progress"]["step"] for path in tmp_path.iterdir()]
    assert len(list(tmp_path.iterdir())) == 2


def test_checkpoints_are_sorted_by_number(data, tmp_path):
    """As text, epoch 10000 would come before 9999."""
    names = [f"epoch={epoch},step=000000" for epoch in (9998, 9999, 10000, 10001)]
    for name in names[:3]:
        checkpoint_files.write_checkpoint(tmp_path / name, {"state": {}})
    assert [path.name for path in checkpoint_files.newest_first(tmp_path)] == names[2:0:-1]
    checkpoint_files.write_checkpoint(tmp_path / names[3], {"state": {}})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


@pytest.mark.parametrize("kind", ["file", "link", "file for a folder", "broken link", "pipe"])
def test_what_lies_in_the_place_of_a_checkpoint_is_named_and_kept(data, tmp_path, kind):
    folder = tmp_path / "checkpoint"
    trained(data, checkpoint=folder, max_seconds=0)
    (path,) = folder.iterdir()
    if kind in ("file", "link"):
        path.rename(tmp_path / "elsewhere")
        path.touch() if kind == "file" else path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        (path / "model.pt").unlink()
        os.mkfifo(path / "model.pt")
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.touch() if kind == "file for a folder" else folder.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointMismatch, match="restart=true"):
        trained(data, checkpoint=folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_killed_processes_left_is_tidied_up_at_the_next_start(data, tmp_path):
    in_slices(data, tmp_path, range(3))
    third = tmp_path / "epoch=0000,step=000001"
    shutil.copytree(max(tmp_path.iterdir()), third)
    (tmp_path / ".epoch=0000,step=000004.part").mkdir()
    Training(network(), data, Recipe(**SETTINGS), checkpoint=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"epoch=0000,step=000002", "epoch=0000,step=000003"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_between_writing_and_renaming_loses_nothing(data, tmp_path, monkeypatch, seed):
    kill_again_and_again(data, tmp_path, monkeypatch, random.Random(seed), attempts=6)


@pytest.mark.hard
@pytest.mark.parametrize("seed", range(100))
def test_many_kills_lose_nothing(data, tmp_path, monkeypatch, seed):
    kill_again_and_again(data, tmp_path, monkeypatch, random.Random(seed), attempts=30)


def kill_again_and_again(data, folder, monkeypatch, luck, attempts):
    """Processes that die at random renames and deletions, and one that does not."""
    for _ in range(attempts):
        left = iter(range(luck.randrange(30)))

        def limited(original, left=left):
            def act(*arguments, **options):
                if next(left, None) is None:
                    raise Killed
                return original(*arguments, **options)

            return act

        with monkeypatch.context() as patched, suppress(Killed):
            for module, name in (
                (os, "replace"),
                (os, "rename"),
                (shutil, "rmtree"),
                (Path, "unlink"),
            ):
                patched.setattr(module, name, limited(getattr(module, name)))
            fit(network(), data, **SETTINGS, checkpoint=folder, max_seconds=0.05)
    weights, _, progress = trained(data, checkpoint=folder)
    assert progress.epoch == 4 and same(weights, trained(data)[0])
    assert len(list(folder.iterdir())) == 2


def test_what_only_looks_like_a_checkpoint_is_left_alone(data, tmp_path):
    (tmp_path / "epoch=0009,step=000001.zip").write_bytes(b"")
    (tmp_path / "epoch=0009,step=000001.bak").mkdir()
    trained(data, checkpoint=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_state_of_an_earlier_version_is_not_passed_over(data, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointMismatch, match="state.pt was written by an earlier version"):
        trained(data, checkpoint=tmp_path)


def test_an_evaluation_that_is_over_counts_whatever_is_asked_then(data, tmp_path):
    """One batch of images: there is nothing left to stop."""
    assert confusion_matrix(network(), data, stopped=lambda: True) is not None


def test_a_changed_byte_is_damage(data, tmp_path):
    trained(data, checkpoint=tmp_path, max_seconds=0)
    (folder,) = tmp_path.iterdir()
    raw = bytearray((folder / "model.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "model.pt").write_bytes(raw)
    with pytest.raises(CheckpointMismatch, match="model.pt cannot be read.*restart=true"):
        trained(data, checkpoint=tmp_path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(data, tmp_path, monkeypatch):
    trained(data, checkpoint=tmp_path, max_seconds=0)
    before = newest_whole(tmp_path)[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        trained(data, checkpoint=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [before.name]


@pytest.mark.parametrize("part", [0, 0.1, 0.4, 0.8, 0.99])
def test_a_disk_that_is_full_at_any_byte_is_said_to_be(data, tmp_path, part):
    """torch.save of a file that takes no more raises a RuntimeError that names no disk."""
    model, progress = network(), Progress(epoch=1)
    optimizer, state = torch.optim.Adam(model.parameters()), torch.get_rng_state()
    large = {str(i): torch.randn(64, 64, 9) for i in range(9)}
    position = checkpoints.Position(state, state, selected=large)
    checkpoints.save(tmp_path, model, None, optimizer, position, {}, progress)
    size = (newest_whole(tmp_path)[0] / "selected.pt").stat().st_size
    progress.epoch = 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(part * size), before[1]))
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save(tmp_path, model, None, optimizer, position, {}, progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch=0001,step=000000"]


def test_a_checkpoint_has_files_of_its_own_for_each_part(data, tmp_path):
    trained(data, checkpoint=tmp_path, average=0.9)
    newest = newest_whole(tmp_path)[0]
    assert {path.name for path in newest.iterdir()} == {
        *("model.pt", "averaged.pt", "optimizer.pt", "state.pt", "sha256.json"),
    }
    assert len(list(tmp_path.iterdir())) == 2  # the one before is kept
    assert same(
        torch.load(newest / "model.pt", weights_only=True), newest_whole(tmp_path)[1]["model"]
    )


def test_a_checkpoint_is_not_continued_under_other_conditions(data, tmp_path):
    trained(data, checkpoint=tmp_path, max_seconds=0)
    with pytest.raises(CheckpointMismatch, match="precision fp32, now bf16"):
        trained(data, checkpoint=tmp_path, precision="bf16")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(CheckpointMismatch, match=f"threads {threads}, now {threads + 1}"):
            trained(data, checkpoint=tmp_path)
    finally:
        torch.set_num_threads(threads)


def test_other_conditions_can_be_allowed_and_are_said(data, tmp_path, capsys):
    trained(data, checkpoint=tmp_path, max_seconds=0, conditions={"machine": "A"})
    with pytest.raises(CheckpointMismatch, match="machine A, now B.*resume=any"):
        trained(data, checkpoint=tmp_path, conditions={"machine": "B"})
    with pytest.raises(CheckpointMismatch, match="seed None, now 1"):  # another run
        trained(data, checkpoint=tmp_path, conditions={"seed": 1}, any_conditions=True)
    _, _, progress = trained(
        data, checkpoint=tmp_path, conditions={"machine": "B"}, any_conditions=True
    )
    assert progress.epoch == 4
    assert "machine A, now B; it does not go on bit for bit" in capsys.readouterr().out


def test_a_state_of_another_device_leaves_the_kernels_of_the_optimiser_as_they_are(data, tmp_path):
    """On a GPU they are fused, in a state that a GPU has written, too."""
    trained(data, checkpoint=tmp_path, max_seconds=0)
    (folder,) = tmp_path.iterdir()
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    for group in state["param_groups"]:
        group["fused"] = True
    torch.save(state, folder / "optimizer.pt")
    sums = json.loads((folder / "sha256.json").read_text())
    sums["optimizer.pt"] = hashlib.sha256((folder / "optimizer.pt").read_bytes()).hexdigest()
    (folder / "sha256.json").write_text(json.dumps(sums))
    run = Training(network(), data, Recipe(**SETTINGS), checkpoint=tmp_path)
    assert [group["fused"] for group in run.optimizer.param_groups] == [None, None]
    assert run.optimizer.state and run.progress.step == 1
    run.run()
    assert same(run.model.state_dict(), trained(data)[0])


def test_sgd_has_nesterovs_momentum(data):
    """Against the formula: v <- 0.9 v + g, w <- w - rate (g + 0.9 v)."""
    model = network(dropout=0.0).double()
    weight, gradients = model[6].weight, []
    weight.register_hook(lambda gradient: gradients.append(gradient.clone()))
    start = weight.detach().clone()
    fit(
        model,
        data,
        **{**SETTINGS, "epochs": 1, "learning_rate": [[0, 0.1]]},
        optimizer="sgd",
        precision="fp64",
    )
    velocity = torch.zeros_like(start)
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient
        start -= 0.1 * (gradient + 0.9 * velocity)
    torch.testing.assert_close(weight.detach(), start, rtol=1e-12, atol=1e-12)


def test_a_batch_larger_than_the_set_is_refused(data):
    with pytest.raises(ValueError, match="batch of 64 is larger than the 40 images"):
        trained(data, batch_size=64)


def test_bf16_training_keeps_float32_weights(data):
    weights, rows, _ = trained(data, epochs=1, precision="bf16")
    assert not same(weights, trained(data, epochs=1)[0])
    assert weights["0.weight"].dtype == torch.float32
    assert math.isfinite(rows[0]["train_loss"])


def test_device_and_precision_say_what_is_allowed():
    assert resolve_precision("auto", torch.device("cpu")) in ("bf16", "fp32")
    with pytest.raises(ValueError, match="auto, bf16, fp32 or fp64, not 'fp16'"):
        resolve_precision("fp16", torch.device("cpu"))
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device is auto, cpu, cuda or cuda:1, not 'gpu'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device=cuda.*no GPU"):
            resolve_device("cuda")
