"""An ordinary network becomes an equivariant one of the same interface, or is refused."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models import convnext, densenet, mobilenetv2, resnet, shufflenetv2, vgg

from pdoe import PointGroup, convert, equivariance_error, export_plain
from pdoe.conversion import GroupedConv, HalvingPool
from pdoe.fast import jet

pytestmark = pytest.mark.usefixtures("one_thread")


NETWORKS = {  # and the factor of their channels
    "resnet18": (models.resnet18, 0.06),
    "resnet50": (models.resnet50, 0.06),
    "wide_resnet50_2": (models.wide_resnet50_2, 0.03),
    "vgg11_bn": (
        lambda **options: vgg.VGG(vgg.make_layers(vgg.cfgs["A"], True), dropout=0.1, **options),
        0.06,
    ),
    "densenet121": (models.densenet121, 0.1),
    "mobilenet_v2": (models.mobilenet_v2, 0.1),
    "convnext_tiny": (models.convnext_tiny, 0.06),
}
SMALL = {
    "resnet": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=7),
    "bottleneck": lambda: resnet.ResNet(
        resnet.Bottleneck, [1, 1, 1, 1], num_classes=7, groups=8, width_per_group=4
    ),
    "densenet": lambda: densenet.DenseNet(8, (2, 2), 16, num_classes=7),
    "shufflenet": lambda: shufflenetv2.ShuffleNetV2([2, 1, 1], [24, 48, 96, 192, 64], 7),
    "convnext": lambda: convnext.ConvNeXt(
        [convnext.CNBlockConfig(16, 24, 1), convnext.CNBlockConfig(24, None, 1)],
        layer_scale=0.5,
        num_classes=7,
    ),
    "mobilenet": lambda: mobilenetv2.MobileNetV2(
        num_classes=7, inverted_residual_setting=[[1, 16, 1, 1], [2, 24, 2, 2]]
    ),
}


def live(model):
    """Batch norm with statistics of images, in float64."""
    model.double().train()(torch.randn(4, 3, 32, 32, dtype=torch.float64))
    return model.eval()


def assert_exact(model, group, size=32):
    """Every element of the group that keeps the grid leaves the logits as they are."""
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    y = model(x)
    assert ((y[0] - y[1]).norm() / y.norm()).item() > 1e-6  # not a constant
    errors = equivariance_error(model, group, x)
    assert len(errors) >= 4 and max(errors.values()) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("group", ["p4", "p4m", "p8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_torchvision_become_exactly_invariant(name, group):
    build, match = NETWORKS[name]
    group = PointGroup.named(group)
    model, report = convert(build(num_classes=7), group, match=match, image_size=32)
    assert_exact(live(model), group)
    assert report.error < 1e-10 and report.quarter_turns < 1e-10
    assert all(layer.error is None or layer.error < 1e-10 for layer in report.layers)


@pytest.mark.parametrize("name, group, bank", [
    ("resnet", "p8", "operators"), ("resnet", "p4m", "pixels"), ("bottleneck", "p4", "gaussian"),
    ("densenet", "p4m", "operators"), ("mobilenet", "p8", "operators"),
    ("convnext", "p4", "pixels"), ("shufflenet", "p4m", "operators"),
])  # fmt: skip
@pytest.mark.parametrize("size", [32, 37])
def test_small_networks_are_exact_on_even_and_odd_maps(name, group, bank, size):
    group = PointGroup.named(group)
    match = 0.3 if name == "convnext" else 0.1  # layer norm leaves nothing of two channels
    model = convert(SMALL[name](), group, bank=bank, match=match, measure=False).model
    assert_exact(live(model), group, size)


def test_the_interface_of_the_original_stays():
    original = SMALL["resnet"]().train()
    before = copy.deepcopy(original.state_dict())
    group = PointGroup(4)
    model, report = convert(original, group, match="cost", image_size=32)
    assert model.training and original.training
    assert all(torch.equal(before[name], value) for name, value in original.state_dict().items())
    assert list(model.state_dict()) == list(before)
    assert model.group == group
    x = torch.randn(2, 3, 32, 32)
    assert model.eval()(x).shape == (2, 7)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.group == group and not twin.training
        torch.testing.assert_close(twin(x), model(x))
        assert copy.deepcopy(twin).group == group
    twin = convert(original, group, match="cost", measure=False).model
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin.eval()(x), model(x))
    model.train()
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert {layer.name for layer in report.layers} >= {"conv1", "bn1", "layer1.0.conv1", "fc"}
    assert "conv1" in str(report)


@pytest.mark.parametrize("size", [32, 37])
@pytest.mark.parametrize("build", [SMALL["mobilenet"], SMALL["bottleneck"], lambda: Users()])
def test_converted_networks_export_as_ordinary_ones(build, size):
    model = live(convert(build(), PointGroup.named("p4m"), match=0.2, image_size=32).model)
    plain = export_plain(model)
    assert not any(type(m).__module__.startswith("pdoe") for m in plain.modules())
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-10, atol=1e-10)


def test_fields_in_groups_have_no_jet_form():
    """Where the jet form would be faster: in float32, with 64 planar channels and 5x5 kernels."""
    conv = GroupedConv(PointGroup(8), 8, 8, groups=8)
    x = torch.randn(2, 8, 8, 16, 16, requires_grad=True)
    y = conv(x)
    exact = copy.deepcopy(conv).double()(x.double())
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)
    (slope,) = torch.autograd.grad(y.square().sum(), x)
    assert slope.shape == x.shape and not jet.is_used(conv)
    conv.algorithm = "jet"
    with pytest.raises(ValueError, match="fields in groups have no jet form"):
        conv(x)


def test_widths_follow_the_match():
    group, original = PointGroup(4), SMALL["resnet"]()
    widths = {
        "parameters": 32, "cost": 16, 0.25: 16, lambda name, channels: 5: 5,
    }  # fmt: skip
    for match, width in widths.items():
        model = convert(original, group, match=match, measure=False).model
        assert model.conv1.out_channels == width
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    model = convert(net, group, match={"0": 3}, image_size=5, measure=False).model
    assert model.get_submodule("1").weight.shape[:2] == (4, 3)


def test_parameters_and_multiplications_are_matched():
    group = PointGroup(4)
    original = models.resnet18()
    report = convert(original, group, measure=False).report
    assert 0.9 < report.parameters[1] / report.parameters[0] < 1.1
    assert report.multiplications[0] == 1_814_073_344  # of ResNet-18, as published
    report = convert(original, group, match="cost", measure=False).report
    assert 0.9 < report.multiplications[1] / report.multiplications[0] < 1.3


class SqueezeExcitation(nn.Module):
    """As users write it, with linear layers."""

    def __init__(self, channels):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels)
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).sigmoid().view(b, c, 1, 1)
        return x * y.expand_as(x)


class Users(nn.Module):
    """What users write: functions, shared modules, gates, parameters, parts, sizes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.rand(3))
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2, padding_mode="reflect")
        self.norm = nn.GroupNorm(4, 24)
        self.act = nn.PReLU(24)
        self.gamma = nn.Parameter(torch.full((24,), 0.3))
        self.gate = SqueezeExcitation(24)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.shared = nn.Conv2d(24, 24, 3, padding=1)
        self.grouped = nn.Conv2d(24, 24, 3, padding="same", groups=4, bias=False)
        self.drop = nn.Dropout2d(0.1)
        self.patch = nn.Conv2d(48, 24, 2, stride=2)
        self.head = nn.Linear(24 * 4 * 4, 20)
        self.last = nn.Linear(20, 7)

    def forward(self, x):
        x = (x - self.mean[:, None, None]) / 2
        x = self.act(self.norm(self.stem(x)))
        x = x + self.gamma.view(1, -1, 1, 1) * self.gate(self.shared(x))
        x = F.relu(self.shared(self.pool(x)))
        a, b = torch.split(self.grouped(x)[:, :24], 12, dim=1)
        y = F.avg_pool2d(torch.cat([a, b, x], 1), 2)
        y = F.interpolate(y, size=x.shape[2:], mode="bilinear")
        x = self.drop(self.patch(y))
        x = F.dropout(F.adaptive_avg_pool2d(x, 4), 0.2, self.training)
        return self.last(F.relu(self.head(x.view(x.size(0), -1))))


