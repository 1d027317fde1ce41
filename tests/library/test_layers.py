"""What a PDO-eConv promises: it commutes with the group, exactly where the pixel grid allows and to
second order elsewhere, and for the groups of the grid it is a convolution that we already know."""

import copy
import pickle
import shutil
from collections import OrderedDict
from math import pi

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from pdoe import GroupConv, GroupPool, LiftingConv, PointGroup, filter_bank
from pdoe.banks import operators
from pdoe.fast import set_inductor_cache

EVERY_GROUP = ["p1", "p2", "p4", "p6", "p8", "p12", "p4m", "p6m", "p8m"]
pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = pytest.mark.parametrize("conv", [LiftingConv, GroupConv])


def layer_of(conv, name, in_channels=2, out_channels=3, **options):
    return conv(PointGroup.named(name), in_channels, out_channels, dtype=torch.float64, **options)


def input_of(layer, height=9, width=9, batch=2):
    group = [len(layer.group)] if isinstance(layer, GroupConv) else []
    return torch.randn(batch, 2, *group, height, width, dtype=torch.float64)


def assert_same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# --- the formula ---------------------------------------------------------------------------------


def each_channel(x, taps, **how):
    """One filter on every channel alone, by cross-correlation."""
    taps = torch.as_tensor(taps).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, taps, groups=x.shape[1], **how)


def lifted_by_hand(layer, x, bank, **how):
    """[Psi f](x, g) = sum_k w_k (B_gk * f)(x), term by term."""
    return torch.stack(
        [
            sum(
                torch.einsum("oc,bcyx->boyx", layer.weight[:, :, k], each_channel(x, taps, **how))
                for k, taps in enumerate(turned)
            )
            for turned in bank
        ],
        2,
    )


def convolved_by_hand(layer, x, bank, quotient, **how):
    """[Phi f](x, g) = sum_h sum_k w_(g^-1 h, k) (B_gk * f(., h))(x), term by term."""
    return torch.stack(
        [
            sum(
                torch.einsum(
                    "oc,bcyx->boyx",
                    layer.weight[:, :, quotient[g][h], k],
                    each_channel(x[:, :, h], taps, **how),
                )
                for h in range(len(bank))
                for k, taps in enumerate(turned)
            )
            for g, turned in enumerate(bank)
        ],
        2,
    )


