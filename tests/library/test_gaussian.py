"""Bank ``gaussian``: moments of a Gaussian's derivatives, and turns that cost less than before."""

from math import perm, pi, sqrt

import numpy as np
import pytest
import torch

from pdoe import (
    GroupConv,
    LiftingConv,
    PointGroup,
    convergence_order,
    equivariance_curve,
    equivariance_error,
    filter_bank,
)
from pdoe.banks import OPERATORS
from pdoe.banks.gaussian import SIGMA, gaussian_taps
from pdoe.equivariance.angles import smooth_field
from pdoe.models import PlainCNN, ResNet

pytestmark = pytest.mark.usefixtures("one_thread")

P8 = PointGroup(8)


def grid(size):
    """Coordinates of the pixels, x right and y up."""
    points = np.arange(size) - (size - 1) / 2
    return np.meshgrid(points, -points)


def coefficients(bank):
    """A bank of pixels as one of operators: a pixel at s is the sum of s^n / n! over operators."""
    shifts = [(x, -y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    change = [[x**i / max(1, i) * y**j / max(1, j) for i, j in OPERATORS] for x, y in shifts]
    return np.einsum("kp,gpyx->gkyx", np.linalg.inv(change), bank)


# --- taps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, width", [(5, 0.3), (5, SIGMA), (5, 0.8), (7, 0.9), (9, 1.1)])
def test_taps_have_the_moments_of_the_derivatives_of_a_gaussian(size, width):
    """Integrated by Gauss-Hermite quadrature, exact for polynomials of degree 39."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    points = np.arange(size) - (size - 1) / 2
    taps = gaussian_taps(size, width)
    assert taps.shape == (5, size)
    for n in range(5):
        for m in range(size):
            expected = perm(m, n) * weights @ (width * nodes) ** max(0, m - n) if m >= n else 0
            assert taps[n] @ points**m == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_a_width_near_nothing_leaves_central_differences_of_the_highest_order():
    taps = gaussian_taps(5, 1e-9)
    np.testing.assert_allclose(taps[0], [0, 0, 1, 0, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(12 * taps[1], [1, -8, 0, 8, -1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(12 * taps[2], [-1, 16, -30, 16, -1], rtol=0, atol=1e-12)


def test_the_default_width_gives_the_third_difference_the_gaussians_fifth_moment():
    """Why it is the default: the errors of derivatives 0 to 3 are then the same in all frames."""
    points, taps = np.arange(-2, 3.0), gaussian_taps(5, SIGMA)
    for n in range(4):
        assert taps[n] @ points ** (n + 2) == pytest.approx(perm(n + 2, n) * SIGMA**2, rel=1e-12)
    assert taps[4] @ points**6 != pytest.approx(perm(6, 4) * SIGMA**2, rel=0.1)


@pytest.mark.parametrize("size", [5, 7, 9, 11, 13])
def test_smoothing_leaves_of_every_wave_nearly_what_a_gaussian_leaves(size):
    points, waves = np.arange(size) - size // 2, np.linspace(0, pi, 30)
    for width in np.linspace(0.1, 1, 10) * 0.4 * sqrt(size - 1):
        left = np.cos(np.outer(waves, points)) @ gaussian_taps(size, width)[0]
        assert np.abs(left - np.exp(-((width * waves) ** 2) / 2)).max() < 0.18
        assert left[0] == pytest.approx(1, abs=1e-12)


# --- the bank ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, offset", [("p4", 0.0), ("p8", pi / 8), ("p6", 0.3), ("p6m", 0.0)])
def test_operators_differentiate_polynomials_of_one_degree_more_along_the_frame(name, offset):
    """Of u^a v^b up to degree i + j + 1, operator (i, j) makes i! j! for its own, else 0."""
    group = PointGroup.named(name)
    x, y = grid(5)
    c, s = np.cos(offset), np.sin(offset)
    for matrix, bank in zip(
        group.matrices.numpy(), coefficients(filter_bank(group, "gaussian", offset=offset)),
        strict=True,
    ):  # fmt: skip
        axes = matrix @ np.array([[c, -s], [s, c]])
        u, v = axes[0, 0] * x + axes[1, 0] * y, axes[0, 1] * x + axes[1, 1] * y
        for k, (i, j) in enumerate(OPERATORS):
            for a in range(i + j + 2):
                for b in range(i + j + 2 - a):
                    found = (bank[k] * u**a * v**b).sum()
                    expected = perm(i, i) * perm(j, j) if (a, b) == (i, j) else 0
                    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, pi / 8, 0.3])
@pytest.mark.parametrize("name", ["p1m", "p2", "p3m", "p4", "p4m", "p6m", "p8", "p12", "p8m"])
def test_elements_that_keep_the_grid_move_the_kernels_of_all_others(name, offset, by_matrices):
    group = PointGroup.named(name)
    bank, product = filter_bank(group, "gaussian", offset=offset), np.asarray(group.product)
    assert bank.shape == (len(group), 9, 5, 5) and bank.dtype == np.float64
    for g in by_matrices.keepers(group):
        expected = by_matrices.moved(group, g, bank)
        np.testing.assert_allclose(bank[product[g]], expected, rtol=0, atol=1e-12)


def test_the_kernel_at_the_identity_is_smoothed_where_that_of_operators_is_the_weight():
    """A pixel of the reference frame: its kernel keeps the pixel's sum and its centre of mass."""
    bank = filter_bank(P8, "gaussian")[0]
    x, y = grid(5)
    for pixel, kernel in enumerate(bank):
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        assert (kernel * x).sum() == pytest.approx(pixel % 3 - 1, abs=1e-12)
        assert (kernel * y).sum() == pytest.approx(1 - pixel // 3, abs=1e-12)


# --- how well it turns ---------------------------------------------------------------------------


def layers(bank, count=1, **options):
    torch.manual_seed(1)
    lift = LiftingConv(P8, 1, 3, bank, **options, dtype=torch.float64)
    more = [
        GroupConv(P8, 3, 3, bank, **options, dtype=torch.float64) for _ in range(count - 1)
    ]  # fmt: skip
    return [lift, *more]


@pytest.mark.parametrize("size, order", [(5, 2), (7, 4), (9, 6)])
def test_the_error_of_a_turn_off_the_grid_is_of_order_k_minus_3_in_the_pixel_spacing(size, order):
    found = convergence_order(layers("gaussian", size=size), pi / 4, spacings=(1, 1 / 2, 1 / 4))
    assert found.order == pytest.approx(order, abs=0.25) and found.residual < 0.2


def test_two_layers_converge_as_one_does():
    found = convergence_order(layers("gaussian", 2), pi / 4)
    assert found.order == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("count", [1, 3])
def test_it_turns_smooth_images_better_than_central_differences(count):
    def error(bank):
        model = torch.nn.Sequential(*layers(bank, count))
        return equivariance_curve(model, P8, lambda a: smooth_field(28, a, batch=2), [45])[45]

    assert error("gaussian") < error("operators") / 5


@pytest.mark.parametrize("offset", [0.0, pi / 8])
def test_layers_commute_exactly_with_quarter_turns_in_float64_and_stay_pixels(offset):
    model = torch.nn.Sequential(*layers("gaussian", 2, offset=offset))
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    assert max(equivariance_error(model, P8, x).values()) < 1e-12
    assert [conv.weight.shape[-1] for conv in model] == [9, 9]
    assert set(model.state_dict()) == {"0.weight", "1.weight"}


# --- width and size ------------------------------------------------------------------------------


def test_the_width_reaches_the_kernel_of_a_layer_and_of_every_layer_of_a_network():
    layer = LiftingConv(P8, 1, 2, "gaussian", bank_width=0.5).double()
    expected = filter_bank(P8, "gaussian", bank_width=0.5)
    np.testing.assert_array_equal(layer.bank.numpy(), expected)
    assert np.abs(expected - filter_bank(P8, "gaussian")).max() > 0.1
    assert "bank_width=0.5" in repr(layer)
    options = dict(bank="gaussian", bank_width=0.5)
    for net in (
        PlainCNN(P8, [2] * 6, **options),
        ResNet(P8, 8, [2, 2, 2], **options),
        ResNet(P8, 11, [4, 4, 4], block="bottleneck", **options),
    ):
        found = {
            conv.bank_width
            for conv in net.modules()
            if isinstance(conv, LiftingConv | GroupConv) and conv.bank_kind == "gaussian"
        }
        assert found == {0.5}


def test_no_width_is_the_square_root_of_a_half():
    default = filter_bank(P8, "gaussian")
    np.testing.assert_array_equal(default, filter_bank(P8, "gaussian", bank_width=sqrt(0.5)))


@pytest.mark.parametrize("kind", ["operators", "pixels", "ring", "point"])
def test_other_banks_refuse_a_width(kind):
    with pytest.raises(ValueError, match=f"bank_width.*Gaussian.*{kind}"):
        filter_bank(PointGroup(4), kind, bank_width=0.7)


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf"), "0.7", True])
def test_a_width_that_is_no_positive_number_raises(width):
    with pytest.raises((ValueError, TypeError), match="bank_width is a positive number") as failure:
        filter_bank(P8, "gaussian", bank_width=width)
    assert str(width) in str(failure.value)


@pytest.mark.parametrize("size", [1, 3, 4, 6])
def test_sizes_too_small_or_even_raise(size):
    with pytest.raises(ValueError, match=f"odd size of at least 5.*not {size}"):
        filter_bank(P8, "gaussian", size=size)


@pytest.mark.parametrize("size, width, enough", [(5, 0.81, 7), (5, 1.2, 11), (7, 1.0, 9)])
def test_a_width_that_does_not_fit_the_size_raises_and_names_one_that_does(size, width, enough):
    with pytest.raises(ValueError, match=f"give a smaller bank_width, or size {enough}$"):
        filter_bank(P8, "gaussian", size=size, bank_width=width)
    assert filter_bank(P8, "gaussian", size=enough, bank_width=width).shape[-1] == enough
    assert filter_bank(P8, "gaussian", bank_width=0.8).shape[-1] == 5


@pytest.mark.parametrize("size", [13, 21, 31])
def test_large_kernels_lose_no_digits(size):
    taps = gaussian_taps(size, 1.3)
    assert np.array_equal(taps[::2], taps[::2, ::-1]) and np.array_equal(
        taps[1::2], -taps[1::2, ::-1]
    )
    layer = LiftingConv(P8, 1, 2, bank="gaussian", size=size, bank_width=1.3, dtype=torch.float64)
    x = torch.randn(1, 1, size + 2, size + 2, dtype=torch.float64)
    assert max(equivariance_error(layer, P8, x).values()) < 1e-12
