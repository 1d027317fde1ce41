"""What is faster on a CPU does what torch does: layout, norm, dropout, pooling, convolution."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from pdoe import GroupConv, GroupPool, LiftingConv, PointGroup
from pdoe.fast import BatchNorm, ChannelsLast, Dropout, MaxPool, conv2d
from pdoe.fast.layout import is_channels_last
from pdoe.models import Images, PlainCNN, ResNet

# --- layout --------------------------------------------------------------------------------------


def channels_last(x):
    """A lifted map with its planar channels last in memory."""
    return x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)


def networks():
    p4, p8 = PointGroup(4), PointGroup(8)
    yield PlainCNN(p8, [2, 3, 2], images=Images(size=14)), 14
    yield PlainCNN(p4, [2] * 3, "pixels", head="group", bias=True, images=Images(size=12)), 12
    yield PlainCNN(p4, [2] * 2, padding="same", head="pooled", hidden=3, images=Images(3)), 8
    yield PlainCNN(PointGroup(1), [3] * 3, "pixels", images=Images(size=12)), 12
    yield ResNet(p8, 8, [1, 2, 3], offset=0.3, downsample="avgpool", head="invariant"), 16
    yield ResNet(PointGroup(6, reflections=True), 8, [2, 2, 2]), 15
    yield ResNet(p4, 11, [4, 4, 8], block="bottleneck"), 16


@pytest.mark.parametrize("number", range(7))
def test_a_network_computes_the_same_in_either_layout(number):
    torch.manual_seed(number)
    model, side = list(networks())[number]
    model.double()
    x = torch.randn(3, channels_of(model), side, side).double()
    found = []
    for wanted, net in ((True, copy.deepcopy(model)), (False, model)):
        net.layout.channels_last = wanted
        image = x.clone().requires_grad_()
        outputs = []
        for training in (True, False):
            y = net.train(training)(image)
            parameters = [image, *net.parameters()]
            outputs += [y, *torch.autograd.grad(y.square().sum(), parameters)]
        found.append([*outputs, *net.buffers()])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def channels_of(model):
    return next(part for part in model.modules() if isinstance(part, LiftingConv)).in_channels


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("training", [True, False])
def test_no_map_and_no_gradient_of_a_trunk_is_copied_into_another_layout(number, training):
    model, side = list(networks())[number]
    model.train(training)
    seen = []

    def look(module, inputs, output):
        if output.ndim == 5 and len(output[0, :, :, 0, 0].flatten()) > 1 < output.shape[-1]:
            seen.append(is_channels_last(output))
            if output.requires_grad and seen[-1]:
                output.register_hook(lambda gradient: gradients.append(is_channels_last(gradient)))

    gradients: list[bool] = []
    for part in model.trunk.modules():
        if isinstance(part, GroupConv | LiftingConv | MaxPool | nn.BatchNorm3d):
            part.register_forward_hook(look)
    y = model(torch.randn(3, channels_of(model), side, side))
    y.sum().backward()
    assert len(seen) > 4 and all(seen)
    assert len(gradients) == len(seen) and all(gradients[1:])  # the first is that of the head


def test_the_layout_is_that_of_32_bits_and_less_and_can_be_refused():
    image, last = torch.randn(2, 3, 5, 4), torch.channels_last
    layout = ChannelsLast()
    assert layout(image).is_contiguous(memory_format=last) and torch.equal(layout(image), image)
    assert layout(image.bfloat16()).is_contiguous(memory_format=last)
    assert layout(image.double()).is_contiguous()
    one = layout(torch.randn(2, 1, 5, 4))
    assert LiftingConv(PointGroup(4), 1, 2)(one).stride(2) == 1
    layout.channels_last = False
    assert layout(image) is image
    layout.channels_last = True
    assert layout(image.double()).is_contiguous(memory_format=last)


@pytest.mark.parametrize("channels", [1, 2, 100])
def test_a_layer_gives_the_layout_that_it_takes(channels):
    layer = GroupConv(PointGroup(4), channels, 3, bias=True)
    x = torch.randn(2, channels, 4, 6, 5)
    expected = layer(x)
    assert expected.is_contiguous()
    found = layer(channels_last(x))
    assert is_channels_last(found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    layer.channels_last = False
    assert layer(channels_last(x)).is_contiguous()
    padded = GroupConv(PointGroup(4), channels, 2, padding=2)
    assert padded(x[..., :1, :1].contiguous()).is_contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).is_contiguous()
        layer.channels_last = None
        assert is_channels_last(layer(channels_last(x)))


# --- norm ----------------------------------------------------------------------------------------

SHAPES = [(5, 3, 6, 9, 7), (4, 2, 1, 5, 5), (1, 1, 2, 4, 4), (2, 3, 4, 1, 3), (2, 3, 4, 3, 1)]


def norms(fields, dtype):
    """Ours in this dtype, beside torch's in float64."""
    exact = nn.BatchNorm3d(fields, eps=1e-3, momentum=0.3).double()
    with torch.no_grad():
        exact.weight.uniform_(0.5, 2)
        exact.bias.uniform_(-1, 1)
        exact.running_mean.uniform_(-1, 1)
        exact.running_var.uniform_(1, 2)
    ours = BatchNorm(fields, eps=1e-3, momentum=0.3).to(dtype)
    ours.load_state_dict(exact.state_dict())
    return ours, exact


