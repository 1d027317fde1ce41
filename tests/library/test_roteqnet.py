"""RotEqNet: filters resampled at every angle, and vector fields that turn with the image."""

import copy
from math import pi

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from pdoe import LiftingConv, PointGroup, equivariance_error, filter_bank
from pdoe.data.augmentation import rotate
from pdoe.equivariance.angles import smooth_field
from pdoe.models import Images, RotEqNet
from pdoe.models.roteqnet import OrientationPool, VectorConv, VectorNorm, VectorPool

pytestmark = pytest.mark.usefixtures("one_thread")


def turned(x, quarters):
    """A vector map [B, C, 2, H, W] turned: its places and its vectors (right, up)."""
    x = torch.rot90(x, quarters, (-2, -1))
    for _ in range(quarters):
        right, up = x.unbind(2)
        x = torch.stack([-up, right], 2)
    return x


def moved(x, quarters, group):
    """An image or a lifted map turned, its orientations n / 4 further for every quarter."""
    x = torch.rot90(x, quarters, (-2, -1))
    return x.roll(quarters * group.n // 4, 2) if x.ndim == 5 else x


def vectors(batch=2, channels=3, size=8):
    return torch.randn(batch, channels, 2, size, size, dtype=torch.float64)


def settled(net, size=28):
    """In float64 and evaluation mode, no parameter or statistic left at its default.

    Biases are negative: a response to nothing is then no vector.
    """
    net = net.double().train()
    for module in net.modules():
        if isinstance(module, LiftingConv | VectorConv):
            nn.init.uniform_(module.bias, -0.2, -0.1)
        if isinstance(module, VectorNorm):
            nn.init.uniform_(module.gain, 0.5, 1.5)
    channels = net.trunk[0].in_channels
    with torch.no_grad():
        net(torch.randn(8, channels, size, size, dtype=torch.float64))
    return net.eval()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# --- the bank ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 4, 5, 9])
@pytest.mark.parametrize("name, offset", [("p17", 0.0), ("p8", pi / 8), ("p6", -0.3)])
def test_the_bank_turns_the_pixels_of_a_disk_as_bilinear_interpolation_turns_images(
    name, offset, size
):
    group = PointGroup.named(name)
    places = np.arange(size) - (size - 1) / 2
    inside = torch.from_numpy(np.hypot(*np.meshgrid(places, places)) < size / 2)
    pixels = torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size) * inside
    bank = filter_bank(group, "bilinear", size, offset)
    for g in range(group.n):
        angle = torch.full((size * size,), 2 * pi * g / group.n + offset, dtype=torch.float64)
        expected = rotate(pixels, angle)[:, 0]
        np.testing.assert_allclose(bank[g], expected, rtol=0, atol=1e-12)


def test_sixty_nine_pixels_of_nine_by_nine_have_an_effect_and_all_of_three_by_three():
    for size, count in ((3, 9), (5, 21), (9, 69)):
        identity = filter_bank(PointGroup(1), "bilinear", size)[0].reshape(size * size, -1)
        assert identity.trace() == identity.sum() == count


