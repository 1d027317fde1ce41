"""The group's action on maps, and the two measures of how far a model commutes with it."""

import copy
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from pdoe import (
    GroupConv,
    GroupPool,
    LiftingConv,
    PointGroup,
    equivariance_curve,
    equivariance_error,
    equivariance_report,
)
from pdoe.equivariance.action import act, grid_elements
from pdoe.fast import MaxPool
from pdoe.models.pooling import MeanPool

NAMES = ["p1", "p2", "p3", "p4", "p5", "p6", "p8", "p12", "p1m", "p2m", "p3m", "p4m", "p6m", "p8m"]
every_group = pytest.mark.parametrize("name", NAMES)


pytestmark = pytest.mark.usefixtures("one_thread")


def layers_of(report, *containers):
    """The layers a report speaks of, in its order; it may speak of the whole model as well."""
    return [name for name in report.errors if name not in ("", "output", *containers)]


class Lopsided(nn.Module):
    """Adds its input's left neighbour, which no turn respects."""

    def forward(self, x):
        return x + 0.5 * x.roll(1, -1)


def layers(name, **between):
    """Lift, norm, relu, whatever is asked for, convolve, relu, pool; float64."""
    group = PointGroup.named(name)
    return nn.Sequential(
        OrderedDict(
            lift=LiftingConv(group, 2, 3),
            norm=nn.BatchNorm3d(3),
            relu=nn.ReLU(),
            **between,
            conv=GroupConv(group, 3, 2),
            relu_after=nn.ReLU(),
            pool=GroupPool("max"),
        )
    ).double()


def image(height=12, width=12):
    return torch.randn(2, 2, height, width, dtype=torch.float64)


# --- the action ----------------------------------------------------------------------------------


@every_group
def test_the_elements_that_keep_the_grid_are_those_with_integer_matrices(name, by_matrices):
    group = PointGroup.named(name)
    assert list(grid_elements(group)) == by_matrices.keepers(group)


@every_group
def test_the_action_moves_pixels_and_orientations_as_the_matrices_say(name, by_matrices):
    group = PointGroup.named(name)
    for shape in [
        (2, 3),
        (2, 3, 5, 5),
        (2, 3, 4, 7),
        (1, 2, len(group), 4, 4),
        (1, 2, len(group), 3, 6),
    ]:
        x = torch.randn(shape)
        for g in grid_elements(group):
            assert torch.equal(act(group, g, x), by_matrices.moved(group, g, x))


@every_group
def test_acting_twice_is_acting_with_the_product(name):
    group = PointGroup.named(name)
    x, product = torch.randn(1, 2, len(group), 4, 5), np.asarray(group.product)
    assert torch.equal(act(group, 0, x), x)
    for g in grid_elements(group):
        for h in grid_elements(group):
            assert torch.equal(act(group, g, act(group, h, x)), act(group, int(product[g, h]), x))


def test_a_quarter_turn_is_counter_clockwise_and_a_reflection_turns_top_to_bottom():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    group = PointGroup(4, reflections=True)
    assert act(group, 1, x)[0, 0].tolist() == [[2, 4], [1, 3]]
    assert act(group, 4, x)[0, 0].tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize(
    "name, g", [("p8", 1), ("p6", 1), ("p3", 2), ("p8m", 9), ("p4", 4), ("p4", -1)]
)
def test_an_element_that_does_not_keep_the_grid_cannot_act(name, g):
    with pytest.raises((ValueError, IndexError), match=str(g)):
        act(PointGroup.named(name), g, torch.zeros(1, 1, 4, 4))


# --- refusals ------------------------------------------------------------------------------------

CONV = nn.Conv2d(1, 2, 3, padding=1)
ONE, NONE = torch.ones(1, 1, 9, 9), torch.ones(0, 1, 9, 9)
MEASURES = [equivariance_error, equivariance_report, equivariance_curve]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "model, group, x, kind, message",
    [
        (None, PointGroup(4), ONE, TypeError, "torch.nn.Module.*not None"),
        (CONV, "p4", ONE, TypeError, "group is a PointGroup.*not 'p4'"),
        (CONV, None, ONE, TypeError, "group is a PointGroup.*not None"),
        (CONV, PointGroup(4), ONE.numpy(), TypeError, "x is a tensor.*not ndarray"),
        (CONV, PointGroup(4), NONE, ValueError, r"x is empty, \[0, 1, 9, 9\]"),
        (nn.LSTM(9, 2), PointGroup(4), ONE[0], TypeError, "the model returns a tuple"),
    ],
)
def test_arguments_that_would_say_nothing_are_refused_in_one_line(
    measure, model, group, x, kind, message
):
    with pytest.raises(kind, match=message) as failure:
        measure(model, group, x)
    assert "\n" not in str(failure.value)


