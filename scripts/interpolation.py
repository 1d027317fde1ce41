"""Measure how the original MNIST-rot was interpolated: 20 of its test images, several kernels.

    python scripts/interpolation.py            the figure, from the committed measurement
    python scripts/interpolation.py --measure  measure first

Each image is compared with rotations of its MNIST digit by nearest neighbours, bilinear and bicubic
interpolation and normalised Gaussians, each at the angle that fits it best. Writes
``results/mnist_rot/interpolation.csv`` and a figure. ``--measure`` needs
``mnist_rot_original_test20.npz`` and MNIST in the data root (``PDOE_DATA``).
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ["MPLBACKEND"] = "Agg"

import numpy as np

from pdoe.data.files import data_root, read_first
from pdoe.files import as_csv, write_whole
from pdoe.report.figures import ACCENT, SECOND, SERIES, add_legend, render, set_title

RESULTS = Path(__file__).resolve().parents[1] / "results" / "mnist_rot"
ORIGINAL = "mnist_rot_original_test20.npz"
SIGMAS = (0.2, 0.25, 0.275, 0.3, 0.325, 0.35, 0.4, 0.5)
TURNS = np.arange(-20, 21) / 100  # degrees about the known angle, for a fair fit of each kernel
REACH = 3  # pixels on each side of a point that the Gaussian sums over


def find_source_points(angles: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of a digit under the pixels of its rotation: two arrays [N, side, side]."""
    centre = (side - 1) / 2
    x, y = np.meshgrid(np.arange(side) - centre, np.arange(side) - centre, indexing="ij")
    c, s = (f(angles)[:, None, None] for f in (np.cos, np.sin))
    return c * x + s * y + centre, c * y - s * x + centre


def rotate_by(kernel: str, digit: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotate a digit by each angle (radians): float64 [N, side, side], stored transposed.

    ``kernel`` is "nearest", "bilinear", "bicubic", or the sigma of a normalised Gaussian.
    """
    columns, rows = find_source_points(angles, len(digit))
    if kernel in ("nearest", "bilinear", "bicubic"):
        import torch
        import torch.nn.functional as F

        scale = 2 / (len(digit) - 1)
        places = torch.from_numpy(np.stack([columns * scale - 1, rows * scale - 1], -1))
        image = torch.from_numpy(digit.astype(np.float64)).expand(len(angles), 1, -1, -1)
        return F.grid_sample(image, places, kernel, "zeros", align_corners=True)[:, 0].numpy()
    padded = np.pad(digit.astype(np.float64), 2 * REACH + len(digit) // 4)
    shift = (len(padded) - len(digit)) // 2
    column, row = np.rint(columns).astype(int), np.rint(rows).astype(int)
    total, weight = 0.0, 0.0
    for i in range(-REACH, REACH + 1):
        for j in range(-REACH, REACH + 1):
            away = (columns - column - i) ** 2 + (rows - row - j) ** 2
            part = np.exp(-away / (2 * float(kernel) ** 2))
            total = total + part * padded[row + j + shift, column + i + shift]
            weight = weight + part
    return total / weight


def measure_interpolation(root: Path) -> str:
    """Compare the original images with every kernel, each at the angle that fits it best."""
    from pdoe.data.idx import read_mnist

    digits, _ = read_first(read_mnist, root)
    rows = []
    with np.load(root / ORIGINAL, allow_pickle=False) as original:
        images, sources = original["images_255"].astype(float), original["source_digit"]
        for index, image, source, angle in zip(
            original["index"], images, sources, original["angle_degrees"], strict=True
        ):
            for kernel in ("nearest", "bilinear", "bicubic", *map(str, SIGMAS)):
                rotated = rotate_by(kernel, digits[source], np.deg2rad(angle + TURNS))
                away = np.rint(rotated * (255 / 256)) - image
                square = (away**2).mean((1, 2))
                best = int(square.argmin())
                equal = int((away[best] == 0).sum())
                rows.append([index, source, kernel, round(float(angle + TURNS[best]), 3),
                             equal, float(np.sqrt(square[best]))])  # fmt: skip
    return as_csv(("test_image", "digit", "kernel", "degrees", "equal_pixels", "rms"), rows)


def draw_interpolation(rows: Sequence[dict[str, str]]) -> str:
    """The distance to the original images against the width of the Gaussian."""

    def of(kernel: str) -> list[float]:
        return [float(row["rms"]) for row in rows if row["kernel"] == kernel]

    def panel(axes: Any) -> None:
        means = [fmean(of(str(sigma))) for sigma in SIGMAS]
        low, high = ([f(of(str(sigma))) for sigma in SIGMAS] for f in (min, max))
        axes.fill_between(SIGMAS, low, high, color=ACCENT, alpha=0.2, linewidth=0)
        axes.plot(SIGMAS, means, color=ACCENT, marker="o", markersize=4, label="Gaussian")
        for kernel, colour in (("bilinear", SECOND), ("bicubic", SERIES[2])):
            axes.axhline(fmean(of(kernel)), color=colour, label=kernel, linestyle="--")
        axes.set(xlabel="width (sigma) of the Gaussian, pixels", ylabel="rms difference, of 255")
        axes.set_ylim(bottom=0)
        count = len(of("bilinear"))
        under = f"{count} test images of the original; mean, least and largest"
        set_title(axes, "Interpolation of MNIST-rot", under)
        add_legend(axes, "upper left")

    return render([panel], 460, 330)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="measure first")
    measured = RESULTS / "interpolation.csv"
    if parser.parse_args(argv).measure:
        write_whole(measured, measure_interpolation(Path(data_root())))
    with open(measured, newline="", encoding="utf-8") as file:
        figure = draw_interpolation(list(csv.DictReader(file)))
    write_whole(RESULTS / "figures" / "interpolation.svg", figure)
    print(f"{measured} and figures/interpolation.svg beside it")


if __name__ == "__main__":
    main()
