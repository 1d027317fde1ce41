"""An exported network is an ordinary one and computes the same."""

import copy
import subprocess
import sys
from math import pi

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdoe import GroupConv, GroupPool, LiftingConv, PointGroup, export_plain
from pdoe.fast import BatchNorm, Dropout, MaxPool
from pdoe.models import PlainCNN

pytestmark = pytest.mark.usefixtures("one_thread")


def lived_in(model):
    """Statistics and affine parameters as if it had been trained, so that none can be forgotten."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm3d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
    return model


def assert_equal_outputs(model, x):
    expected = copy.deepcopy(model).eval()(x)
    plain = export_plain(model)
    found = plain(x)
    assert found.shape == expected.shape
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    assert ((found - expected).norm() / expected.norm()).item() < tolerance
    assert not any(type(m).__module__.startswith("pdoe") for m in plain.modules())
    return plain


NETWORKS = {
    "dense": {"widths": [3] * 6, "offset": pi / 8, "dropout": 0.2},
    "group": {"widths": [3] * 6, "bank": "pixels", "head": "group", "bias": True},
    "pooled": {"widths": [2] * 7, "padding": "same", "pool_after": (2, 4), "head": "pooled",
               "hidden": 5},
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head, name", [("dense", "p8"), ("dense", "p6m"), ("group", "p4m"),
                                        ("pooled", "p3")])  # fmt: skip
def test_the_networks_of_the_table_become_planar(head, name, dtype):
    model = lived_in(PlainCNN(PointGroup.named(name), **NETWORKS[head]).to(dtype))
    plain = assert_equal_outputs(model, torch.randn(2, 1, 28, 28, dtype=dtype))
    kinds = {type(module) for module in plain.modules()}
    assert kinds >= {nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d}
    assert not kinds & {nn.BatchNorm3d, nn.MaxPool3d}


class Odd(nn.Module):
    """What users write: branches, modules that are called twice, tensors with five axes."""

    def __init__(self, group):
        super().__init__()
        n = len(group)
        self.lift = LiftingConv(group, 2, 3, stride=2, bias=True)
        self.conv = GroupConv(group, 3, 3, bias=True)
        self.wide = GroupConv(group, 6, 3, padding=0)
        self.norm = nn.BatchNorm3d(3)
        self.batch_norm = nn.BatchNorm3d(3, track_running_stats=False)
        self.plain_norm = nn.BatchNorm3d(3, affine=False)
        self.act = nn.ELU()
        self.drop = Dropout(0.5)
        self.scale = nn.Parameter(torch.rand(3, 1, 1, 1))
        self.across = nn.MaxPool3d((n, 1, 1))
        self.mean = nn.AvgPool3d((1, 2, 2), ceil_mode=True)
        self.max = nn.MaxPool3d((1, 2, 2), ceil_mode=True)
        self.halve = MaxPool()
        self.pool = GroupPool("mean")

    def forward(self, x):
        x = self.act(self.norm(self.lift(x)))
        y = self.act(self.norm(self.conv(x)))
        x = x + self.drop(y) * 2
        x = F.relu(self.conv(x), inplace=True)
        x = self.norm(x * self.scale)  # five axes, so the same norm once planar and once not
        x = self.wide(torch.cat([x, self.plain_norm(self.conv(x))], 1))
        halves = self.halve(torch.cat([x, x], 1)[:, :3]) - self.halve(self.conv(x))
        image = self.halve(self.pool(x))
        x = self.max(self.conv(x))
        x = self.batch_norm(x) - x.mean(2, keepdim=True) + 0.5
        x = self.mean(self.conv(x))
        maps = {"halves": halves, "map": self.conv(x)}
        return {"all": self.pool(x), "most": self.across(x), "image": image, **maps}


@pytest.mark.parametrize("name", ["p4", "p3", "p6m", "p1"])
def test_whatever_is_between_the_layers_is_kept(name):
    group = PointGroup.named(name)
    model = lived_in(Odd(group).double())
    x = torch.randn(3, 2, 17, 14, dtype=torch.float64)
    expected = copy.deepcopy(model).eval()(x)
    found = export_plain(model)(x)
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("layer", [LiftingConv, GroupConv])
def test_a_layer_alone_is_exported_too(layer):
    axes = [4] if layer is GroupConv else []
    x = torch.randn(2, 3, *axes, 9, 9, dtype=torch.float64)
    assert_equal_outputs(layer(PointGroup(4), 3, 2, bias=True).double(), x)


def test_the_model_is_left_as_it_is():
    model = lived_in(PlainCNN(PointGroup(4), **NETWORKS["dense"]))
    before = copy.deepcopy(model.state_dict())
    plain = export_plain(model)
    assert model.training and all(module.training for module in model.modules())
    assert not any(module.training for module in plain.modules())
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_it_is_saved_and_runs_where_pdoe_is_not_installed(tmp_path):
    model = lived_in(PlainCNN(PointGroup(8), **NETWORKS["dense"]))
    x = torch.randn(2, 1, 28, 28)
    plain = assert_equal_outputs(model, x)
    torch.save({"plain": plain, "x": x, "y": plain(x)}, tmp_path / "plain.pt")
    torch.export.save(torch.export.export(plain, (x,)), tmp_path / "plain.pt2")
    code = (
        "import sys; sys.modules['pdoe'] = None\n"
        "import torch\n"
        "saved = torch.load('plain.pt', weights_only=False)\n"
        "assert torch.equal(saved['plain'](saved['x']), saved['y'])\n"
        "program = torch.export.load('plain.pt2').module()\n"
        "torch.testing.assert_close(program(saved['x']), saved['y'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_parametrised_layer_is_exported_with_the_weight_that_it_computes_with():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = nn.Sequential(LiftingConv(PointGroup(4), 1, 2), GroupPool()).double()
    nn.utils.parametrize.register_parametrization(model[0], "weight", Doubled())
    assert_equal_outputs(model, torch.randn(1, 1, 9, 9, dtype=torch.float64))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Shifted(GroupConv):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("model", [Branching(), Shifted(PointGroup(4), 1, 1)])
def test_a_forward_pass_that_cannot_be_followed_is_refused(model):
    with pytest.raises(ValueError, match="forward pass of .* cannot be followed"):
        export_plain(model)


def test_a_norm_on_what_is_not_planar_becomes_an_ordinary_one():
    class Turned(nn.Module):
        """A network that mixes orientations in a way of its own before it normalises."""

        def __init__(self):
            super().__init__()
            self.lift, self.norm = LiftingConv(PointGroup(4), 1, 2), BatchNorm(2)

        def forward(self, x):
            return self.norm(self.lift(x).flip(2))

    model = Turned()
    model(torch.randn(8, 1, 6, 6))
    plain = export_plain(model)
    assert type(plain.norm) is nn.BatchNorm3d and type(model.norm) is BatchNorm
    x = torch.randn(2, 1, 6, 6)
    assert (plain(x) - model.eval()(x)).abs().max() < 1e-6


class Reader(nn.Module):
    """Reads what its layers hold, and names their arguments."""

    def __init__(self):
        super().__init__()
        group = PointGroup(3)
        self.lift, self.conv = LiftingConv(group, 1, 2), GroupConv(group, 2, 2)
        self.norm, self.pool = nn.BatchNorm3d(2), GroupPool()

    def forward(self, x):
        x = self.lift(x=x) * self.lift.weight.abs().mean() + self.lift.weight.sum()
        x = self.norm(input=self.conv(x=x)) * self.norm.weight.sum() + self.norm.running_mean.sum()
        return self.pool(x=x)


def test_what_is_read_from_a_layer_stays_and_arguments_may_be_named():
    plain = assert_equal_outputs(lived_in(Reader().double()), torch.randn(2, 1, 9, 9).double())
    assert {type(module) for module in plain.children()} == {nn.Conv2d, nn.BatchNorm2d}


def test_names_that_are_taken_and_layers_that_do_something_else_stay():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.norm_1 = LiftingConv(PointGroup(4), 1, 2), nn.Conv3d(2, 2, 1)
            self.norm, self.relu = nn.BatchNorm3d(2), nn.ReLU()
            self.conv = GroupConv(PointGroup(4), 2, 2)

        def forward(self, x):
            x = self.norm(self.lift(x))  # planar
            return self.conv(self.relu(self.norm(self.norm_1(x))))  # folded back

    model, x = lived_in(Shared()).eval(), torch.randn(2, 1, 9, 9)
    plain = assert_equal_outputs(model, x)
    assert torch.equal(export_plain(torch.compile(model))(x), plain(x))
    model.conv.forward = lambda x: -x
    assert_equal_outputs(model, x)


@pytest.mark.parametrize("where", ["", "0", "1", "2"])
def test_hooks_that_would_be_lost_are_refused_and_others_are_kept(where):
    group = PointGroup(3)
    model = nn.Sequential(LiftingConv(group, 1, 2), nn.BatchNorm3d(2), GroupPool(), nn.ReLU())
    model[3].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert_equal_outputs(model, torch.randn(2, 1, 9, 9))
    model.get_submodule(where).register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match=f"{where or 'the model'} has hooks on its forward pass"):
        export_plain(model)
