"""Wrong calls of the layers end in one sentence of ours, which names the argument."""

import random
import warnings

import numpy as np
import pytest
import torch

import pdoe
from pdoe import (
    BatchNorm,
    ChannelsLast,
    Dropout,
    GroupConv,
    GroupPool,
    LiftingConv,
    MaxPool,
    PointGroup,
    export_plain,
    filter_bank,
)

P8 = PointGroup(8)
CONVOLUTIONS = pytest.mark.parametrize("conv", [LiftingConv, GroupConv])


def message_of(call, *arguments, **options):
    with pytest.raises((TypeError, ValueError)) as failure:
        call(*arguments, **options)
    return str(failure.value)


# --- names of arguments --------------------------------------------------------------------------


@CONVOLUTIONS
def test_kernel_size_is_an_alias_of_size(conv):
    layer = conv(P8, 2, 3, "gaussian", kernel_size=7)
    assert layer.kernel_size == layer.bank_size == 7
    assert conv(P8, 2, 3, size=5, kernel_size=5).kernel_size == 5
    assert "size and its alias kernel_size" in message_of(conv, P8, 2, 3, size=5, kernel_size=7)


@CONVOLUTIONS
@pytest.mark.parametrize(
    ("option", "way"),
    [
        ({"dilation": 2}, "'gaussian' with a larger size"),
        ({"groups": 2}, "x.chunk"),
        ({"padding_mode": "circular"}, "padding=0"),
        ({"width": 0.7}, "bank_width"),
        ({"strides": 2}, "see help"),
    ],
)
def test_an_option_of_another_library_is_refused_with_the_way_to_do_it(conv, option, way):
    message = message_of(conv, P8, 2, 3, **option)
    assert next(iter(option)) in message and way in message


def test_operators_in_a_frame_of_zeros_say_so():
    with pytest.warns(UserWarning, match="pads the 5x5 filters .* with zeros.*'gaussian'"):
        LiftingConv(PointGroup(11), 1, 1, size=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GroupConv(PointGroup(4), 1, 1, size=5).kernel_size == 5


@pytest.mark.parametrize("bank", pdoe.banks.BANKS)
def test_absurd_sizes_are_refused_at_once(bank):
    assert "size is at most" in message_of(filter_bank, PointGroup(1), bank, 1001)


@CONVOLUTIONS
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("group", ["p8", 8, None]),
        ("in_channels", [0, -2, 2.0, True]),
        ("out_channels", [0, 1.5, None]),
        ("bank", ["operator", "OPERATORS", None]),
        ("size", [0, 3.5, True]),
        ("offset", [float("nan"), float("inf"), "pi/8"]),
        ("stride", [0, -1, 1.5, "2"]),
        ("padding", [-1, 0.5, "same"]),
        ("bias", [1, None]),
        ("device", ["gpu"]),
        ("dtype", ["float32", torch.int64]),
    ],
)
def test_a_wrong_argument_is_refused_with_its_name_and_value(conv, name, values):
    for value in values:
        usual = {"group": P8, "in_channels": 2, "out_channels": 3}
        message = message_of(conv, **{**usual, name: value})
        assert name in message and str(value) in message


@pytest.mark.parametrize("kind", ["sum", "Max", "", None, 2])
def test_an_unknown_pooling_is_refused_with_those_there_are(kind):
    message = message_of(GroupPool, kind)
    assert repr(kind) in message and "'max' or 'mean'" in message


# --- maps ----------------------------------------------------------------------------------------


@CONVOLUTIONS
@pytest.mark.parametrize(
    "shape", [(2, 9, 9), (2, 3, 9, 9), (2, 2, 7, 9, 9), (2, 2), (1, 2, 2, 8, 9, 9)]
)
def test_a_map_of_another_shape_is_refused_with_both_shapes(conv, shape):
    message = message_of(conv(P8, 2, 3), torch.zeros(shape))
    assert str(list(shape)) in message and "[B, 2, " in message


@CONVOLUTIONS
def test_what_is_no_tensor_of_floating_point_numbers_is_refused(conv):
    x = torch.zeros(1, 1, *([8] if conv is GroupConv else []), 9, 9)
    for wrong, name in ((x.to(torch.uint8), "uint8"), (x.numpy(), "ndarray"), ((x,), "tuple")):
        message = message_of(conv(P8, 1, 1), wrong)
        assert "floating-point" in message and name in message


@CONVOLUTIONS
def test_another_dtype_or_device_than_the_weights_is_refused_with_both(conv):
    layer = conv(P8, 1, 1)
    x = torch.zeros(1, 1, *([8] if conv is GroupConv else []), 9, 9)
    for other, names in ((x.double(), ("float64", "float32")), (x.to("meta"), ("meta", "cpu"))):
        message = message_of(layer, other)
        assert all(name in message for name in names)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.half()).dtype == torch.bfloat16
        assert "float64" in message_of(layer, x.double())


