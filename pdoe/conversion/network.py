"""The converted network as a module."""

from __future__ import annotations

from torch import fx

from ..groups import PointGroup


class ConvertedNetwork(fx.GraphModule):
    """A traced network whose layers commute with a group; images in, logits out.

    Attributes:
        group: the point group of the layers.
    """

    group: PointGroup

    def __deepcopy__(self, memo: dict) -> ConvertedNetwork:
        copied = super().__deepcopy__(memo)
        copied.group = self.group
        return copied

    def __reduce__(self) -> tuple:
        return _restore, (*super().__reduce__(), self.group)


def make_network(traced: fx.GraphModule, group: PointGroup, name: str) -> ConvertedNetwork:
    """Return a rewritten graph as a network."""
    anonymous = fx.Graph()  # without our tracer, which a pickle would import
    anonymous.output(anonymous.graph_copy(traced.graph, {}))
    network = ConvertedNetwork(traced, anonymous, name)
    network.group = group
    return network


def _restore(read, arguments: tuple, group: PointGroup) -> ConvertedNetwork:
    module = read(*arguments)
    network = make_network(module, group, type(module).__name__)
    return network.train(module.training)
