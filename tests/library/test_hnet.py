"""Harmonic networks: complex maps whose phase turns with the image."""

import copy
from math import pi

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from pdoe import PointGroup, equivariance_error, equivariance_report
from pdoe.equivariance.action import rotate
from pdoe.equivariance.angles import smooth_field
from pdoe.models import HNet, Images, Norm
from pdoe.models.harmonic_layers import (
    HarmonicConv,
    HarmonicNorm,
    HarmonicReLU,
    SumOfMagnitudes,
    harmonic,
)
from pdoe.models.pooling import MeanPool
from pdoe.run.optimizer import group_parameters

pytestmark = pytest.mark.usefixtures("one_thread")


def as_complex(z):
    """[B, C, M + 1, 2, H, W] -> complex [B, C, M + 1, H, W]."""
    return torch.complex(*z.unbind(3))


def as_map(z):
    return torch.stack([z.real, z.imag], 3)


def turned(z, quarters):
    """Order m of a complex map, turned and multiplied by i^m for every quarter; an image turned."""
    if z.ndim == 6:
        powers = torch.tensor([1, 1j, -1, -1j])[quarters * torch.arange(z.shape[2]) % 4]
        z = as_map(as_complex(z) * powers[:, None, None])
    return torch.rot90(z, quarters, (-2, -1))


def some_map(channels=3, max_order=1, size=8, batch=2):
    return torch.randn(batch, channels, max_order + 1, 2, size, size, dtype=torch.float64)


def settled(net, size=28):
    """In float64 and evaluation mode, no parameter or statistic left at its default."""
    net = net.double().train()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.3, 0.3)
    with torch.no_grad():
        net(torch.randn(8, net.trunk[0].in_channels, size, size, dtype=torch.float64))
    return net.eval()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("size, rings", [(3, 2), (5, 4), (7, 4)])
def test_a_filter_turned_by_a_quarter_is_itself_times_a_power_of_i(order, size, rings):
    filters = harmonic(order, size, rings)
    for quarters in range(1, 4):  # W(q) with q turned forth is the filter turned back
        back = np.rot90(filters, -quarters, (1, 2))
        np.testing.assert_allclose(back, 1j ** (order * quarters) * filters, rtol=0, atol=1e-12)
    np.testing.assert_allclose(filters[:, ::-1], filters.conj(), rtol=0, atol=1e-12)  # y to -y
    np.testing.assert_allclose((abs(filters) ** 2).sum((1, 2)), 1, rtol=1e-12)
    assert np.linalg.matrix_rank(filters.reshape(rings, -1)) == rings


@pytest.mark.parametrize("order", range(1, 3))
def test_the_phase_of_a_filter_is_its_order_times_the_angle(order):
    x, y = np.arange(5) - 2, 2 - np.arange(5)[:, None]
    for found in harmonic(order, 5, 4):
        strong = abs(found) > 0.2
        direction = np.exp(1j * order * np.arctan2(y + 0 * x, x + 0 * y))
        assert abs(found / abs(found) - direction)[strong].max() < 0.3
        assert strong.sum() >= 4


@pytest.mark.parametrize("max_order", [1, 2])
@pytest.mark.parametrize("phase", [True, False])
def test_a_convolution_adds_the_orders_up(max_order, phase):
    """Written with complex numbers, order by order."""
    conv = HarmonicConv(3, 2, max_order, max_order, phase=phase).double()
    orders = max_order + 1
    filters = np.stack([harmonic(d, 5, 4) for d in range(orders)])
    kernels = torch.einsum("oidj,djyx->doiyx", conv.weight.to(torch.cdouble), torch.tensor(filters))
    if phase:
        turns = torch.exp(1j * conv.phase.view(2, 3, orders)).movedim(-1, 0)
        kernels = kernels * turns[..., None, None]
    z = some_map(3, max_order)
    planes = as_complex(z)
    expected = []
    for n in range(orders):
        total = 0
        for m in range(orders):
            kernel = kernels[n - m] if n >= m else kernels[m - n].conj()
            total = total + nn.functional.conv2d(planes[:, :, m], kernel, padding=2)
        expected.append(total)
    found = as_complex(conv(z))
    torch.testing.assert_close(found, torch.stack(expected, 2), rtol=0, atol=1e-12)


