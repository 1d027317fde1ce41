"""Bank ``ring``, ORN-8 and OR-TIPooling: what turns by 45 degrees nearly, and by 90 exactly."""

from math import pi

import numpy as np
import pytest
import torch
from torch import nn

from pdoe import (
    LiftingConv,
    PointGroup,
    convergence_order,
    equivariance_error,
    equivariance_report,
    filter_bank,
)
from pdoe.data.augmentation import rotate
from pdoe.models import ORN, Images
from pdoe.models.orn import Align, Frame, RotatedCopies

pytestmark = pytest.mark.usefixtures("one_thread")

P8 = PointGroup(8)


def digits(batch=2, size=28):
    return torch.randn(batch, 1, size, size, dtype=torch.float64)


def small(group=P8, **options):
    return ORN(group, **{"widths": (2, 2, 3, 3), "hidden": 7, **options}).double().eval()


def errors(model, x, group=P8):
    return max(equivariance_error(model, group, x).values())


# --- the bank ------------------------------------------------------------------------------------


def test_an_eighth_of_a_turn_shifts_the_ring_by_one_counter_clockwise():
    """Pixel x moves to the right place of y's; read off the picture, row by row."""
    weight = np.arange(1, 10).reshape(3, 3)
    turned = np.einsum("gkyx,k->gyx", filter_bank(P8, "ring"), weight.ravel())
    np.testing.assert_array_equal(turned[0], weight)
    np.testing.assert_array_equal(turned[1], [[2, 3, 6], [1, 5, 9], [4, 7, 8]])


@pytest.mark.parametrize("name", ["p1", "p2", "p4", "p1m", "p2m", "p4m"])
def test_on_groups_of_the_grid_the_ring_is_the_turned_pixels(name):
    group = PointGroup.named(name)
    np.testing.assert_array_equal(filter_bank(group, "ring"), filter_bank(group, "pixels"))


@pytest.mark.parametrize("name", ["p8", "p8m"])
def test_the_ring_is_acted_on_by_the_whole_group(name):
    """As permutations of nine pixels, the product of two elements is the one after the other."""
    group = PointGroup.named(name)
    moves = filter_bank(group, "ring").reshape(len(group), 9, 9)
    assert (moves.sum(1) == 1).all() and (moves.sum(2) == 1).all()
    for g in range(len(group)):
        for h in range(len(group)):
            np.testing.assert_array_equal(moves[group.product[g, h]], moves[h] @ moves[g])


@pytest.mark.parametrize("name", ["p8", "p8m"])
def test_elements_that_keep_the_grid_move_the_kernels_of_all_others(name, by_matrices):
    group = PointGroup.named(name)
    bank, product = filter_bank(group, "ring"), np.asarray(group.product)
    for g in by_matrices.keepers(group):
        np.testing.assert_array_equal(bank[product[g]], by_matrices.moved(group, g, bank))


def test_an_eighth_of_a_turn_is_approximate_and_does_not_converge():
    lift = LiftingConv(P8, 1, 3, "ring", dtype=torch.float64)
    assert convergence_order([lift], pi / 4).order < 0.5
    assert errors(lift, digits(1, 9)) < 1e-12


@pytest.mark.parametrize(
    "group, options, problem",
    [
        ("p6", {}, "no filter for p6"),
        ("p16", {}, "no filter for p16"),
        ("p8", {"offset": pi / 8}, "offset"),
        ("p8", {"size": 5}, "size is 3, not 5"),
    ],
)
def test_a_ring_that_cannot_be_raises(group, options, problem):
    with pytest.raises(ValueError, match=problem):
        filter_bank(PointGroup.named(group), "ring", **options)


# --- ORN-8 ---------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_source_without_its_redundant_ones():
    """Released, 970,954: the lifting has 8 weights that see the same image, 10 x 8 x 9 in place of
    10 x 9, and each of 150 fields 8 biases in place of 1: 630 and 1,050 more than ours."""
    convolutions = 10 * 9 + (10 * 20 + 20 * 40 + 40 * 80) * 8 * 9 + 150
    aligned = convolutions + (640 + 1) * 1024 + (1024 + 1) * 10
    assert sum(p.numel() for p in ORN(P8).parameters()) == aligned
    assert aligned + 630 + 1_050 == 970_954
    pooled = convolutions + (80 + 1) * 1024 + (1024 + 1) * 10
    assert sum(p.numel() for p in ORN(P8, head="pool").parameters()) == pooled
    assert sum(p.numel() for p in ORN(P8, copies=24).parameters()) == aligned


def test_the_map_shrinks_to_one_pixel_over_even_sizes():
    sizes = []
    model = small()
    for module in model.trunk:
        module.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    assert model.trunk(digits()).shape == (2, 3, 8, 1, 1)
    changes = [size for k, size in enumerate(sizes) if k == 0 or size != sizes[k - 1]]
    assert changes == [30, 28, 14, 12, 6, 3, 1]