@pytest.mark.parametrize("name", ["p4", "p8", "p12", "p16", "p4m", "p8m"])
def test_a_quarter_turn_turns_every_filter_exactly_and_a_reflection_mirrors_it(name):
    group = PointGroup.named(name)
    bank = filter_bank(group, "bilinear", 9)
    further = group.product.numpy()[group.n // 4]
    np.testing.assert_allclose(bank[further], np.rot90(bank, 1, (2, 3)), rtol=0, atol=1e-12)
    for g in range(group.n, len(group)):  # R(a) F = F R(-a)
        mirrored = bank[(2 * group.n - g) % group.n][:, ::-1]
        np.testing.assert_allclose(bank[g], mirrored, rtol=0, atol=1e-12)


# --- layers --------------------------------------------------------------------------------------


def test_a_turned_vector_filter_has_its_places_and_its_vectors_turned():
    group = PointGroup(5)
    conv = VectorConv(group, 2, 3, "bilinear", size=5, dtype=torch.float64)
    kernel = conv.kernel().view(3, 5, 2, 2, 5, 5)
    for g in range(5):
        c, s = np.cos(2 * pi * g / 5), np.sin(2 * pi * g / 5)
        bank = torch.from_numpy(filter_bank(group, "bilinear", 5)[g])
        right, up = torch.einsum("oibk,kyx->boiyx", conv.weight, bank)
        expected = torch.stack([c * right - s * up, s * right + c * up], 2)
        torch.testing.assert_close(kernel[:, g], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [4, 8, 16])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_of_a_vector_map_turns_the_responses_exactly(n, quarters):
    group = PointGroup(n)
    conv = VectorConv(group, 3, 2, "bilinear", size=5, bias=True, dtype=torch.float64)
    nn.init.normal_(conv.bias)
    x = vectors()
    found, expected = conv(turned(x, quarters)), moved(conv(x), quarters, group)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [4, 12, 16])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_orientation_pooling_makes_turned_responses_turned_vectors(n, quarters):
    group = PointGroup(n)
    pool = OrientationPool(group).double()
    x = torch.randn(2, 3, n, 6, 6, dtype=torch.float64)
    found, expected = pool(moved(x, quarters, group)), turned(pool(x), quarters)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_vector_of_a_pixel_is_its_strongest_response_at_its_angle():
    pool = OrientationPool(PointGroup(17)).double()
    x = torch.randn(1, 1, 17, 3, 3, dtype=torch.float64)
    x[..., 1] -= 9
    found = pool(x)
    for i in range(3):
        for j in range(3):
            responses = x[0, 0, :, i, j].tolist()
            g = int(np.argmax(responses))
            rho = max(0.0, responses[g])
            expected = [rho * np.cos(2 * pi * g / 17), rho * np.sin(2 * pi * g / 17)]
            np.testing.assert_allclose(found[0, 0, :, i, j], expected, rtol=0, atol=1e-12)
    assert (found == 0).any() and (found != 0).any()


def test_the_gradient_of_orientation_pooling_goes_to_the_strongest_response_alone():
    pool = OrientationPool(PointGroup(5)).double()
    x = torch.randn(2, 3, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(pool, x)
    pool(x).square().sum().backward()  # of rho^2
    expected = torch.where(x == x.amax(2, keepdim=True), 2 * x.relu(), 0.0)
    torch.testing.assert_close(x.grad, expected.detach(), rtol=0, atol=1e-12)


def test_orientation_pooling_keeps_no_map_of_all_orientations_for_the_backward_pass():
    x = torch.randn(2, 3, 16, 8, 8, requires_grad=True) * 1
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, id):
        OrientationPool(PointGroup(16))(x)
    assert kept and max(kept) <= x.numel() // 16


@pytest.mark.parametrize("size", [6, 7])
def test_vector_pooling_takes_the_longest_of_four_and_its_gradient(size):
    x = vectors(2, 3, size).requires_grad_()
    found = VectorPool()(x)
    assert found.shape == (2, 3, 2, 3, 3)
    for i in range(3):
        for j in range(3):
            four = x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(-2)
            longest = four.norm(dim=2).argmax(-1)[..., None, None].expand(-1, -1, 2, -1)
            assert torch.equal(found[..., i, j], four.gather(-1, longest)[..., 0])
    assert gradcheck(VectorPool(), x)