def test_an_image_is_a_map_of_order_0_without_an_imaginary_part():
    lift, conv = HarmonicConv(2, 3, None).double(), HarmonicConv(2, 3, 0).double()
    conv.load_state_dict(lift.state_dict())
    image = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    z = torch.stack([image, torch.zeros_like(image)], 2)[:, :, None]
    torch.testing.assert_close(lift(image), conv(z), rtol=0, atol=1e-12)


# --- symmetry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("max_order", [0, 1, 2])
def test_every_layer_turns_an_order_m_map_and_multiplies_it_by_a_power_of_i(max_order, quarters):
    image, z = torch.randn(2, 3, 8, 8, dtype=torch.float64), some_map(3, max_order)
    relu, norm = HarmonicReLU(3, max_order), HarmonicNorm(3, max_order)
    nn.init.normal_(relu.bias)
    nn.init.normal_(norm.norm.bias)
    for layer, given in [
        (HarmonicConv(3, 2, None, max_order), image),
        (HarmonicConv(3, 2, max_order, max_order), z),
        (HarmonicConv(3, 2, max_order, 3, phase=False), z),
        (relu, z),
        (norm, z),
        (copy.deepcopy(norm).eval(), z),
        (MeanPool(), z),
        (SumOfMagnitudes(), z),
    ]:
        layer.double()
        found, expected = layer(turned(given, quarters)), turned(layer(given), quarters)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degrees", [20, 45, 70])
def test_between_quarter_turns_the_phase_turns_by_the_angle_too_approximately(degrees):
    angle = degrees * pi / 180
    layers = nn.Sequential(HarmonicConv(1, 4, None, 2), HarmonicConv(4, 4, 2, 2)).double()
    with torch.no_grad():
        still, found = (as_complex(layers(smooth_field(41, a, batch=4))) for a in (0.0, angle))
    for m in range(3):
        places = (
            rotate(part[:, :, m], angle)[..., 8:-8, 8:-8] for part in (still.real, still.imag)
        )
        expected, moved = torch.complex(*places), found[:, :, m, 8:-8, 8:-8]
        errors = {k: relative(moved, np.exp(1j * k * angle) * expected) for k in range(-2, 4)}
        assert errors[m] == min(errors.values()) < 0.5


