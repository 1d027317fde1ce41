"""The jet form of a group convolution is the dense layer: same weights, numbers and symmetry."""

import copy
import logging
import math
import pickle

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pdoe import GroupConv, GroupPool, PointGroup
from pdoe.fast import jet, set_inductor_cache
from pdoe.fast.jet import function, library, operators, rule
from pdoe.fast.jet.algebra import algebra
from pdoe.fast.jet.reference import reference
from pdoe.fast.layout import is_channels_last, to_channels_last
from pdoe.models import PlainCNN

pytestmark = pytest.mark.usefixtures("one_thread")
ROTATIONS = [f"p{n}" for n in (*range(1, 18), 24)]
MIRRORED = [f"p{n}m" for n in (*range(1, 10), 12, 16, 17)]
EVERY_GROUP = ROTATIONS + MIRRORED
# Fields in and out, map, and the rest of a layer; sizes that no tile, chunk or vector divides.
LAYERS = [
    (2, 3, (9, 10), {}),
    (5, 17, (7, 12), {"offset": math.pi / 8, "padding": 1, "bias": True}),
    (3, 2, (12, 11), {"offset": 0.3, "size": 7, "padding": 0, "stride": 2}),
    (2, 3, (5, 6), {"offset": 0.2, "bank": "gaussian", "padding": 3, "stride": 2}),
    (3, 2, (10, 9), {"offset": -0.7, "bank": "gaussian", "size": 9, "bias": True}),
]
built = pytest.fixture(scope="module")(library.load)


@pytest.fixture
def compiled(built):
    if built is None:
        pytest.skip("no C++ compiler")


def layer_of(name, inputs, outputs, dtype=torch.float64, **options):
    layer = GroupConv(PointGroup.named(name), inputs, outputs, dtype=dtype, **options)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def map_of(layer, size=(9, 9), batch=2):
    dtype = layer.weight.dtype
    return torch.randn(batch, layer.in_channels, len(layer.group), *size, dtype=dtype)


def by(algorithm, layer, x, gradient=None):
    """The result of a layer, and with a gradient those of its input and parameters."""
    layer.algorithm = algorithm
    x = x.detach().requires_grad_()
    y = layer(x)
    if gradient is None:
        return [y.detach()]
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], gradient)]


def errors(found, expected):
    """Largest error of each tensor beside its largest number."""
    assert [each.shape for each in found] == [each.shape for each in expected]
    return [
        ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
        for a, b in zip(found, expected, strict=True)
    ]


# ---- The algebra --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_GROUP)
def test_the_algebra_is_that_of_the_dense_layer(name):
    for inputs, outputs, size, options in LAYERS:
        layer = layer_of(name, inputs, outputs, **options | {"bias": False})
        x = map_of(layer, size, batch=1)
        found = reference(x, layer.weight, jet.form_of(layer))
        (expected,) = by("dense", layer, x)
        assert max(errors([found], [expected])) < 1e-12


@pytest.mark.parametrize("name", ["p8", "p5", "p6m"])
def test_the_product_takes_thirteen_numbers_for_each_rotation(name):
    group = PointGroup.named(name)
    constants = algebra(group, 0.3, ("operators", None, None))
    assert sum(map(len, constants.blocks)) == 13 * group.n
    products = sum(len(block) * len(block[0].weights) for block in constants.blocks)
    assert products == 26 * group.n - 13 * (1 + (group.n % 2 == 0))
    assert constants.weight_map.shape[2] == 13 * group.n


# ---- The C++ code -------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [function.TILE_BYTES, 20_000])
@pytest.mark.parametrize("name", EVERY_GROUP)
def test_result_and_gradients_are_those_of_the_dense_layer(name, tile, compiled, monkeypatch):
    monkeypatch.setattr(function, "TILE_BYTES", tile)
    for inputs, outputs, size, options in LAYERS:
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            layer = layer_of(name, inputs, outputs, dtype, **options)
            x = map_of(layer, size)
            gradient = torch.randn_like(by("dense", layer, x)[0])
            exact = [each.double() for each in (x, gradient)]
            expected = by("dense", copy.deepcopy(layer).double(), *exact)
            assert max(errors(by("jet", layer, x, gradient), expected)) < tolerance


