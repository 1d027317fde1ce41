"""Networks built from the layers, one file per family."""

from .plain_cnn import PlainCNN
from .resnet import ResidualBlock, ResNet

MODELS = {"plain_cnn": PlainCNN, "resnet": ResNet}

__all__ = ["MODELS", "PlainCNN", "ResNet", "ResidualBlock"]
