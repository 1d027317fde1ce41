"""Rotations by any angle: accurate where they interpolate, exact elsewhere; the order is 2."""

import copy
import math
from math import pi

import numpy as np
import pytest
import torch
from torch import nn

from pdoe import GroupConv, GroupPool, LiftingConv, PointGroup
from pdoe.equivariance.action import act_interpolated, rotate
from pdoe.equivariance.angles import (
    convergence_order,
    equivariance_curve,
    field_at,
    smooth_field,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def grid(size, spacing=1.0):
    """Points (x right, y up) of the pixels from the centre: [N, N, 2]."""
    steps = spacing * (torch.arange(size, dtype=torch.float64) - (size - 1) / 2)
    return torch.stack([steps.expand(size, size), -steps[:, None].expand(size, size)], -1)


def matrix(angle, mirrored=False):
    c, s = math.cos(angle), math.sin(angle)
    flip = [1.0, -1.0] if mirrored else [1.0, 1.0]
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64) @ torch.diag(
        torch.tensor(flip, dtype=torch.float64)
    )


def inside(size, margin):
    return grid(size).norm(dim=-1) <= (size - 1) / 2 - margin


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# --- turning pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (4, 4), (1, 2, 8, 4, 7)])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4, -1, 7])
def test_a_multiple_of_90_degrees_is_rot90_to_the_bit(shape, quarters):
    x = torch.randn(shape)
    for rounding in (0.0, 1e-15, -1e-15):
        assert torch.equal(
            rotate(x, quarters * pi / 2 + rounding), torch.rot90(x, quarters, (-2, -1))
        )


@pytest.mark.parametrize("degrees", [1, 30, 45, 100, 200, -77])
def test_a_turned_polynomial_of_degree_5_is_the_polynomial_at_the_turned_points(degrees):
    angle, points = math.radians(degrees), grid(17, 0.2)

    def polynomial(points):
        x, y = points.unbind(-1)
        return x**5 - 2 * x**3 * y**2 + y**5 + 0.3 * x**2 * y - y + 1

    found, disc = rotate(polynomial(points), angle), inside(17, 3)
    expected = polynomial(points @ matrix(-angle).T)
    torch.testing.assert_close(found[disc], expected[disc], rtol=0, atol=1e-11)


@pytest.mark.parametrize("degrees", [20, 45, 290])
def test_interpolation_is_of_sixth_order_on_a_smooth_field(degrees):
    angle, disc, errors = math.radians(degrees), inside(31, 3), []
    wavelengths = [8.0, 16.0, 32.0]
    for wavelength in wavelengths:
        still = field_at(grid(31), 8, wavelength)
        exact = field_at(grid(31) @ matrix(-angle).T, 8, wavelength)
        errors.append(relative(rotate(still, angle)[:, disc], exact[:, disc]))
    assert errors[0] < 1e-3
    order = -np.polyfit(np.log(wavelengths), np.log(errors), 1)[0]
    assert 5.7 < order < 6.3


@pytest.mark.parametrize("name", ["p8", "p6", "p3m", "p8m"])
def test_every_element_moves_pixels_and_orientations_of_a_lifted_map(name, by_matrices):
    """[g f](x, h) = f(g^-1 x, g^-1 h), with f known between its pixels."""
    group, disc = PointGroup.named(name), inside(25, 3)
    matrices = np.asarray(group.matrices)
    lifted = field_at(grid(25), 2 * len(group), 12.0).unflatten(0, (1, 2, len(group)))
    for g, permutation in enumerate(by_matrices.quotient(group)):
        back = torch.from_numpy(np.linalg.inv(matrices[g]))
        moved = field_at(grid(25) @ back.T, 2 * len(group), 12.0)
        expected = moved.unflatten(0, (1, 2, len(group)))[:, :, permutation]
        found = act_interpolated(group, g, lifted)
        assert relative(found[..., disc], expected[..., disc]) < 1e-3
        alone = lifted[:, :, :1]  # of a network on p1
        assert torch.equal(
            act_interpolated(group, g, alone)[:, :, 0], act_interpolated(group, g, alone[:, :, 0])
        )
        features = torch.randn(2, 5)
        assert torch.equal(act_interpolated(group, g, features), features)


# --- fields --------------------------------------------------------------------------------------


def test_a_field_has_no_shorter_waves_and_mean_square_1():
    wavelength = 8.0
    field = field_at(grid(256), 16, wavelength)
    assert field.square().mean().item() == pytest.approx(1, rel=0.05)
    window = torch.hann_window(256, periodic=False, dtype=torch.float64)
    power = torch.fft.fft2(field * window * window[:, None]).abs().square()
    frequency = torch.fft.fftfreq(256, dtype=torch.float64)
    short = (frequency[:, None] ** 2 + frequency**2).sqrt() > 1 / wavelength + 3 / 256
    assert (power[:, short].sum() / power.sum()).item() < 1e-4