class Nothing(nn.Module):
    """Returns no image of the batch."""

    def forward(self, x):
        return x[:0]


@pytest.mark.parametrize("measure", MEASURES)
def test_an_empty_output_is_refused_and_one_that_is_not_finite_has_an_infinite_error(measure):
    with pytest.raises(ValueError, match=r"output of the model is empty, \[0, 1, 9, 9\]"):
        measure(Nothing(), PointGroup(4), ONE)
    nan = nn.Sequential(nn.Threshold(2.0, float("nan")))
    found = measure(nan, PointGroup(4), ONE)
    assert set(getattr(found, "errors", found).values()) == {float("inf")}


def test_a_report_needs_a_module():
    with pytest.raises(TypeError, match="takes a torch.nn.Module, whose layers it measures"):
        equivariance_report(lambda x: x, PointGroup(4), ONE)


# --- the error -----------------------------------------------------------------------------------


@every_group
def test_the_error_is_told_for_every_element_that_keeps_the_grid_and_no_other(name, by_matrices):
    group = PointGroup.named(name)
    errors = equivariance_error(layers(name), group, image())
    assert list(errors) == by_matrices.keepers(group)
    assert all(type(g) is int and type(error) is float for g, error in errors.items())
    assert errors[0] == 0
    assert max(errors.values()) < 1e-12


@pytest.mark.parametrize("height, width", [(8, 8), (7, 10)])
@pytest.mark.parametrize("name", ["p4", "p8", "p4m"])
def test_the_error_is_the_distance_of_the_two_ways_round_over_the_norm(
    name, height, width, by_matrices
):
    group, x = PointGroup.named(name), image(height, width)
    for model in (
        nn.Sequential(Lopsided(), layers(name)),
        nn.Conv2d(2, 3, 3, dtype=torch.float64),
        nn.Sequential(
            layers(name), nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(32, 5)
        ).double(),
    ):
        model.eval()
        with torch.no_grad():
            y = model(x)
            expected = {
                g: (
                    (model(by_matrices.moved(group, g, x)) - by_matrices.moved(group, g, y)).norm()
                    / y.norm()
                ).item()
                for g in by_matrices.keepers(group)
            }
        found = equivariance_error(model, group, x)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert max(found.values()) > 1e-3


@pytest.mark.parametrize("name", ["p3", "p5"])
def test_a_group_that_shares_nothing_with_the_grid_has_no_error_but_the_identitys(name):
    assert equivariance_error(Lopsided(), PointGroup.named(name), image()) == {0: 0.0}


@pytest.mark.parametrize("measure", [equivariance_error, equivariance_report])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_measuring_leaves_the_model_and_the_image_as_they_were(measure, mode):
    model, x = getattr(layers("p4"), mode)(), image()
    model.conv.eval()  # a part may be in another mode than the whole
    model(x).sum().backward()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients, x_before = [p.grad.clone() for p in model.parameters()], x.clone()
    measure(model, PointGroup(4), x)
    assert [m.training for m in model.modules()] == modes
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(map(torch.equal, [p.grad for p in model.parameters()], gradients))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(x, x_before) and torch.is_grad_enabled()