@pytest.mark.parametrize("shape", [*SHAPES, (64, 7, 8, 24, 24)])
@pytest.mark.parametrize(
    ("dtype", "of_weight", "bound", "of_sums"),
    [
        (torch.float64, torch.float64, 1e-12, 1e-12),
        (torch.float32, torch.float32, 5e-6, 5e-6),
        (torch.bfloat16, torch.float32, 8e-3, 2e-5),
        (torch.bfloat16, torch.bfloat16, 2e-2, 2e-2),
    ],
)
@pytest.mark.parametrize("common", [0, 10])
def test_the_norm_of_channels_last_maps_is_batch_norm(
    shape, dtype, of_weight, bound, of_sums, common
):
    if common and of_weight.itemsize == 2:
        pytest.skip("torch's own, of one orientation, rounds its sums to 16 bits")
    torch.manual_seed(0)
    x, gradient = 3 + 2 * torch.randn(shape), torch.randn(shape)
    # What all pixels have in common, and what goes with the map, have no gradient.
    x, gradient = x.to(dtype), (gradient + common * (1 + x)).to(dtype)
    ours, exact = norms(shape[1], of_weight)
    found = []
    for norm, input, back in (
        (ours, channels_last(x), channels_last(gradient)),
        (exact, x.double(), gradient.double()),
    ):
        input.requires_grad_()
        parameters = [input, norm.weight, norm.bias]
        y = norm(input)
        plain = torch.autograd.grad(y, parameters, back, retain_graph=True)
        again = torch.autograd.grad(y, parameters, back, create_graph=True)
        (twice,) = torch.autograd.grad(again[0].double().square().sum(), norm.weight)
        tested = norm.eval()(input)
        through = torch.autograd.grad(tested, parameters, back)
        found.append([y, tested, *plain, *again, twice, *through, *norm.buffers()])
        if norm is ours:
            assert y.dtype == tested.dtype == dtype
            kept = [y, tested, plain[0], through[0]]
            assert not is_channels_last(input) or all(map(is_channels_last, kept))
    said = "y, tested, dx, dw, db, dx, dw, db, twice, eval dx, eval dw, eval db, mean, variance, n"
    for name, a, b in zip(said.split(", "), *found, strict=True):
        error, scale = (a.double() - b.double()).abs().max(), b.double().abs().max().clamp(min=1)
        if dtype.itemsize > 2:  # the parts that cancel were not rounded to the precision of the sum
            scale = scale.maximum(gradient.double().abs().max())
        limit = of_sums if name in ("dw", "db", "mean", "variance") else bound
        assert error <= limit * scale, f"{name}: {error:.2e} of {scale:.2e}"


def test_it_is_differentiated_twice_and_forwards():
    torch.manual_seed(0)
    ours, exact = norms(2, torch.float64)
    x = channels_last(torch.randn(3, 2, 3, 2, 2).double()).requires_grad_()
    weight, bias = ours.weight, ours.bias

    def norm(x, weight, bias):
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, x)

    inputs = x, weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(norm, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(norm, inputs)
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        found, expected = (forward_ad.unpack_dual(n(dual)).tangent for n in (ours, exact))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_gradient_in_another_layout_comes_out_in_that_of_the_map():
    ours, exact = norms(2, torch.float64)
    x, gradient = torch.randn(2, 3, 2, 4, 5, 6).double().unbind()
    found, expected = channels_last(x).requires_grad_(), x.requires_grad_()
    ours(found).backward(gradient)
    exact(expected).backward(gradient)
    assert is_channels_last(found.grad)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-12)


