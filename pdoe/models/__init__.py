"""Networks built from the layers, one file per family."""

from .plain_cnn import PlainCNN
from .resnet import ResidualBlock, ResNet
from .sfcnn import SteerableCNN

MODELS = {"plain_cnn": PlainCNN, "resnet": ResNet, "sfcnn": SteerableCNN}

__all__ = ["MODELS", "PlainCNN", "ResNet", "ResidualBlock", "SteerableCNN"]
