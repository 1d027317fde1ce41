"""Whitened images: contrast normalised one by one, then decorrelated over the training set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .dataset import DataSet

EPSILON = 1e-5  # added to the standard deviations, as the code of Cohen and Welling and of HexaConv
CHUNK = 5_000  # images at a time


def whitened(data: DataSet) -> DataSet:
    r"""The same data set with whitened images, as float32, which normalisation leaves as they are.

    Each image is shifted and scaled to mean 0 and standard deviation 1 over its pixels and
    channels; then :math:`x \mapsto (x - m)\,U (S + \epsilon)^{-1} U^T` with the mean m and the
    covariance :math:`U S^2 U^T` of the training images (ZCA; the preprocessing of the residual
    networks of Cohen & Welling 2016 and of HexaConv). What is held out is whitened like the rest.
    The result has mean 0 and std 1/256: a network gets (value / 256 - mean) / std.
    """
    train = data.train_images
    total, products = 0.0, 0.0
    for part in train.split(CHUNK):
        x = _normalised(part)
        total += x.double().sum(0)
        products += x.double().T @ x.double()
    mean = total / len(train)
    covariance = products / len(train) - mean.outer(mean)
    values, vectors = torch.linalg.eigh(covariance)
    # What contrast normalisation took out of every image, its mean, is rounding now: not scaled up.
    there = values > 1e-9 * values[-1]
    scaled = torch.where(there, 1 / (values.clamp_min(0).sqrt() + EPSILON), 0) * vectors
    turn = (scaled @ vectors.T).float()

    def white(images: Tensor) -> Tensor:
        parts = [(_normalised(part) - mean.float()) @ turn for part in images.split(CHUNK)]
        return torch.cat(parts).view(images.shape)

    data, images = data.as_it_is(std=1 / 256), white(train)
    validation = data.validation and replace(
        data.validation, train_images=images, test_images=white(data.validation.test_images)
    )
    test_images = white(data.test_images)
    return replace(data, train_images=images, test_images=test_images, validation=validation)


def _normalised(images: Tensor) -> Tensor:
    """Rows [N, CHW] of mean 0 and standard deviation 1; an image of one colour is 0."""
    x = images.flatten(1).float()
    x = x - x.mean(1, keepdim=True)
    return x / x.std(1, correction=0, keepdim=True).clamp_min(1e-8)
