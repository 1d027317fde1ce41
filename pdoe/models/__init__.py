"""Networks built from the layers, one file per family."""

from .hexaconv import HexaConv
from .orn import ORN
from .plain_cnn import PlainCNN
from .resnet import ResidualBlock, ResNet
from .sfcnn import SteerableCNN

MODELS = {
    "hexaconv": HexaConv,
    "orn": ORN,
    "plain_cnn": PlainCNN,
    "resnet": ResNet,
    "sfcnn": SteerableCNN,
}

__all__ = ["MODELS", "ORN", "HexaConv", "PlainCNN", "ResNet", "ResidualBlock", "SteerableCNN"]