@pytest.mark.parametrize("head", ["align", "pool"])
@pytest.mark.parametrize("name", ["p4", "p8", "p8m"])
def test_trunk_and_logits_turn_exactly_with_the_grid(name, head, by_matrices):
    group = PointGroup.named(name)
    model, x = small(group, head=head), digits()
    assert by_matrices.errors(model.trunk, group, x) < 1e-12
    assert errors(model, x, group) < 1e-12
    assert equivariance_report(model, group, x).first_broken is None


@pytest.mark.parametrize("frame", [28, 32])
def test_in_the_sources_frame_a_pooling_leaves_out_one_side_and_the_report_names_it(frame):
    if frame == 28:  # does not shrink to a pixel
        with pytest.raises(ValueError, match="30 to 37 pixels"):
            small(frame=frame)
        return
    report = equivariance_report(small(frame=frame), P8, digits())
    assert report.first_broken == "trunk.6" and "12" not in report.reason
    assert "13x13" in report.reason


@pytest.mark.parametrize("name", ["p4", "p8", "p8m"])
def test_aligned_fields_are_equal_whatever_element_turned_them(name):
    group = PointGroup.named(name)
    field = torch.randn(2, 3, len(group), 1, 1)
    aligned = Align(group)(field)
    assert torch.equal(aligned.view(2, 3, -1)[..., 0], field.amax(2)[..., 0, 0])
    assert not torch.equal(aligned.view(2, 3, -1), field.flatten(2))
    for g in range(len(group)):
        assert torch.equal(Align(group)(field[:, :, group.quotient[g]]), aligned)


def test_on_rotations_alignment_is_a_cyclic_shift():
    field = torch.randn(8)
    aligned = Align(P8)(field.view(1, 1, 8, 1, 1)).flatten()
    assert torch.equal(aligned, field.roll(-int(field.argmax())))


def test_black_stays_black_beyond_the_frame_whatever_the_normalisation():
    x = torch.full((1, 1, 4, 4), -0.4)
    x[..., 1:3, 1:3] = 2.0
    framed = Frame(3, 3)(x)
    assert framed.shape == (1, 1, 10, 10) and framed.min() == x.min()
    turned = RotatedCopies([0.0, pi / 4], 10)(framed)
    assert turned.shape == (2, 1, 10, 10) and turned.min() >= x.min() - 1e-6
    assert turned[:, 0, 0, 0].tolist() == pytest.approx([-0.4] * 2)


# --- TI-pooling ----------------------------------------------------------------------------------


def by_definition(model, x, copies):
    """The maximum over all copies, each turned by itself, without any short cut."""
    framed = model.trunk[0](x)
    hidden = []
    for i in range(copies):
        turned = RotatedCopies([2 * pi * i / copies], framed.shape[-1]).double()(framed)
        hidden.append(model.features(model.trunk[1:](turned)))
    return model.head(torch.stack(hidden).amax(0))


@pytest.mark.parametrize("copies, computed", [(1, 1), (3, 3), (4, 1), (8, 2), (24, 6)])
def test_a_quarter_of_the_copies_stands_for_all_and_gradients_are_the_same(copies, computed):
    model, x = small(copies=copies), digits(1)
    assert len(model.angles) == computed
    found, expected = model(x), by_definition(model, x, copies)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = list(model.parameters())
    some = torch.randn_like(found)
    pairs = zip(
        *(torch.autograd.grad((y * some).sum(), weights) for y in (found, expected)), strict=True
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_every_copy_is_computed_where_quarter_turns_are_not_exact():
    assert len(small(copies=8, frame=32).angles) == 8
    assert len(small(PointGroup(2), copies=8).angles) == 8


def test_logits_are_invariant_under_quarter_turns_and_nearer_to_it_in_between():
    torch.manual_seed(3)
    one, many = small(copies=1, hidden=40), small(copies=24, hidden=40)
    many.load_state_dict(one.state_dict())
    x = torch.zeros(4, 1, 28, 28, dtype=torch.float64)
    x[..., 8:20, 8:20] = nn.functional.interpolate(digits(4, 3), size=12, mode="bicubic")
    turned = rotate(x, torch.full((4,), pi / 12, dtype=torch.float64))

    def change(model):
        return ((model(turned) - model(x)).norm() / model(x).norm()).item()

    assert errors(many, x) < 1e-12
    assert change(many) < 0.8 * change(one)


def test_copies_are_turned_counter_clockwise_as_training_images_are():
    x = torch.zeros(1, 1, 28, 28, dtype=torch.float64)
    x[..., 9:17, 10:20] = torch.rand(8, 10)
    angles = [0.0, pi / 12, pi / 2, 4.0]
    turned = RotatedCopies(angles, 28).double()(x)
    expected = rotate(x.repeat(4, 1, 1, 1), torch.tensor(angles, dtype=torch.float64))
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-12)


# --- as a module ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, problem",
    [
        ({"head": "max"}, "'align' or 'pool'"),
        ({"widths": (1, 2, 3)}, "four convolutions"),
        ({"copies": 0}, "positive"),
        ({"hidden": 0}, "positive"),
        ({"frame": 40}, "30 to 37"),
        ({"images": Images(size=64)}, "30 to 37"),
    ],
)
def test_a_wrong_argument_raises_when_the_net_is_built(wrong, problem):
    with pytest.raises(ValueError, match=problem):
        ORN(P8, **wrong)
