"""The tables of the finding on MNIST-rot: which runs explain a gap, and the interpolation."""

import csv

import numpy as np
import pytest
from test_draws import drawn, lines_of

from pdoe.data.rotation import rotate_gaussian

gap = pytest.importorskip("gap")
interpolation = pytest.importorskip("interpolation")


def test_a_row_is_shown_with_its_draws_and_with_changes_of_its_recipe_alone():
    other = [drawn(d, 1.5 + d / 10, words="recipe=a") for d in range(3)]
    runs = [drawn(0, 2.2), drawn(0, 2.4, 1), drawn(1, 2.0, replacement=True),
            drawn(0, 1.0, words="model.head=pooled"),  # another network explains nothing
            drawn(0, 2.1, words="model.bias=false,recipe.dropout=0.3"), *other]  # fmt: skip
    cells = gap.collect_cells(lines_of(*runs))
    shown = {(cell.settings, cell.replacement): cell for cell in cells}
    assert set(shown) == {("", False), ("", True), ("recipe=a", False),
                          ("model.bias=false,recipe.dropout=0.3", False)}  # fmt: skip
    assert shown["", False].values == [2.2, 2.4]  # one draw: its seeds
    assert shown["recipe=a", False].draws == [0, 1, 2]
    assert shown["recipe=a", False].values == pytest.approx([1.5, 1.6, 1.7])
    rows = {row["settings"] + row["replacement"]: row
            for row in csv.DictReader(gap.format_cells_csv(cells).splitlines())}  # fmt: skip
    assert float(rows["recipe=aFalse"]["std"]) == pytest.approx(0.1)
    assert rows["True"]["draws"] == "1" and rows["True"]["std"] == ""
    text = gap.format_cells(cells)
    assert "| 2.300 ± 0.141 |" in text and "| +0.430 " in text
    assert "<svg" in gap.draw_gap(cells)


def test_the_kernels_of_the_interpolation_are_those_of_their_names():
    digit = np.zeros((28, 28), np.uint8)
    digit[5:20, 8:12] = np.random.default_rng(0).integers(0, 256, (15, 4))
    angles = np.array([0.3, 1.0, 4.0])
    expected = rotate_gaussian(np.repeat(digit[None], 3, 0), angles)
    assert np.abs(interpolation.rotate_by("0.3", digit, angles) - expected).max() < 1e-9
    quarter = np.array([np.pi / 2])
    exact = digit[::-1].astype(float)  # a quarter turn, stored transposed
    for kernel in ("nearest", "bilinear", "bicubic"):
        (turned,) = interpolation.rotate_by(kernel, digit, quarter)
        assert np.abs(turned - exact).max() < 1e-9  # no pixel lies between others
    assert np.abs(rotate_gaussian(digit[None], quarter)[0] - exact).max() < 6  # it smooths