@CONVOLUTIONS
@pytest.mark.parametrize("size", [(0, 9), (9, 0), (4, 9), (9, 4)])
def test_a_map_smaller_than_the_kernel_is_refused(conv, size):
    layer = conv(P8, 1, 1, padding=0)
    shape = 1, 1, *([8] if conv is GroupConv else []), *size
    assert "at least 5x5 pixels" in message_of(layer, torch.zeros(shape))


def test_only_modules_are_exported():
    assert "torch.nn.Module, not int" in message_of(export_plain, 3)


@CONVOLUTIONS
def test_a_batch_of_no_images_gives_one_of_no_maps(conv):
    layer = conv(P8, 1, 3)
    x = torch.zeros(0, 1, *([8] if conv is GroupConv else []), 9, 9, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, 3, 8, 9, 9)
    y.sum().backward()
    assert x.grad.shape == x.shape and not layer.weight.grad.any()


@pytest.mark.parametrize("layer", [GroupConv(P8, 2, 3), GroupPool()], ids=["conv", "pool"])
@pytest.mark.parametrize("channels", [2, 16])
def test_a_flattened_map_is_refused_with_what_may_have_flattened_it(layer, channels):
    message = message_of(layer, torch.zeros(1, channels, 9, 9))
    assert "nn.BatchNorm2d" in message and "pdoe.BatchNorm" in message
    assert "pdoe.MaxPool" in message
    if channels == 16 and isinstance(layer, GroupConv):
        assert "unflatten(1, (2, 8))" in message


# --- a fuzz --------------------------------------------------------------------------------------

VALUES = [
    None, True, -1, 0, 3, 10**6, 1.5, float("nan"), float("inf"), "p8", "same", b"x", [], [2],
    (3, 3), {}, object(), np.array([1, 2]), np.float32(2), torch.zeros(2), torch.zeros(1, 1, 9, 9),
    P8, torch.float32, torch.int8, "cpu", "gpu", print, 1 + 2j,
]  # fmt: skip
CALLS = {
    LiftingConv: ["group", "in_channels", "out_channels", "bank", "size", "offset", "stride",
                  "padding", "bias", "bank_width", "device", "dtype", "kernel_size", "dilation"],
    GroupConv: ["group", "bank", "size", "offset", "bank_width", "dtype"],
    filter_bank: ["group", "kind", "size", "offset", "bank_width"],
    PointGroup: ["n", "reflections"],
    PointGroup.named: ["name"],
    GroupPool: ["kind"],
    Dropout: ["p"],
    BatchNorm: ["num_features"],
}  # fmt: skip
USUAL = {"group": P8, "in_channels": 1, "out_channels": 2, "n": 4, "name": "p4", "p": 0.5,
         "num_features": 3}  # fmt: skip
INPUTS = [
    None, 3, [1.0], "x", np.zeros((1, 2, 8, 9, 9)), torch.zeros(()), torch.zeros(3),
    torch.zeros(2, 8), torch.zeros(1, 2, 9), torch.zeros(1, 3, 9, 9), torch.zeros(1, 2, 0, 9, 9),
    torch.zeros(1, 2, 7, 9, 9), torch.zeros(1, 3, 8, 9, 9), torch.zeros(1, 2, 8, 9, 9, 1),
    torch.zeros(1, 2, 8, 9, 9, dtype=torch.int64), torch.zeros(1, 2, 8, 9, 9, dtype=torch.cfloat),
    torch.zeros(1, 2, 8, 9, 9, dtype=torch.bool), torch.zeros(1, 2, 8, 0, 0),
    torch.zeros(1, 2, 8, 9, 9).double(), torch.zeros(1, 2, 8, 9, 9, device="meta"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_random_wrong_arguments_are_named(call):
    draw = random.Random(0)
    usual = {name: value for name, value in USUAL.items() if name in CALLS[call]}
    if call is GroupConv:
        usual |= {"in_channels": 1, "out_channels": 2}
    words = {"n": "order", "name": "group", "kernel_size": "size"}
    words |= {"kind": "bank"} if call is filter_bank else {}
    for name in CALLS[call]:
        for value in draw.sample(VALUES, len(VALUES)):
            if isinstance(value, int) and ("channels" in name and value > 1000 or name == "device"):
                continue  # a matter of memory; the index of a GPU
            try:
                call(**{**usual, name: value})
            except (TypeError, ValueError) as error:
                assert words.get(name, name) in str(error), (name, value)


@pytest.mark.parametrize(
    "layer",
    [LiftingConv(P8, 2, 1), GroupConv(P8, 2, 1), GroupPool(), GroupPool("mean"), BatchNorm(2),
     MaxPool(), Dropout(0.5), ChannelsLast()],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_random_wrong_inputs_are_told_in_our_words(layer):
    for x in INPUTS:
        try:
            layer(x)
        except (TypeError, ValueError) as error:
            assert type(layer).__name__ in str(error)