@pytest.mark.parametrize("inputs, outputs", [(1, 1), (16, 45), (23, 11), (33, 50)])
def test_chunks_of_channels_and_panels_of_results_add_up(inputs, outputs, compiled):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        layer = layer_of("p8", inputs, outputs, dtype, offset=math.pi / 8)
        x = map_of(layer, (17, 5))
        gradient = torch.randn_like(by("dense", layer, x)[0])
        exact = [each.double() for each in (x, gradient)]
        expected = by("dense", copy.deepcopy(layer).double(), *exact)
        assert max(errors(by("jet", layer, x, gradient), expected)) < tolerance


@pytest.mark.parametrize(
    "name, fields", [("p8", 11), ("p8", 23), ("p6", 7), ("p16", 5), ("p4m", 6), ("p4", 45)]
)
@pytest.mark.parametrize("bank", jet.BANKS)
def test_in_16_bits_errors_are_at_most_twice_those_of_the_dense_layer(name, fields, bank, compiled):
    layer = layer_of(name, fields, fields, torch.float32, bank=bank, offset=math.pi / 8)
    x = map_of(layer, (13, 12), batch=4).bfloat16().float()
    exact = copy.deepcopy(layer).double()
    gradient = torch.randn_like(x).bfloat16()
    expected = by("dense", exact, x.double(), gradient.double())
    with torch.autocast("cpu", torch.bfloat16):
        dense, ours = (by(algorithm, layer, x, gradient) for algorithm in ("dense", "jet"))
    assert [each.dtype for each in ours] == [each.dtype for each in dense]

    def rms(found):
        pairs = zip(found, expected, strict=True)
        return [((a.double() - b).norm() / b.norm()).item() for a, b in pairs]

    for mine, theirs in zip(rms(ours), rms(dense), strict=True):
        assert mine < 2 * theirs


def test_gradients_are_those_of_finite_differences_twice(compiled):
    for name, options in [("p8", {"offset": 0.3, "bias": True}), ("p3m", {"stride": 2})]:
        layer = layer_of(name, 1, 2, **options)
        layer.algorithm = "jet"
        x = map_of(layer, (4, 3), batch=1).requires_grad_()
        names, parameters = zip(*layer.named_parameters(), strict=True)

        def call(x, *values, layer=layer, names=names):
            values = dict(zip(names, values, strict=True))
            return torch.func.functional_call(layer, values, x)

        assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)
        assert torch.autograd.gradgradcheck(call, (x, *parameters), fast_mode=True)


def test_gradients_can_be_mapped_over(compiled):
    layer = layer_of("p4", 1, 2, offset=0.3, bias=True)
    layer.algorithm = "jet"
    x = map_of(layer, (4, 3), batch=1).requires_grad_()
    y = layer(x)
    gradients = torch.randn(3, *y.shape, dtype=y.dtype)
    inputs = [x, *layer.parameters()]
    mapped = torch.autograd.grad(y, inputs, gradients, retain_graph=True, is_grads_batched=True)
    for number, gradient in enumerate(gradients):
        expected = torch.autograd.grad(y, inputs, gradient, retain_graph=True)
        assert max(errors([each[number] for each in mapped], expected)) < 1e-12


def test_gradients_of_any_strides_are_read_as_they_are(compiled):
    layer = layer_of("p8", 2, 3)
    x = map_of(layer)
    negated = torch.randn(2, 3, 8, 9, 9, dtype=torch.complex128).conj().imag
    for gradient in (torch.ones(1, dtype=x.dtype).expand(2, 3, 8, 9, 9), negated):
        found, expected = (by(algorithm, layer, x, gradient) for algorithm in ("jet", "dense"))
        assert max(errors(found, expected)) < 1e-12


