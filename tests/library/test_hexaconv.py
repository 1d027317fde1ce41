"""HexaConv: the hexagonal lattice, its filters, the sampling of images, and the network on it."""

import copy
import itertools
from math import pi, sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdoe import (
    GroupConv,
    LiftingConv,
    PointGroup,
    equivariance_report,
    filter_bank,
)
from pdoe.data import DataSet
from pdoe.models import HexaConv, Images
from pdoe.models.hexagonal import AxialArray, HexagonalSampling, RegionMean, spline_weights
from pdoe.run.diagnostics import diagnose, measure_equivariance

pytestmark = pytest.mark.usefixtures("one_thread")

GROUPS = ["p1", "p2", "p3", "p6", "p1m", "p2m", "p3m", "p6m"]


def points(rows, columns):
    """Where entries lie: a column is a step to the right, a row one 60 degrees below it."""
    return np.stack([columns + rows / 2, -sqrt(3) / 2 * rows])


def entry(point):
    """Its inverse."""
    x, y = point
    row = -2 / sqrt(3) * y
    found = np.stack([row, x - row / 2])
    assert np.abs(found - found.round()).max() < 1e-9
    return found.round().astype(int)


def moved(group, g, x, centre):
    """g acting on an axial array, as the definition says it, from the matrices alone."""
    matrices = np.asarray(group.matrices)
    back = np.linalg.inv(matrices[g])
    if x.ndim == 5:
        sources = [
            next(i for i, a in enumerate(matrices) if np.abs(a - back @ h).max() < 1e-9)
            for h in matrices
        ]
        x = x[:, :, sources]
    height, width = x.shape[-2:]
    rows, columns = np.indices((height, width)).reshape(2, -1) - np.array(centre)[:, None]
    rows, columns = entry(back @ points(rows, columns)) + np.array(centre)[:, None]
    known = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    flat = torch.from_numpy(np.where(known, rows * width + columns, 0))
    result = x.flatten(-2)[..., flat] * torch.from_numpy(known).to(x)
    return result.view(x.shape)


def errors(model, group, x, centre, centre_after=None):
    """Element -> relative error of model(g x) = g model(x) on axial arrays."""
    with torch.no_grad():
        y = model(x)
        return {
            g: (
                (model(moved(group, g, x, centre)) - moved(group, g, y, centre_after or centre))
                .norm()
                .div(y.norm())
                .item()
            )
            for g in range(len(group))
        }


def hexagon(shape, centre, radius):
    rows, columns = np.indices(shape) - np.array(centre)[:, None, None]
    distance = np.maximum(np.maximum(abs(rows), abs(columns)), abs(rows + columns))
    return torch.from_numpy(distance <= radius).double()


def small(group="p6", size=13, **changes):
    """One block per stage, with running statistics and affine parameters unlike the defaults."""
    options = {"depth": 8, "widths": [2, 3, 2], "images": Images(3, 10, size), **changes}
    net = HexaConv(PointGroup.named(group), **options)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm3d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.5)
            norm.momentum = 0.5
    with torch.no_grad():
        net.double().train()(torch.randn(4, 3, size, size, dtype=torch.float64))
    return net.eval()


def colours(size=13, batch=2, dtype=torch.float64):
    return torch.randn(batch, 3, size, size, dtype=dtype)


