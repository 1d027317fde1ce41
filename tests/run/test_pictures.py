"""Pictures of a finished run, and its mistakes."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from pdoe.run import pictures
from pdoe.run.pictures import MISTAKES, find_mistakes, write_pictures


class Left(nn.Module):
    """Takes every image for class 0."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0]).expand(len(x), 2)


def test_mistakes_are_the_first_images_that_are_taken_for_another_class(two_sides):
    data = two_sides(200, 8)
    mistakes = find_mistakes(Left(), data)
    wrong = (data.test_labels == 1).nonzero().flatten()[:MISTAKES]
    assert len(mistakes) == MISTAKES
    for mistake, index in zip(mistakes, wrong, strict=True):
        assert (mistake.true, mistake.predicted) == (1, 0)
        assert np.array_equal(mistake.image, data.test_images[index].numpy())
    assert len(find_mistakes(Left(), data, count=6)) == 3


def test_a_finished_run_leaves_pictures_of_what_there_is(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    metrics = [
        {"epoch": 1, "train_error": 50.0, "test_error": None},
        {"epoch": 2, "train_error": 9.0, "test_error": 0.0},
    ]
    filters = np.zeros((16, 32, 3), np.uint8)
    names = ["learning_curve.png", "confusion.png", "filters.png"]
    assert write_pictures(tmp_path, "mnist_rot", metrics, [[5, 1], [0, 0]], filters) == names
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    drawn = []
    monkeypatch.setattr(
        pictures, "draw_confusion", lambda figure, counts, names: drawn.append(names)
    )
    write_pictures(tmp_path, "folder", [], [[5, 1], [0, 0]], class_names=("cat", "dog"))
    write_pictures(tmp_path, "folder", [], [[5, 1], [0, 0]])
    assert drawn == [("cat", "dog"), ["0", "1"]]
    many = np.ones((100, 100), int).tolist()
    assert write_pictures(tmp_path, "cifar100", [], many) == ["confusion.png"]


def test_without_matplotlib_it_is_an_import_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="matplotlib"):
        write_pictures(tmp_path, "mnist_rot", [])
