"""Small deterministic images and labels."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def md5(raw: bytes) -> str:
    return hashlib.md5(raw).hexdigest()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def synthetic(count: int, side: int = 28) -> np.ndarray:
    """Deterministic uint8 images `[count, side, side]` without any symmetry."""
    n, i, j = np.ogrid[:count, :side, :side]
    return ((37 * n + 11 * i * i + 29 * j + 7 * i * j) % 256).astype(np.uint8)


def colours(count: int, start: int = 0) -> np.ndarray:
    """Deterministic uint8 images `[count, 3, 32, 32]`, whose channels differ in mean."""
    n, c, i, j = np.ogrid[start : start + count, :3, :32, :32]
    return ((41 * n + 11 * i * i + 29 * j + 7 * i * j) % (256 - 60 * c)).astype(np.uint8)


def tiny_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Three training and two test digits."""
    images = synthetic(5 + seed)[seed:, None]
    labels = np.arange(5, dtype=np.uint8)
    return {
        "train_images": images[:3],
        "train_labels": labels[:3],
        "test_images": images[3:],
        "test_labels": labels[3:],
    }