# --- the bank ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, taps", [(None, 7), (1, 1), (3, 7), (5, 19), (7, 37)])
@pytest.mark.parametrize("name", GROUPS)
def test_a_tap_in_the_frame_of_g_lies_where_the_matrix_of_g_puts_it(name, size, taps):
    group = PointGroup.named(name)
    bank = filter_bank(group, "hexagon", size=size)
    side = size or 3
    assert bank.shape == (len(group), taps, side, side) and bank.dtype == np.float64
    assert set(np.unique(bank)) <= {0, 1} and (bank.sum((2, 3)) == 1).all()
    assert (bank.sum(1) <= 1).all()  # no tap twice
    where = np.argwhere(bank)[:, 2:].reshape(len(group), taps, 2) - side // 2
    for matrix, found in zip(np.asarray(group.matrices), where, strict=True):
        expected = matrix @ points(*where[0].T)
        np.testing.assert_allclose(points(*found.T), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_the_taps_are_the_hexagon_of_lattice_points_around_one(radius):
    bank = filter_bank(PointGroup(1), "hexagon", size=2 * radius + 1)
    corners = points(*np.indices((2 * radius + 1,) * 2).reshape(2, -1) - radius)
    directions = np.array([[np.cos(a), np.sin(a)] for a in np.arange(6) * pi / 3 + pi / 6])
    within = (directions @ corners <= radius * sqrt(3) / 2 + 1e-9).all(0)
    np.testing.assert_array_equal(bank.sum((0, 1)).ravel() > 0, within)


@pytest.mark.parametrize("name", ["p4", "p5", "p8", "p12", "p4m", "p12m"])
def test_a_group_that_moves_the_lattice_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"no filter for {name}.*p6m do.*'operators'"):
        filter_bank(PointGroup.named(name), "hexagon")
    with pytest.raises(ValueError, match=rf"no filter for {name}"):
        HexaConv(PointGroup.named(name), 26)


