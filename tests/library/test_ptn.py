"""Polar transformer networks: what a turn of the image does to origin, log-polar image, logits."""

import copy
import math

import pytest
import torch
from torch import nn

from pdoe import PointGroup
from pdoe.models import PTN, Images
from pdoe.models.ptn import Centroid, LogPolar

pytestmark = pytest.mark.usefixtures("one_thread")

P1 = PointGroup(1)
SMALL = dict(predictor_widths=[3, 2], predictor_strides=[2, 1], widths=[4, 5, 6], strides=[1, 2, 2])


def images(batch=2, size=28, channels=1):
    return torch.randn(batch, channels, size, size, dtype=torch.float64)


def lived_in(model):
    """In evaluation mode, with a heat map that is not constant and statistics of their own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    nn.init.uniform_(model.predictor[-1].weight, 0.0, 1.0)
    return model.eval()


def near(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def spot(x, y, size=57, width=0.02):
    """A Gaussian spot at a place in half image widths, y up: [1, 1, size, size]."""
    across = (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1
    return torch.exp(-((across - x) ** 2 + (-across[:, None] - y) ** 2) / width)[None, None]


# --- parameters ----------------------------------------------------------------------------------


def test_the_networks_have_the_parameters_of_their_sources():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert count(PTN(P1, widths=[20] * 6, strides=[1, 1, 2, 1, 2, 1])) == 27_931  # PTN-S
    both = PTN(P1, cartesian=True)
    assert count(both.cartesian) == count(both.classifier) == 124_378  # CCNN-B


# --- the origin ----------------------------------------------------------------------------------


def test_the_first_origin_is_the_centre_of_the_image_whatever_the_image():
    model = PTN(P1).double().eval()
    near(model.origin(model.predictor(images())), torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("strides, size", [((1,), 5), ((2,), 9), ((2, 2), 9), ((2, 1, 1), 28)])
def test_the_centroid_of_one_pixel_is_where_that_pixel_lies(strides, size):
    step = math.prod(strides)
    centroid = Centroid(size, strides).double()
    h = centroid.places.shape[-1]
    assert h == -(-size // step)
    for row, column in ((0, 0), (0, h - 1), (h - 1, 1), (h // 2, h // 2)):
        heat = torch.zeros(1, 1, 1, h, h, dtype=torch.float64)
        heat[..., row, column] = 2.5
        x, y = centroid(heat)[0]
        middle = (h - 1) / 2
        near(x, torch.tensor((column - middle) * step * 2 / size, dtype=torch.float64))
        near(y, torch.tensor((middle - row) * step * 2 / size, dtype=torch.float64))


def test_the_centroid_turns_with_its_map():
    centroid = Centroid(28, [2]).double()
    heat = torch.rand(3, 1, 1, 14, 14, dtype=torch.float64)
    x, y = centroid(heat).unbind(1)
    for quarters, turned in ((1, (-y, x)), (2, (-x, -y)), (3, (y, -x))):
        near(centroid(torch.rot90(heat, quarters, (-2, -1))), torch.stack(turned, 1))


def test_a_map_that_adds_up_to_nothing_gives_an_origin_in_the_image_and_finite_gradients():
    centroid = Centroid(28, [2]).double()
    balanced = torch.ones(14, 14, dtype=torch.float64)
    balanced[:, ::2] = -1
    tilted = balanced + 1e-9
    for heat in (torch.zeros_like(balanced), balanced, tilted, -tilted, -torch.ones(14, 14)):
        heat = heat.double()[None, None, None].requires_grad_()
        origin = centroid(heat)
        origin.sum().backward()
        assert origin.abs().max() <= 1 and heat.grad.isfinite().all()
    near(centroid(-torch.ones(1, 1, 1, 14, 14).double()), torch.zeros(1, 2).double())


def test_a_sum_counts_as_no_smaller_than_a_tenth_of_the_absolute_values():
    centroid = Centroid(28, [2]).double()
    heat = torch.zeros(1, 1, 1, 14, 14, dtype=torch.float64)
    heat[..., 6, 7], heat[..., 6, 6] = 1, -1 + 1e-9  # at x = 1/14 and -1/14, y = 1/14
    near(centroid(heat)[0], torch.tensor([1 / 7 / 0.2, 0.0], dtype=torch.float64), 1e-8)


def test_the_safe_centroid_is_the_centroid_of_a_map_that_is_nowhere_negative():
    heat = torch.rand(4, 1, 1, 14, 14, dtype=torch.float64)
    centroid = Centroid(28, [2]).double()
    plain = (heat[:, 0] * centroid.places).sum((2, 3)) / heat.sum((1, 2, 3, 4))[:, None]
    near(centroid(heat), plain)


def test_the_origin_moves_in_training_alone_by_up_to_its_noise_and_from_the_global_random_state():
    model = PTN(P1, **SMALL, origin_noise=2.0).double()
    seen = []
    model.polar.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))

    def origins(seed, training):
        torch.manual_seed(seed)
        model.train(training)(images(500))
        return seen.pop()

    pixels = origins(1, True) * 28 / 2
    assert pixels.abs().max() <= 2 and pixels.min() < -1.9 and pixels.max() > 1.9
    assert not torch.equal(pixels[:, 0], pixels[:, 1])
    assert torch.equal(origins(1, True), origins(1, True))
    assert not torch.equal(origins(1, True), origins(2, True))
    assert origins(1, False).abs().max() < 1e-12


# --- log-polar images ----------------------------------------------------------------------------


@pytest.mark.parametrize("angles", [4, 28, 32])
@pytest.mark.parametrize("size", [28, 29])
def test_a_quarter_turn_about_the_centre_shifts_the_rows_by_a_quarter_of_them(angles, size):
    polar, x = LogPolar(angles, 17, size).double(), images(2, size, 3)
    centre = torch.zeros(2, 2, dtype=torch.float64)
    for quarters in range(4):
        turned = polar(torch.rot90(x, quarters, (2, 3)), centre)
        near(turned, polar(x, centre).roll(quarters * angles // 4, 2))


def test_it_does_so_about_any_origin_that_turns_with_the_image():
    polar, x = LogPolar(28, 28, 28).double(), images(3)
    origin = 1.2 * torch.rand(3, 2, dtype=torch.float64) - 0.6
    turned = torch.stack([-origin[:, 1], origin[:, 0]], 1)
    near(polar(torch.rot90(x, 1, (2, 3)), turned), polar(x, origin).roll(7, 2))
    assert (
        polar(torch.rot90(x, 1, (2, 3)), origin) - polar(x, origin).roll(7, 2)
    ).abs().max() > 0.1


def test_a_turn_by_a_step_of_the_angles_shifts_by_a_row_up_to_interpolation():
    polar, centre = LogPolar(20, 24, 57).double(), torch.zeros(1, 2, dtype=torch.float64)
    radius, step = 0.5, 2 * math.pi / 20
    before, after = (
        polar(spot(radius * math.cos(a), radius * math.sin(a), 57, 0.1), centre)
        for a in (0.3, 0.3 + step)
    )
    inside = polar.away.norm(dim=-1)[0] < 1  # farther out lies the border that goes on
    near(after[..., inside], before.roll(1, 2)[..., inside], 1e-2)
    assert (after - before).abs().max() > 0.2


def test_a_place_is_found_at_its_angle_and_radius_with_y_up():
    polar, centre = LogPolar(24, 200, 57).double(), torch.zeros(1, 2, dtype=torch.float64)
    for row in (0, 5, 14, 21):
        angle = 2 * math.pi * row / 24
        image = spot(0.6 * math.cos(angle), 0.6 * math.sin(angle))
        found_row, column = divmod(polar(image, centre).argmax().item(), 200)
        largest = 57 / math.sqrt(2)
        radius = math.sqrt(2) * (largest ** (column / 199) - 1) / (largest - 1)
        assert found_row == row and abs(radius - 0.6) < 0.03


def test_the_first_column_is_the_origin_and_the_last_one_reaches_the_corner():
    size = 28
    x, centre = images(1, size), torch.zeros(1, 2, dtype=torch.float64)
    found = LogPolar(8, 28, size).double()(x, centre)[0, 0]
    middle = x[0, 0, 13:15, 13:15].mean()
    near(found[:, 0], middle.expand(8))
    corners = x[0, 0, [0, 0, -1, -1], [-1, 0, 0, -1]]
    near(found[1::2, -1], corners)


@pytest.mark.parametrize("row, column", [(0, 0), (3, 20), (27, 13)])
def test_an_origin_on_a_pixel_finds_that_pixel(row, column):
    x = images(1)
    origin = torch.tensor([[2 * column + 1 - 28, 28 - 2 * row - 1]], dtype=torch.float64) / 28
    found = LogPolar(4, 5, 28).double()(x, origin)[..., 0]
    near(found, x[..., row, column, None].expand(1, 1, 4))


def test_gradients_reach_the_origin():
    origin = torch.full((1, 2), 0.05, dtype=torch.float64, requires_grad=True)
    polar = LogPolar(12, 9, 9).double()
    x = images(1, 9)
    assert torch.autograd.gradcheck(lambda o: polar(x, o), origin, eps=1e-7, atol=1e-5)


# --- the network ---------------------------------------------------------------------------------


def test_convolutions_on_the_ring_commute_with_shifts_by_their_stride():
    model = lived_in(PTN(P1, **SMALL).double())
    polar = images(2, 28)[..., :20]
    logits = model.classifier(polar)
    assert logits.shape == (2, 10)
    for rows in (4, 8, 24):  # strides 1, 2, 2
        near(model.classifier(polar.roll(rows, 2)), logits)
    for rows in (1, 2, 7):
        assert (model.classifier(polar.roll(rows, 2)) - logits).abs().max() > 1e-3


def symmetric(model):
    """The same network, its predictor made of filters that quarter turns leave as they are."""
    with torch.no_grad():
        for module in model.predictor.modules():
            if getattr(module, "kernel_size", 1) == 3:
                filters = module.weight.unflatten(-1, (3, 3))
                turns = [torch.rot90(filters, quarters, (-2, -1)) for quarters in range(4)]
                module.weight.copy_((sum(turns) / 4).flatten(-2))
    return model


@pytest.mark.parametrize("angles, invariant", [(32, True), (28, False)])
def test_quarter_turns_leave_the_logits_where_origin_and_rows_allow_it(angles, invariant):
    """An odd image, symmetric filters before the heat map, and a quarter of the rows that is a
    multiple of all strides together: 8 of 32, but 7 of the published 28."""
    model = symmetric(lived_in(PTN(P1, angles=angles, images=Images(size=29)).double()))
    x = images(2, 29)
    origin = model.origin(model.predictor(x))
    assert origin.abs().max() > 1e-3
    for quarters in (1, 2, 3):
        turned = torch.rot90(x, quarters, (2, 3))
        difference = (model(turned) - model(x)).abs().max()
        assert difference < 1e-12 if invariant else difference > 1e-6


def test_an_ordinary_predictor_breaks_that():
    model = lived_in(PTN(P1, angles=32, images=Images(size=29)).double())
    x = images(2, 29)
    assert (model(torch.rot90(x, 1, (2, 3))) - model(x)).abs().max() > 1e-6


def test_the_logits_of_both_classifiers_are_summed():
    model = lived_in(PTN(P1, **SMALL, cartesian=True).double())
    x = images()
    alone = copy.deepcopy(model)
    alone.cartesian = None
    near(model(x), alone(x) + model.cartesian(x))


def test_it_learns_where_the_centre_is():
    """The gradient that comes through the sampling moves the heat map: a spot off the centre."""
    torch.manual_seed(0)
    model = PTN(P1, **SMALL, origin_noise=0.0, images=Images(classes=2)).double()
    x = torch.cat([spot(0.3, 0.2, 28), spot(-0.2, 0.4, 28)]).repeat(4, 1, 1, 1)
    labels = torch.tensor([0, 1]).repeat(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert all((p.grad != 0).any() for p in model.parameters())
    assert model.origin(model.predictor(x)).abs().max() > 1e-4


# --- moves, copies, wrong input ------------------------------------------------------------------


def test_it_runs_under_autocast_with_an_origin_in_float32():
    model, seen = lived_in(PTN(P1, **SMALL)), []
    model.polar.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images().float())
    assert seen == [torch.float32] and logits.isfinite().all()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"strides": [1, 2]}, "widths lists the channels .* found 8 and 2"),
        ({"predictor_widths": []}, "predictor_widths .* found 0 and 3"),
        ({"origin_noise": -1.0}, "origin_noise is a number of pixels"),
        ({"radii": 1}, "angles and radii: 28, 1 found, expected integers of at least 2"),
        ({"angles": 0}, "angles and radii: 0, 28 found, expected integers of at least 2"),
        ({"strides": [0] * 8}, "strides and predictor_strides: 0, 0"),
        ({"images": Images(size=1)}, "image size: 1 found"),
    ],
)
def test_a_wrong_argument_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        PTN(P1, **wrong)