def test_a_batch_of_none_or_one_image_is_no_exception(compiled):
    layer = layer_of("p8", 3, 2, torch.float32)
    x = map_of(layer, batch=5)
    (whole,) = by("jet", layer, x)
    assert torch.equal(torch.cat([by("jet", layer, image)[0] for image in x.split(1)]), whole)
    empty = x[:0].requires_grad_()
    layer(empty).sum().backward()
    assert empty.grad.shape == x[:0].shape and layer.weight.grad.abs().max() == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_are_the_same_bits_run_after_run(threads, compiled):
    torch.set_num_threads(threads)
    layer = layer_of("p8", 11, 11, torch.float32)
    x = map_of(layer, (20, 20), batch=3)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
            gradient = torch.randn(x.shape).to(dtype)
            first = by("jet", layer, x, gradient)
            expected = by("dense", layer, x, gradient)
            assert max(errors(first, expected)) < (0.03 if dtype == torch.bfloat16 else 1e-5)
            for _ in range(5):
                again = by("jet", layer, x, gradient)
                assert all(map(torch.equal, again, first))


def test_it_commutes_with_the_group_as_the_dense_layer_does(compiled, by_matrices):
    for name in ("p4", "p8", "p6m", "p4m"):
        layer = layer_of(name, 2, 3, offset=0.1)
        layer.algorithm = "jet"
        assert by_matrices.errors(layer, layer.group, map_of(layer)) < 1e-12
    layer = layer_of("p8", 4, 4, torch.float32)
    x = map_of(layer, (16, 16))
    found = []
    for algorithm in ("jet", "dense"):
        layer.algorithm = algorithm
        found.append(by_matrices.errors(layer, layer.group, x))
    assert found[0] < 1.5 * found[1]


def test_what_is_not_asked_for_is_not_computed(compiled):
    layer = layer_of("p8", 3, 2, bias=True)
    x = map_of(layer).requires_grad_()
    layer.algorithm = "jet"
    gradient = torch.randn_like(layer(x))
    whole = torch.autograd.grad(layer(x), [x, *layer.parameters()], gradient)
    for one, expected in zip([x, *layer.parameters()], whole, strict=True):
        assert torch.equal(torch.autograd.grad(layer(x), one, gradient)[0], expected)


def test_the_input_alone_is_kept_for_the_backward_pass(compiled):
    layer = layer_of("p8", 4, 4, torch.float32)
    layer.algorithm = "jet"
    x, kept = map_of(layer).requires_grad_(), set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.add(t.data_ptr()) or t, lambda t: t
    ):
        layer(x)
    assert kept <= {x.data_ptr(), layer.weight.data_ptr()}


def test_maps_stay_in_their_layout_and_are_no_views(compiled):
    layer = layer_of("p8", 3, 5, torch.float32)
    layer.algorithm = "jet"
    x = map_of(layer)
    for given, is_kept in (
        (x, torch.Tensor.is_contiguous),
        (to_channels_last(x), is_channels_last),
    ):
        given = given.requires_grad_()
        y = layer(given)
        assert is_kept(y)
        gradient = torch.randn_like(y)
        assert is_kept(torch.autograd.grad(y, given, gradient, retain_graph=True)[0])
        y.relu_()


# ---- Where it is used ---------------------------------------------------------------------------


def test_an_unknown_algorithm_or_bank_is_refused_by_name():
    layer = layer_of("p4", 1, 1)
    layer.algorithm = "fast"
    with pytest.raises(ValueError, match="algorithm is one of auto, dense, jet, not 'fast'"):
        layer(map_of(layer))
    layer = layer_of("p4", 1, 1, bank="pixels")
    layer.algorithm = "jet"
    with pytest.raises(ValueError, match="bank 'pixels' has no jet form"):
        layer(map_of(layer))


def test_without_a_compiler_layers_stay_dense_and_one_line_tells_so(monkeypatch, caplog, tmp_path):
    def fail(path):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ä b"))
    monkeypatch.setattr(library, "_build", fail)
    library.load.cache_clear()
    try:
        layer = layer_of("p8", 3, 3, torch.float32)
        x = map_of(layer)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(by("jet", layer, x)[0], by("dense", layer, x)[0])
            by("jet", layer, x)
        assert [r.getMessage() for r in caplog.records] == [
            "the jet form could not be built, layers stay dense: no compiler"
        ]
    finally:
        library.load.cache_clear()


