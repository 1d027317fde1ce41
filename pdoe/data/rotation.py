"""Digits rotated as MNIST-rot rotates them: a normalised Gaussian average, stored transposed."""

from __future__ import annotations

import numpy as np

SIGMA = 0.3  # width of the Gaussian in pixels
RADIUS = 2  # a 5x5 window: what lies beyond weighs less than 1e-15 of the whole


def rotate_gaussian(digits: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotate each digit ``[N, n, n]`` by its own angle ``[N]`` (radians): float64 ``[N, n, n]``.

    The output pixel at (x right, y down) from the centre is the average

        sum_q digit(q) k(p' - q) / sum_q k(p' - q),    k(d) = exp(-|d|^2 / (2 SIGMA^2)),
        p' = (c x + s y, -s x + c y),    c = cos(angle), s = sin(angle),

    over the infinite lattice, where a digit is 0 outside its frame. Each image is returned
    *transposed*, ``result[i, x, y]``: the files of the original set are written column after column
    and read row after row. Values keep the scale of the input.

    Procedure: Larochelle et al. (ICML 2007); the interpolation was reconstructed from a published
    image of the original set. Sums run in a fixed order and use no BLAS, so that the bytes do not
    depend on the machine.

    Raises:
        ValueError: shapes other than those above.
    """
    if digits.ndim != 3 or digits.shape[1] != digits.shape[2]:
        raise ValueError(f"digits must be [N, n, n], got {list(digits.shape)}")
    if angles.shape != digits.shape[:1]:
        raise ValueError(f"one angle per digit: expected [{len(digits)}], got {list(angles.shape)}")
    side = digits.shape[1]
    centre = (side - 1) / 2
    x, y = np.meshgrid(np.arange(side) - centre, np.arange(side) - centre, indexing="ij")
    c, s = (f(angles.astype(np.float64))[:, None, None] for f in (np.cos, np.sin))
    columns, rows = c * x + s * y + centre, c * y - s * x + centre  # the source points

    # A margin of zeros that holds every window: corners reach sqrt(2) times as far as the frame.
    margin = int(np.ceil((np.sqrt(2) - 1) * centre)) + 1 + RADIUS
    padded = np.zeros((len(digits), side + 2 * margin, side + 2 * margin))
    padded[:, margin : margin + side, margin : margin + side] = digits
    width = padded.shape[2]

    column, row = np.rint(columns).astype(np.int64), np.rint(rows).astype(np.int64)
    across, down = _weights(columns - column), _weights(rows - row)
    image = np.arange(len(digits))[:, None, None]
    corner = (image * width + row + margin - RADIUS) * width + column + margin - RADIUS
    pixels = padded.ravel()
    result = np.zeros(corner.shape)
    for i, weight_down in enumerate(down):
        line = np.zeros(corner.shape)
        for j, weight_across in enumerate(across):
            line += weight_across * pixels[i * width + j :].take(corner)
        result += weight_down * line
    return result


def rotate_digits(
    digits: np.ndarray, order: np.ndarray, angles: np.ndarray, chunk: int = 100
) -> np.ndarray:
    """Rotate digits ``[M, n, n]``, those of ``order`` ``[N]``, by ``angles`` ``[N]``: uint8.

    ``rotate_gaussian`` in chunks, so that the float64 intermediates stay small.
    """
    result = np.empty((len(order), *digits.shape[1:]), np.uint8)
    for start in range(0, len(order), chunk):
        part = slice(start, start + chunk)
        result[part] = np.rint(rotate_gaussian(digits[order[part]], angles[part]))
    return result


def _weights(distance: np.ndarray) -> list[np.ndarray]:
    """Normalised weights of the 2 RADIUS + 1 lattice points nearest to a point, along one axis.

    ``distance`` is the point minus its nearest lattice point, in [-1/2, 1/2].
    """
    offsets = range(-RADIUS, RADIUS + 1)
    weights = [np.exp(-((distance - offset) ** 2) / (2 * SIGMA**2)) for offset in offsets]
    total = sum(weights)
    return [weight / total for weight in weights]
