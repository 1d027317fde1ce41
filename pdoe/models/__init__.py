"""Networks built from the layers, one file per family."""

from .hexaconv import HexaConv
from .plain_cnn import PlainCNN
from .resnet import ResidualBlock, ResNet

MODELS = {"plain_cnn": PlainCNN, "resnet": ResNet, "hexaconv": HexaConv}

__all__ = ["MODELS", "HexaConv", "PlainCNN", "ResNet", "ResidualBlock"]