def test_in_64_bits_auto_is_dense():
    layer = layer_of("p8", 16, 16)
    x = map_of(layer)
    assert torch.equal(by("auto", layer, x)[0], by("dense", layer, x)[0])


@pytest.mark.parametrize(
    "limit, allowed",
    [("", True), ("all", True), ("AVX512_CORE_AMX_FP16", True), ("AVX512_CORE_BF16", False)],
)
def test_amx_can_be_turned_off(limit, allowed, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert library.convolves_by_amx.__wrapped__() == allowed
    monkeypatch.setattr(library, "convolves_by_amx", lambda: allowed)
    monkeypatch.setattr(library, "has_bf16_products", lambda: True)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)
    assert library.has_amx_products.__wrapped__() == allowed
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: False)  # the system refuses it
    assert not library.has_amx_products.__wrapped__()


def test_where_the_dense_layer_has_amx_small_layers_stay_dense_in_16_bits(monkeypatch):
    def chosen(fields, amx, own):
        monkeypatch.setattr(rule, "convolves_by_amx", lambda: amx)
        monkeypatch.setattr(rule, "has_amx_products", lambda: own)
        layer = layer_of("p8", fields, fields, torch.float32)
        x = map_of(layer, (16, 16))
        return [rule.pays(layer, x, number) for number in (torch.float32, torch.bfloat16)]

    assert chosen(8, False, False) == [True, True]
    assert chosen(8, True, True) == [True, False]
    assert chosen(16, True, True) == [True, True]
    assert chosen(16, True, False) == [True, False]
    with torch.no_grad():
        assert chosen(16, True, True) == [True, False]
        assert chosen(24, True, True) == [True, True]


def test_exported_and_transformed_layers_are_dense(compiled, monkeypatch):
    layer = layer_of("p8", 3, 2, torch.float32)
    x = map_of(layer)
    (expected,) = by("dense", layer, x)
    layer.algorithm = "jet"
    monkeypatch.setattr(function, "load", lambda: pytest.fail("the jet form was used"))
    y, _ = torch.func.jvp(layer, (x,), (x,))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.func.vmap(layer)(x[None])[0], expected)
    for strict in (False, True):
        program = torch.export.export(layer, (x,), strict=strict).module()
        torch.testing.assert_close(program(x), expected)
    torch.testing.assert_close(make_fx(layer)(x)(x), expected)
    assert torch.jit.trace(layer, x, check_trace=False)(x).shape == expected.shape
    assert layer.to("meta")(x.to("meta")).shape == expected.shape


# ---- Compiled programs --------------------------------------------------------------------------


def compile_counting(monkeypatch, model, **options):
    """The compiled model, and a list that gets an entry for every layer run in the jet form."""
    calls, compute = [], operators.compute
    monkeypatch.setattr(operators, "compute", lambda *given: calls.append(1) or compute(*given))
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, **options), calls


def test_a_compiled_layer_computes_the_same_bits(compiled, monkeypatch):
    layer = layer_of("p3m", 3, 2, torch.float32, bias=True, stride=2, offset=0.3)
    x = map_of(layer, (9, 10))
    gradient = torch.randn_like(by("jet", layer, x)[0])
    program, calls = compile_counting(monkeypatch, layer, backend="aot_eager", dynamic=False)
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, half):
            expected = by("jet", layer, x, gradient)
            y = program(x.requires_grad_())
            found = torch.autograd.grad(y, [x, *layer.parameters()], gradient.to(y.dtype))
        assert all(map(torch.equal, [y, *found], expected))
        assert y.is_contiguous()
    assert len(calls) == 2


