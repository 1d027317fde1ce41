"""What is faster on a CPU does what torch does: dropout, pooling, convolution (and test_layers)."""

import pytest
import torch
import torch.nn.functional as F

from pdoe import PointGroup
from pdoe.cpu import Dropout, MaxPool, conv2d
from pdoe.models import PlainCNN

# --- dropout -------------------------------------------------------------------------------------


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


# --- pooling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (2, 3, 7, 5), (2, 3, 4, 7, 6), (1, 1, 1, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strided", [False, True])
def test_it_is_the_pooling_of_torch_and_so_is_its_gradient(shape, dtype, strided):
    x = torch.randn(shape, dtype=dtype)
    if strided:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x.requires_grad_()
    planar = x.flatten(1, -3)
    expected = F.max_pool2d(planar, 2).unflatten(1, x.shape[1:-2])
    found = MaxPool()(x)
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(MaxPool()(x), expected)
    gradient = torch.randn_like(expected)
    assert torch.equal(
        *(torch.autograd.grad(y, x, gradient, retain_graph=True)[0] for y in (found, expected))
    )


def test_of_equal_numbers_one_has_the_gradient():
    x = torch.zeros(1, 1, 2, 4, requires_grad=True)
    MaxPool()(x).backward(torch.tensor([[[[2.0, 3.0]]]]))
    assert sorted(x.grad.flatten().tolist()) == [0, 0, 0, 0, 0, 0, 2, 3]


def test_what_is_not_a_number_stays_so():
    x = torch.randn(1, 1, 4, 4)
    x[..., 1, 2] = torch.nan
    for needs_gradient in (False, True):
        y = MaxPool()(x.clone().requires_grad_(needs_gradient))
        assert y.isnan().flatten().tolist() == [False, True, False, False]


def test_a_gradient_that_is_not_finite_stays_at_its_maximum():
    x = torch.arange(4.0).view(1, 1, 2, 2).requires_grad_()
    MaxPool()(x).backward(torch.tensor([[[[torch.inf]]]]))
    assert x.grad.flatten().tolist() == [0, 0, 0, torch.inf]


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 1, 6), (2, 3, 4, 6, 1), (1, 2, 3, 4, 4, 4)])
def test_maps_of_another_form_are_refused(shape):
    with pytest.raises(ValueError, match="MaxPool expects .* at least 2x2 pixels"):
        MaxPool()(torch.zeros(shape))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_a_network_is_traced_as_it_is():
    model = PlainCNN(PointGroup(4), [2, 2, 2], image_size=12).eval()
    x = torch.randn(2, 1, 12, 12)
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x), model(x))


def test_it_can_be_differentiated_twice_and_mapped_and_compiled():
    x = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxPool(), x) and torch.autograd.gradgradcheck(MaxPool(), x)
    tangent = torch.randn_like(x)
    _, found = torch.func.jvp(MaxPool(), (x.detach(),), (tangent,))
    _, expected = torch.autograd.functional.jvp(MaxPool(), x.detach(), tangent)
    assert torch.equal(found, expected)
    small = x.detach()[:, :1, :1].contiguous()
    square = torch.func.hessian(lambda y: MaxPool()(y).square().sum())(small)
    largest = torch.func.grad(lambda y: MaxPool()(y).sum())(small).flatten()
    assert torch.equal(square.view(32, 32), 2 * torch.diag(largest))
    mapped = torch.func.vmap(torch.func.grad(lambda one: MaxPool()(one).square().sum()))(x)
    (expected,) = torch.autograd.grad(MaxPool()(x).square().sum(), x)
    assert torch.equal(mapped, expected)
    compiled = torch.compile(MaxPool(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), MaxPool()(x))


def test_the_convolution_is_differentiated_twice_and_mapped_as_torchs_own():
    torch.manual_seed(0)
    x, kernel = torch.randn(2, 2, 5, 4).double(), torch.randn(3, 2, 3, 3).double()
    several = torch.randn(4, 2, 2, 5, 4).double()

    def loss(convolution, stride):
        return lambda x, k: (convolution(x, k, None, stride, 1) ** 3).sum()

    for stride in (1, 2):
        ours, torchs = loss(conv2d, stride), loss(F.conv2d, stride)
        for argument in (0, 1):
            found = torch.func.hessian(ours, argument)(x, kernel)
            torch.testing.assert_close(found, torch.func.hessian(torchs, argument)(x, kernel))
            each = torch.func.vmap(torch.func.grad(ours, argument), (0, None))(several, kernel)
            for number, one in enumerate(several):
                expected = torch.func.grad(torchs, argument)(one, kernel)
                torch.testing.assert_close(each[number], expected)
