"""All 15 operators up to order 4: orthonormal on average, rotated without loss."""

import math

import numpy as np
import pytest
import torch

from pdoe import GroupConv, LiftingConv, PointGroup, filter_bank
from pdoe.banks import JET, stencil

KINDS = ("operators15", "gaussian15")


@pytest.mark.parametrize("kind", KINDS)
def test_the_filters_span_all_derivatives_and_are_orthonormal_on_average_over_frames(kind):
    bank = filter_bank(PointGroup(16), kind, offset=0.1).reshape(16, 15, -1)
    products = (bank @ bank.transpose(0, 2, 1)).mean(0)
    np.testing.assert_allclose(products, np.eye(15), atol=1e-9)
    if kind == "operators15":
        derivatives = np.stack([stencil(i, j).ravel() for i, j in JET])
        projected = derivatives @ np.linalg.pinv(bank[3]) @ bank[3]
        np.testing.assert_allclose(projected, derivatives, atol=1e-9)


@pytest.mark.parametrize("size", [5, 7])
def test_a_filter_sees_a_rotated_polynomial_as_its_reference_sees_the_polynomial(size):
    """Exact up to degree 4, for any frame: the moments of the Gaussian are exact."""
    group, offset, half = PointGroup(5), 0.3, size // 2
    bank = filter_bank(group, "gaussian15", size, offset)
    reference = filter_bank(PointGroup(1), "gaussian15", size)[0]
    y, x = np.mgrid[half : -half - 1 : -1, -half : half + 1].astype(float)
    for g, matrix in enumerate(group.matrices.numpy()):
        frame = matrix @ [[math.cos(offset), -math.sin(offset)],
                          [math.sin(offset), math.cos(offset)]]  # fmt: skip
        u, v = frame[0, 0] * x + frame[0, 1] * y, frame[1, 0] * x + frame[1, 1] * y
        for i, j in JET:
            found = (bank[g] * (x**i * y**j)).sum((1, 2))
            np.testing.assert_allclose(found, (reference * (u**i * v**j)).sum((1, 2)), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_of_an_element_further_is_that_of_a_larger_offset(kind):
    group = PointGroup(6)
    further = filter_bank(group, kind, offset=0.2 + math.pi / 3)
    expected = np.roll(filter_bank(group, kind, offset=0.2), -1, 0)
    np.testing.assert_allclose(further, expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_commute_with_quarter_turns_and_learn(kind):
    torch.manual_seed(0)
    group = PointGroup(8)
    lift = LiftingConv(group, 1, 2, kind, offset=0.3, dtype=torch.float64)
    conv = GroupConv(group, 2, 2, kind, offset=0.3, dtype=torch.float64)
    assert tuple(conv.weight.shape) == (2, 2, 8, 15)
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    y, rotated = conv(lift(x)), conv(lift(x.rot90(1, (-2, -1))))
    assert (y.rot90(1, (-2, -1)).roll(2, 2) - rotated).abs().max() < 1e-9
    y.square().sum().backward()
    assert lift.weight.grad.abs().min() > 0 and conv.weight.grad.abs().min() > 0
    wide = GroupConv(PointGroup(16), 4, 8, kind, padding=0)  # initial weights double the variance
    assert wide(torch.randn(2, 4, 16, 12, 12)).var().item() == pytest.approx(2, rel=0.25)


def test_what_the_banks_do_not_have_is_refused():
    with pytest.raises(ValueError, match="has 5x5 filters, not 7x7"):
        filter_bank(PointGroup(8), "operators15", 7)
    with pytest.raises(ValueError, match="bank 'gaussian15' has an odd size of at least 5"):
        filter_bank(PointGroup(8), "gaussian15", 4)
    with pytest.raises(ValueError, match="does not fit into 5x5 pixels"):
        filter_bank(PointGroup(8), "gaussian15", bank_width=2.0)
    with pytest.raises(ValueError, match="bank_width belongs to"):
        filter_bank(PointGroup(8), "operators15", bank_width=0.7)
