"""A random frame for every training step: shared, exact for operators, resumed bit for bit."""

import math

import pytest
import torch
from test_protocols import data  # noqa: F401

from pdoe import LiftingConv, PointGroup, filter_bank
from pdoe.banks import DERIVATIVES
from pdoe.models import Images, PlainCNN
from pdoe.run.frames import RandomFrame
from pdoe.run.training import fit

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"epochs": 2, "batch_size": 35, "learning_rate": [[0, 0.05]], "evaluate_every": 1}


def network(offset=math.pi / 8, group="p8", **settings):
    torch.manual_seed(0)
    settings = {"padding": "same", "pool_after": (), "head": "pooled", "hidden": 4} | settings
    images = Images(1, 3, 6)
    return PlainCNN(PointGroup.named(group), [2, 2], offset=offset, images=images, **settings)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def train(data, **settings):  # noqa: F811
    model, rows = network(), []
    settings = {**SETTINGS, "random_frame": True} | settings
    progress = fit(model, data, **settings, log=lambda row, _: rows.append(row["test_error"]))
    return model.state_dict(), rows, progress


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("bank", DERIVATIVES)
def test_all_layers_share_one_frame_and_return_to_their_own(bank):
    model = network(bank=bank).double()
    frame = RandomFrame(model)
    before = [layer.bank.clone() for layer in frame.layers]
    memory = [layer.bank.data_ptr() for layer in frame.layers]
    angles = []
    for seed in range(20):
        with frame.rotate(seeded(seed)):
            offsets = {layer.offset for layer in frame.layers}
            assert len(offsets) == 1 and len(frame.layers) == 2
            angles += [offsets.pop() - math.pi / 8]
            expected = filter_bank(model.group, bank, offset=angles[-1] + math.pi / 8)
            for layer in frame.layers:
                assert torch.equal(layer.bank, torch.from_numpy(expected))
    assert len(set(angles)) == 20 and max(map(abs, angles)) <= math.pi / 8
    assert min(angles) < -math.pi / 16 and max(angles) > math.pi / 16
    with pytest.raises(KeyError), frame.rotate(seeded(0)):
        raise KeyError
    assert {layer.offset for layer in frame.layers} == {math.pi / 8}
    assert all(map(torch.equal, before, (layer.bank for layer in frame.layers)))
    assert memory == [layer.bank.data_ptr() for layer in frame.layers]  # as a recorded graph needs


@pytest.mark.parametrize("group", ["p8", "p6", "p3"])
def test_a_frame_further_by_a_rotation_of_the_group_changes_no_invariant_head(group):
    """So an interval of 2 pi / n holds every frame."""
    model = network(0.3, group).double().eval()
    x = torch.randn(2, 1, 6, 6, generator=seeded(0), dtype=torch.float64)
    expected = model(x)
    for layer in RandomFrame(model).layers:
        layer.offset = 0.3 + 2 * math.pi / model.group.n
    assert (model(x) - expected).abs().max() < 1e-12
    for layer in RandomFrame(model).layers:
        layer.offset = 0.3 + math.pi / model.group.n
    assert (model(x) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("algorithm", ["dense", "jet"])
def test_a_step_in_a_drawn_frame_is_that_of_a_network_built_in_it(algorithm):
    x = torch.randn(2, 1, 6, 6, generator=seeded(1), dtype=torch.float64)
    model, frames = network().double(), []
    for layer in RandomFrame(model).layers:
        layer.algorithm = algorithm
    for seed in (3, 4):  # one after the other: nothing of the first frame is left
        model.zero_grad()
        with RandomFrame(model).rotate(seeded(seed)):
            frames += [model.trunk[0].offset]
            logits = model(x)
            logits.square().sum().backward()
    other = network(frames[1]).double()
    expected = other(x)
    expected.square().sum().backward()
    assert (logits - expected).abs().max() < 1e-12 and frames[0] != frames[1]
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert (ours.grad - theirs.grad).abs().max() < 1e-12


def test_training_repeats_and_resumes_bit_for_bit(data, tmp_path):  # noqa: F811
    whole, rows, progress = train(data)
    assert same(train(data)[0], whole)
    assert not same(train(data, random_frame=False)[0], whole)
    for _ in range(50):
        weights, _, now = train(data, checkpoint=tmp_path, max_seconds=0)
        if now.epoch == 2 and not now.stopped:
            break
    assert same(weights, whole) and now.test_error == progress.test_error


def test_the_average_is_one_of_weights_and_not_of_frames(data):  # noqa: F811
    model = network()
    fit(model, data, **SETTINGS, random_frame=True, average=0.5)
    for layer in RandomFrame(model).layers:
        assert layer.offset == math.pi / 8
        expected = filter_bank(model.group, offset=math.pi / 8)
        assert torch.equal(layer.bank, torch.from_numpy(expected).float())


def test_a_network_without_other_frames_is_refused(data):  # noqa: F811
    with pytest.raises(ValueError, match="differential operators.*this network has none"):
        RandomFrame(LiftingConv(PointGroup(4), 1, 1, "pixels"))
    with pytest.raises(ValueError, match="with offset 0 a layer on p4 has 3x3"):
        RandomFrame(network(0.0, "p4"))
    with pytest.raises(ValueError, match="groups of rotations, such as p8: p4m has reflections"):
        RandomFrame(network(0.3, "p4m"))
