"""Networks built from the layers, one file per family."""

from .hnet import HNet
from .plain_cnn import PlainCNN
from .resnet import ResidualBlock, ResNet
from .roteqnet import RotEqNet

MODELS = {"plain_cnn": PlainCNN, "resnet": ResNet, "roteqnet": RotEqNet, "hnet": HNet}

__all__ = ["MODELS", "HNet", "PlainCNN", "ResNet", "ResidualBlock", "RotEqNet"]
