"""Ordinary networks, converted, behind the contract of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..conversion import ConvertedNetwork, convert
from ..groups import PointGroup
from ..layers import GroupPool
from .settings import COLOURS, NORM, Images, Norm
from .sources import build_source


class Converted(nn.Module):
    """An ordinary network made equivariant by :func:`pdoe.convert`, [B, C, H, W] -> [B, classes].

    The logits are invariant. With ``exact`` they are so up to rounding under the elements of the
    group that map the pixel grid to itself.

    Args:
        group: the point group G.
        source, arguments: the network, see :func:`pdoe.models.sources.build_source`.
        match, bank, offset, bank_width, exact: see :func:`pdoe.convert`.
        dropout: probability of the network's dropout layers, whatever they had.
        batch_norm: constants of its batch norm, whatever they were.
        images: the data. Branches on sizes of maps are decided as for images of their size.

    Attributes:
        network: the converted network.

    Raises:
        ValueError: there is no such network, or it cannot be converted.
    """

    def __init__(
        self,
        group: PointGroup,
        source: str = "torchvision.resnet18",
        arguments: Mapping[str, Any] | None = None,
        match: str | float | Mapping[str, int] = "parameters",
        bank: str = "operators",
        offset: float = 0.0,
        bank_width: float | None = None,
        exact: bool = True,
        dropout: float = 0.0,
        batch_norm: Norm = NORM,
        images: Images = COLOURS,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability from 0 to below 1, not {dropout}")
        here = torch.get_default_device()
        on_meta = here.type == "meta"  # where nothing is computed
        with torch.device("cpu"):  # a conversion reads numbers
            original = build_source(source, arguments, images.classes, images.channels, images.size)
            _set_constants(original, dropout, batch_norm)
            options = {"match": match, "bank": bank, "offset": offset, "bank_width": bank_width}
            self.network, report = convert(
                original, group, **options, exact=exact, image_size=images.size, measure=not on_meta
            )
        if report.outputs[1] != [1, images.classes]:
            raise ValueError(
                f"model.source={source} gives {report.outputs[1]} for an image, expected "
                f"[1, {images.classes}], the classes of the data: let it take num_classes"
            )
        self.to(here)

    @property
    def group(self) -> PointGroup:
        return self.network.group

    @property
    def trunk(self) -> nn.Module:
        """The part before the head pools over the group; it shares its weights."""
        return _Trunk(self.network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class _Trunk(nn.Module):
    """A network up to its last lifted map, [B, C, H, W] -> [B, C', G, H', W']."""

    def __init__(self, network: ConvertedNetwork):
        super().__init__()
        modules = dict(network.named_modules())
        (node,) = (node for node in network.graph.nodes if node.op == "output")
        while not _pools(node, modules):
            node = node.all_input_nodes[0]
        graph, copies = fx.Graph(), {}
        for other in network.graph.nodes:
            if other is node:
                break
            copies[other] = graph.node_copy(other, copies.__getitem__)
        graph.output(copies[node.args[0]])
        self.part = fx.GraphModule(network, graph)
        self.part.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


def _pools(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node pools a lifted map over the group."""
    if node.op == "placeholder":
        raise ValueError("the network has no head that pools over the group")
    module = modules[str(node.target)] if node.op == "call_module" else None
    first = module[0] if isinstance(module, nn.Sequential) and len(module) else module
    return isinstance(first, GroupPool)


def _set_constants(model: nn.Module, dropout: float, batch_norm: Norm) -> None:
    """Give the norms and the dropout layers of a network the constants of a recipe."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eps, module.momentum = batch_norm
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = dropout
