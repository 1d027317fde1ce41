"""Networks built from the layers, one file per family."""

from .orn import ORN
from .plain_cnn import PlainCNN
from .resnet import ResidualBlock, ResNet

MODELS = {"orn": ORN, "plain_cnn": PlainCNN, "resnet": ResNet}

__all__ = ["MODELS", "ORN", "PlainCNN", "ResNet", "ResidualBlock"]
