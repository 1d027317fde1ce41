"""The seven-layer nets of the MNIST-rot table: their sizes, their symmetry and their shape."""

import copy
import pickle
import subprocess
import sys
from math import pi

import pytest
import torch
from torch import nn

from pdoe import GroupConv, LiftingConv, PointGroup, equivariance_error, equivariance_report
from pdoe.models import PlainCNN

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = {
    "z2": ("p1", dict(widths=[20] * 6, bank="pixels", bias=True, head="group")),
    "p4": ("p4", dict(widths=[10] * 6, bank="pixels", bias=True, head="group")),
    "pdo": ("p8", dict(widths=[7] * 6, bank="operators", offset=pi / 8, head="dense")),
    "large": (
        "p8",
        dict(
            widths=[16, 16, 32, 32, 32, 64, 64],
            bank="operators",
            offset=pi / 8,
            padding="same",
            pool_after=(2, 4),
            head="pooled",
            hidden=64,
        ),
    ),
}


def row(name, **changes):
    group, options = ROWS[name]
    return PlainCNN(PointGroup.named(group), **{**options, **changes})


def settled(model, images):
    """In evaluation mode, with running statistics and affine parameters unlike the defaults."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            norm.momentum = 0.5
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def digits(batch=2, size=28):
    return torch.randn(batch, 1, size, size, dtype=torch.float64)


def errors_of(model, group, x):
    return max(equivariance_error(model, PointGroup.named(group), x).values())


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, count", [("z2", 21_750), ("p4", 24_680), ("pdo", 26_747), ("large", 650_714)]
)
def test_a_row_has_the_parameters_of_the_table(name, count):
    assert sum(p.numel() for p in row(name).parameters()) == count


def test_the_parameters_are_where_they_should_be():
    def counts(name):
        sizes = {"weight": 0, "bias": 0, "norm": 0}
        for module in row(name).modules():
            for key, parameter in module.named_parameters(recurse=False):
                norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
                sizes["norm" if norm else key] += parameter.numel()
        return sizes

    pdo = 9 * 7 + 5 * 9 * 8 * 7 * 7 + 16 * 56 * 10
    assert counts("pdo") == {"weight": pdo, "bias": 0, "norm": 6 * 2 * 7}
    z2 = 9 * 20 + 5 * 9 * 20 * 20 + 16 * 20 * 10
    assert counts("z2") == {"weight": z2, "bias": 6 * 20 + 10, "norm": 6 * 2 * 20}
    p4 = 9 * 10 + 5 * 9 * 4 * 10 * 10 + 16 * 4 * 10 * 10
    assert counts("p4") == {"weight": p4, "bias": 6 * 10 + 10, "norm": 6 * 2 * 10}


@pytest.mark.parametrize("name", ROWS)
def test_a_state_dict_has_the_same_keys_in_both_modes_and_no_bank(name):
    model = row(name)
    assert list(model.train().state_dict()) == list(model.eval().state_dict())
    kinds = {key.rsplit(".", 1)[-1] for key in model.state_dict()}
    assert kinds <= {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("offset", [0.0, pi / 8])
@pytest.mark.parametrize("name", ["p4", "p8"])
def test_every_layer_has_the_bank_and_the_offset_that_the_net_was_given(name, offset):
    group = PointGroup.named(name)
    net = PlainCNN(group, [2, 3, 4], offset=offset, image_size=12).double()
    convolutions = [m for m in net.modules() if isinstance(m, LiftingConv | GroupConv)]
    assert len(convolutions) == 3
    for found, channels in zip(convolutions, [(1, 2), (2, 3), (3, 4)], strict=True):
        expected = type(found)(group, *channels, offset=offset, dtype=torch.float64)
        expected.load_state_dict(found.state_dict())
        torch.testing.assert_close(found.kernel(), expected.kernel(), rtol=0, atol=1e-12)


def test_norms_take_the_constants_they_are_given():
    model = row("pdo", norm_eps=1e-3, norm_momentum=1e-3)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    assert [(m.num_features, m.eps, m.momentum) for m in norms] == [(7, 1e-3, 1e-3)] * 6
    norms = [m for m in row("pdo").modules() if isinstance(m, nn.BatchNorm3d)]
    assert [(m.num_features, m.eps, m.momentum) for m in norms] == [(7, 1e-5, 0.1)] * 6


# --- shapes --------------------------------------------------------------------------------------


def sizes_on_the_way(model, x):
    """Height of every map in the trunk, repetitions left out, the image first."""
    sizes = [x.shape[-1]]

    def note(module, inputs, output):
        if output.ndim == 5 and output.shape[-1] != sizes[-1]:
            sizes.append(output.shape[-1])

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    lifted = model.trunk(x)
    for hook in hooks:
        hook.remove()
    assert lifted.shape[-1] == lifted.shape[-2] == sizes[-1]
    return sizes


@pytest.mark.parametrize("name", ["z2", "p4", "pdo"])
def test_every_layer_shrinks_the_map_by_two_whatever_its_support(name):
    model = row(name).double().eval()
    assert sizes_on_the_way(model, digits()) == [28, 26, 24, 12, 10, 8, 6, 4]


def test_the_large_net_shrinks_by_pooling_alone():
    assert sizes_on_the_way(row("large").eval(), digits(1).float()) == [28, 14, 7]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_maps_images_to_a_lifted_map_and_to_ten_logits(name):
    model, (group, options) = row(name).eval(), ROWS[name]
    x = digits().float()
    with torch.no_grad():
        lifted, logits = model.trunk(x), model(x)
    size = 7 if name == "large" else 4
    order = len(PointGroup.named(group))
    assert lifted.shape == (2, options["widths"][-1], order, size, size)
    assert logits.shape == (2, 10) and logits.isfinite().all()
    convolutions = [m for m in model.modules() if isinstance(m, LiftingConv | GroupConv)]
    assert isinstance(convolutions[0], LiftingConv)
    assert all(m.group == PointGroup.named(group) for m in convolutions)


@pytest.mark.parametrize("name", ["p4", "p6", "p8", "p12", "p16", "p4m"])
def test_the_net_can_be_built_over_a_sweep_of_groups(name):
    model = PlainCNN(PointGroup.named(name), [2] * 6, offset=pi / 8).double()
    settled(model, digits())
    with torch.no_grad():
        assert model(digits()).shape == (2, 10)
    assert errors_of(model.trunk, name, digits()) < 1e-12


def test_channels_classes_and_image_size_can_be_chosen():
    model = PlainCNN(PointGroup(4), [3] * 6, in_channels=3, classes=7, image_size=32).eval()
    with torch.no_grad():
        assert model.trunk(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 4, 6, 6)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


# --- symmetry ------------------------------------------------------------------------------------


# The large net takes images of any size, so a small one is enough to speak of its symmetry.
SIZES = {"z2": 28, "p4": 28, "pdo": 28, "large": 12}


@pytest.mark.parametrize("name", ROWS)
def test_the_trunk_commutes_exactly_with_quarter_turns(name):
    model = settled(row(name).double(), digits(4, SIZES[name]))
    assert errors_of(model.trunk, ROWS[name][0], digits(1, SIZES[name])) < 1e-12


def test_the_trunk_of_the_p8_net_commutes_in_training_mode_and_after_a_step(by_matrices):
    model = row("pdo").double().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    nn.functional.cross_entropy(model(digits(8)), torch.arange(8)).backward()
    assert all((p.grad != 0).any() for p in model.parameters())
    optimizer.step()
    x = digits(3)
    assert by_matrices.errors(model.trunk, PointGroup(8), x) < 1e-12
    assert by_matrices.errors(model.eval().trunk, PointGroup(8), x) < 1e-12


@pytest.mark.parametrize("name", ["p4", "large"])
def test_a_head_that_pools_the_group_makes_the_logits_invariant(name):
    model, group = settled(row(name).double(), digits(4, SIZES[name])), ROWS[name][0]
    x = digits(1, SIZES[name])
    assert errors_of(model, group, x) < 1e-12
    assert equivariance_report(model, PointGroup.named(group), x).first_broken is None


def test_the_papers_head_is_not_invariant_and_the_report_names_it():
    model, x, group = settled(row("pdo").double(), digits(4)), digits(1), PointGroup(8)
    assert errors_of(model, "p8", x) > 1e-2
    report = equivariance_report(model, group, x)
    names = list(report.errors)
    first = names.index(report.first_broken)
    assert max(report.errors[name] for name in names[:first]) < 1e-12
    assert report.errors[report.first_broken] > 1e-2
    behind_the_trunk = [
        name for name in names[:first] if isinstance(model.get_submodule(name), nn.ReLU)
    ]
    assert len(behind_the_trunk) == 6 or not any(isinstance(m, nn.ReLU) for m in model.modules())


# --- dropout, copies, wrong input ----------------------------------------------------------------


def test_dropout_acts_in_training_only_and_adds_nothing_to_the_net():
    torch.manual_seed(1)
    dry = row("pdo").double()
    torch.manual_seed(1)
    wet = row("pdo", dropout=0.5).double()
    assert all(map(torch.equal, dry.parameters(), wet.parameters()))
    x = digits()
    assert torch.equal(wet.eval()(x), dry.eval()(x))
    assert torch.equal(dry.train()(x), dry(x))
    assert not torch.equal(wet.train()(x), wet(x))


def test_dropout_comes_after_the_layers_asked_for():
    """Half the entries of a map are zero after the relu; with dropout of 0.9 nearly all are."""

    def emptiness(**options):
        model = row("pdo", **options).double().train()
        with torch.no_grad():
            return (model.trunk(digits(8)) == 0).double().mean().item()

    assert emptiness(dropout=0.9, dropout_after=(6,)) > 0.9
    assert emptiness(dropout=0.9, dropout_after=(2,)) < 0.7
    assert emptiness(dropout=0.9, dropout_after=()) < 0.7
    assert emptiness(dropout=0.9) > 0.9


@pytest.mark.parametrize("name", ["p4", "pdo", "large"])
def test_copies_and_pickles_of_a_net_compute_the_same(name):
    model = settled(row(name).double(), digits(2, SIZES[name]))
    x = digits(1, SIZES[name])
    with torch.no_grad():
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x), model(x))


def test_a_net_loads_the_state_of_another():
    one, other = settled(row("pdo").double(), digits(4)), row("pdo").double().eval()
    x = digits(1)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize(
    "wrong",
    [
        {"head": "flat"},
        {"head": None},
        {"padding": "valid"},
        {"padding": 3.5},
        {"bank": "operator"},
        {"bank": "point"},  # one pixel wide, so it cannot shrink the map
        {"widths": []},
        {"widths": [7, 7, 0, 7, 7, 7]},
        {"widths": [7, 7, -1, 7, 7, 7]},
        {"dropout": 1.5},
        {"dropout": -0.1},
        {"in_channels": 0},
        {"image_size": 8},
    ],
    ids=lambda wrong: "{}={}".format(*next(iter(wrong.items()))),
)
def test_a_wrong_argument_raises_when_the_net_is_built(wrong):
    with pytest.raises((ValueError, TypeError)):
        row("pdo", **wrong)


@pytest.mark.parametrize("size", [24, 30, 32])
@pytest.mark.parametrize("name", ["p4", "pdo"])
def test_an_image_that_the_head_does_not_fit_raises_and_makes_no_other_number_of_logits(name, size):
    with pytest.raises((ValueError, RuntimeError)):
        row(name)(torch.zeros(1, 1, size, size))


def test_an_image_with_another_number_of_channels_raises():
    with pytest.raises(ValueError):
        row("pdo")(torch.zeros(1, 3, 28, 28))


# --- the package ---------------------------------------------------------------------------------


def test_importing_the_package_costs_torch_and_numpy_and_nothing_else():
    """Torch loads some of its own dependencies, so what it has loaded by itself does not count."""
    command = """
import sys, torch, numpy
before = {name.split(".")[0] for name in sys.modules}
import pdoe, pdoe.models
print(*{name.split(".")[0] for name in sys.modules} - before - sys.stdlib_module_names)
"""
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert run.stdout.decode().split() == ["pdoe"]


@pytest.mark.parametrize("variance", [1.0, 2.0])
def test_initial_weights_have_the_variance_asked_for(variance):
    model = PlainCNN(PointGroup(4), [30] * 6, bank="pixels", head="group", init_variance=variance)
    for module in model.modules():
        if isinstance(module, GroupConv):
            fan_in = module.weight[0].numel()
            assert abs(module.weight.var().item() * fan_in / variance - 1) < 0.1
