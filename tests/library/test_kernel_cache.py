"""In evaluation a layer builds its kernel once, and again after every change."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pdoe import GroupConv, LiftingConv, PointGroup

pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = pytest.mark.parametrize("conv", [LiftingConv, GroupConv])


def layer_of(conv, name, **options):
    return conv(PointGroup.named(name), 2, 3, dtype=torch.float64, **options)


def input_of(layer):
    group = [len(layer.group)] if isinstance(layer, GroupConv) else []
    return torch.randn(2, 2, *group, 9, 9, dtype=torch.float64)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


class Counted:
    """How often a layer builds its kernel."""

    def __init__(self, layer, monkeypatch):
        self.builds, build = 0, layer.kernel

        def kernel():
            self.builds += 1
            return build()

        monkeypatch.setattr(layer, "kernel", kernel)


@BOTH
def test_the_kernel_is_built_once_where_it_cannot_change(conv, monkeypatch):
    layer = layer_of(conv, "p8").eval()
    x, count = input_of(layer), Counted(layer, monkeypatch)
    expected = layer(x).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for _ in range(3):
                assert torch.equal(layer(x), expected)
    assert count.builds == 2  # with gradients, and once without
    with torch.no_grad():
        layer.train()(x)
        layer(x)
    assert count.builds == 4


def change_in_place(layer, other):
    with torch.no_grad():
        layer.weight.copy_(other.weight)


def change_by_an_optimiser(layer, other):
    layer.weight.grad = layer.weight.detach() - other.weight.detach()
    torch.optim.SGD([layer.weight], lr=1.0).step()


def change_the_parameter(layer, other):
    layer.weight = nn.Parameter(other.weight.detach().clone())


def change_the_data(layer, other):
    layer.weight.data = other.weight.detach().clone()


def change_the_data_twice(layer, other):
    layer.weight.data = torch.empty(0, dtype=layer.weight.dtype)  # frees memory for reuse
    layer.weight.data = other.weight.detach().clone()


def change_by_a_fused_optimiser(layer, other):
    """PyTorch does not count this step as a change of the weight."""
    layer.weight.grad = layer.weight.detach() - other.weight.detach()
    torch.optim.SGD([layer.weight], lr=1.0, fused=True).step()


def change_uncounted(layer, other):
    layer.weight.data.copy_(other.weight)


def change_through_numpy(layer, other):
    layer.weight.detach().numpy()[:] = other.weight.detach().numpy()


CHANGES = [
    change_in_place,
    change_by_an_optimiser,
    change_the_parameter,
    change_the_data,
    change_the_data_twice,
    change_by_a_fused_optimiser,
    change_uncounted,
    change_through_numpy,
    lambda layer, other: layer.load_state_dict(other.state_dict()),
    lambda layer, other: layer.load_state_dict(other.state_dict(), assign=True),
    lambda layer, other: layer.to_empty(device="cpu").load_state_dict(other.state_dict()),
    lambda layer, other: layer.float().double().load_state_dict(other.state_dict()),
]


@BOTH
@pytest.mark.parametrize("change", CHANGES)
def test_a_cached_kernel_follows_every_change_of_the_weight(conv, change):
    layer, other = layer_of(conv, "p4").eval(), layer_of(conv, "p4").eval()
    x = input_of(layer)
    with torch.no_grad():
        layer(x)
    change(layer, other)
    with torch.no_grad():
        assert_same(layer(x), other(x))


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.bank.mul_(2),
        lambda layer: setattr(layer, "bank", layer.bank * 2),
        lambda layer: setattr(layer.bank, "data", layer.bank * 2),
        lambda layer: setattr(layer, "offset", 0.3),
        lambda layer: layer._buffers.get("quotient", layer.bank).copy_(
            layer._buffers.get("quotient", layer.bank).roll(1, 0)
        ),
    ],
    ids=["in place", "assigned", "data", "offset", "quotient"],
)
def test_a_cached_kernel_follows_every_change_of_a_constant(conv, change):
    layer = layer_of(conv, "p8").eval()
    x = input_of(layer)
    with torch.no_grad():
        before = layer(x)
        change(layer)
        after = layer(x)
        assert not torch.equal(after, before)
        assert_same(after, layer.train()(x))


@BOTH
def test_a_cached_kernel_is_neither_saved_nor_copied_nor_shared(conv):
    layer = layer_of(conv, "p8").eval()
    x, keys, size = input_of(layer), layer.state_dict().keys(), len(pickle.dumps(layer))
    with torch.no_grad():
        layer(x)
    assert layer.state_dict().keys() == keys and len(pickle.dumps(layer)) == size
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.zero_()
        assert not twin(x).any() and layer(x).any()
        assert not torch.func.functional_call(layer, {"weight": twin.weight}, (x,)).any()
        assert layer(x).any()


@BOTH
def test_a_kernel_is_not_cached_where_gradients_are_wanted_nor_baked_into_a_trace(conv):
    layer, other = layer_of(conv, "p4").eval(), layer_of(conv, "p4").eval()
    x = input_of(layer)
    with torch.no_grad():
        layer(x)
        traced = torch.jit.trace(layer, x)
        assert layer._cached is not None
        layer.load_state_dict(other.state_dict())
        traced.load_state_dict(other.state_dict(), strict=False)
        assert_same(traced(x), other(x))
    layer(x)
    assert layer._cached is None


def test_a_parametrised_weight_is_followed():
    class Scaled(nn.Module):
        factor = 1.0

        def forward(self, weight):
            return self.factor * weight

    layer, scale = layer_of(LiftingConv, "p4").eval(), Scaled()
    nn.utils.parametrize.register_parametrization(layer, "weight", scale)
    x = input_of(layer)
    with torch.no_grad():
        once = layer(x)
        scale.factor = 2.0
        assert_same(layer(x), 2 * once)


def test_a_kernel_cached_for_one_precision_serves_the_other():
    layer = GroupConv(PointGroup(4), 2, 3).eval()
    x = input_of(layer).float()
    with torch.no_grad():
        single = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), single)