@pytest.mark.parametrize("degrees", [0, 33, 45])
def test_smooth_images_turn_without_leaving_the_frame(degrees):
    turned = smooth_field(28, math.radians(degrees), batch=2, channels=3)
    assert turned.shape == (2, 3, 28, 28) and turned.dtype == torch.float64
    assert turned[..., [0, -1], :].abs().max() == turned[..., [0, -1]].abs().max() == 0
    interpolated = rotate(smooth_field(28, batch=2, channels=3), math.radians(degrees))
    assert relative(turned, interpolated) < 1e-2  # the bump has waves of its own
    assert torch.equal(turned, smooth_field(28, math.radians(degrees), batch=2, channels=3))
    assert not torch.equal(turned, smooth_field(28, math.radians(degrees), 2, 3, seed=1))


# --- error over all angles -----------------------------------------------------------------------


def small(name, pool=True, **options):
    group = PointGroup.named(name)
    layers = [LiftingConv(group, 1, 3, **options), nn.ReLU(), GroupConv(group, 3, 3, **options)]
    return nn.Sequential(*layers, *[GroupPool()] * pool).double(), group


def field(angle):
    return smooth_field(28, angle, batch=2)


@pytest.mark.parametrize("name", ["p4", "p8", "p12", "p8m"])
def test_the_error_vanishes_at_the_angles_of_the_grid_and_at_no_other(name):
    model, group = small(name)
    curve = equivariance_curve(model, group, field)
    assert list(curve) == list(range(0, 360, 15)) and curve[0] == 0
    for degrees, error in curve.items():
        assert error < 1e-12 if degrees % 90 == 0 else error > 1e-4


def test_more_turns_in_the_group_make_the_error_at_45_degrees_smaller():
    errors = {}
    for name in ("p1", "p4", "p8"):
        model, group = small(name, offset=pi / 8)
        errors[name] = equivariance_curve(model, group, field, [45])[45]
    assert 2 * errors["p8"] < errors["p4"] < errors["p1"]


def test_the_curve_is_the_distance_of_the_two_ways_round_over_the_norm():
    model, group = nn.Conv2d(1, 2, 3, padding=1, dtype=torch.float64), PointGroup(1)
    disc = inside(28, 4)
    found = equivariance_curve(model, group, field, [0, 50, 90], margin=4)
    with torch.no_grad():
        for degrees, error in found.items():
            angle = math.radians(degrees)
            expected = rotate(model(field(0.0)), angle)[..., disc]
            moved = model(field(angle))[..., disc]
            assert error == pytest.approx(relative(moved, expected), rel=1e-9, abs=1e-15)
    assert found[50] > 1e-2


def test_the_mean_of_a_smooth_image_does_not_change_and_a_row_of_it_does():
    mean = equivariance_curve(lambda x: x.square().mean((-2, -1)), PointGroup(1), field)
    assert max(mean.values()) < 1e-5
    row = equivariance_curve(lambda x: x[..., 9, :].flatten(1), PointGroup(1), field)
    assert all(error > 0.1 for degrees, error in row.items() if degrees)


def test_given_pixels_are_interpolated_and_the_error_says_so():
    model, group = small("p8")
    exact = equivariance_curve(model, group, field)
    interpolated = equivariance_curve(model, group, field(0.0))
    for degrees, error in interpolated.items():
        assert abs(error - exact[degrees]) < 5e-3
        assert error < 1e-12 or degrees % 90


def test_a_lifted_map_is_compared_at_the_turns_of_its_group_alone():
    model, group = small("p8", pool=False)
    curve = equivariance_curve(model, group, field, [0, 45, 90, -135])
    assert curve[90] < 1e-12 and 1e-4 < curve[45] < 0.1 and 1e-4 < curve[-135] < 0.1
    with pytest.raises(ValueError, match=r"p8 has no rotation by 30 degrees.*GroupPool"):
        equivariance_curve(model, group, field, [30])


def test_maps_smaller_than_the_margin_are_refused():
    model, group = small("p4")
    with pytest.raises(ValueError, match=r"5x5 pixels.*margin of 3"):
        equivariance_curve(model, group, torch.randn(1, 1, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"margin": math.nan}, "margin is a number of pixels, at least 0, not nan"),
        ({"margin": -1.0}, "margin is a number of pixels, at least 0, not -1.0"),
        ({"margin": 13.4}, "28x28 pixels leave nothing to compare inside a margin of 13.4"),
        ({"angles": []}, r"angles are numbers of degrees, at least one.*not \[\]"),
        ({"angles": [0, math.nan]}, r"angles are numbers of degrees.*not \[0, nan\]"),
    ],
)
def test_a_curve_that_would_compare_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        equivariance_curve(nn.Conv2d(1, 2, 3, padding=1).double(), PointGroup(4), field, **options)