@pytest.mark.parametrize("measure", [equivariance_error, equivariance_report])
def test_a_model_that_fails_is_left_as_it_was_too(measure):
    model = layers("p4", wrong=nn.Conv2d(1, 1, 1)).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((RuntimeError, ValueError)):
        measure(model, PointGroup(4), image())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(m.training and not m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("measure", [equivariance_error, equivariance_report])
def test_a_model_is_measured_in_the_mode_that_it_is_in(measure):
    class LopsidedInTraining(Lopsided):
        def forward(self, x):
            return super().forward(x) if self.training else x

    def largest(model):
        found = measure(model, PointGroup(4), image())
        return max(getattr(found, "errors", found).values())

    model = layers("p4", mood=LopsidedInTraining())
    assert largest(model.eval()) < 1e-12
    assert largest(model.train()) > 1e-3


# --- the report ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["p1", "p3", "p4", "p8", "p6m"])
def test_the_report_of_a_sound_model_names_every_layer_and_breaks_at_none(name, mode):
    model = getattr(layers(name), mode)()
    report = equivariance_report(model, PointGroup.named(name), image())
    assert layers_of(report) == list(model._modules)
    assert max(report.errors.values()) < 1e-12
    assert report.first_broken is None


@pytest.mark.parametrize("name", ["p2", "p4", "p8m"])
def test_the_report_names_the_first_layer_that_breaks(name):
    model = layers(name, lopsided=Lopsided(), innocent=nn.ReLU())
    report = equivariance_report(model, PointGroup.named(name), image())
    assert report.first_broken == "lopsided"
    names = list(report.errors)
    broken = names.index("lopsided")
    assert max(report.errors[layer] for layer in names[:broken]) < 1e-12
    assert min(report.errors[layer] for layer in names[broken : names.index("pool") + 1]) > 1e-3


def test_the_report_gives_the_largest_error_over_the_elements():
    model = nn.Sequential(OrderedDict(lopsided=Lopsided()))
    group, x = PointGroup(4, reflections=True), image()
    errors = equivariance_error(model, group, x)
    report = equivariance_report(model, group, x)
    assert report.errors["lopsided"] == pytest.approx(max(errors.values()), rel=1e-12)
    assert len({round(error, 6) for error in errors.values()}) > 2


@pytest.mark.parametrize("size, broken", [(12, "strided"), (13, None)])
def test_a_stride_of_two_breaks_on_even_sizes_and_the_report_says_where(size, broken):
    model = layers("p8", strided=GroupConv(PointGroup(8), 3, 3, stride=2).double())
    assert equivariance_report(model, PointGroup(8), image(size, size)).first_broken == broken


@pytest.mark.parametrize("size, broken", [(12, None), (13, "halve")])
def test_pooling_two_by_two_breaks_on_odd_sizes_and_the_report_says_where(size, broken):
    model = layers("p4", halve=nn.MaxPool3d((1, 2, 2)))
    assert equivariance_report(model, PointGroup(4), image(size, size)).first_broken == broken


def test_batch_norm_per_orientation_breaks_and_the_report_says_so():
    class PerOrientation(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x.flatten(1, 2)).unflatten(1, x.shape[1:3])

    norm = PerOrientation(12)
    nn.init.normal_(norm.weight)
    model = layers("p4", apart=norm.double())
    assert equivariance_report(model, PointGroup(4), image()).first_broken == "apart"


class Halve(nn.Module):
    """A shortcut that is cut out of the map, as in many residual networks."""

    def forward(self, x):
        return x[..., ::2, ::2]


P8 = PointGroup(8)
WHY = [
    (12, GroupConv(P8, 3, 3, stride=2), r"stride of 2 on a size of 12x12 .* must be odd"),
    (12, GroupConv(P8, 3, 3, "point", stride=2), r"stride of 2 on a size of 12x12 .* be odd"),
    (12, GroupConv(P8, 3, 3, stride=3), r"stride of 3 on a size of 12x12 .* 1 more than"),
    (13, nn.MaxPool3d((1, 2, 2)), r"pooling 2x2 over a size of 13x13 .* needs an even one"),
    (13, nn.AvgPool3d((1, 2, 2)), r"pooling 2x2 over a size of 13x13 .* needs an even one"),
    (13, MaxPool(), r"pooling 2x2 over a size of 13x13 .* needs an even one"),
    (13, MeanPool(), r"pooling 2x2 over a size of 13x13 .* needs an even one"),
    (13, nn.AvgPool3d((1, 3, 3), (1, 3, 3)), r"pooling 3x3 .* needs another one"),
    (12, nn.AvgPool3d((1, 1, 3), 1), r"differs between rows and columns"),
    (12, nn.ZeroPad2d((0, 1, 0, 1)), r"asymmetric padding: 0 left, 1 right, 0 top, 1 bottom"),
    (12, nn.Flatten(1, 2), r"flattens orientations into channels.*not invariant"),
    (12, nn.Flatten(), r"flattens orientations and pixels into channels.*not invariant"),
    (12, nn.Dropout(0.5), r"dropout in training mode"),
    (12, nn.Sequential(Lopsided(), nn.ReLU()), None),  # Lopsided is named, and not its container
    (12, Halve(), r"unknown: no known property of Halve explains it"),
]


@pytest.mark.parametrize("size, module, why", WHY, ids=[type(m).__name__ for _, m, _ in WHY])
def test_the_report_says_why_the_first_layer_breaks(size, module, why):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.suspect = LiftingConv(P8, 2, 3), module

        def forward(self, x):
            return self.suspect(self.lift(x))

    report = equivariance_report(Model().double().train(), P8, image(size, size))
    assert report.first_broken == ("suspect" if why else "suspect.0")
    assert re.search(why or "unknown: no known property of Lopsided", report.reason)
    assert f"suspect{'' if why else '.0'}" in str(report) and report.reason in str(report)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_the_report_says_why_an_ordinary_layer_or_head_breaks():
    group = PointGroup(4)
    conv = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    strided = nn.Conv2d(2, 3, 7, stride=2, padding=3, dtype=torch.float64)
    oblong = nn.Conv2d(2, 3, (1, 3), padding=(0, 1), dtype=torch.float64)
    even = nn.Conv2d(2, 3, 4, padding="same", dtype=torch.float64)
    nn.init.ones_(even.weight)  # symmetric: its padding alone is to blame
    for model, why in {
        conv: "an ordinary convolution: its kernel does not rotate",
        strided: "an ordinary convolution: its kernel does not rotate",
        oblong: "an ordinary convolution: its kernel does not rotate",
        even: "padding 'same' of an even kernel pads one side more",
        nn.Conv2d(2, 3, 12, dtype=torch.float64): "a head that spans the map.*not invariant",
        nn.Conv2d(2, 3, 1, stride=2, dtype=torch.float64): "stride of 2 on a size of 12x12",
    }.items():
        assert re.search(why, equivariance_report(model, group, image()).reason)


def test_an_ordinary_network_breaks_at_its_first_convolution():
    models = pytest.importorskip("torchvision.models")
    report = equivariance_report(models.resnet18().eval(), PointGroup(4), torch.randn(1, 3, 64, 64))
    assert report.first_broken == "conv1"
    assert report.reason.startswith("an ordinary convolution")


def test_a_block_is_blamed_for_what_it_does_between_its_layers():
    class Block(nn.Sequential):
        def forward(self, x):
            return super().forward(x)[..., ::2, ::2]

    model = layers("p4", block=Block(nn.ReLU(), nn.Tanh()))
    report = equivariance_report(model, PointGroup(4), image())
    assert report.first_broken == "block" and "none of its layers alone" in report.reason


def test_a_network_without_a_group_is_asked_about_another_ones_turns():
    """Its lifted maps [B, C, 1, H, W] turn as the images that they are."""
    x = torch.randn(1, 2, 1, 5, 6)
    for g in range(4):
        assert torch.equal(act(PointGroup(4), g, x)[:, :, 0], act(PointGroup(4), g, x[:, :, 0]))
    report = equivariance_report(layers("p1"), PointGroup(4), image())
    assert report.first_broken == "lift" and "built for p1" in report.reason
    assert layers_of(report) == list(layers("p1")._modules)


def test_the_report_follows_execution_and_not_registration():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = GroupPool("mean")
            self.broken = Lopsided()
            self.middle = nn.Sequential(nn.ReLU(), nn.Tanh())
            self.first = LiftingConv(PointGroup(4), 2, 3, dtype=torch.float64)

        def forward(self, x):
            return self.last(self.broken(self.middle(self.first(x))))

    report = equivariance_report(Backwards(), PointGroup(4), image())
    order = layers_of(report, "middle")
    assert order == ["first", "middle.0", "middle.1", "broken", "last"]
    assert report.first_broken == "broken"


def test_a_layer_named_act_moves_no_maps():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = LiftingConv(PointGroup(4), 1, 2), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(x))

    model, x = Named(), torch.randn(1, 1, 9, 9)
    assert max(equivariance_error(model, PointGroup(4), x).values()) < 1e-5
    assert equivariance_report(model, PointGroup(4), x).first_broken is None


