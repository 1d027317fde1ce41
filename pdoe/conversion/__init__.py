"""Conversion of ordinary convolutional networks to equivariant ones.

- ``tracing``: the graph of a network; ``rewriting``: the walk over it, ``modules`` and
  ``operations``: what each module and function becomes; ``functions``: functions with a module of
  the same meaning.
- ``widths``: fields of each layer; ``values``: what nodes carry.
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
