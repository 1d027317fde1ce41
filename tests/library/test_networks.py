"""What every network keeps: the contract, its symmetry, its state, its parameters."""

import copy
import csv
import pickle
from collections import namedtuple
from math import pi
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdoe import PointGroup, equivariance_error, equivariance_report, export_plain
from pdoe.models import MODELS, Images, Network, Norm
from pdoe.models.roteqnet import VectorNorm
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model

pytestmark = pytest.mark.usefixtures("one_thread")

with (Path(__file__).parent / "parameters.csv").open(encoding="utf-8") as file:
    PARAMETERS = {line["experiment"]: int(line["parameters"]) for line in csv.DictReader(file)}

Case = namedtuple("Case", "model group size options")
CASES = {
    "plain_cnn group": Case("plain_cnn", "p4", 12, dict(
        widths=[2, 3, 2], bank="pixels", bias=True, head="group", dropout_after=[1])),
    "plain_cnn pooled": Case("plain_cnn", "p8", 12, dict(
        widths=[2, 3], offset=pi / 8, padding="same", head="pooled", hidden=4)),
    "resnet avgpool": Case("resnet", "p8", 8, dict(
        depth=8, widths=[2, 3, 4], offset=pi / 8, downsample="avgpool", head="invariant")),
    "resnet stride": Case("resnet", "p4m", 9, dict(
        depth=11, widths=[2, 3, 4], block="bottleneck", head="invariant")),
    "hexaconv": Case("hexaconv", "p6m", 13, dict(depth=8, widths=[2, 3, 2], head="invariant")),
    "sfcnn": Case("sfcnn", "p8", 12, dict(widths=[2, 3, 4], sizes=[5, 3, 3], pool_after=[2],
                                          hidden=6)),
    "orn": Case("orn", "p8", 28, dict(widths=[3, 3, 4, 4], hidden=20)),
    "hnet": Case("hnet", "p4", 12, dict(widths=[2, 3])),
    "roteqnet": Case("roteqnet", "p8", 28, dict(widths=[2, 3, 4], hidden=8)),
    "converted": Case("converted", "p8", 12, dict(source="small_networks:plain")),
    "ptn": Case("ptn", "p1", 28, dict(
        predictor_widths=[3, 2], predictor_strides=[2, 1], widths=[4, 5], strides=[1, 2],
        cartesian=True)),
}  # fmt: skip
EXACT = [name for name in CASES if name != "ptn"]  # PTN rotates about a predicted origin
SIZED = ["plain_cnn group", "hexaconv", "orn", "ptn"]  # the others take images of any size
every_network = pytest.mark.parametrize("name", CASES)


def build(name, channels=1, classes=5, **options):
    case = CASES[name]
    images = Images(channels, classes, case.size)
    group = PointGroup.named(case.group)
    return MODELS[case.model](group, **{**case.options, **options}, images=images)


def images_for(name, batch=4, channels=1):
    return torch.randn(batch, channels, CASES[name].size, CASES[name].size, dtype=torch.float64)


