"""Solar cells: reduced exactly, split and drawn in strata, read from the package or refused."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pdoe.data import SETS, DataError, elpv, load_data, random_square_symmetry
from pdoe.data.batches import repeat_evenly

CELLS = (588, 117, 56, 313, 920, 178, 50, 402)  # of each stratum of the published set
TURNED = [lambda x, k=k: np.rot90(x, k, (1, 2)) for k in range(4)]


def by_hand(image, size):
    """Exact means over areas, half rounded up, with fractions."""
    step = Fraction(len(image), size)

    def overlap(i, j):
        return max(0, min((i + 1) * step, j + 1) - max(i * step, j))

    weight = [[overlap(i, j) / step for j in range(len(image))] for i in range(size)]
    mean = np.array(weight, object) @ image.astype(object) @ np.array(weight, object).T
    return [[int(value + Fraction(1, 2)) for value in row] for row in mean]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_a_small_pixel_is_the_mean_over_its_area(size):
    image = np.random.RandomState(0).randint(0, 256, (7, 7)).astype(np.uint8)
    assert elpv.average_areas(image[None], size)[0].tolist() == by_hand(image, size)


@pytest.mark.parametrize("turn", [*TURNED, lambda x: x[:, :, ::-1]])
def test_reducing_an_image_commutes_with_the_symmetries_of_the_square(turn):
    images = np.random.RandomState(1).randint(0, 256, (3, 30, 30)).astype(np.uint8)
    assert np.array_equal(
        elpv.average_areas(turn(images), 13), turn(elpv.average_areas(images, 13))
    )


def test_the_first_cells_of_an_order_are_stratified_and_each_cell_comes_once():
    strata = np.repeat(np.arange(8), CELLS)
    order = elpv.spread(strata, np.random.RandomState(3))
    assert sorted(order) == list(range(len(strata)))
    assert not np.array_equal(order, elpv.spread(strata, np.random.RandomState(4)))
    counts = np.cumsum(np.eye(8)[strata[order]], 0)
    wanted = np.arange(1, len(strata) + 1)[:, None] * np.array(CELLS) / len(strata)
    assert np.abs(counts - wanted).max() < 1.5


@pytest.fixture
def package(monkeypatch):
    """A package with five cells of every stratum; the reduced pixel is the cell's number."""
    folder = Path("elpv_dataset", "data", "images")
    folder.mkdir(parents=True)
    lines = []
    for number in range(40):
        name, kind = f"images/{number}.png", "mono" if number % 8 < 4 else "poly"
        Image.fromarray(np.full((300, 300), number, np.uint8)).save(folder.parent / name)
        lines.append(f"{name}  {number % 4 / 3}   {kind}")
    (folder.parent / "labels.csv").write_text("\n".join(lines))
    Path("elpv_dataset", "__init__.py").touch()
    monkeypatch.syspath_prepend(".")
    importlib.invalidate_caches()
    monkeypatch.setattr(elpv, "PREPARED", {})
    monkeypatch.setitem(SETS, "elpv", replace(SETS["elpv"], images=(24, 16)))
    return folder.parent


def cells(images):
    return images[:, 0, 0, 0].tolist()


def test_draws_have_one_test_part_and_their_own_order_of_the_others(package):
    first, second = (load_data("elpv", "root", draw=draw, size=8) for draw in (0, 1))
    assert first.train_images.shape == (24, 1, 8, 8) and first.provenance == "package, 8 pixels"
    assert torch.equal(first.test_images, second.test_images)
    assert cells(first.train_images) != cells(second.train_images)
    assert sorted(cells(first.train_images)) == sorted(cells(second.train_images))
    everything = cells(first.train_images) + cells(first.test_images)
    assert sorted(everything) == list(range(40))
    for images, labels in (
        (first.train_images, first.train_labels),
        (second.train_images, second.train_labels),
        (first.test_images, first.test_labels),
    ):
        assert labels.tolist() == [int(cell % 4 >= 2) for cell in cells(images)]
        assert set(np.bincount(np.array(cells(images)) % 8)) in ({3}, {2})


def test_a_prepared_set_needs_no_package_and_other_images_are_refused(package, monkeypatch):
    made = load_data("elpv", "root", size=8)
    (package / "labels.csv").unlink()
    assert load_data("elpv", "root", size=8).sha256 == made.sha256
    with pytest.raises(DataError, match=r"labels.csv.*Reinstall it: pip install 'pdoe\[elpv\]'"):
        load_data("elpv", "root", size=9)
    monkeypatch.setattr(elpv, "PREPARED", {8: "0" * 64})
    with pytest.raises(DataError, match="is damaged: its contents have SHA-256"):
        load_data("elpv", "root", size=8)


def test_images_that_are_not_the_published_ones_are_refused(package, monkeypatch):
    monkeypatch.setattr(elpv, "PREPARED", {8: "0" * 64})
    with pytest.raises(DataError, match="has SHA-256 .*, expected 0000.*not the known ones"):
        load_data("elpv", "root", size=8)


def test_without_the_package_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(elpv, "PACKAGE", "no_such_package")
    with pytest.raises(
        DataError, match=r"^no data for elpv: .* not installed. pip install 'pdoe\["
    ):
        load_data("elpv", "root")


@pytest.mark.parametrize("wrong", [{"draw": -1}, {"draw": True}, {"size": 3}, {"size": 301}])
def test_a_draw_or_size_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"data.{next(iter(wrong))} is an integer from"):
        load_data("elpv", "root", **wrong)


def test_an_epoch_repeats_every_image_and_has_all_classes_equally_often():
    labels = torch.tensor([0, 1, 0, 0, 2, 0, 1])
    times = torch.bincount(repeat_evenly(labels, 31), minlength=7)
    assert [times[labels == label].sum().item() for label in range(3)] == [11, 10, 10]
    for label in range(3):
        own = times[labels == label]
        assert own.max() - own.min() <= 1 <= own.min()
    with pytest.raises(ValueError, match="an epoch of 6 images leaves out some of the 7"):
        repeat_evenly(labels, 6)


def test_images_are_turned_and_mirrored_by_all_eight_symmetries_equally_often():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    turned = random_square_symmetry(image.expand(4000, 1, 3, 3), torch.Generator().manual_seed(0))
    rotations = [torch.rot90(image, k, (2, 3)) for k in range(4)]
    wanted = torch.cat([*rotations, *(x.flip(3) for x in rotations)])
    found = (turned[:, None] == wanted).all((2, 3, 4))
    assert found.sum() == 4000
    assert (found.sum(0) - 500).abs().max() < 5 * 500**0.5