def test_a_compiled_network_is_the_eager_one(compiled, monkeypatch):
    """With "auto", which takes the jet form for the 48 planar channels of the second layer."""
    group = PointGroup(8)
    net = nn.Sequential(GroupConv(group, 1, 6), nn.ReLU(), GroupConv(group, 6, 6), GroupPool())
    program, calls = compile_counting(monkeypatch, net, backend="aot_eager", dynamic=False)
    x, parameters = torch.randn(2, 1, 8, 9, 12), list(net.parameters())
    for half in (False, True):
        found = []
        for model in (program, net):
            with torch.autocast("cpu", torch.bfloat16, half):
                y = model(x)
            found.append([y, *torch.autograd.grad(y.float().square().sum(), parameters)])
        assert max(errors(*found)) < (0.05 if half else 1e-5)
        assert half or len(calls) == 1  # in 16 bits the rule depends on the processor


def test_gradients_of_the_operator_can_be_differentiated_and_mapped_over(compiled, monkeypatch):
    layer = layer_of("p4", 1, 2, offset=0.3)
    layer.algorithm = "jet"
    program, calls = compile_counting(monkeypatch, layer, backend="eager")
    x = map_of(layer, (4, 3), batch=1).requires_grad_()
    gradients = torch.randn(3, *layer(x).shape, dtype=x.dtype)
    found = []
    for model in (program, layer):
        y = model(x)
        mapped = torch.autograd.grad(y, x, gradients, is_grads_batched=True, retain_graph=True)
        first = torch.autograd.grad(y.square().sum(), [x, layer.weight], create_graph=True)
        again = sum(each.square().sum() for each in first)
        found.append([*mapped, *torch.autograd.grad(again, [x, layer.weight])])
    assert max(errors(*found)) < 1e-12 and len(calls) == 1


def test_the_operators_promise_what_they_compute(compiled):
    layer = layer_of("p3m", 2, 3, stride=2)
    rows = map_of(layer).permute(0, 3, 4, 1, 2).contiguous().requires_grad_()
    bias = torch.randn(3, dtype=rows.dtype, requires_grad=True)
    form = jet.form_of(layer).arguments
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.pdoe.jet, (rows, layer.weight, bias, *form), test_utils=checks)
    y = torch.ops.pdoe.jet(rows, layer.weight, bias, *form).detach()
    for wanted in ((True, False), (True, True)):
        given = (rows.detach(), layer.weight.detach(), torch.randn_like(y), *wanted, *form)
        torch.library.opcheck(torch.ops.pdoe.jet_gradients, given, test_utils=checks)
    none = torch.ops.pdoe.jet(rows[:0].detach(), layer.weight, bias, *form)
    assert none.shape == y[:0].shape
    given = (rows[:0].detach(), layer.weight, none.detach(), True, True, *form)
    of_rows, of_weight = torch.ops.pdoe.jet_gradients(*given)
    assert of_rows.shape == rows[:0].shape and of_weight.abs().max() == 0


@pytest.mark.slow
def test_generated_code_computes_the_same(compiled, monkeypatch):
    set_inductor_cache()
    layer = layer_of("p8", 3, 2, torch.float32, bias=True)
    x = map_of(layer, (9, 10))
    gradient = torch.randn_like(by("dense", layer, x)[0])
    expected = by("jet", layer, x, gradient)
    program, calls = compile_counting(monkeypatch, layer)
    x.requires_grad_()
    found = torch.autograd.grad(y := program(x), [x, *layer.parameters()], gradient)
    assert max(errors([y, *found], expected)) < 1e-6 and len(calls) == 1


def test_copies_pickles_and_states_are_those_of_a_layer(compiled):
    layer = layer_of("p8", 3, 2)
    layer.algorithm = "jet"
    (expected,) = by("jet", layer, x := map_of(layer))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.algorithm == "jet" and torch.equal(twin(x), expected)
    assert list(layer.state_dict()) == ["weight"]


def test_a_network_says_whether_it_may_run_in_the_jet_form():
    net = PlainCNN(PointGroup(8), [7] * 6, offset=math.pi / 8)
    assert jet.is_used(net) == (jet.load() is not None)
    for module in net.modules():
        if isinstance(module, GroupConv):
            module.algorithm = "dense"
    assert not jet.is_used(net)
    assert not jet.is_used(PlainCNN(PointGroup(4), [10] * 6, "pixels", head="group"))