def test_numbers_that_are_not_finite_are_no_sound_model():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full_like(x, float("nan"))

    model, x = nn.Sequential(nn.ReLU(), Broken()), torch.randn(1, 1, 9, 9)
    found = equivariance_report(model, PointGroup(4), x)
    assert found.first_broken == "1" and found.errors["1"] == float("inf")
    assert set(equivariance_error(model, PointGroup(4), x).values()) == {float("inf")}


def test_a_norm_in_16_bits_does_not_hide_an_error():
    x = torch.randn(4, 8, 28, 28)
    model = lambda x: (20 * x.cumsum(-1) + 4000).half()  # noqa: E731
    assert torch.linalg.vector_norm(model(x)) == float("inf")
    assert min(list(equivariance_error(model, PointGroup(4), x).values())[1:]) > 1e-3


def test_rounding_in_float32_is_not_called_broken():
    model = layers("p8").float().eval()
    report = equivariance_report(model, PointGroup(8), image().float())
    assert report.first_broken is None
    assert 0 < max(report.errors.values()) < 1e-4


def test_layers_that_are_called_by_keyword_or_with_a_tuple_are_reported_too():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.pair = LiftingConv(PointGroup(4), 1, 2), Pair()

        def forward(self, x):
            return self.pair((self.lift(x=x), 3))

    class Pair(nn.Module):
        def forward(self, both):
            return both[0] + 0.1 * both[0].flip(-1)  # no turn commutes with it

    report = equivariance_report(Odd().double(), PointGroup(4), torch.randn(1, 1, 9, 9).double())
    assert list(report.errors) == ["lift", "pair", ""] and report.first_broken == "pair"
