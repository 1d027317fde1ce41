"""Whitened images: contrast normalised one by one, then decorrelated over the training set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .dataset import DataSet

EPSILON = 1e-5  # added to the standard deviations, as Cohen & Welling's and HexaConv's code do
CHUNK = 5_000  # images at a time
LARGEST = 12_288  # numbers of an image, 3x64x64: their covariance takes 1.2 GB in float64


def whiten(data: DataSet) -> DataSet:
    r"""Whiten the images of a data set: float32, and normalisation leaves them unchanged.

    Each image is shifted and scaled to mean 0 and standard deviation 1 over its pixels and
    channels; then :math:`x \mapsto (x - m)\,U (S + \epsilon)^{-1} U^T` with the mean m and the
    covariance :math:`U S^2 U^T` of the training images (ZCA; the preprocessing of the residual
    networks of Cohen & Welling 2016 and of HexaConv). Held-out images are whitened like the rest.
    The result has mean 0 and std 1/256: a network gets (value / 256 - mean) / std.

    Raises:
        ValueError: the images are too large for a covariance.
    """
    train = data.train_images
    if train[0].numel() > LARGEST:
        raise ValueError(
            f"data.statistics=whitened: an image has {train[0].numel():,} numbers, and the "
            f"covariance of more than {LARGEST:,} is too large; use data.statistics=train"
        )
    total, products = 0.0, 0.0
    for part in train.split(CHUNK):
        x = _normalise(part)
        total += x.double().sum(0)
        products += x.double().T @ x.double()
    mean = total / len(train)
    covariance = products / len(train) - mean.outer(mean)
    values, vectors = torch.linalg.eigh(covariance)
    # Contrast normalisation removes the mean of an image. Do not scale up its rounding error.
    kept = values > 1e-9 * values[-1]
    scaled = torch.where(kept, 1 / (values.clamp_min(0).sqrt() + EPSILON), 0) * vectors
    matrix = (scaled @ vectors.T).float()

    def apply(images: Tensor) -> Tensor:
        parts = [(_normalise(part) - mean.float()) @ matrix for part in images.split(CHUNK)]
        return torch.cat(parts).view(images.shape)

    data, images = data.without_normalisation(std=1 / 256), apply(train)
    validation = data.validation and replace(
        data.validation, train_images=images, test_images=apply(data.validation.test_images)
    )
    test_images = apply(data.test_images)
    return replace(data, train_images=images, test_images=test_images, validation=validation)


def _normalise(images: Tensor) -> Tensor:
    """Scale images to rows [N, CHW] of mean 0 and standard deviation 1; a uniform image is 0."""
    x = images.flatten(1).float()
    x = x - x.mean(1, keepdim=True)
    return x / x.std(1, correction=0, keepdim=True).clamp_min(1e-8)
