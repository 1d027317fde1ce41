"""Equivariant convolutions made of partial differential operators (Shen et al., ICML 2020).

>>> from pdoe import GroupConv, LiftingConv, PointGroup
>>> p8 = PointGroup(8)  # rotations by multiples of 45 degrees
>>> lift, conv = LiftingConv(p8, 1, 7), GroupConv(p8, 7, 7)

Names are imported at first use (PEP 562), so that ``import pdoe.tables`` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from .banks import filter_bank
    from .conversion import Conversion, convert
    from .equivariance.angles import convergence_order, equivariance_curve
    from .equivariance.error import EquivarianceReport, equivariance_error, equivariance_report
    from .export import export_plain
    from .fast import BatchNorm, ChannelsLast, Dropout, MaxPool
    from .groups import PointGroup
    from .layers import GroupConv, GroupPool, LiftingConv
    from .pretrained import load_pretrained

__version__ = "0.2.0"

_MODULES = {
    "BatchNorm": "fast",
    "ChannelsLast": "fast",
    "Conversion": "conversion",
    "Dropout": "fast",
    "EquivarianceReport": "equivariance.error",
    "GroupConv": "layers",
    "GroupPool": "layers",
    "LiftingConv": "layers",
    "MaxPool": "fast",
    "PointGroup": "groups",
    "convergence_order": "equivariance.angles",
    "convert": "conversion",
    "equivariance_curve": "equivariance.angles",
    "equivariance_error": "equivariance.error",
    "equivariance_report": "equivariance.error",
    "export_plain": "export",
    "filter_bank": "banks",
    "load_pretrained": "pretrained",
}
__all__ = [
    "BatchNorm",
    "ChannelsLast",
    "Conversion",
    "Dropout",
    "EquivarianceReport",
    "GroupConv",
    "GroupPool",
    "LiftingConv",
    "MaxPool",
    "PointGroup",
    "convergence_order",
    "convert",
    "equivariance_curve",
    "equivariance_error",
    "equivariance_report",
    "export_plain",
    "filter_bank",
    "load_pretrained",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pdoe' has no attribute {name!r}")
    value = getattr(import_module(f"pdoe.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
