"""Every layer is its formula in float64, for any strides, dtype, batch and size of the map.

torch infers memory formats from strides, and an axis of length 1 may have any stride.
"""

import copy
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdoe import (
    BatchNorm,
    ChannelsLast,
    Dropout,
    GroupConv,
    GroupPool,
    LiftingConv,
    MaxPool,
    PointGroup,
)

GROUPS = [PointGroup(1), PointGroup(4), PointGroup(3, reflections=True)]
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 5e-2}


def with_random_strides(draw, x):
    """The same numbers, with the axes in any order in memory and length-1 axes with any stride."""
    n = x.ndim
    order = draw.choice([[0, *range(n - 2, n), *range(1, n - 2)], list(range(n)),
                         draw.sample(range(n), n)])  # fmt: skip
    y = x.permute(order).contiguous().permute([order.index(axis) for axis in range(n)])
    strides = [
        draw.choice([stride, 0, 1, 3, 999]) if length == 1 else stride
        for length, stride in zip(x.shape, y.stride(), strict=True)
    ]
    return y.as_strided(x.shape, strides)


def plain(x):
    """The same numbers in float64 with the usual strides."""
    return torch.empty(x.shape, dtype=torch.float64).copy_(x.detach())


def planar(layer, x):
    """A convolution as the planar convolution with its kernel."""
    order = len(layer.group)
    bias = None if layer.bias is None else layer.bias.repeat_interleave(order)
    y = F.conv2d(x.flatten(1, -3), layer.kernel(), bias, layer.stride, layer.padding)
    return y.unflatten(1, (layer.out_channels, order))


def draw_layer(draw, dtype):
    """A layer, what computes the same in float64, and the axes of its input before H and W."""
    group, channels = draw.choice(GROUPS), draw.choice([1, 2, 3])
    lifted = [channels, len(group)]
    kind = draw.choice([LiftingConv, GroupConv, GroupPool, BatchNorm, MaxPool, Dropout,
                        ChannelsLast])  # fmt: skip
    if issubclass(kind, LiftingConv | GroupConv):
        options = {"stride": draw.choice([1, 2]), "bias": draw.random() < 0.5, "dtype": dtype}
        layer = kind(group, channels, draw.choice([1, 2]), **options)
        layer.channels_last = draw.choice([None, True, False])
        exact = copy.deepcopy(layer).double()
        return layer, exact, lambda x: planar(exact, x), lifted[: 1 + (kind is GroupConv)]
    if kind is BatchNorm:
        exact = nn.BatchNorm3d(channels).double()
        for numbers in (exact.running_mean, exact.weight.data, exact.bias.data):
            numbers.normal_()
        layer = BatchNorm(channels, dtype=torch.float64 if dtype == torch.float64 else None)
        layer.load_state_dict(exact.state_dict())
        training = draw.random() < 0.5
        return layer.train(training), exact.train(training), exact, lifted
    if kind is GroupPool:
        layer = GroupPool(draw.choice(["max", "mean"]))
        return layer, layer, (lambda x: x.amax(2) if layer.kind == "max" else x.mean(2)), lifted
    axes = draw.choice([lifted, [channels]])
    if kind is MaxPool:
        layer = MaxPool()
        pool = lambda x: F.max_pool2d(x.flatten(1, -3), 2).unflatten(1, x.shape[1:-2])  # noqa: E731
        return layer, layer, pool, axes
    layer = Dropout(0.5).eval() if kind is Dropout else ChannelsLast()
    return layer, layer, (lambda x: x), axes


def assert_layer_is_its_formula(draw):
    dtype = draw.choice(list(TOLERANCES))
    layer, exact, formula, axes = draw_layer(draw, dtype)
    convolution = hasattr(layer, "group")
    if dtype == torch.bfloat16 and (convolution or isinstance(layer, MaxPool)):
        layer, dtype = layer.float(), torch.float32  # rounded kernels; maxima that are not unique
    least = 2 if isinstance(layer, MaxPool) else 1
    shape = [draw.choice([0, 1, 1, 2, 3]), *axes, *draw.choices([least, 4, 5, 8], k=2)]
    if isinstance(layer, BatchNorm) and layer.training and math.prod(shape) <= shape[1]:
        return  # no variance
    x = with_random_strides(draw, torch.randn(shape).to(dtype)).requires_grad_()
    y = layer(x)
    reference = plain(x).requires_grad_()
    expected = formula(reference)
    assert y.dtype == dtype and y.shape == expected.shape
    gradient = with_random_strides(draw, torch.randn(y.shape).to(dtype))
    found = torch.autograd.grad(y, [x, *layer.parameters()], gradient)
    known = torch.autograd.grad(expected, [reference, *exact.parameters()], plain(gradient))
    for one, other in zip((y, *found), (expected, *known), strict=True):
        bound = TOLERANCES[dtype] * (1 + max(other.abs().flatten().tolist(), default=0))
        case = f"{layer} of {shape} {x.stride()}, gradient {gradient.stride()}"
        torch.testing.assert_close(
            one.double(), other, rtol=0, atol=bound, msg=lambda text, case=case: f"{case}: {text}"
        )
    with torch.no_grad():
        found = [layer.eval()(x) for _ in range(2)]  # from the cached kernel the second time
    assert torch.equal(*found)
    assert isinstance(layer, BatchNorm) or torch.equal(found[0], y)


@pytest.mark.parametrize("seed", range(8))
def test_layers_are_their_formulas_whatever_the_strides(seed):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    for _ in range(100):
        assert_layer_is_its_formula(draw)


@pytest.mark.parametrize("shape", [(1, 3, 1, 4, 5), (2, 3, 1, 4, 5), (1, 3, 4, 4, 5)])
@pytest.mark.parametrize("seed", range(6))
def test_gradients_of_the_norm_by_torch_func_are_right_too(shape, seed):
    draw = random.Random(seed)
    x, factor = (with_random_strides(draw, torch.randn(shape)) for _ in range(2))
    exact = nn.BatchNorm3d(3).double().eval()
    reference = plain(x).requires_grad_()
    (expected,) = torch.autograd.grad(exact(reference), reference, plain(factor))
    norm = BatchNorm(3).eval()
    found = torch.func.grad(lambda x: (norm(x) * factor).sum())(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.hard
@pytest.mark.parametrize("seed", range(100, 130))
def test_layers_are_their_formulas_in_many_more_cases(seed):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    for _ in range(1000):
        assert_layer_is_its_formula(draw)
