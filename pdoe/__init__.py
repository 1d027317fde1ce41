"""Equivariant convolutions made of partial differential operators (Shen et al., ICML 2020).

>>> from pdoe import GroupConv, LiftingConv, PointGroup
>>> p8 = PointGroup(8)
>>> lift, conv = LiftingConv(p8, 1, 7), GroupConv(p8, 7, 7)
"""

from .banks import filter_bank
from .cpu import ChannelsLast, Dropout, MaxPool
from .equivariance import EquivarianceReport, equivariance_error, equivariance_report
from .export import export_plain
from .groups import PointGroup
from .layers import GroupConv, GroupPool, LiftingConv
from .norm import BatchNorm
from .pretrained import load_pretrained
from .turns import convergence_order, equivariance_curve

__version__ = "0.1.0"
__all__ = [
    "BatchNorm",
    "ChannelsLast",
    "Dropout",
    "EquivarianceReport",
    "GroupConv",
    "GroupPool",
    "LiftingConv",
    "MaxPool",
    "PointGroup",
    "convergence_order",
    "equivariance_curve",
    "equivariance_error",
    "equivariance_report",
    "export_plain",
    "filter_bank",
    "load_pretrained",
]