def test_a_curve_leaves_the_model_as_it_was():
    model, group = small("p4")
    model.insert(1, nn.BatchNorm3d(3).double())
    before = copy.deepcopy(model.train().state_dict())
    equivariance_curve(model, group, field, [45])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- order ---------------------------------------------------------------------------------------


def layers_of(name, depth, **options):
    group = PointGroup.named(name)
    lift = LiftingConv(group, 1, 3, dtype=torch.float64, **options)
    convs = [GroupConv(group, 3, 3, dtype=torch.float64, **options) for _ in range(depth - 1)]
    return [lift, *convs]


ELEMENTS = [
    ("p8", 45, False),
    ("p8", 225, False),
    ("p12", 30, False),
    ("p3", 120, False),
    ("p16", 22.5, False),
    ("p6m", 60, True),
    ("p8m", 135, True),
]


@pytest.mark.parametrize("offset", [0.0, pi / 8], ids=["", "offset"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name, degrees, mirrored", ELEMENTS)
def test_layers_of_operators_commute_to_second_order(name, degrees, mirrored, depth, offset):
    layers = layers_of(name, depth, offset=offset)
    found = convergence_order(layers, math.radians(degrees), mirrored)
    assert 1.9 < found.order < 2.1 and found.residual < 0.02
    errors = list(found.errors.values())
    assert errors[-2] / errors[-1] == pytest.approx(4, rel=0.05)  # half the spacing


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("degrees", [30, 45, 90])
def test_an_ordinary_convolution_does_not_converge(degrees, depth):
    for bank in ("pixels", "operators"):
        found = convergence_order(layers_of("p1", depth, bank=bank), math.radians(degrees))
        assert abs(found.order) < 0.1 and min(found.errors.values()) > 0.1


def test_a_kernel_in_the_wrong_frame_does_not_converge():
    layers = layers_of("p8", 1)

    class Kept(LiftingConv):
        def _constants(self):
            return {"bank": super()._constants()["bank"][[0, 1, 2, 4, 3, 5, 6, 7]]}

    swapped = Kept(PointGroup(8), 1, 3, dtype=torch.float64)
    assert abs(convergence_order([swapped], pi / 4).order) < 0.1
    assert convergence_order(layers, pi / 4).order > 1.9


@pytest.mark.parametrize("name", ["p4", "p8", "p4m"])
def test_quarter_turns_are_exact_at_every_spacing(name):
    layers = layers_of(name, 1)
    found = convergence_order(layers, pi / 2, name.endswith("m"), spacings=(0.5, 0.25))
    assert max(found.errors.values()) < 1e-10


def test_measuring_the_order_leaves_the_layers_as_they_were():
    layers = layers_of("p8", 2)
    before = [layer.weight.clone() for layer in layers]
    convergence_order(layers, pi / 4)
    assert all(torch.equal(layer.weight, w) for layer, w in zip(layers, before, strict=True))
    assert [layer.padding for layer in layers] == [2, 2]


@pytest.mark.parametrize("name, degrees, mirrored", [("p8", 30, False), ("p6", 60, True)])
def test_the_order_of_an_element_that_the_group_lacks_is_not_asked(name, degrees, mirrored):
    with pytest.raises(ValueError, match=rf"{name} has no.* rotation by {degrees} degrees"):
        convergence_order(layers_of(name, 1), math.radians(degrees), mirrored)


@pytest.mark.parametrize("options", [{"stride": 2}, {"bias": True}, {"bank": "point"}])
def test_layers_without_an_order_are_refused(options):
    with pytest.raises(ValueError, match="expected 3x3 weights, stride 1 and no bias, found"):
        convergence_order(layers_of("p4", 1, **options), pi / 2)


@pytest.mark.parametrize(
    "layers, options, kind",
    [
        ([], {}, TypeError),
        ([nn.Conv2d(1, 2, 3)], {}, TypeError),
        (layers_of("p4", 1), {"angle": math.nan}, ValueError),
        (layers_of("p4", 1), {"spacings": [0.5]}, ValueError),
    ],
)
def test_an_order_of_nothing_is_refused(layers, options, kind):
    with pytest.raises(kind, match="layers are a LiftingConv|an order needs a finite angle"):
        convergence_order(layers, **{"angle": pi / 2, **options})