def test_vector_pooling_and_norm_turn_with_their_input_exactly():
    x = vectors(4, 3, 6)
    norm = VectorNorm(3).double()
    nn.init.uniform_(norm.gain, 0.5, 1.5)
    for layer in (VectorPool(), norm, copy.deepcopy(norm).eval()):
        for quarters in (1, 2, 3):
            found, expected = layer(turned(x, quarters)), turned(layer(x), quarters)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_norm_divides_by_the_root_mean_square_and_turns_no_vector():
    x, norm = 5 * vectors(4, 3, 6) + 2, VectorNorm(3, eps=1e-9, momentum=0.25).double()
    nn.init.constant_(norm.gain, 1.5)
    square = x.square().mean((0, 2, 3, 4))
    expected = 1.5 * x / square.sqrt()[:, None, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(norm.running_square, 0.75 + 0.25 * square)
    norm.eval()
    expected = 1.5 * x / (0.75 + 0.25 * square).sqrt()[:, None, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-8, atol=0)
    assert gradcheck(VectorNorm(3).double().train(), vectors(2, 3, 2).requires_grad_())


# --- the network ---------------------------------------------------------------------------------


def test_the_network_has_the_parameters_of_the_published_layout():
    net = RotEqNet(PointGroup(17))
    trunk, head = (sum(p.numel() for p in part.parameters()) for part in (net.trunk, net.head))
    assert trunk == 6 * (81 + 1) + 6 + 16 * (2 * 81 * 6 + 1) + 16 + 32 * (2 * 81 * 16 + 1)
    assert head == 128 * (32 + 1) + 2 * 128 + 10 * (128 + 1)


@pytest.mark.parametrize("n", [4, 8, 16])
def test_a_quarter_turn_turns_every_vector_map_exactly_and_leaves_the_logits(n):
    group = PointGroup(n)
    net = settled(RotEqNet(group))
    sizes = []
    with torch.no_grad():
        for quarters in (1, 2, 3):
            still = torch.randn(2, 1, 28, 28, dtype=torch.float64)
            quarter = torch.rot90(still, quarters, (-2, -1))
            for layer in net.trunk:
                still, quarter = layer(still), layer(quarter)
                lifted = isinstance(layer, LiftingConv | VectorConv)
                expected = moved(still, quarters, group) if lifted else turned(still, quarters)
                assert relative(quarter, expected) < 1e-12
                sizes.append(still.shape[-1])
            assert relative(net.head(quarter), net.head(still)) < 1e-12
    assert sizes[: len(sizes) // 3] == [28, 28, 14, 14, 14, 14, 7, 7, 1]


def test_more_angles_commute_better_off_the_grid_and_seventeen_lack_the_quarter_turn():
    def errors(n):
        net = settled(RotEqNet(PointGroup(n)))
        still, *turns = (net(smooth_field(28, a, batch=4)) for a in (0.0, pi / 2, 0.3, pi / 4))
        return [relative(y, still) for y in turns]

    with torch.no_grad():
        few, many = errors(4), errors(17)
    assert few[0] < 1e-12 and many[0] > 1e-6
    assert max(many[1:]) < 0.8 * min(few[1:])


def test_equal_responses_are_no_direction_so_a_positive_bias_on_black_breaks_exactness():
    group = PointGroup(8)
    net = settled(RotEqNet(group))
    x = torch.zeros(1, 1, 28, 28, dtype=torch.float64)
    x[..., 4:20, 6:24] = torch.rand(16, 18, dtype=torch.float64)
    assert max(equivariance_error(net, group, x).values()) < 1e-12
    nn.init.constant_(net.trunk[0].bias, 0.1)
    assert max(equivariance_error(net, group, x).values()) > 1e-6


# --- copies, types, wrong input ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p1", "p2", "p4m", "p16m"])
def test_reflections_and_fewer_than_three_angles_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"at least 3 rotations and no reflections.*not {name}"):
        RotEqNet(PointGroup.named(name))


@pytest.mark.parametrize("wrong", [{"widths": [6, 16]}, {"images": Images(size=24)}, {"size": 11}])
def test_a_wrong_argument_raises_when_the_network_is_built(wrong):
    with pytest.raises(ValueError):
        RotEqNet(PointGroup(17), **wrong)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (VectorConv(PointGroup(4), 3, 2, "bilinear"), (1, 3, 4, 8, 8)),
        (VectorConv(PointGroup(4), 3, 2, "bilinear"), (1, 6, 8, 8)),
        (OrientationPool(PointGroup(4)), (1, 3, 8, 8, 8)),
    ],
)
def test_a_map_of_another_form_raises_and_names_the_expected_one(layer, shape):
    with pytest.raises(ValueError, match="expects a (vector|lifted) map"):
        layer(torch.zeros(shape))