# --- the layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p6", "p6m"])
def test_the_group_convolution_is_the_sum_over_the_lattice(name):
    group = PointGroup.named(name)
    matrices, quotient = np.asarray(group.matrices), np.asarray(group.quotient)
    conv = GroupConv(group, 2, 1, "hexagon", dtype=torch.float64)
    taps = points(*(np.argwhere(filter_bank(group, "hexagon")[0])[:, 1:] - 1).T)
    x = torch.randn(1, 2, len(group), 4, 5, dtype=torch.float64)
    values = {(i, j): x[0, :, :, i, j].numpy() for i, j in itertools.product(range(4), range(5))}
    weight, zero = conv.weight.detach().numpy(), np.zeros((2, len(group)))
    expected = np.zeros((len(group), 4, 5))
    for g, i, j in np.ndindex(*expected.shape):
        for k, tap in enumerate(taps.T):
            there = values.get(tuple(entry(points(i, j) + matrices[g] @ tap)), zero)
            expected[g, i, j] += (weight[0, :, quotient[g], k].T * there).sum()
    found = conv(x)[0, 0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("name", GROUPS)
def test_layers_commute_with_every_element_on_maps_that_fill_a_hexagon(name, size):
    group, shape, centre = PointGroup.named(name), (12, 13), (6, 6)
    mask = hexagon(shape, centre, 5 - size // 2)
    for layer, kind in ((LiftingConv, ()), (GroupConv, (len(group),))):
        conv = layer(group, 2, 3, "hexagon", size=size, dtype=torch.float64)
        x = torch.randn(2, 2, *kind, *shape, dtype=torch.float64) * mask
        assert max(errors(conv, group, x, centre).values()) < 1e-12


@pytest.mark.parametrize("name", ["p6", "p6m"])
def test_a_stride_of_two_keeps_the_symmetry_about_a_point_that_survives_it_alone(name):
    group, shape = PointGroup.named(name), (14, 15)
    conv = GroupConv(group, 2, 3, "hexagon", stride=2, dtype=torch.float64)
    for centre, exact in (((6, 8), True), ((6, 7), False), ((7, 8), False), ((7, 7), False)):
        x = torch.randn(2, 2, len(group), *shape, dtype=torch.float64) * hexagon(shape, centre, 4)
        after = centre[0] // 2, centre[1] // 2
        found = errors(conv, group, x, centre, after)
        lost = [g for g, error in found.items() if not error < 1e-12]
        assert not lost if exact else {1, 2, 4, 5} <= set(lost)  # a half turn is kept elsewhere


# --- the lattice over an image -------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4, 5, 13, 28, 32])
@pytest.mark.parametrize("region", ["square", "symmetric"])
def test_the_lattice_covers_its_region_about_a_centre_that_survives_two_strides(size, region):
    array = AxialArray.over(size, region)
    far = np.arange(-size - 1, size + 2)  # more than the square needs
    everywhere = points(*np.stack(np.meshgrid(far, far, indexing="ij")).reshape(2, -1))
    turns = np.asarray(PointGroup(6, reflections=True).matrices)
    turns = turns if region == "symmetric" else turns[:1]
    bound = (size - 1) / 2 + 1e-9
    wanted = {tuple(p.round(6) + 0.0) for p in everywhere.T if (np.abs(turns @ p) <= bound).all()}
    rows, columns = np.argwhere(array.inside).T - np.array(array.centre)[:, None]
    assert {tuple(p.round(6) + 0.0) for p in points(rows, columns).T} == wanted
    assert array.centre[0] % 4 == array.centre[1] % 4 == 0
    for axis in (0, 1):  # as small as that allows
        filled = np.flatnonzero(array.inside.any(1 - axis))
        assert filled[0] < 4 and filled[-1] == array.inside.shape[axis] - 1
    quarter = array.halve().halve()
    assert quarter.inside[quarter.centre] and quarter.centre == tuple(c // 4 for c in array.centre)
    with pytest.raises(ValueError, match="drops the centre"):
        AxialArray(np.ones((3, 3), bool), (1, 2)).halve()


@pytest.mark.parametrize("name", ["p6", "p6m"])
def test_an_array_moves_maps_as_the_matrices_say(name):
    group, array = PointGroup.named(name), AxialArray.over(13)
    for shape in ((2,), (2, len(group))):
        x = torch.randn(1, *shape, *array.inside.shape, dtype=torch.float64)
        assert torch.equal(array.act(group, 0, x), x * torch.from_numpy(array.inside))
        x *= torch.from_numpy(array.inside)
        for g in range(len(group)):
            assert torch.equal(array.act(group, g, x), moved(group, g, x, array.centre))


@pytest.mark.parametrize("degree", [1, 3, 5])
@pytest.mark.parametrize("count", [2, 5, 32])
def test_splines_are_those_of_scipy(degree, count):
    ndimage = pytest.importorskip("scipy.ndimage")
    where = np.random.default_rng(0).uniform(0, count - 1, 50)
    numbers = np.random.default_rng(1).normal(size=count)
    expected = ndimage.map_coordinates(numbers, [where], order=degree, mode="mirror")
    found = spline_weights(where, count, degree) @ numbers
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [12, 13, 32])
def test_an_image_is_sampled_at_the_lattice_points_as_scipy_does(size):
    ndimage = pytest.importorskip("scipy.ndimage")
    array = AxialArray.over(size)
    image = np.random.default_rng(0).normal(size=(size, size))
    x, y = points(*(np.indices(array.inside.shape) - np.array(array.centre)[:, None, None]))
    where = [(size - 1) / 2 - y, (size - 1) / 2 + x]
    expected = ndimage.map_coordinates(image, where, order=5, mode="constant", cval=0.0)
    sampling = HexagonalSampling(size, array).double()
    found = sampling(torch.from_numpy(image)[None, None])[0, 0].numpy()
    outermost = np.abs(np.stack([x, y])).max(0) > (size - 1) / 2 - 1e-6  # may fall to either side
    inner = array.inside & ~outermost
    np.testing.assert_allclose(found[inner], expected[inner], rtol=0, atol=1e-10)
    assert (found[~array.inside] == 0).all() and (expected[~array.inside] == 0).all()


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, widths, expected, biases",
    [("p6", [8, 14, 28], 336_490, 450), ("p6m", None, 337_885, 315)],
)
def test_a_row_has_the_parameters_of_the_source_less_the_biases_of_its_convolutions(
    name, widths, expected, biases
):
    with torch.device("meta"):
        net = HexaConv(PointGroup.named(name), 26, widths)
    convolutions = [m for m in net.modules() if isinstance(m, LiftingConv | GroupConv)]
    assert sum(p.numel() for p in net.parameters()) == expected
    assert sum(conv.out_channels for conv in convolutions) == biases
    assert expected + biases == {"p6": 336_940, "p6m": 338_200}[name]


def behind_the_sampling(net):
    trunk = copy.deepcopy(net.trunk)
    trunk.stem = trunk.stem[1:]
    return trunk


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["p2m", "p3", "p6", "p6m"])
def test_behind_the_sampling_the_trunk_commutes_with_every_element(name, training):
    net = small(name, region="symmetric").train(training)
    trunk, first, last = behind_the_sampling(net), net.arrays[0], net.arrays[2]
    x = torch.randn(4, 3, *first.inside.shape, dtype=torch.float64)
    x *= torch.from_numpy(first.inside)
    found = errors(trunk, net.group, x, first.centre, last.centre)
    assert max(found.values()) < 1e-12