@pytest.mark.parametrize("size, options", [(28, {}), (12, {"max_order": 2, "rings": 2})])
def test_maps_and_logits_of_the_network_are_exact_under_quarter_turns(size, options):
    group = PointGroup(4)
    net = settled(HNet(group, **options), size)
    still = torch.randn(2, 1, size, size, dtype=torch.float64)
    quarter = torch.rot90(still, 1, (-2, -1))
    x = still
    with torch.no_grad():
        for layer in net.trunk:
            still, quarter = layer(still), layer(quarter)
            assert relative(quarter, turned(still, 1)) < 1e-12
    assert still.shape == (2, 10, 1, size // 4, size // 4)
    assert max(equivariance_error(net, group, x).values()) < 1e-12
    assert equivariance_report(net, group, x).first_broken is None


def test_the_logits_hardly_change_under_any_turn():
    net = settled(HNet(PointGroup(4)))
    with torch.no_grad():
        still, other = net(smooth_field(28, batch=8)), net(smooth_field(28, batch=8, seed=1))
        for angle in (0.2, 0.5, pi / 4):
            error = relative(net(smooth_field(28, angle, batch=8)), still)
            assert error < 0.2 * relative(other, still)


# --- parameters and gradients --------------------------------------------------------------------


def test_the_network_has_the_parameters_that_the_published_code_uses():
    """4 radii and a phase for the orders 0 and 1, a bias or a gain and a shift for each map."""
    pairs = [1 * 8, 8 * 8, 8 * 16, 16 * 16, 16 * 32, 32 * 32]
    maps = [2 * 8, 2 * 16, 2 * 32]
    expected = 2 * (4 + 1) * sum(pairs) + 3 * sum(maps) + 2 * 4 * 32 * 10 + 10
    assert sum(p.numel() for p in HNet(PointGroup(4)).parameters()) == expected


def test_weight_decay_is_for_radial_profiles_alone():
    net = HNet(PointGroup(4))
    decayed, others = group_parameters(net, 0.1)
    weights = [m.weight for m in net.modules() if isinstance(m, HarmonicConv)]
    assert len(weights) == 7 and {id(p) for p in decayed["params"]} == {id(w) for w in weights}
    assert decayed["weight_decay"] == 0.1 and others["weight_decay"] == 0


def test_a_layer_of_initial_weights_keeps_the_mean_square_of_white_maps():
    for conv in (HarmonicConv(20, 30, None), HarmonicConv(20, 30, 1), HarmonicConv(20, 30, 2, 2)):
        in_order = conv.in_order
        shape = (4, 20, 24, 24) if in_order is None else (4, 20, in_order + 1, 2, 24, 24)
        z = torch.randn(shape) / (1 if in_order is None else 2**0.5)  # |z|^2 is 1 on average
        with torch.no_grad():
            inner = conv(z)[..., 2:-2, 2:-2]
        assert abs(inner.square().sum(3).mean() - 1) < 0.2


def test_gradients_are_finite_where_nothing_is_and_right_elsewhere():
    net = HNet(PointGroup(4), [2, 3, 4]).double()
    x = torch.zeros(2, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    z = some_map(2, 1, 2).requires_grad_()
    for layer in (HarmonicReLU(2), HarmonicNorm(2), SumOfMagnitudes()):
        assert gradcheck(layer.double(), z)
    conv = HarmonicConv(2, 1, 1, size=3, rings=2).double()
    assert gradcheck(lambda *_: conv(z.detach()), tuple(conv.parameters()))


def test_the_nonlinearities_change_lengths_alone():
    z, bias = some_map(3), torch.randn(6, dtype=torch.float64)
    relu = HarmonicReLU(3).double()
    with torch.no_grad():
        relu.bias.copy_(bias)
    plane, found = as_complex(z), as_complex(relu(z))
    expected = (plane.abs() + bias.view(3, 2, 1, 1)).relu() * plane / plane.abs()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    found = as_complex(HarmonicNorm(3, batch_norm=Norm(eps=1e-9)).double()(z))
    mean, std = plane.abs().mean((0, 3, 4)), plane.abs().std((0, 3, 4), correction=0)
    lengths = ((plane.abs() - mean[..., None, None]) / std[..., None, None]).relu()
    torch.testing.assert_close(found, lengths * plane / plane.abs(), rtol=1e-6, atol=1e-6)


def test_dropout_makes_whole_complex_numbers_0_in_training_alone():
    norm = HarmonicNorm(3, dropout=0.5).double()
    nn.init.constant_(norm.norm.bias, 5.0)  # nothing is 0 otherwise
    z = norm(some_map())
    gone = (z == 0).all(3)
    assert torch.equal(gone, (z == 0).any(3)) and 0.3 < gone.double().mean() < 0.7
    assert (norm.eval()(some_map()) != 0).all()
    wet = HNet(PointGroup(4), [3, 3], dropout=0.5)
    assert [m.p for m in wet.modules() if hasattr(m, "p")] == [0, 0.5]


# --- copies, types, wrong input ------------------------------------------------------------------


def test_reflections_are_refused_by_name():
    with pytest.raises(ValueError, match="not with the reflections of p4m: take p4"):
        HNet(PointGroup(4, reflections=True))


@pytest.mark.parametrize(
    "wrong",
    [{"widths": []}, {"size": 4}, {"rings": 0}, {"max_order": -1}, {"images": Images(size=3)}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_argument_raises_when_the_network_is_built(wrong):
    with pytest.raises(ValueError):
        HNet(PointGroup(4), **wrong)


def test_a_map_of_another_form_raises_and_names_the_expected_one():
    with pytest.raises(ValueError, match=r"an image \[B, 3, H, W\]"):
        HarmonicConv(3, 2, None)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"a complex map \[B, 3, 2, 2, H, W\]"):
        HarmonicConv(3, 2, 1)(torch.zeros(1, 3, 8, 8))
