"""Networks built from the layers, one file per family, and the contract that they share."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ..groups import PointGroup
from .converted import Converted
from .hexaconv import HexaConv
from .hnet import HNet
from .orn import ORN
from .plain_cnn import PlainCNN
from .ptn import PTN
from .residual_block import ResidualBlock
from .resnet import ResNet
from .roteqnet import RotEqNet
from .settings import Filters, Images, Norm
from .sfcnn import SteerableCNN


@runtime_checkable
class Network(Protocol):
    """The attributes of a network that training, diagnostics and figures use.

    A class of :data:`MODELS` is called with the group, the keys of ``model`` in a configuration,
    and ``dropout``, ``batch_norm`` (:class:`Norm`) and ``images`` (:class:`Images`).

    Optional attributes:

    - ``head``: the rest of the network, from the output of the trunk to the logits;
    - ``blocks`` and ``checkpoint_activations``: blocks that can be computed again in the backward
      pass and compiled one by one;
    - ``act(group, g, x)``: how maps move, for maps that do not lie on the square pixel grid; see
      :func:`pdoe.equivariance.action.act`.

    Attributes:
        group: the point group of the layers, or the one that diagnostics measure.
        trunk: the part that should commute with the group: images [B, C, H, W] -> a map.
    """

    group: PointGroup
    trunk: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""


#: Values of ``model.name`` in a configuration.
MODELS: dict[str, Callable[..., Network]] = {
    "converted": Converted,
    "hexaconv": HexaConv,
    "hnet": HNet,
    "orn": ORN,
    "plain_cnn": PlainCNN,
    "ptn": PTN,
    "resnet": ResNet,
    "roteqnet": RotEqNet,
    "sfcnn": SteerableCNN,
}

__all__ = [
    "MODELS",
    "ORN",
    "PTN",
    "Converted",
    "Filters",
    "HNet",
    "HexaConv",
    "Images",
    "Network",
    "Norm",
    "PlainCNN",
    "ResNet",
    "ResidualBlock",
    "RotEqNet",
    "SteerableCNN",
]
