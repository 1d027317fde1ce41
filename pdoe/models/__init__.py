"""Networks built from the layers, one file per family."""

from .orn import ORN
from .plain_cnn import PlainCNN
from .resnet import ResidualBlock, ResNet
from .sfcnn import SteerableCNN

MODELS = {"orn": ORN, "plain_cnn": PlainCNN, "resnet": ResNet, "sfcnn": SteerableCNN}

__all__ = ["MODELS", "ORN", "PlainCNN", "ResNet", "ResidualBlock", "SteerableCNN"]