def settle(net, x):
    """In evaluation mode, with running statistics and affine parameters unlike the defaults."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = 0.5
    with torch.no_grad():
        net.train()(x)
    return net.eval()


# --- contract ------------------------------------------------------------------------------------


def test_every_model_has_a_case():
    assert {case.model for case in CASES.values()} == set(MODELS)


@every_network
def test_a_network_has_a_group_and_a_trunk_and_gives_logits_of_its_classes(name):
    net = build(name, channels=3, classes=7).eval()
    assert isinstance(net, Network) and net.group == PointGroup.named(CASES[name].group)
    x = images_for(name, 2, 3).float()
    with torch.no_grad():
        assert net(x).shape == (2, 7) and net(x).isfinite().all()
        assert len(net.trunk(x)) == 2
    with pytest.raises((ValueError, RuntimeError)):
        net(images_for(name, 2, 2).float())


@pytest.mark.parametrize("name", ["plain_cnn group", "resnet stride", "hnet", "roteqnet"])
def test_a_name_is_not_a_group(name):
    case = CASES[name]
    with pytest.raises(TypeError, match=f"group is a PointGroup.*not {case.group!r}"):
        MODELS[case.model](case.group, **case.options)


@pytest.mark.parametrize("name", SIZED)
def test_images_of_another_size_are_refused(name):
    size = CASES[name].size
    with pytest.raises(ValueError, match=rf"images \[B, C, {size}, {size}\], not \[1, 1, 7, 7\]"):
        build(name)(torch.zeros(1, 1, 7, 7))


@pytest.mark.parametrize("experiment", PARAMETERS)
def test_an_experiment_has_the_parameters_of_the_table(experiment):
    with torch.device("meta"):
        net = build_model(compose_config(f"experiment={experiment}"))
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[experiment]


def test_the_table_of_parameters_has_every_experiment():
    configs = Path(__file__).parents[2] / "configs" / "experiment"
    assert set(PARAMETERS) == {path.stem for path in configs.glob("*.yaml")}


# --- norms and dropout ---------------------------------------------------------------------------


@every_network
def test_norms_have_the_constants_that_the_network_was_given(name):
    batch_norm = Norm(eps=1e-3, momentum=0.02)
    options = {"norm": True} if name == "orn" else {}
    net = build(name, batch_norm=batch_norm, **options)
    kinds = nn.modules.batchnorm._BatchNorm | VectorNorm
    found = [(m.eps, m.momentum) for m in net.modules() if isinstance(m, kinds)]
    assert found and set(found) == {batch_norm}


@every_network
def test_dropout_acts_in_training_alone_and_adds_no_parameter(name):
    torch.manual_seed(0)
    dry = build(name, dropout=0.0).double()
    torch.manual_seed(0)
    wet = build(name, dropout=0.5).double()
    if name == "ptn":
        dry.origin_noise = wet.origin_noise = 0.0
    x = images_for(name)
    assert all(map(torch.equal, dry.state_dict().values(), wet.state_dict().values()))
    assert torch.equal(wet.eval()(x), dry.eval()(x))
    assert torch.equal(dry.train()(x), dry(x))
    assert not torch.equal(wet.train()(x), wet(x))
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match=str(p)):
            build(name, dropout=p)


# --- symmetry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_trunk_and_logits_are_exact_before_and_after_a_step_in_both_modes(name):
    net, x = build(name).double(), images_for(name)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        for mode in (True, False):
            net.train(mode)
            action = getattr(net, "act", None)
            assert max(equivariance_error(net.trunk, net.group, x, action).values()) < 1e-12
            # RotEqNet's batch norm over a batch of 4 numbers enlarges rounding.
            assert max(equivariance_error(net, net.group, x).values()) < 1e-10
        optimizer.zero_grad()
        F.cross_entropy(net.train()(x), torch.arange(4)).backward()
        assert all((p.grad != 0).any() for p in net.parameters())
        optimizer.step()
    assert equivariance_report(net.eval(), net.group, x).first_broken is None
    before = x.clone()
    net(x)
    assert torch.equal(x, before)  # layers work in place, but not on the input
    other = net(torch.randn_like(x))
    assert (other - net(x)).norm() > 1e-3 * net(x).norm()  # invariant, not constant


# --- state, copies, export -----------------------------------------------------------------------


@every_network
def test_a_state_holds_weights_and_statistics_alone_with_the_same_keys_in_both_modes(name):
    net = build(name)
    assert list(net.train().state_dict()) == list(net.eval().state_dict())
    learnt = {name for name, _ in net.named_parameters()}
    statistics = {"running_mean", "running_var", "running_square", "num_batches_tracked"}
    assert {key.rpartition(".")[2] for key in set(net.state_dict()) - learnt} <= statistics


@every_network
def test_copies_pickles_loaded_and_compiled_networks_compute_the_same(name):
    x = images_for(name)
    net = settle(build(name).double(), x)
    with torch.device("meta"):
        loaded = build(name).double()
    loaded.to_empty(device="cpu").load_state_dict(net.state_dict())
    with torch.no_grad():
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded.eval()):
            assert torch.equal(twin(x), net(x))
        compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("hnet", "roteqnet")])
def test_a_network_is_exported_as_torch_modules_that_compute_the_same(name):
    x = images_for(name)
    net = settle(build(name, dropout=0.1).double(), x)
    plain = export_plain(net)
    torch.testing.assert_close(plain(x), net(x), rtol=0, atol=1e-12)
    assert not any(type(module).__module__.startswith("pdoe") for module in plain.modules())


@every_network
def test_constants_lose_no_digits_on_the_way_to_float64(name):
    exact, found = build(name).double(), build(name).float().double()
    constants = [key for key, _ in exact.named_buffers() if key not in exact.state_dict()]
    assert constants or name == "plain_cnn pooled"
    assert all(torch.equal(exact.get_buffer(key), found.get_buffer(key)) for key in constants)


@every_network
def test_a_network_trains_under_autocast(name):
    net, x = build(name), images_for(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        net(x).float().sum().backward()
        assert net.eval()(x).isfinite().all()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in net.parameters())
