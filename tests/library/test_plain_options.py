"""Options of the plain network: kernel sizes, the first layer, dropout of fields, the head."""

import pytest
import torch
from torch import nn

from pdoe import PointGroup, export_plain
from pdoe.models import Images, PlainCNN

P8, SMALL = PointGroup(8), Images(1, 3, 12)
POOLED = {"padding": "same", "pool_after": (1,), "head": "pooled", "hidden": 4}
OPTIONS = [
    {"size": 7, "bank": "gaussian", "bank_width": 0.9},
    {"first_bank": "gaussian", "first_size": 7, "bank_width": 0.9},
    {"bank": "gaussian", "first_size": 9},
    {"dropout": 0.5, "dropout_kind": "fields"},
    {"space_pool": "max"},
    {"head_dropout": 0.5},
    {"bank": "operators15"},
]


def network(**options):
    torch.manual_seed(0)
    return PlainCNN(P8, [3, 3], offset=0.3, images=SMALL, **POOLED | options).double()


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 12, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_keeps_the_logits_invariant_and_every_weight_learns(options):
    net, x = network(**options), images()
    net.train()(x).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in net.parameters())
    net.eval()
    assert (net(x) - net(x.rot90(1, (-2, -1)))).abs().max() < 1e-10
    assert (export_plain(net)(x) - net(x)).abs().max() < 1e-10


def test_neutral_values_change_nothing():
    neutral = {"size": None, "first_bank": None, "first_size": None, "space_pool": "mean"}
    plain, same = network(), network(**neutral, dropout_kind="elements", head_dropout=0.0)
    assert plain.state_dict().keys() == same.state_dict().keys() and str(plain) == str(same)
    assert all(map(torch.equal, plain.state_dict().values(), same.state_dict().values()))


def test_the_first_layer_has_its_own_filters_and_the_others_theirs():
    net = network(first_bank="gaussian", first_size=7, bank_width=0.9)
    first, second = (module for module in net.trunk if hasattr(module, "bank_kind"))
    assert (first.bank_kind, first.kernel_size, first.bank_width) == ("gaussian", 7, 0.9)
    assert (second.bank_kind, second.kernel_size, second.bank_width) == ("operators", 5, None)
    net = network(bank="gaussian", size=9, bank_width=1.0, first_bank="operators")
    first, second = (module for module in net.trunk if hasattr(module, "bank_kind"))
    assert (first.bank_kind, first.kernel_size) == ("operators", 5)
    assert (second.kernel_size, second.bank_width) == (9, 1.0)
    net = network(size=7, bank="gaussian", first_size=9)
    assert [m.kernel_size for m in net.trunk if hasattr(m, "bank_kind")] == [9, 7]


def test_a_shrinking_layer_loses_two_pixels_whatever_its_kernel():
    net = PlainCNN(P8, [2, 2], "gaussian", size=7, first_size=9, images=SMALL, pool_after=())
    assert net.trunk(torch.zeros(1, 1, 12, 12)).shape[-2:] == (8, 8)


def test_dropout_of_fields_drops_all_orientations_and_pixels_of_a_field():
    net = network(dropout=0.5, dropout_kind="fields").train()
    drop = next(module for module in net.trunk if isinstance(module, nn.Dropout3d))
    y = drop(torch.ones(50, 3, 8, 2, 2))
    whole = y.flatten(2)
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert (whole == whole[..., :1]).all()
    assert 0.3 < (whole[..., 0] == 0).double().mean() < 0.7
    # With one mask it commutes exactly, also while it drops.
    x = torch.randn(4, 3, 8, 5, 5)
    torch.manual_seed(1)
    expected = drop(x).rot90(1, (-2, -1)).roll(2, 2)
    torch.manual_seed(1)
    assert torch.equal(drop(x.rot90(1, (-2, -1)).roll(2, 2)), expected)


def test_wrong_options_are_refused():
    for options, message in (
        ({"dropout_kind": "pixels"}, "dropout_kind is 'elements' or 'fields'"),
        ({"space_pool": "sum"}, "space_pool is 'mean' or 'max'"),
        ({"head_dropout": 1.0}, "head_dropout is at least 0 and below 1"),
        ({"head": "dense", "hidden": None, "head_dropout": 0.5}, "options of head 'pooled'"),
        ({"first_bank": "operators", "bank_width": 0.7}, "bank_width belongs to"),
        ({"size": 3}, "odd size of at least 5"),
    ):
        with pytest.raises(ValueError, match=message):
            network(**options)
