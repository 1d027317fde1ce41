"""Circular harmonics, and the network that SFCNN and E2CNN made of them."""

import copy
import warnings
from itertools import product
from math import atan2, cos, exp, hypot, pi, sin

import numpy as np
import pytest
import torch
from torch import nn

from pdoe import (
    GroupConv,
    LiftingConv,
    PointGroup,
    equivariance_error,
    filter_bank,
)
from pdoe.models import Images, SteerableCNN

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTS = {1: 1, 3: 6, 5: 11, 7: 18, 9: 31}
ORDERS = {1: [0], 3: [0, 2], 5: [0, 2, 2], 7: [0, 2, 3, 2], 9: [0, 2, 3, 6, 2]}
GRID = ["p2", "p4", "p8", "p12", "p16", "p1m", "p2m", "p4m", "p8m"]
ANY = [*GRID, "p1", "p3", "p5", "p6", "p3m", "p6m"]
NARROW = [2, 3, 2, 3, 2, 4]


def harmonics(name, size, offset=0.0):
    return filter_bank(PointGroup.named(name), "harmonics", size=size, offset=offset)


def orders(size):
    """k of every filter, and whether it is the sine."""
    return [(k, s) for top in ORDERS[size] for k in range(top + 1) for s in range(1 + (k > 0))]


def turn(k, matrix):
    """What a frame does to the cosine and the sine of k, from its angle and its determinant."""
    angle = k * atan2(matrix[1][0], matrix[0][0])
    mirror = np.diag([1.0, np.sign(np.linalg.det(matrix))])
    return mirror @ np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


# --- the bank ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", COUNTS)
def test_a_bank_has_a_filter_for_every_wave_that_its_rings_hold(size):
    bank = harmonics("p6m", size)
    assert bank.shape == (12, COUNTS[size], size, size) and bank.dtype == np.float64
    assert len(orders(size)) == COUNTS[size]
    for filters in bank:
        assert np.linalg.matrix_rank(filters.reshape(COUNTS[size], -1)) == COUNTS[size]


def ring_by_pixels(size, ring, k):
    """tau(r) exp(i k phi) on ring ``ring``, of l2 norm 1, one pixel after the other."""
    reach, taps = size // 2, np.zeros((size, size), complex)
    sigma = 0.4 if ring == reach else 0.6
    for i, j in product(range(size), repeat=2):
        x, y = j - reach, reach - i
        r, angle = hypot(x, y), k * atan2(y, x)
        if ring == 0:
            taps[i, j] = r == 0
        elif r > 0 or k == 0:
            taps[i, j] = exp(-(((r - ring) / sigma) ** 2) / 2) * complex(cos(angle), sin(angle))
    return taps / np.linalg.norm(taps)


