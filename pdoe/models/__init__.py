"""Networks built from the layers, one file per family."""

from .plain_cnn import PlainCNN

MODELS = {"plain_cnn": PlainCNN}

__all__ = ["MODELS", "PlainCNN"]