@pytest.mark.parametrize("how", [{}, {"stride": 2}, {"padding": 0}, {"padding": 1, "stride": 3}])
@pytest.mark.parametrize("name, offset", [("p3", 0.0), ("p8", pi / 8), ("p4m", 0.0), ("p6m", 0.4)])
def test_a_lifting_layer_is_its_formula(name, offset, how):
    layer = layer_of(LiftingConv, name, offset=offset, **how)
    x = input_of(layer, 8, 9)
    bank = filter_bank(layer.group, offset=offset)
    how = {"padding": bank.shape[-1] // 2, **how}
    assert_same(layer(x), lifted_by_hand(layer, x, bank, **how))


@pytest.mark.parametrize(
    "name, offset, how",
    [
        ("p3", 0.0, {}),
        ("p8", pi / 8, {"padding": 0}),
        ("p4m", 0.0, {"stride": 2}),
        ("p6m", 0.4, {"padding": 1, "stride": 3}),
    ],
)
def test_a_group_layer_is_its_formula(name, offset, how, by_matrices):
    layer = layer_of(GroupConv, name, offset=offset, **how)
    x = input_of(layer, 7, 8, batch=1)
    bank, quotient = filter_bank(layer.group, offset=offset), by_matrices.quotient(layer.group)
    how = {"padding": bank.shape[-1] // 2, **how}
    assert_same(layer(x), convolved_by_hand(layer, x, bank, quotient, **how))


@pytest.mark.parametrize("name", ["p1", "p6", "p4m"])
def test_a_layer_on_points_mixes_channels_and_orientations_pixel_by_pixel(name, by_matrices):
    lift, conv = (layer_of(conv, name, bank="point") for conv in (LiftingConv, GroupConv))
    x, y = input_of(lift), input_of(conv)
    lifted = torch.einsum("oc,bcyx->boyx", lift.weight[..., 0], x)
    assert_same(lift(x), lifted[:, :, None].expand(-1, -1, len(lift.group), -1, -1))
    relative = conv.weight[:, :, by_matrices.quotient(conv.group), 0]  # [C', C, G, G]
    assert_same(conv(y), torch.einsum("ocgh,bchyx->bogyx", relative, y))


@BOTH
@pytest.mark.parametrize("name", ["p4", "p8"])
def test_a_layer_is_one_convolution_with_its_kernel(conv, name):
    layer = layer_of(conv, name, padding=1, stride=2)
    x, order = input_of(layer), len(layer.group)
    kernel = layer.kernel()
    size = filter_bank(layer.group).shape[-1]
    fan_in = 2 * order if conv is GroupConv else 2
    assert kernel.shape == (3 * order, fan_in, size, size) and kernel.dtype == torch.float64
    flat = F.conv2d(x.flatten(1, -3), kernel, stride=2, padding=1)
    assert_same(layer(x), flat.unflatten(1, (3, order)))


@pytest.mark.parametrize("bank", ["operators", "pixels"])
def test_without_a_group_both_layers_are_conv2d(bank):
    lift, conv = (layer_of(kind, "p1", bank=bank) for kind in (LiftingConv, GroupConv))
    x, y = input_of(lift), input_of(conv)
    filters = lift.weight.unflatten(-1, (3, 3))
    assert_same(lift(x), F.conv2d(x, filters, padding=1)[:, :, None])
    filters = conv.weight[:, :, 0].unflatten(-1, (3, 3))
    assert_same(conv(y), F.conv2d(y[:, :, 0], filters, padding=1)[:, :, None])


@pytest.mark.parametrize("bank, size", [("operators", 3), ("pixels", 3), ("pixels", 2)])
@pytest.mark.parametrize("name", ["p2", "p4", "p4m"])
def test_on_the_grid_a_group_layer_is_the_convolution_of_cohen_and_welling(
    name, bank, size, by_matrices
):
    """[f * psi](x, g) = sum over pixels y and h of f(x + y, h) psi(g^-1 y, g^-1 h)."""
    layer = layer_of(GroupConv, name, bank=bank, size=size, padding=0)
    x, order = input_of(layer, 5, 6), len(layer.group)
    psi = layer.weight.unflatten(-1, (size, size))
    matrices, quotient = np.asarray(layer.group.matrices), by_matrices.quotient(layer.group)
    middle = (size - 1) / 2
    expected = torch.zeros(2, 3, order, 6 - size, 7 - size, dtype=torch.float64)
    for g in range(order):
        for row in range(size):
            for column in range(size):
                source = np.linalg.inv(matrices[g]) @ [column - middle, middle - row]
                there = round(middle - source[1]), round(source[0] + middle)
                for h in range(order):
                    window = x[:, :, h, row : row + 6 - size, column : column + 7 - size]
                    value = psi[:, :, quotient[g][h], *there]
                    expected[:, :, g] += torch.einsum("oc,bcyx->boyx", value, window)
    assert_same(layer(x), expected)


def test_the_bias_is_one_per_channel_and_shared_by_all_orientations():
    for conv in (LiftingConv, GroupConv):
        layer = layer_of(conv, "p6", bias=True)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
        x = input_of(layer)
        with_bias = layer(x)
        with torch.no_grad():
            layer.bias.zero_()
        expected = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64).view(1, 3, 1, 1, 1)
        assert layer.bias.shape == (3,)
        assert_same(with_bias - layer(x), expected.expand_as(with_bias))
        assert layer_of(conv, "p6").bias is None


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_group_pooling_reduces_the_group_axis_and_no_other(kind):
    x = torch.randn(2, 3, 6, 4, 5, dtype=torch.float64)
    assert_same(GroupPool(kind)(x), x.amax(2) if kind == "max" else x.mean(2))


# --- exact equivariance --------------------------------------------------------------------------


def network(name, pool, bank="operators", offset=0.0):
    """Lift, norm, relu, pool, convolve, norm, relu: two convolutions and all that goes between."""
    group = PointGroup.named(name)
    return nn.Sequential(
        OrderedDict(
            lift=LiftingConv(group, 2, 3, bank=bank, offset=offset),
            norm=nn.BatchNorm3d(3),
            relu=nn.ReLU(),
            pool=pool,
            conv=GroupConv(group, 3, 2, bank=bank, offset=offset),
            norm_after=nn.BatchNorm3d(2),
            relu_after=nn.ReLU(),
        )
    ).double()


def trained(model, height, width):
    """One step of optimisation: running statistics, affine parameters, weights have all moved."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(4, 2, height, width, dtype=torch.float64)
    model.train()(x).sub(1).square().mean().backward()
    optimizer.step()
    assert all((p.grad != 0).any() for p in model.parameters())
    return model


SIZES = {  # a pool must meet the border alike on both sides: 2x2 on even maps, 3x3 on odd ones
    "even": (12, 12, nn.MaxPool3d((1, 2, 2))),
    "odd": (13, 13, nn.MaxPool3d((1, 3, 3), (1, 2, 2))),
    "mixed": (11, 14, nn.MaxPool3d((1, 3, 3), 1)),
    "oblong": (10, 14, nn.MaxPool3d((1, 2, 2))),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0.0, pi / 8], ids=["", "offset"])
@pytest.mark.parametrize("name", EVERY_GROUP)
def test_a_trained_network_commutes_exactly_with_the_elements_that_keep_the_grid(
    name, offset, size, by_matrices
):
    height, width, pool = SIZES[size]
    model = trained(network(name, pool, offset=offset), height, width)
    group, x = PointGroup.named(name), torch.randn(2, 2, height, width, dtype=torch.float64)
    assert by_matrices.errors(model.train(), group, x) < 1e-12
    assert by_matrices.errors(model.eval(), group, x) < 1e-12


@pytest.mark.parametrize("size", [2, 4, 5])
@pytest.mark.parametrize("name", ["p2", "p4", "p4m"])
def test_pixels_of_every_size_commute_exactly(name, size, by_matrices):
    for conv in (LiftingConv, GroupConv):
        layer = layer_of(conv, name, bank="pixels", size=size, padding=0, bias=True)
        assert by_matrices.errors(layer, layer.group, input_of(layer, 8, 11)) < 1e-12


@BOTH
@pytest.mark.parametrize("name", ["p4", "p8", "p4m"])
def test_a_stride_of_two_is_exact_on_odd_sizes_only(conv, name, by_matrices):
    layer = layer_of(conv, name, stride=2)
    assert by_matrices.errors(layer, layer.group, input_of(layer, 17, 13)) < 1e-12
    assert by_matrices.errors(layer, layer.group, input_of(layer, 16, 16)) > 1e-2


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("name", ["p4", "p8", "p6m"])
def test_a_network_pooled_over_group_and_space_is_invariant(name, kind, by_matrices):
    group = PointGroup.named(name)
    trunk = network(name, nn.MaxPool3d((1, 2, 2)))
    model = nn.Sequential(trunk, GroupPool(kind), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    for g in by_matrices.keepers(group):
        assert_same(model(by_matrices.moved(group, g, x)), model(x))


# --- equivariance to second order ----------------------------------------------------------------

CENTRES = np.random.default_rng(0).uniform(-1, 1, (12, 2))


def image(points):
    """A smooth image, known at every point of the plane: [2, ...] -> [...]."""
    x, y = points
    return np.sin(1.3 * x + 0.4) * np.cos(0.9 * y - 0.2) + x * np.exp(-(x**2 + y**2) / 2)


def patches(turn, centres, spacing, size):
    """The image seen through the matrix ``turn`` on a grid about each centre: [B, 1, k, k]."""
    steps = spacing * np.arange(-(size // 2), size // 2 + 1)
    grid = np.stack(np.meshgrid(steps, -steps))  # y points up
    points = np.einsum("ab,nbyx->anyx", turn, centres[:, :, None, None] + grid)
    return torch.from_numpy(image(points))[:, None]


def refine(layer, coefficients, spacing):
    """Make the weight that stands for the same differential operator on a grid of that spacing."""
    in_reference_frame = operators(np.eye(2)[None], spacing)[0, :, 1:4, 1:4].reshape(9, 9)
    with torch.no_grad():
        layer.weight.copy_(coefficients @ torch.from_numpy(in_reference_frame))


def fitted_order(group, layers, size):
    """Order of the error in the spacing, over all elements that do not keep the grid.

    [Phi g f](x, h) at a centre x is held against [Phi f](g^-1 x, g^-1 h). The image is sampled at
    the turned points themselves, so nothing is interpolated.
    """
    matrices, quotient = np.asarray(group.matrices), np.asarray(group.quotient)
    coefficients = [torch.randn(layer.weight.shape, dtype=torch.float64) for layer in layers]
    model, identity = nn.Sequential(*layers), np.eye(2)
    off_grid = [g for g, a in enumerate(matrices) if np.abs(a - a.round()).max() > 1e-9]
    spacings, errors = [1 / 4, 1 / 8, 1 / 16, 1 / 32], []
    for spacing in spacings:
        for layer, coefficient in zip(layers, coefficients, strict=True):
            refine(layer, coefficient, spacing)
        error = norm = 0.0
        with torch.no_grad():
            for g in off_grid:
                back = np.linalg.inv(matrices[g])
                turned = model(patches(back, CENTRES, spacing, size))
                still = model(patches(identity, CENTRES @ back.T, spacing, size))
                error += (turned - still[:, :, quotient[g]]).square().sum().item()
                norm += still.square().sum().item()
        errors.append((error / norm) ** 0.5)
    return np.polyfit(np.log(spacings), np.log(errors), 1)[0]


GROUPS_OFF_THE_GRID = pytest.mark.parametrize(
    "name, offset", [("p8", 0.0), ("p8", pi / 8), ("p6m", 0.0), ("p3", 0.4)]
)


@GROUPS_OFF_THE_GRID
def test_off_the_grid_the_error_of_lifting_is_of_second_order(name, offset):
    lift = layer_of(LiftingConv, name, 1, 2, offset=offset, padding=0)
    assert 1.9 < fitted_order(lift.group, [lift], 5) < 2.1


@GROUPS_OFF_THE_GRID
def test_off_the_grid_the_error_of_lifting_and_a_group_layer_is_of_second_order(name, offset):
    lift = layer_of(LiftingConv, name, 1, 2, offset=offset, padding=0)
    conv = layer_of(GroupConv, name, 2, 2, offset=offset, padding=0)
    assert 1.9 < fitted_order(lift.group, [lift, conv], 9) < 2.1


# --- gradients, precision and everything that PyTorch does to a module ---------------------------


@BOTH
@pytest.mark.parametrize("name", ["p3", "p2m"])
def test_gradients_are_those_of_finite_differences(conv, name):
    layer = conv(PointGroup.named(name), 2, 2, stride=2, bias=True, dtype=torch.float64)
    x = input_of(layer, 4, 5, batch=1).requires_grad_()

    def output(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(output, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(output, (x, layer.weight, layer.bias))
    inputs = (x.detach(), layer.weight.detach(), layer.bias.detach())
    tangents = tuple(torch.randn_like(part) for part in inputs)
    _, found = torch.func.jvp(output, inputs, tangents)
    _, expected = torch.autograd.functional.jvp(output, inputs, tangents)
    assert_same(found, expected, 1e-10)


@BOTH
@pytest.mark.parametrize("bias", [False, True])
def test_a_state_dict_holds_the_weights_alone_in_both_modes(conv, bias):
    layer = layer_of(conv, "p8", bias=bias)
    expected = ["weight", "bias"] if bias else ["weight"]
    assert list(layer.train().state_dict()) == expected
    assert list(layer.eval().state_dict()) == expected
    assert [name for name, _ in layer.named_parameters()] == expected


@BOTH
def test_the_weight_has_the_documented_axes(conv):
    layer = layer_of(conv, "p6m", 4, 5)
    assert layer.weight.shape == ((5, 4, 12, 9) if conv is GroupConv else (5, 4, 9))
    layer = layer_of(conv, "p4", 4, 5, bank="pixels", size=4, padding=0)
    assert layer.weight.shape == ((5, 4, 4, 16) if conv is GroupConv else (5, 4, 16))


@pytest.mark.parametrize(
    "name, bank", [("p8", "operators"), ("p4", "pixels"), ("p6m", "operators")]
)
def test_copies_and_pickles_compute_the_same(name, bank):
    model = network(name, nn.MaxPool3d((1, 2, 2)), bank=bank).eval()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        with torch.no_grad():
            twin.lift.weight.zero_()
        assert (model.lift.weight != 0).any()  # the twin has weights of its own


def test_a_network_traced_as_one_graph_equals_the_eager_one():
    for name in ("p8", "p4m"):
        model = network(name, nn.MaxPool3d((1, 2, 2)))
        model.append(GroupPool("max"))
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
        for _ in (model.train(), model.eval()):
            found, expected = compiled(x), model(x)
            assert_same(found, expected)
            gradients = torch.autograd.grad(found.square().sum(), model.lift.weight)
            assert_same(gradients, torch.autograd.grad(expected.square().sum(), model.lift.weight))


@pytest.mark.slow
@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="torch.compile's inductor needs a C++ compiler",
)
def test_compiled_layers_equal_the_eager_ones():
    """Both layers and the pool in generated code; forward alone, since compiling takes long."""
    set_inductor_cache()
    group = PointGroup(3)
    layers = LiftingConv(group, 1, 2), nn.ReLU(), GroupConv(group, 2, 2, bias=True), GroupPool()
    model = nn.Sequential(*layers).double()
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        assert_same(torch.compile(model, fullgraph=True)(x), model(x))


@BOTH
@pytest.mark.parametrize("name", ["p8", "p6m"])
def test_a_float32_layer_turned_to_float64_is_exact(conv, name, by_matrices):
    group = PointGroup.named(name)
    single = conv(group, 2, 3, offset=pi / 8)
    assert single.weight.dtype == single.kernel().dtype == torch.float32
    exact = conv(group, 2, 3, offset=pi / 8, dtype=torch.float64)
    exact.load_state_dict(single.state_dict())
    double = copy.deepcopy(single).double()
    assert_same(double.kernel(), exact.kernel())
    x = input_of(double)
    assert_same(double(x), exact(x))
    assert by_matrices.errors(double, group, x) < 1e-12
    again = copy.deepcopy(single).bfloat16().to(torch.float64)  # a detour must not cost the bank
    exact.load_state_dict(again.state_dict())
    assert_same(again.kernel(), exact.kernel())


@BOTH
def test_a_layer_made_without_memory_and_filled_later_computes_the_same(conv):
    layer = layer_of(conv, "p8", offset=pi / 8)
    hollow = layer_of(conv, "p8", offset=pi / 8, device="meta")
    assert hollow.weight.is_meta and hollow.weight.shape == layer.weight.shape
    torch.use_deterministic_algorithms(True)  # fills empty memory, which might be right by luck
    try:
        filled = hollow.to_empty(device="cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    filled.load_state_dict(layer.state_dict())
    x = input_of(layer)
    assert_same(filled(x), layer(x))


@BOTH
def test_assigning_the_offset_is_making_the_layer_with_it(conv):
    layer, other = layer_of(conv, "p6"), layer_of(conv, "p6", offset=0.3)
    layer.offset = 0.3
    assert torch.equal(layer.bank, other.bank) and layer.offset == 0.3
    with pytest.raises(ValueError, match="offset"):
        layer.offset = float("nan")
    assert layer.offset == 0.3
    with pytest.raises(ValueError, match="needs another kernel size"):
        layer_of(conv, "p4").offset = 0.3


@BOTH
def test_constants_follow_weights_that_are_assigned_to_a_layer_without_memory(conv):
    for dtype in (torch.float64, torch.float32):
        layer = layer_of(conv, "p8").to(dtype)
        with torch.device("meta"):
            empty = conv(layer.group, layer.in_channels, layer.out_channels, offset=layer.offset)
        assert empty.weight.is_meta
        empty.load_state_dict(layer.state_dict(), assign=True)
        assert empty.bank.dtype == dtype and empty.bank.device.type == "cpu"
        x = input_of(layer).to(dtype)
        assert torch.equal(empty(x), layer(x))


@BOTH
def test_a_pruned_layer_moves_like_any_other(conv):
    layer = layer_of(conv, "p4").float()
    prune.l1_unstructured(layer, "weight", 0.3)
    x = input_of(layer)
    layer(x.float())
    layer.double()
    assert layer.bank.dtype == torch.float64 and layer(x.double()).isfinite().all()


def test_a_layer_does_not_hand_out_the_table_of_its_group():
    group = PointGroup(8)
    before = group.quotient.clone()
    GroupConv(group, 1, 1).quotient.zero_()
    assert torch.equal(group.quotient, before)


@BOTH
def test_shapes_can_be_had_without_memory(conv):
    with torch.device("meta"):
        layer = conv(PointGroup(8), 2, 3)
        x = torch.empty(4, 2, *([8] if conv is GroupConv else []), 9, 9)
    y = layer(x)
    assert y.is_meta and y.shape == (4, 3, 8, 9, 9)


def test_layers_can_be_mapped_and_differentiated_per_sample():
    model = nn.Sequential(LiftingConv(PointGroup(4), 2, 3), GroupConv(PointGroup(4), 3, 2)).double()
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    weights = dict(model.named_parameters())

    def loss(weights, one):
        return torch.func.functional_call(model, weights, (one[None],)).square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for number, one in enumerate(x):
        expected = torch.autograd.grad(loss(weights, one), weights.values())
        for found, gradient in zip(mapped.values(), expected, strict=True):
            assert_same(found[number], gradient, 1e-10)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("fields, stride, bias", [(2, 1, False), (3, 2, True), (13, 1, True)])
def test_the_gradients_are_those_of_the_planar_convolution(fields, stride, bias, autocast):
    """Narrow maps, which a CPU convolves in another layout, and wide ones."""
    layer = GroupConv(PointGroup(8), fields, 2, stride=stride, bias=bias)
    x = torch.randn(3, fields, 8, 9, 9, requires_grad=True)
    inputs = [x, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = layer(x)
        planar_bias = layer.bias.repeat_interleave(8) if bias else None
        expected = F.conv2d(x.flatten(1, 2), layer.kernel(), planar_bias, stride, layer.padding)
    expected = expected.unflatten(1, (2, 8))
    gradient = torch.randn_like(found)
    tolerance = 0.05 if autocast else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert found.is_contiguous()
    pairs = (torch.autograd.grad(y, inputs, gradient) for y in (found, expected))
    for ours, theirs in zip(*pairs, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale)
        assert ours.is_contiguous() and ours.dtype == theirs.dtype


def test_a_layer_keeps_no_copy_of_its_input_for_the_backward_pass():
    layer = GroupConv(PointGroup(8), 4, 4)
    x = torch.randn(50, 4, 8, 9, 9).relu()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x.requires_grad_())
    del kept[x.untyped_storage().data_ptr()]
    assert sum(kept.values()) < x.numel() / 2
    assert y.untyped_storage().data_ptr() not in kept


@BOTH
def test_under_autocast_the_kernel_is_built_in_float32(conv):
    layer = conv(PointGroup(8), 2, 3, offset=pi / 8)
    x, expected = input_of(layer).float(), layer.kernel()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernel, y = layer.kernel(), layer(x)
    assert kernel.dtype == torch.float32 and y.dtype == torch.bfloat16
    assert torch.equal(kernel, expected)
    torch.testing.assert_close(y.float(), layer(x), rtol=0, atol=0.1)


@BOTH
def test_the_initial_weights_are_truncated_normal_with_variance_two_over_fan_in(conv):
    for name, bank, size in [("p8", "operators", None), ("p4", "pixels", 4), ("p6", "point", None)]:
        group = PointGroup.named(name)
        layer = conv(group, 64, 96, bank=bank, size=size, padding=0)
        fan_in = layer.weight[0].numel()
        deviation = layer.weight.std().item()
        assert abs(layer.weight.mean().item()) < 0.05 * deviation
        assert abs(deviation**2 * fan_in / 2 - 1) < 0.05
        # A normal variable cut off at two standard deviations has a variance of 0.774, so its
        # largest value is 2 / sqrt(0.774) = 2.27 of the deviation that is left.
        assert 2.1 < layer.weight.abs().max().item() / deviation < 2.35
        beyond = (layer.weight.abs() > deviation).double().mean().item()
        assert 0.34 < beyond < 0.42  # 0.379 for that density, 0.317 for the normal one uncut


# --- sizes and wrong input -----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "name, bank, size",
    [("p8", "operators", None), ("p4", "operators", None), ("p4", "pixels", 7), ("p6", "point", 1)],
)
def test_padding_none_keeps_height_and_width(conv, name, bank, size):
    layer = layer_of(conv, name, bank=bank, size=size)
    assert layer(input_of(layer, 6, 9)).shape == (2, 3, len(layer.group), 6, 9)


@BOTH
@pytest.mark.parametrize("size", [2, 4])
def test_an_even_kernel_cannot_keep_the_size_and_must_be_told_its_padding(conv, size):
    with pytest.raises(ValueError, match=f"(?s)padding.*{size}|{size}.*padding"):
        layer_of(conv, "p4", bank="pixels", size=size)
    layer = layer_of(conv, "p4", bank="pixels", size=size, padding=0)
    assert layer(input_of(layer, 9, 9)).shape[-1] == 10 - size


def test_another_group_axis_raises_even_if_the_channels_would_add_up():
    layer = layer_of(GroupConv, "p12", 2)
    for channels, order in [(2, 6), (2, 13), (24, 1), (4, 6), (12, 2)]:
        with pytest.raises(ValueError, match=f"(?s)12.*{order}|{order}.*12"):
            layer(torch.zeros(1, channels, order, 9, 9, dtype=torch.float64))


@pytest.mark.parametrize("make", [LiftingConv, GroupConv])
def test_constants_lie_where_the_weight_lies_whatever_the_context_says(make):
    with torch.device("meta"):
        layer = make(PointGroup(8), 1, 2, device="cpu")
        assert layer.bank.device.type == layer.double().bank.device.type == "cpu"
    layer = make(PointGroup(8), 1, 2)
    state = {name: value.double() for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    assert layer.to("cpu").bank.dtype == torch.float64
    exact = make(PointGroup(8), 1, 2, dtype=torch.float64)
    assert torch.equal(layer.bank, exact.bank)
