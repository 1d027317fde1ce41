"""The number of fields of each converted layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn

from ..groups import PointGroup

Match = str | float | Mapping[str, int] | Callable[[str, int], int]


class Widths:
    """Fields of a layer, by its name and the channels of the original layer.

    Equal channels become equal fields, so that sums of maps stay possible.

    Args:
        match: "parameters": channels / sqrt|G|; "cost": channels / |G|; a number: channels times
            that number; a mapping from the names of layers to fields (others as "parameters"); or
            a function of name and channels.
        group: the point group G.
        model: the original network.

    Attributes:
        multiple: scaled fields are multiples of this number.
    """

    def __init__(self, match: Match, group: PointGroup, model: nn.Module):
        factors = {"parameters": len(group) ** -0.5, "cost": 1 / len(group)}
        self.given: Mapping[str, int] | Callable[[str, int], int] = {}
        if isinstance(match, Mapping) or callable(match):
            self.given, match = match, "parameters"
        if isinstance(match, str) and match in factors:
            match = factors[match]
        if isinstance(match, bool) or not isinstance(match, int | float) or not 0 < match <= 1e3:
            raise ValueError(
                "match is 'parameters', 'cost', a positive factor, a mapping from names of layers "
                f"to channels, or a function of name and channels, not {match!r}"
            )
        self.factor = float(match)
        names = dict(model.named_modules())
        if isinstance(self.given, Mapping) and (unknown := set(self.given) - set(names)):
            raise ValueError(f"match names {min(unknown)!r}, which the model does not have")
        self.model = model
        self.plan(1)

    def plan(self, multiple: int) -> None:
        """Choose the fields of grouped convolutions; all scaled fields become multiples."""
        self.multiple = multiple
        self.grouped: dict[int, int] = {}  # channels of grouped convolutions -> fields
        self.groups: dict[str, int] = {}  # name of a grouped convolution -> its groups
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels:
                self._plan_groups(name, module)

    def __call__(self, name: str, channels: int) -> int:
        """Return the fields of a layer that had ``channels``."""
        if callable(self.given):
            fields = self.given(name, channels)
        elif name in self.given:
            fields = self.given[name]
        else:
            scaled = max(1, round(channels * self.factor / self.multiple)) * self.multiple
            fields = self.grouped.get(channels, scaled)
        if isinstance(fields, bool) or not isinstance(fields, int) or fields < 1:
            raise ValueError(f"match gives {name} {fields!r} channels, not a positive integer")
        return fields

    def group_count(self, name: str, in_fields: int, out_fields: int) -> int:
        """Return the groups of a grouped convolution: the planned number, or the next divisor."""
        common = math.gcd(in_fields, out_fields)
        return max(n for n in range(1, self.groups[name] + 1) if common % n == 0)

    def _plan_groups(self, name: str, conv: nn.Conv2d) -> None:
        """Scale the width of the groups; their number makes up for the rounding."""
        width = max(1, round(conv.in_channels // conv.groups * self.factor))
        fields = conv.in_channels * self.factor
        groups = max(1, round(fields / width / self.multiple)) * self.multiple
        self.groups[name] = groups
        self.grouped.setdefault(conv.in_channels, groups * width)
        ratio = conv.out_channels / conv.in_channels
        self.grouped.setdefault(conv.out_channels, groups * max(1, round(width * ratio)))
