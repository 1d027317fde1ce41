"""The plain networks of the MNIST-rot table: their maps, their symmetry, their heads."""

import subprocess
import sys
from math import pi

import pytest
import torch
from torch import nn

from pdoe import GroupConv, LiftingConv, PointGroup, equivariance_error, equivariance_report
from pdoe.models import Images, PlainCNN

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


@pytest.mark.parametrize("offset", [0.0, pi / 8])
@pytest.mark.parametrize("name", ["p4", "p8"])
def test_every_layer_has_the_bank_and_the_offset_that_the_net_was_given(name, offset):
    group = PointGroup.named(name)
    net = PlainCNN(group, [2, 3, 4], offset=offset, images=Images(size=12)).double()
    convolutions = [m for m in net.modules() if isinstance(m, LiftingConv | GroupConv)]
    assert len(convolutions) == 3
    for found, channels in zip(convolutions, [(1, 2), (2, 3), (3, 4)], strict=True):
        expected = type(found)(group, *channels, offset=offset, dtype=torch.float64)
        expected.load_state_dict(found.state_dict())
        torch.testing.assert_close(found.kernel(), expected.kernel(), rtol=0, atol=1e-12)


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


@pytest.mark.parametrize("name", ROWS)
def test_every_layer_shrinks_the_map_by_two_or_keeps_it_whatever_its_support(name):
    expected = [28, 14, 7] if name == "large" else [28, 26, 24, 12, 10, 8, 6, 4]
    assert sizes_on_the_way(row(name).double().eval(), digits(1)) == expected


@pytest.mark.parametrize("name", ["p4", "p6", "p8", "p12", "p16", "p4m"])
def test_the_net_can_be_built_over_a_sweep_of_groups(name):
    model = PlainCNN(PointGroup.named(name), [2] * 6, offset=pi / 8).double()
    settled(model, digits())
    with torch.no_grad():
        assert model(digits()).shape == (2, 10)
    assert errors_of(model.trunk, name, digits()) < 1e-12


# --- symmetry ------------------------------------------------------------------------------------


# The large net takes images of any size, so a small one is enough to speak of its symmetry.
SIZES = {"z2": 28, "p4": 28, "pdo": 28, "large": 12}


@pytest.mark.parametrize("name", ROWS)
def test_the_trunk_commutes_exactly_with_quarter_turns(name):
    model = settled(row(name).double(), digits(4, SIZES[name]))
    assert errors_of(model.trunk, ROWS[name][0], digits(1, SIZES[name])) < 1e-12


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


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"head": "flat"}, "'dense', 'group' or 'pooled', not 'flat'"),
        ({"head": "group"}, "p8 has rotations that do not map pixels.*head 'pooled' with hidden"),
        ({"head": "pooled"}, "hidden.*goes with head 'pooled' alone.*hidden None"),
        ({"padding": "valid"}, "'shrink' or 'same', not 'valid'"),
        ({"bank": "point"}, "a kernel of 1 pixel and cannot shrink"),
        ({"widths": []}, "widths lists the channels of each layer; it is empty"),
        ({"pool_after": [7]}, r"pool_after names layers \[7\] of 6"),
        ({"images": Images(size=8)}, "layer 4 of 6 leaves no pixel of an image of 8x8"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_expected(wrong, message):
    with pytest.raises(ValueError, match=message):
        row("pdo", **({"pool_after": []} | wrong if "pool_after" not in wrong else wrong))


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
