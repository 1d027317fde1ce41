"""Networks built from the layers, one file per family."""

from .hexaconv import HexaConv
from .hnet import HNet
from .orn import ORN
from .plain_cnn import PlainCNN
from .ptn import PTN
from .resnet import ResidualBlock, ResNet
from .roteqnet import RotEqNet
from .sfcnn import SteerableCNN

MODELS = {
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
    "HNet",
    "HexaConv",
    "PlainCNN",
    "ResNet",
    "ResidualBlock",
    "RotEqNet",
    "SteerableCNN",
]
