"""The residual networks of the CIFAR tables: their sizes, their symmetry, their memory."""

import copy
from math import pi

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdoe import GroupConv, LiftingConv, PointGroup
from pdoe.models import Images, ResNet

pytestmark = pytest.mark.usefixtures("one_thread")

# Group, arguments, and parameters with 10 and with 100 classes.
G_44, G_26 = (dict(depth=44, widths=[11, 23, 45]), dict(depth=26, widths=[25, 50, 100]))


def small(group="p4", **changes):
    """One block per stage, unless asked otherwise."""
    depth = 11 if changes.get("block") == "bottleneck" else 8
    options = {"depth": depth, "widths": [2, 3, 4], **changes}
    return ResNet(PointGroup.named(group), **options)


def colours(size=8, batch=2, dtype=torch.float64):
    return torch.randn(batch, 3, size, size, dtype=dtype)


def settled(model, size=8):
    """In evaluation mode, with running statistics and affine parameters unlike the defaults."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.5)
            norm.momentum = 0.5
    with torch.no_grad():
        model.double().train()(colours(size, 4))
    return model.eval()


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, LiftingConv | GroupConv)]


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("block, layers", [("basic", 2), ("bottleneck", 3)])
@pytest.mark.parametrize("n", [1, 2])
def test_depth_counts_the_stem_the_convolutions_of_the_blocks_and_the_linear_layer(
    block, layers, n
):
    net = small("p1", block=block, depth=3 * layers * n + 2, widths=[4, 8, 12])
    assert len(net.blocks) == 3 * n
    assert sum(len(convolutions(b.convolutions)) for b in net.blocks) + 2 == 3 * layers * n + 2


@pytest.mark.parametrize(
    "group, plain, expected",
    [
        ("p1", [16, 32, 64], [16, 32, 64]),
        ("p8", [32, 64, 128], [11, 23, 45]),  # the authors'
        ("p4m", [32, 64, 128], [11, 23, 45]),  # Cohen and Welling's, both
        ("p4m", [71, 142, 284], [25, 50, 100]),
        ("p8m", [64, 128, 256], [16, 32, 64]),
        ("p16", [1, 2, 8], [1, 1, 2]),
    ],
)
def test_widths_left_open_are_those_of_the_plain_net_over_the_root_of_the_order(
    group, plain, expected
):
    found = small(group, widths=None, plain_widths=plain)
    assert [b.convolutions[-1].out_channels for b in found.blocks] == expected
    given = small(group, widths=expected, plain_widths=None)
    assert found.state_dict().keys() == given.state_dict().keys()
    assert all(map(lambda a, b: a.shape == b.shape, found.parameters(), given.parameters()))


def test_the_stem_is_counted_like_the_widths_and_a_bottleneck_has_a_quarter_of_them():
    plain = dict(widths=None, plain_widths=[64, 128, 256], stem=16, block="bottleneck")
    net = small("p8m", **plain)
    assert net.trunk.stem.out_channels == 4
    inner = [convolutions(block.convolutions)[1] for block in net.blocks]
    assert [(conv.in_channels, conv.out_channels) for conv in inner] == [(4, 4), (8, 8), (16, 16)]
    assert small("p8m", stem=7).trunk.stem.out_channels == 7
    tiny = small("p4", block="bottleneck", widths=[1, 1, 1])
    assert {c.out_channels for c in convolutions(tiny)} == {1}


# --- what it computes ----------------------------------------------------------------------------


def by_hand(net, x, downsample):
    """The pre-activation residual network on p1, as its sources write it."""

    def conv(module, x, stride=1):
        size = module.kernel_size
        kernel = module.weight.reshape(module.out_channels, module.in_channels, size, size)
        return F.conv2d(x, kernel, stride=stride, padding=size // 2)

    def norm_relu(norm, x):
        mean, var, weight, bias = (
            v[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return ((x - mean) / (var + norm.eps).sqrt() * weight + bias).clamp(min=0)

    x = conv(net.trunk.stem, x)
    n = len(net.blocks) // 3
    for number, block in enumerate(net.blocks):
        halved = number in (n, 2 * n)
        norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm3d)]
        y = norm_relu(norms.pop(0), x)
        if halved and downsample == "avgpool":
            y = (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2] + y[..., 1::2, 1::2]) / 4
        stride = 2 if halved and downsample == "stride" else 1
        shortcut = x if block.shortcut is None else conv(block.shortcut, y, stride)
        first, *others = convolutions(block.convolutions)
        y = conv(first, y, stride)
        for module, norm in zip(others, norms, strict=True):
            y = conv(module, norm_relu(norm, y))
        x = y + shortcut
    x = norm_relu(net.trunk.activation[0], x).mean((-2, -1))
    return x @ net.head[-1].weight.T + net.head[-1].bias


@pytest.mark.parametrize("head", ["spatial", "invariant"])
@pytest.mark.parametrize("downsample", ["stride", "avgpool"])
@pytest.mark.parametrize("block, depth", [("basic", 14), ("bottleneck", 20)])
def test_on_one_element_it_is_the_ordinary_residual_network(block, depth, downsample, head):
    net = small("p1", block=block, depth=depth, downsample=downsample, head=head, stem=5)
    settled(net, 16)
    x = colours(16)
    torch.testing.assert_close(net(x), by_hand(net, x, downsample), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "group, offset, bank", [("p4", 0, "pixels"), ("p2m", 0, "pixels"), ("p4m", pi / 8, "operators"),
                            ("p3", 0, "operators"), ("p8m", 0, "operators")]
)  # fmt: skip
def test_by_default_the_bank_is_pixels_where_the_grid_is_kept(group, offset, bank):
    assert small(group, offset=offset).trunk.stem.bank_kind == bank
    assert small(group, offset=offset, bank="operators").trunk.stem.bank_kind == "operators"


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_every_convolution_has_the_bank_and_offset_of_the_net_or_is_a_point(block):
    net = small("p8", block=block, offset=0.3)
    inside = [c for b in net.blocks for c in convolutions(b.convolutions)]
    wide = inside[1::3] if block == "bottleneck" else inside
    for conv in [net.trunk.stem, *wide]:
        assert (conv.bank_kind, conv.offset, conv.kernel_size) == ("operators", 0.3, 5)
    points = [conv for conv in convolutions(net) if conv.bank_kind == "point"]
    assert len(points) == 2 + 6 * (block == "bottleneck")
    assert len(points) + len(wide) + 1 == len(convolutions(net))
    assert all(conv.bias is None for conv in convolutions(net))


def test_a_head_sees_means_over_space_of_every_orientation_or_of_the_largest():
    x = colours()
    for head in ("spatial", "invariant"):
        net = settled(small("p4", head=head))
        lifted, linear = net.trunk(x), net.head[-1]
        seen = lifted.flatten(1, 2) if head == "spatial" else lifted.amax(2)
        expected = seen.mean((-2, -1)) @ linear.weight.T + linear.bias
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_before_the_last_convolution_of_each_block():
    torch.manual_seed(1)
    dry = small().double()
    torch.manual_seed(1)
    wet = small(dropout=0.5).double()
    x = colours()
    assert all(map(torch.equal, dry.parameters(), wet.parameters()))
    assert torch.equal(wet.eval()(x), dry.eval()(x))
    assert not torch.equal(wet.train()(x), wet(x))
    for block in wet.blocks:
        seen = []
        block.convolutions[-1].register_forward_hook(lambda m, x, y, seen=seen: seen.append(x[0]))
        wet(x)
        assert (seen[0] == 0).double().mean() > 0.65  # relu alone leaves about half


# --- symmetry ------------------------------------------------------------------------------------

GROUPS = ["p4", "p4m", "p6m", "p8", "p8m", "p1m"]


@pytest.mark.parametrize("offset", [0.0, pi / 8])
@pytest.mark.parametrize("group", GROUPS)
def test_with_mean_pooling_the_trunk_commutes_exactly_on_even_sizes(group, offset, by_matrices):
    net = settled(small(group, downsample="avgpool", offset=offset))
    assert by_matrices.errors(net.trunk, PointGroup.named(group), colours(8, 1)) < 1e-12


@pytest.mark.parametrize("group", GROUPS)
def test_with_means_after_the_stem_the_trunk_commutes_exactly(group, by_matrices):
    net = settled(small(group, downsample="avgpool", stem_pool=2), 16)
    assert net.trunk(colours(16, 1)).shape[-2:] == (2, 2)
    assert by_matrices.errors(net.trunk, PointGroup.named(group), colours(16, 1)) < 1e-12


def test_widths_match_parameters_or_cost_and_no_image_is_too_small():
    for match, widths in (("parameters", [4, 8, 16]), ("cost", [1, 2, 4])):
        net = ResNet(PointGroup.named("p8m"), 8, plain_widths=[16, 32, 64], match=match)
        assert [block.convolutions[0].out_channels for block in net.blocks] == widths
    with pytest.raises(ValueError, match="match is 'parameters' or 'cost', not 'width'"):
        small("p4", match="width")
    for wrong in (0, 33, True):
        with pytest.raises(ValueError, match="stem_pool is an integer from 1 to 32"):
            small("p4", stem_pool=wrong)
    with pytest.raises(ValueError, match="an image of 2x2 cannot be halved twice"):
        small("p4", stem_pool=16, downsample="avgpool")


@pytest.mark.parametrize("group", GROUPS)
def test_the_invariant_head_makes_the_logits_invariant_and_the_other_does_not(group, by_matrices):
    options = dict(downsample="avgpool", offset=pi / 8)
    x, elements = colours(8, 1), PointGroup.named(group)
    assert (
        by_matrices.errors(settled(small(group, head="invariant", **options)), elements, x) < 1e-12
    )
    assert by_matrices.errors(settled(small(group, **options)), elements, x) > 1e-3


@pytest.mark.parametrize("group", ["p4", "p4m", "p6m", "p8"])
@pytest.mark.parametrize(
    "size, exact", [(8, False), (16, False), (9, True), (17, True), (11, False)]
)
def test_a_stride_of_two_keeps_the_symmetry_on_sizes_of_4n_plus_1_alone(
    group, size, exact, by_matrices
):
    net = settled(small(group, offset=pi / 8), size)
    error = by_matrices.errors(net.trunk, PointGroup.named(group), colours(size, 1))
    assert error < 1e-12 if exact else error > 1e-3


# --- activation checkpointing --------------------------------------------------------------------

DEEP = {
    "basic": dict(depth=14, dropout=0.3),
    "bottleneck": dict(block="bottleneck", downsample="avgpool", dropout=0.3),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", DEEP)
def test_maps_that_are_computed_again_change_no_bit(name, training):
    net = small("p8", **DEEP[name], offset=pi / 8).train(training)
    twin = copy.deepcopy(net)
    twin.checkpoint_activations = True
    results, images = [], colours(dtype=torch.float32)
    for model in (net, twin):
        calls = []
        for block in model.blocks:
            block.convolutions[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        x = images.clone().requires_grad_()
        torch.manual_seed(2)
        for _ in range(2):
            y = model(x)
            y.square().sum().backward()
        random = torch.rand(3)  # as many random numbers were drawn
        gradients = [x.grad, *(p.grad for p in model.parameters())]
        results.append([y, random, *gradients, *model.state_dict().values()])
        assert len(calls) == 2 * len(model.blocks) * (1 + (model is twin))
    assert len(results[0]) == len(results[1]) and all(map(torch.equal, *results))
    if training:
        counts = {v.item() for k, v in twin.state_dict().items() if k.endswith("batches_tracked")}
        assert counts == {2}


def test_a_second_backward_pass_through_the_same_maps_leaves_the_statistics_alone_as_well():
    net = small()
    net.checkpoint_activations = True
    loss = net(colours(dtype=torch.float32)).square().sum()
    before = copy.deepcopy(net.state_dict())
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(net.parameters()))
    assert all(map(torch.equal, first, second))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_without_gradients_nothing_is_computed_again(monkeypatch):
    net = settled(small())
    x = colours()
    with torch.no_grad():
        expected = net(x)
    net.checkpoint_activations = True
    monkeypatch.setattr("pdoe.models.resnet.recompute_in_backward", None)
    with torch.no_grad():
        assert torch.equal(net(x), expected)
    with pytest.raises(TypeError):
        net(x)


def test_blocks_are_compiled_whole_and_computed_again_as_well():
    net = small("p4", offset=pi / 8, widths=[2, 2, 2], depth=8).double()
    twin = copy.deepcopy(net)
    twin.checkpoint_activations = True
    for block in twin.blocks:
        block.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    x = colours()
    for model in (net, twin):
        model(x).square().sum().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)
    for one, other in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# --- copies, export, wrong input -----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"depth": 27}, "6n \\+ 2"),
        ({"depth": 2}, "6n \\+ 4 if shortcuts are counted"),
        ({"depth": 8.0}, "6n \\+ 2"),
        ({"depth": 8, "block": "bottleneck"}, "9n \\+ 2"),
        ({"block": "wide"}, "'basic' or 'bottleneck'"),
        ({"widths": [4, 8]}, "three stages"),
        ({"widths": None, "plain_widths": None}, "three stages"),
        ({"widths": None, "plain_widths": [4, 8, -8]}, "1 channel or more"),
        ({"stem": 0}, "at least 1"),
        ({"downsample": "max"}, "'stride' or 'avgpool'"),
        ({"downsample": "avgpool", "images": Images(3, 10, 3)}, "halved twice"),
        ({"head": "dense"}, "'spatial' or 'invariant'"),
        ({"images": Images(0)}, "at least 1"),
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_a_wrong_argument_is_refused_with_what_is_expected(wrong, message):
    with pytest.raises(ValueError, match=message):
        small(**wrong)


# --- other data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [28, 29, 32])
def test_it_takes_images_of_any_size(size):
    for downsample in ("stride", "avgpool"):
        net = small(images=Images(1, 3, size), downsample=downsample).eval()
        with torch.no_grad():
            assert net(torch.randn(1, 1, size, size)).shape == (1, 3)
