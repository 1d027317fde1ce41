"""A function or method of a traced network, while it is converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from .values import OTHER, Value, refuse

if TYPE_CHECKING:
    from .rewriting import Rewriter

_ATTENTION = "matmul bmm baddbmm einsum softmax scaled_dot_product_attention".split()
_WEIGHTS = "conv2d linear batch_norm layer_norm group_norm conv_transpose2d".split()


@dataclass(frozen=True)
class Operation:
    """A function or method node, and the kinds of its inputs."""

    rewriter: Rewriter
    node: fx.Node
    name: str
    place: str
    kinds: set[str]

    @property
    def value(self) -> Value:
        """The value of the first argument."""
        return self.rewriter.value_of(self.node.args[0] if self.node.args else None)

    def keep(self, value: Value) -> None:
        """Leave the node as it is."""
        self.rewriter.values[self.node] = value

    def skip(self, value: Value) -> None:
        """Leave the operation out: the converted map has the right form already."""
        self.rewriter.values[self.node] = value
        self.rewriter.aliases.append(self.node)

    def refuse(self, reason: str) -> ValueError:
        return refuse(self.place, f"function {self.name}", reason)

    def refuse_unknown(self) -> ValueError:
        """Return the error for a function without a rule."""
        if self.name in _ATTENTION:
            return self.refuse(
                "products of maps, as in attention, compare positions and do not commute with "
                "rotations; convert the convolutional part of the network alone"
            )
        if self.name in _WEIGHTS:
            return self.refuse(
                "it takes its weight as an argument, so that no layer can replace it; call a "
                "module of torch.nn"
            )
        kinds = " and ".join(sorted(self.kinds - {OTHER}))
        return self.refuse(
            f"no rule says what it does to {kinds}; use modules of torch.nn, sums and "
            "concatenations, or convert the part of the network before it"
        )
