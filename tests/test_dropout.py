"""Dropout with cheap masks is dropout."""

import pytest
import torch

from pdoe.layers import Dropout


@pytest.mark.parametrize("p", [0.2, 0.3, 0.5, 0.999])
def test_elements_are_dropped_with_their_probability_and_the_rest_is_scaled(p):
    n = 1_000_001  # no multiple of four
    y = Dropout(p)(torch.ones(n, dtype=torch.float64))
    kept = y[y != 0]
    share = 1 - len(kept) / n
    assert abs(share - p) < 6 * (p * (1 - p) / n) ** 0.5 + 2**-16
    assert kept.max() == kept.min()
    assert abs(kept[0].item() * (1 - p) - 1) < 2**-16 / (1 - p)


def test_elements_are_dropped_independently_of_their_neighbours():
    mask = (Dropout(0.5)(torch.ones(1_000_000)) != 0).double() - 0.5
    for shift in (1, 2, 3, 4, 5):
        assert (mask[shift:] * mask[:-shift]).mean().abs() < 0.002
    assert all(abs(mask[i::4].mean()) < 0.005 for i in range(4))


def test_the_gradient_takes_the_same_mask():
    x = torch.ones(3, 4, 5, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_a_seed_gives_the_same_mask_again():
    def draw():
        torch.manual_seed(1)
        return Dropout(0.5)(torch.ones(100))

    assert torch.equal(draw(), draw())


def test_in_evaluation_nothing_is_dropped():
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_and_shape_stay(dtype):
    y = Dropout(0.5)(torch.ones(2, 3, 4, 5, 6, dtype=dtype))
    assert y.dtype == dtype and y.shape == (2, 3, 4, 5, 6)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_probability_that_is_none_is_refused(p):
    with pytest.raises(ValueError, match="probability"):
        Dropout(p)
