"""Conversion of ordinary convolutional networks to equivariant ones.

- ``tracing``: the graph of a network; ``rewriting``: the walk over it; ``values``: what its nodes
  carry; ``widths``: the fields of each layer.
- ``modules``: what each module becomes, with ``convolutions``, ``norms`` and ``pooling``.
- ``operations``: what each function becomes, with ``operation``, ``arithmetic`` and ``axes``;
  ``functions``: functions with a module of the same meaning.
- ``layers``: layers that converted networks need; ``network``: the result; ``report``: its costs
  and errors.
"""

from .convert import Conversion, convert
from .layers import ChannelNorm, GroupedConv, HalvingPool, PlaneWise
from .network import ConvertedNetwork
from .report import Layer, Report

__all__ = [
    "ChannelNorm",
    "Conversion",
    "ConvertedNetwork",
    "GroupedConv",
    "HalvingPool",
    "Layer",
    "PlaneWise",
    "Report",
    "convert",
]
