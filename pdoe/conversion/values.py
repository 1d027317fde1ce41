"""What the nodes of a traced network carry, and the sentence for what cannot be converted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from ..groups import PointGroup
from .widths import Widths

# Kinds of values. A pooled map is invariant; in the converted network it has no group axis.
IMAGE = "an image"  # [B, C, H, W], before the first convolution
LIFTED = "a lifted map"  # [B, C, G, H, W]
POOLED = "a pooled map"  # [B, C, 1, 1]
FEATURES = "features"  # [B, F]
PARAMETER = "a parameter"  # a tensor with one number, or one for each channel
SHUFFLED = "a map whose channels are shuffled"  # between two views
SIZES = "sizes"  # of a lifted map
PARTS = "parts"  # a tuple of lifted maps, of equal channels
OTHER = "a value"

MAPS = (IMAGE, LIFTED, POOLED, FEATURES)


@dataclass(frozen=True)
class Value:
    """The kind of a node's value in the converted network.

    Attributes:
        kind: one of the constants of this module.
        channels: C or F in the converted network; 0 if unknown.
        original: channels of the original map; 0 if unknown.
        last: whether the original map is channels-last here, [B, H, W, C]. The converted map keeps
            its axes.
        gate: whether the value is on its way to multiply a map, as in squeeze-and-excitation.
    """

    kind: str
    channels: int = 0
    original: int = 0
    last: bool = False
    gate: bool = False


@dataclass(frozen=True)
class Settings:
    """The arguments of a conversion that all layers share."""

    group: PointGroup
    bank: str
    offset: float
    bank_width: float | None
    exact: bool
    widths: Widths


@dataclass(frozen=True)
class Call:
    """A module that a node calls.

    Attributes:
        name: of the module.
        module: the original.
        value: of its input.
        settings: of the conversion.
        final: whether its output is the network's, up to activations and pooling.
        head: whether its output is flattened.
        branches: whether other nodes use its input, too.
    """

    name: str
    module: nn.Module
    value: Value
    settings: Settings
    final: bool = False
    head: bool = False
    branches: bool = False

    def refuse(self, reason: str) -> ValueError:
        """Return the error that refuses this module."""
        return refuse(self.name, type(self.module).__name__, reason)


@dataclass(frozen=True)
class Replacement:
    """What takes the place of a module, with pooling before and after it, and the result."""

    module: nn.Module
    value: Value
    before: nn.Module | None = None
    after: nn.Module | None = None


class UnevenSplit(ValueError):
    """Fields that do not split into equal parts.

    Attributes:
        parts: their number.
    """

    def __init__(self, message: str, parts: int):
        super().__init__(message)
        self.parts = parts


def refuse(name: str, kind: str, reason: str) -> ValueError:
    """Return the error for a module or operation: its name, its kind, why, and what to do."""
    return ValueError(f"cannot convert {name or 'the model'} ({kind}): {reason}")


def describe_place(node: fx.Node) -> str:
    """Return the name of the module whose forward pass has a node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""