def test_only_the_gradients_that_are_asked_for_are_made():
    ours, exact = norms(2, torch.float64)
    x, gradient = torch.randn(2, 3, 2, 4, 5, 5).double().unbind()
    ours(channels_last(x)).backward(gradient)
    exact(x).backward(gradient)
    for found, expected in zip(ours.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
        found.grad = None
    ours.weight.requires_grad_(False)
    x.requires_grad_()
    ours(channels_last(x)).backward(gradient)
    (expected,) = torch.autograd.grad(exact(x), x, gradient)
    torch.testing.assert_close(x.grad, expected)
    assert ours.weight.grad is None and ours.bias.grad is not None


@pytest.mark.parametrize(
    "options",
    [{"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"bias": False}],
    ids=str,
)
def test_a_norm_with_less_or_more_is_that_of_torch(options):
    ours, torchs = BatchNorm(3, **options), nn.BatchNorm3d(3, **options)
    x = torch.randn(4, 3, 4, 5, 5)
    for _ in range(2):
        torch.testing.assert_close(ours(channels_last(x)), torchs(x))
    torch.testing.assert_close(ours.eval()(channels_last(x)), torchs.eval()(x))
    for found, expected in zip(ours.buffers(), torchs.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


def test_numbers_of_16_bits_throughout_keep_their_dtype():
    ours, _ = norms(3, torch.bfloat16)
    ours(channels_last(torch.randn(8, 3, 4, 6, 6).bfloat16())).sum().backward()
    assert ours.weight.grad.dtype == ours.running_mean.dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["running_mean", "running_var", "num_batches_tracked"])
def test_statistics_that_were_taken_away_are_not_asked_for(missing):
    ours, torchs = norms(3, torch.float32)
    torchs.float()
    for norm in (ours, torchs):
        names = ["running_mean", "running_var"] if "running" in missing else [missing]
        for name in names:
            setattr(norm, name, None)
    x = torch.randn(4, 3, 4, 5, 5)
    for training in (True, False):
        found = ours.train(training)(channels_last(x))
        torch.testing.assert_close(found, torchs.train(training)(x))


def test_it_works_where_another_device_is_the_default_one():
    ours, _ = norms(3, torch.float32)
    x = channels_last(torch.randn(4, 3, 4, 5, 5))
    expected = copy.deepcopy(ours)(x)
    with torch.device("meta"):
        assert torch.equal(ours(x), expected)


def test_networks_in_training_are_mapped_over():
    p4 = PointGroup(4)
    nets = [PlainCNN(p4, [2, 2], dropout=0.2, images=Images(size=8)) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(nets)
    x = torch.randn(5, 1, 8, 8)

    def run(parameters, buffers):
        return torch.func.functional_call(nets[0], (parameters, buffers), (x,))

    y = torch.func.vmap(run, randomness="different")(parameters, buffers)
    assert y.shape == (3, 5, 10) and not torch.equal(y[0], y[1])
    nets[0].eval()
    found = torch.func.vmap(run)(parameters, buffers)
    for number in range(3):
        one = ({name: t[number] for name, t in part.items()} for part in (parameters, buffers))
        torch.testing.assert_close(found[number], run(*one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 2, 3, 3), (2, 3, 4, 4), (1, 3), (2, 3, 1, 1, 1, 1)])
def test_maps_of_another_shape_are_refused_by_the_norm(shape):
    with pytest.raises(ValueError, match="expects a lifted map .B, 3, G, H, W., not a tensor"):
        BatchNorm(3)(torch.randn(shape))


def test_relu_in_place_after_it_copies_nothing():
    x = channels_last(torch.randn(2, 3, 4, 5, 5)).requires_grad_()
    for training in (True, False):
        y = BatchNorm(3).train(training)(x)
        assert not y._is_view()
        assert F.relu_(y).grad_fn.name() == "ReluBackward0"


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


def test_the_layout_stays():
    x = channels_last(torch.ones(2, 3, 4, 5, 6))
    y = Dropout(0.5)(x)
    assert y.stride() == x.stride()
    for axis in range(5):  # no two slices have the same mask
        parts = (y == 0).movedim(axis, 0).flatten(1)
        assert len(parts.unique(dim=0)) == len(parts)


@pytest.mark.parametrize("x", [torch.ones(1, 60).expand(50, 60), torch.ones(100, 60)[::2]])
def test_elements_that_share_memory_or_leave_gaps_are_dropped_each_for_itself(x):
    y = Dropout(0.5)(x)
    assert 1000 < (y == 0).sum() < 2000 and y.std(0).min() > 0


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


@pytest.mark.parametrize("shape", [(2, 3, 4, 7, 6), (2, 3, 6, 8)])
def test_pooled_maps_keep_their_layout(shape):
    x = torch.randn(shape)
    last = x.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1)).requires_grad_()
    y = MaxPool()(last)
    assert is_channels_last(y) and torch.equal(y, MaxPool()(x))
    y.sum().backward()
    assert is_channels_last(last.grad)


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
    model = PlainCNN(PointGroup(4), [2, 2, 2], images=Images(size=12)).eval()
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


@pytest.mark.parametrize("order", [1, 4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("last", [GroupPool("max"), MaxPool(), nn.SiLU(), nn.GELU(), nn.Flatten()])
def test_saliency_maps_of_one_image_are_right(order, training, last):
    torch.manual_seed(0)
    group = PointGroup(order)
    net = nn.Sequential(ChannelsLast(), LiftingConv(group, 1, 3), BatchNorm(3), last)
    net.train(training)
    torchs = nn.Sequential(LiftingConv(group, 1, 3), nn.BatchNorm3d(3), last).double()
    torchs.train(training)
    torchs[0].load_state_dict(net[1].state_dict())
    image = torch.randn(1, 1, 6, 6, requires_grad=True)
    precise = image.detach().double().requires_grad_()
    y, expected = net(image), torchs(precise)
    gradient = torch.randn(expected.shape, dtype=torch.double)
    (found,) = torch.autograd.grad(y, image, gradient.float())
    (known,) = torch.autograd.grad(expected, precise, gradient)
    torch.testing.assert_close(found.double(), known, rtol=1e-3, atol=1e-3)