@pytest.mark.parametrize("group", ["p8", "p4m"])
def test_what_users_write_becomes_exactly_invariant(group):
    group = PointGroup.named(group)
    model, report = convert(Users(), group, match=0.5, image_size=32)
    assert_exact(live(model), group)
    assert report.quarter_turns < 1e-10
    torch.testing.assert_close(model.gamma, torch.full((12, 1, 1, 1), 0.3).to(model.gamma))
    assert isinstance(model.grouped, GroupedConv) and model.grouped.groups == 4


def test_the_head_is_not_blind_to_angles():
    """A gate or head that averaged too early would make every network trivially invariant."""
    group = PointGroup(4)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    model = convert(net, group, measure=False).model.double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    shuffled = x[..., torch.randperm(16), :]
    assert ((model(x) - model(shuffled)).norm() / model(x).norm()).item() > 1e-3


def test_a_dense_output_is_an_image_that_rotates():
    group = PointGroup.named("p4m")
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 5, 1),
    )  # fmt: skip
    model = convert(net, group, image_size=16).model.double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    assert model(x).shape == (1, 5, 16, 16)
    assert max(equivariance_error(model, group, x).values()) < 1e-10


def test_strides_stay_without_exact():
    model, report = convert(SMALL["resnet"](), PointGroup(4), match=0.1, exact=False, image_size=32)
    assert model.conv1.stride == 2 and model.layer2.get_submodule("0").conv1.stride == 2
    assert report.quarter_turns > 1e-6
    assert_exact(live(model), PointGroup(4), size=33)  # exact on odd maps


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_grouped_convolution_is_one_layer_for_each_group(groups):
    from pdoe import GroupConv

    group = PointGroup(8)
    conv = GroupedConv(group, 6, 12, groups=groups, bias=True).double()
    x = torch.randn(2, 6, 8, 9, 9, dtype=torch.float64)
    parts = []
    for i, part in enumerate(x.chunk(groups, 1)):
        one = GroupConv(group, 6 // groups, 12 // groups, bias=True).double()
        rows = slice(i * 12 // groups, (i + 1) * 12 // groups)
        with torch.no_grad():
            one.weight.copy_(conv.weight[rows])
            one.bias.copy_(conv.bias[rows])
        parts.append(one(part))
    torch.testing.assert_close(conv(x), torch.cat(parts, 1))
    with pytest.raises(ValueError, match="divisor"):
        GroupedConv(group, 6, 12, groups=5)


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (1, 2)])
def test_halving_is_exact_at_every_size(kind, size):
    x = torch.randn(2, 3, 8, *size, dtype=torch.float64)
    pool = HalvingPool(kind)
    assert max(equivariance_error(pool, PointGroup.named("p4m"), x).values()) < 1e-14
    assert pool(x).shape[-2:] == tuple((n + 1) // 2 for n in size)


class Sizes(nn.Module):
    """A forward pass that asserts and branches on sizes of maps."""

    def forward(self, x):
        assert x.shape[1] == 8 and x.dim() == 4
        return torch.relu(x) if x.shape[-1] > 20 else -x


def test_branches_on_sizes_are_decided_for_one_size_and_named():
    net = sequence(Sizes(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    for size, branch in [(32, "relu"), (16, "neg")]:
        model, report = convert(net, PointGroup(4), image_size=size)
        assert any(branch in str(node.target) for node in model.graph.nodes)
        assert report.decided == ["1"] and "1" in str(report)
        assert report.quarter_turns < 1e-10


def test_an_output_of_another_width_is_reported():
    trunk = sequence(nn.BatchNorm2d(8), nn.ReLU())
    report = convert(trunk, PointGroup(4), match="cost", image_size=8, measure=False).report
    assert report.outputs == ([1, 8, 8, 8], [1, 2, 8, 8])
    assert "not [1, 8, 8, 8]" in str(report)


def sequence(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(1, 8)

    def forward(self, x):
        return self.norm(torch.cat([x.mean(1, keepdim=True), x], 1)) + self.norm(x)


class Residual(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return x + self.conv(x)


class Multiplied(nn.Module):
    def forward(self, x):
        return x @ x


REFUSED = {
    "vit": (models.vit_b_16, "encoder_layer_0.self_attention .*attention.*convert"),
    "swin": (models.swin_t, "features.1.0.attn .*attention.*convert"),
    "no convolution": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), "convolution"),
    "dilation": (lambda: sequence(nn.Conv2d(8, 8, 3, dilation=2)), "1 .Conv2d.*dilation.*larger"),
    "oblong": (lambda: sequence(nn.Conv2d(8, 8, (1, 7))), "1 .Conv2d.*1x7.*square"),
    "transposed": (lambda: sequence(nn.ConvTranspose2d(8, 8, 2, 2)), "1 .*Upsample"),
    "stride 3": (lambda: sequence(nn.Conv2d(8, 8, 3, 3)), "1 .*stride of 3.*exact=False"),
    "even": (lambda: sequence(nn.Conv2d(8, 8, 2)), "1 .*2x2 at stride 1.*odd"),
    "columns": (lambda: sequence(nn.Linear(8, 8)), "1 .Linear.*flatten"),
    "branches": (lambda: sequence(Branching()), "1 .Branching.*cannot follow.*branches"),
    "products": (lambda: sequence(Multiplied()), "1 .function matmul.*attention"),
    "widths": (lambda: sequence(Shared()), "1.norm .*share weights"),
    "sum": (lambda: Residual(nn.Conv2d(3, 3, 3, padding=1)), "combines .*image.*convolution"),
    "parametrized": (
        lambda: sequence(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3))),
        "1 .*parametriz.*remove",
    ),
    "asymmetric": (lambda: sequence(nn.Upsample(scale_factor=1.4)), "exactly.* 1: .*exact=False"),
    "first in groups": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2)), "groups=1"),
    "indices": (lambda: sequence(nn.MaxPool2d(2, return_indices=True)), "1 .*indices"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_in_one_sentence(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^cannot convert .*{message}") as error:
        convert(build(), PointGroup(4))
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_named():
    net = sequence(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    for wrong, message in [
        ({"bank": "ring"}, "bank is one of"), ({"match": "size"}, "match is"),
        ({"match": {"7": 3}}, "'7'"), ({"exact": 1}, "exact"), ({"match": -1.0}, "match is"),
    ]:  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            convert(net, PointGroup(4), **wrong)
    with pytest.raises(ValueError, match="pixels"):
        convert(net, PointGroup(8), bank="pixels")
    with pytest.raises(ValueError, match="images of 7x7.*image_size"):
        convert(sequence(nn.Flatten(), nn.Linear(8, 2)), PointGroup(4), image_size=7)
    with pytest.raises(TypeError, match="PointGroup"):
        convert(net, "p4")
    with pytest.raises(ValueError, match="already"):
        convert(convert(net, PointGroup(4), measure=False).model, PointGroup(4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet26", "regnetx_002", "regnety_002", "convnext_pico"])
def test_networks_of_timm_become_exactly_invariant(name):
    timm = pytest.importorskip("timm")
    group = PointGroup(4)
    model, report = convert(timm.create_model(name), group, match=0.1, image_size=32)
    assert_exact(live(model), group, size=64)
    assert report.quarter_turns < 1e-10