def test_the_corners_of_a_square_are_lost_on_turns_by_sixty_degrees_and_on_no_others():
    net = small("p6m", region="square")
    trunk, first, last = behind_the_sampling(net), net.arrays[0], net.arrays[2]
    x = torch.randn(2, 3, *first.inside.shape, dtype=torch.float64)
    x *= torch.from_numpy(first.inside)
    for g, error in errors(trunk, net.group, x, first.centre, last.centre).items():
        assert error < 1e-12 if g in (0, 3, 6, 9) else error > 1e-3


@pytest.mark.parametrize("region", ["square", "symmetric"])
@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("name", ["p2", "p6", "p1m", "p3m", "p6m"])
def test_images_turned_by_180_degrees_or_reflected_give_exactly_that(name, size, region):
    """The report moves every map on its own lattice; nothing is lost, up to the logits."""
    net = small(name, size, region=region, head="invariant")
    report = equivariance_report(net, net.group, colours(size), tolerance=1e-12)
    assert report.first_broken is None
    published = small(name, size, region=region)
    report = equivariance_report(published, net.group, colours(size), tolerance=1e-12)
    assert report.first_broken == "head.0"


@pytest.mark.parametrize("region", ["square", "symmetric"])
def test_every_convolution_sees_zeros_outside_and_the_head_the_mean_inside(region):
    net, seen = small("p6m", region=region), []
    for module in net.modules():
        if isinstance(module, LiftingConv | GroupConv | RegionMean):
            module.register_forward_hook(lambda m, x, y: seen.append(x[0].clone()))
    y = net(colours())
    inside = {array.inside.shape: array.inside for array in net.arrays}
    assert len(seen) == 1 + 3 * 2 + 2 + 1
    for x in seen:
        mask = torch.from_numpy(inside[tuple(x.shape[-2:])])
        assert (x[..., ~mask] == 0).all() and (x[..., mask] != 0).any()
    expected = seen[-1][..., mask].mean(-1) @ net.head[-1].weight.T + net.head[-1].bias
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_a_run_closes_with_equivariance_of_trunk_and_layers_measured_on_their_lattice():
    images, labels = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8), torch.arange(8)
    data = DataSet("cifar10", "made up", "0", images, labels, images, labels, 0.5, 0.25, 10)
    net = small("p6m", 12)
    found = measure_equivariance(net, data)
    assert found["trunk"] < 1e-12 < 1e-3 < found["logits"]
    layers = diagnose(net, data, "fp64", None, None)["layers"]
    lost = [name for name, error in layers.items() if error > 1e-9]
    assert lost[0] == "head.0" and all(not name.startswith("trunk") for name in lost)


# --- training, copies, export, wrong input -------------------------------------------------------


def test_every_parameter_has_a_gradient_and_maps_computed_again_change_no_bit():
    results, images, once = [], colours(dtype=torch.float32), small(dropout=0.2).float().train()
    for again in (False, True):
        net = copy.deepcopy(once)
        net.checkpoint_activations = again
        torch.manual_seed(1)
        F.cross_entropy(net(images), torch.arange(2)).backward()
        assert all((p.grad != 0).any() for p in net.parameters())
        results.append([*(p.grad for p in net.parameters()), *net.state_dict().values()])
    assert all(map(torch.equal, *results))


def test_another_size_or_region_is_refused_with_what_is_expected():
    with pytest.raises(ValueError, match=r"images \[B, C, 13, 13\].*images=Images"):
        small()(colours(12))
    with pytest.raises(ValueError, match="'square' or 'symmetric', not 'disc'"):
        small(region="disc")
    with pytest.raises(TypeError, match="PointGroup"):
        HexaConv("p6", 26)
