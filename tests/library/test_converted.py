"""Any ordinary network as a model of the harness: where it comes from, and what recipes set."""

import pytest
import torch
from torch import nn

from pdoe import PointGroup, equivariance_error, load_pretrained
from pdoe.models import Converted, Images, Network, Norm
from pdoe.models.sources import build_source
from pdoe.pretrained import build_network

pytestmark = pytest.mark.usefixtures("one_thread")
OWN = "small_networks:plain"
P4, IMAGES = PointGroup(4), Images(3, 5, 8)


def build(source=OWN, images=IMAGES, **options):
    return Converted(P4, source, images=images, **options)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_network_of_torchvision_takes_the_channels_and_classes_of_the_data(channels):
    net = build("torchvision.squeezenet1_1", Images(channels, 7, 33), match=0.05).double().eval()
    x = torch.randn(2, channels, 33, 33, dtype=torch.float64)
    assert isinstance(net, Network) and net.group == P4
    assert net(x).shape == (2, 7) and net.trunk(x).ndim == 5
    assert max(equivariance_error(net.trunk, P4, x).values()) < 1e-12
    assert max(equivariance_error(net, P4, x).values()) < 1e-10


def test_the_trunk_is_the_network_up_to_its_head_and_shares_its_weights():
    net, x = build().eval(), torch.randn(2, 3, 8, 8)
    before = net.trunk(x)
    torch.testing.assert_close(net.network.get_submodule("10")(before.amax(2).mean((2, 3))), net(x))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    assert not torch.allclose(net.trunk(x), before)
    assert not any("trunk" in name for name in net.state_dict())


def test_the_keys_of_a_conversion_and_the_arguments_of_the_network_reach_it():
    wide = sum(p.numel() for p in build(arguments={"width": 16}).parameters())
    narrow = sum(p.numel() for p in build(match="cost").parameters())
    assert wide > sum(p.numel() for p in build().parameters()) > narrow
    banks = {m.bank_kind for m in build(bank="pixels").modules() if hasattr(m, "bank_kind")}
    assert banks == {"pixels"}


def test_a_recipe_sets_the_constants_of_norms_and_dropout():
    net = build(dropout=0.1, batch_norm=Norm(1e-3, 0.02))
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    assert norms and {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.02)}
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.1}


@pytest.mark.parametrize("source, options, message", [
    ("torchvision.resnet19", {}, "did you mean torchvision.resnet18?"),
    ("torchvision.fcn_resnet50", {}, "torchvision has no network 'fcn_resnet50' for images"),
    ("resnet18", {}, "model.source is torchvision.NAME, timm.NAME, or package.module:function"),
    ("nowhere:net", {}, "No module named 'nowhere'; the folder of the module must be"),
    ("small_networks:gone", {}, "small_networks has no 'gone'"),
    ("small_networks:number", {}, "gives a int, not a module"),
    ("small_networks:without_classes", {}, r"gives \[1, 10\] for an image, expected \[1, 5\]"),
    (OWN, {"arguments": {"pretrained": True}}, "model.arguments.pretrained: a converted"),
    (OWN, {"arguments": 3}, "model.arguments are names and values, not 3"),
    (OWN, {"match": 0}, "match is 'parameters', 'cost', a positive factor"),
    (OWN, {"dropout": 1.0}, "dropout is a probability from 0 to below 1, not 1.0"),
    (3, {}, "model.source is torchvision.NAME"),
])  # fmt: skip
def test_a_source_that_gives_no_network_is_refused(source, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        build(source, **options)
    assert "\n" not in str(refused.value)


def test_networks_of_timm_are_named_like_those_of_torchvision():
    timm = pytest.importorskip("timm")
    assert "resnet10t" in timm.list_models()
    net = build_source("timm.resnet10t", None, classes=7, channels=1, size=32)
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match="did you mean timm.resnet10t?"):
        build_source("timm.resnet10tt", None, 7, 1, 32)


def test_a_file_of_weights_calls_no_function_of_its_own():
    """Neither `load_pretrained` nor an evaluation runs what a configuration names."""
    model = {"name": "converted", "source": "os:getcwd", "arguments": {}}
    entry = {"configuration": {"model": model}, "image": [3, 8, 8], "classes": 5}
    with pytest.raises(ValueError, match="os:getcwd, a function that is not called on behalf of a"):
        build_network(entry)
    assert load_pretrained("mnistrot_z2") is not None
