"""How far a network is from equivariance, in which layer and why, at which angle, of which order.

- ``action``: how a group moves features, images and lifted maps;
- ``error``: the error of a model and of each of its layers, for elements that map the pixel grid to
  itself;
- ``angles``: the error for rotations by any angle, and its order in the pixel spacing;
- ``reasons``: why a layer is not equivariant.
"""

from .action import act, act_interpolated, grid_elements, rotate
from .angles import Convergence, convergence_order, equivariance_curve, smooth_field
from .error import EquivarianceReport, equivariance_error, equivariance_report

__all__ = [
    "Convergence",
    "EquivarianceReport",
    "act",
    "act_interpolated",
    "convergence_order",
    "equivariance_curve",
    "equivariance_error",
    "equivariance_report",
    "grid_elements",
    "rotate",
    "smooth_field",
]