@pytest.mark.parametrize("size", COUNTS)
def test_at_the_identity_filters_are_the_waves_of_the_rings_pixel_by_pixel(size):
    expected = []
    for ring, top in enumerate(ORDERS[size]):
        expected.append(ring_by_pixels(size, ring, 0).real)
        for k in range(1, top + 1):
            wave = np.sqrt(2) * ring_by_pixels(size, ring, k)
            expected += [wave.real, wave.imag]
    np.testing.assert_allclose(harmonics("p1", size)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", COUNTS)
@pytest.mark.parametrize("name", ["p1", "p3", "p16", "p6m"])
def test_the_two_parts_of_a_wave_have_the_norm_1_in_the_mean_in_every_frame(name, size):
    squares = (harmonics(name, size, 0.3) ** 2).sum((2, 3))
    kinds, at = orders(size), 0
    while at < len(kinds):
        parts = 1 + (kinds[at][0] > 0)
        np.testing.assert_allclose(squares[:, at : at + parts].mean(1), 1, rtol=0, atol=1e-12)
        at += parts


@pytest.mark.parametrize("offset", [0.0, pi / 8])
@pytest.mark.parametrize("name", GRID)
def test_elements_that_keep_the_grid_move_the_filters_of_all_others(name, offset, by_matrices):
    group = PointGroup.named(name)
    bank, table = harmonics(name, 7, offset), np.asarray(group.product)
    for g in by_matrices.keepers(group):
        expected = by_matrices.moved(group, g, bank)
        np.testing.assert_allclose(bank[table[g]], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("name", ANY)
def test_every_element_of_every_group_mixes_the_parts_of_a_wave_by_its_angle(name, size):
    """[B_g]_k = sum_l D(g)_kl [B_e]_l, with D a turn by k times the angle, mirrored or not."""
    group, kinds = PointGroup.named(name), orders(size)
    bank = harmonics(name, size)
    for g, matrix in enumerate(np.asarray(group.matrices)):
        at = 0
        while at < len(kinds):
            k = kinds[at][0]
            mixed = turn(k, matrix) @ bank[0, at : at + 2].reshape(2, -1) if k else None
            expected = bank[0, at : at + 1] if k == 0 else mixed.reshape(2, size, size)
            parts = len(expected)
            np.testing.assert_allclose(bank[g, at : at + parts], expected, rtol=0, atol=1e-12)
            at += parts


@pytest.mark.parametrize("size", [2, 4, 8])
def test_rings_need_a_centre_pixel(size):
    with pytest.raises(ValueError, match=f"odd, not {size}"):
        harmonics("p8", size)


# --- the layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRID)
def test_layers_commute_exactly_with_the_elements_that_keep_the_grid(name, by_matrices):
    group = PointGroup.named(name)
    options = dict(bank="harmonics", size=7, offset=0.2, bias=True, dtype=torch.float64)
    lift, conv = LiftingConv(group, 2, 2, **options), GroupConv(group, 2, 1, **options)
    for layer in (lift, conv):
        nn.init.normal_(layer.bias)
    x = torch.randn(1, 2, 6, 9, dtype=torch.float64)
    assert by_matrices.errors(lift, group, x) < 1e-12
    assert by_matrices.errors(conv, group, lift(x).detach()) < 1e-12


@pytest.mark.parametrize("size, dimension", [(5, 176), (7, 288), (9, 496)])
def test_a_pair_of_regular_fields_of_c16_has_so_many_kernels(size, dimension):
    """16 relative orientations times 11, 18, 31 filters, all of them independent."""
    conv = GroupConv(PointGroup(16), 1, 1, bank="harmonics", size=size, dtype=torch.float64)
    kernels = kernels_of(conv)
    assert conv.weight.numel() == dimension == len(kernels)
    assert torch.linalg.matrix_rank(kernels @ kernels.T, hermitian=True) == dimension


def kernels_of(layer):
    """The kernel of every unit weight of a layer from one field to one: [weights, -1]."""
    layer = copy.deepcopy(layer)
    found = []
    for unit in torch.eye(layer.weight.numel(), dtype=torch.float64):
        with torch.no_grad():
            layer.weight.copy_(unit.view_as(layer.weight))
            found.append(layer.kernel().flatten())
    return torch.stack(found)


# --- against e2cnn -------------------------------------------------------------------------------


def e2cnn_kernels(size, regular):
    """All kernels between two fields of e2cnn's C16, from an image if not regular: [K, -1]."""
    spaces, e2nn = pytest.importorskip("e2cnn.gspaces"), pytest.importorskip("e2cnn.nn")
    space = spaces.Rot2dOnR2(16)
    lifted = e2nn.FieldType(space, [space.regular_repr])
    image = e2nn.FieldType(space, [space.trivial_repr])
    with warnings.catch_warnings(action="ignore"):  # it indexes with uint8
        expansion = e2nn.R2Conv(lifted if regular else image, lifted, size).basisexpansion
    return torch.stack([expansion(w).flatten() for w in torch.eye(expansion.dimension())]).double()


def distance(one, other):
    """Between the spans of the rows of two matrices of one rank: of their projectors, in norm 2."""
    one, other = (torch.linalg.qr(vectors.T).Q for vectors in (one, other))
    return torch.linalg.matrix_norm(other - one @ (one.T @ other), 2)


@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_from_an_image_e2cnn_has_the_same_kernels(size):
    theirs = e2cnn_kernels(size, regular=False)
    ours = kernels_of(
        LiftingConv(PointGroup(16), 1, 1, bank="harmonics", size=size, dtype=torch.float64)
    )
    assert len(theirs) == len(ours) == COUNTS[size]
    assert distance(theirs, ours) < 1e-5  # theirs are float32


def test_between_regular_fields_e2cnn_has_the_same_kernels():
    theirs = e2cnn_kernels(5, regular=True)
    ours = kernels_of(
        GroupConv(PointGroup(16), 1, 1, bank="harmonics", size=5, dtype=torch.float64)
    )
    assert len(theirs) == len(ours) == 176
    assert distance(theirs, ours) < 1e-5


# --- the network ---------------------------------------------------------------------------------


def settled(model):
    """In evaluation mode and float64, with statistics and parameters unlike the defaults."""
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = 0.5
        elif isinstance(module, LiftingConv | GroupConv):
            nn.init.normal_(module.bias)
    with torch.no_grad():
        model(digits(4))
    return model.eval()


def digits(batch, size=28):
    return torch.randn(batch, 1, size, size, dtype=torch.float64)


def errors_of(model, name, x):
    return max(equivariance_error(model, PointGroup.named(name), x).values())


def test_the_published_network_has_its_parameters_layer_by_layer():
    with torch.device("meta"):
        model = SteerableCNN(PointGroup(16))
    sizes = {"convolutions": 0, "biases": 0, "norms": 0, "head": 0}
    for name, p in model.named_parameters():
        part = model.get_submodule(name.rpartition(".")[0])
        if name.startswith("head"):
            sizes["head"] += p.numel()
        elif isinstance(part, nn.BatchNorm3d):
            sizes["norms"] += p.numel()
        else:
            sizes["biases" if name.endswith("bias") else "convolutions"] += p.numel()
    assert sizes == {"convolutions": 2_671_848, "biases": 288, "norms": 576, "head": 19_978}


@pytest.mark.parametrize("bank, sizes", [("harmonics", [9, 3, 5, 7]), ("operators", [5] * 4)])
def test_every_layer_has_the_bank_the_size_and_the_offset_that_the_net_was_given(bank, sizes):
    net = SteerableCNN(PointGroup(8), [2, 3, 4, 5], sizes, bank, offset=0.2, pool_after=[2])
    convolutions = [m for m in net.double().modules() if isinstance(m, LiftingConv | GroupConv)]
    for found, size, channels in zip(
        convolutions, sizes, [(1, 2), (2, 3), (3, 4), (4, 5)], strict=True
    ):
        expected = type(found)(PointGroup(8), *channels, bank, size, 0.2, dtype=torch.float64)
        expected.load_state_dict(found.state_dict(), strict=False)
        assert torch.equal(found.kernel(), expected.kernel())
        assert found.kernel_size == size and found.bias.shape == (channels[1],)


def test_maps_are_as_wide_as_published():
    model = SteerableCNN(PointGroup(4), NARROW).double().eval()
    sides, x = [28], digits(1)
    for module in model.trunk:
        x = module(x)
        sides += [x.shape[-1]] * (x.shape[-1] != sides[-1])
    assert sides == [28, 20, 10, 5, 1] and x.shape == (1, 4, 4, 1, 1)
    assert [type(module).__name__ for module in model.head] == [
        "Largest", *["Dropout", "Linear", "BatchNorm1d", "ELU"] * 2, "Dropout", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["p1", "p4", "p6", "p8", "p16", "p4m", "p6m"])
def test_the_trunk_commutes_exactly_and_the_logits_are_invariant(name):
    model, x = settled(SteerableCNN(PointGroup.named(name), NARROW, offset=0.2)), digits(1)
    assert errors_of(model.trunk, name, x) < 1e-12
    assert errors_of(model, name, x) < 1e-12
    moved = model(x + torch.randn_like(x))
    assert (moved - model(x)).norm() > 1e-3 * model(x).norm()  # invariant, not constant


@pytest.mark.parametrize(
    "name, options",
    [
        ("p8", {"bank": "operators", "offset": pi / 8}),
        ("p8", {"bank": "operators", "sizes": [5] * 6}),
        ("p4m", {"bank": "pixels", "sizes": [9, 3, 3, 3, 3, 5]}),
    ],
    ids=["operators", "small operators", "pixels"],
)
def test_it_can_be_made_of_other_banks(name, options):
    model, x = settled(SteerableCNN(PointGroup.named(name), NARROW, **options)), digits(1)
    assert errors_of(model.trunk, name, x) < 1e-12 and errors_of(model, name, x) < 1e-12


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"widths": []}, "0 and 6"),
        ({"widths": [2, 2]}, "2 and 6"),
        ({"widths": [2, 2, 2, 2, 2, 0]}, "0"),
        ({"sizes": [9, 7, 7, 7, 7, 4]}, "odd, not 4"),
        ({"pool_after": [7]}, r"\[7\] of 6"),
        ({"hidden": 0}, "0"),
        ({"images": Images(size=24)}, "layer 6 of 6 leaves no pixel of an image of 24x24"),
        ({"bank": "point"}, "single pixel"),
    ],
    ids=str,
)
def test_a_wrong_argument_raises_when_the_network_is_built(wrong, said):
    with pytest.raises(ValueError, match=said):
        SteerableCNN(PointGroup(4), **{"widths": NARROW, **wrong})
