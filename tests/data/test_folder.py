"""The user's own images: folders become a data set, or are refused in one line."""

import io
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import synthetic

from pdoe.data import DataError, load_data
from pdoe.data.dataset import PARTS, digest
from pdoe.data.folder import Wanted


def save(path, pixels, **options):
    """A file of an image; the extension says in which format, unless the options do."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def photos(root="photos", counts=None, side=6, shift=0):
    """Grey images of the classes cat and dog, all different."""
    for label, (name, count) in enumerate((counts or {"dog": 10, "cat": 5}).items()):
        for number, image in enumerate(synthetic(100 * label + shift + count, side)[-count:]):
            save(f"{root}/{name}/{number:02}.png", image)
    return root


def load(root="photos", **keys):
    return load_data("folder", root, **keys)


def rows(images):
    return [image.numpy().tobytes() for image in images]


# --- folders -------------------------------------------------------------------------------------


def test_a_part_of_each_class_tests_and_no_image_is_in_both(capsys):
    photos()
    data = load()
    assert (data.name, data.classes, data.class_names) == ("folder", 2, ("cat", "dog"))
    assert data.train_images.shape == (12, 1, 6, 6) and data.train_images.dtype == torch.uint8
    assert Counter(data.train_labels.tolist()) == {0: 4, 1: 8}
    assert Counter(data.test_labels.tolist()) == {0: 1, 1: 2}
    everything = rows(data.train_images) + rows(data.test_images)
    stored = [np.asarray(Image.open(path)).tobytes() for path in Path("photos").rglob("*.png")]
    assert sorted(everything) == sorted(stored) and len(set(stored)) == 15
    pixels = data.train_images.double() / 256
    assert data.mean == pytest.approx(pixels.mean().item(), abs=1e-12)
    assert data.std == pytest.approx(pixels.std(correction=0).item(), abs=1e-12)
    images = dict(
        zip(everything, data.train_labels.tolist() + data.test_labels.tolist(), strict=True)
    )
    for label, name in enumerate(data.class_names):
        for path in Path("photos", name).iterdir():
            assert images[np.asarray(Image.open(path)).tobytes()] == label


def test_the_split_is_that_of_its_seed_and_of_the_fraction():
    photos()
    first, again = load(), load()
    assert torch.equal(first.test_images, again.test_images)
    other = load(split=1)
    assert sorted(rows(other.test_images)) != sorted(rows(first.test_images))
    assert len(load(test_fraction=0.5).test_images) == 7  # 2 of 5, 5 of 10
    assert len(load(test_fraction=0.01).test_images) == 2  # at least one of each class
    assert len(load(test_fraction=0.99).train_images) == 2


def test_the_first_and_the_last_images_hold_each_class_in_its_share():
    photos(counts={"a": 40, "b": 20, "c": 20}, side=2)
    data = load()
    for count in (8, 16, 32):
        for labels in (data.train_labels[:count], data.train_labels[-count:]):
            found = [int((labels == label).sum()) for label in range(3)]
            assert all(
                abs(n - count * part) <= 1 for n, part in zip(found, (0.5, 0.25, 0.25), strict=True)
            )
    held = data.hold_out(16)
    assert sorted(held.test_labels.tolist()) == 8 * [0] + 4 * [1] + 4 * [2]
    assert held.class_names == data.class_names and held.provenance.endswith(", 16 held out")
    assert data.train_labels.tolist() != sorted(data.train_labels.tolist())


def test_folders_named_train_and_test_are_the_split():
    photos("photos/train")
    photos("photos/test", {"cat": 2, "dog": 1}, shift=50)
    data = load()
    assert Counter(data.train_labels.tolist()) == {0: 5, 1: 10}
    assert Counter(data.test_labels.tolist()) == {0: 2, 1: 1}
    with pytest.raises(ValueError, match="test_fraction .*photos has one: leave it out"):
        load(test_fraction=0.5)


def test_a_class_may_be_named_train_and_images_lie_deeper():
    photos(counts={"train": 4, "plane": 4})
    Path("photos/plane/more").mkdir()
    Path("photos/plane/00.png").rename("photos/plane/more/00.png")
    assert load().class_names == ("plane", "train")
    assert len(load().train_images) == 6


def test_provenance_is_of_names_and_contents_and_not_of_the_place(capsys):
    photos()
    first = load()
    assert re.fullmatch("files [0-9a-f]{12}", first.provenance)
    shutil.copytree("photos", "elsewhere/deep")
    again = load("elsewhere/deep")
    assert (again.provenance, again.sha256) == (first.provenance, first.sha256)
    Path("photos/cat/00.png").rename("photos/cat/99.png")
    assert load().provenance != first.provenance
    Path("photos/cat/99.png").rename("photos/cat/00.png")
    assert load().provenance == first.provenance
    save("photos/cat/00.png", synthetic(999, 6)[-1])
    assert load().provenance != first.provenance


def test_files_are_decoded_once_and_a_damaged_cache_is_refused(capsys, monkeypatch):
    photos()
    first = load()
    said = capsys.readouterr()
    assert "decoding 15 files" in said.out and not said.err  # no bar in a log file
    (cache,) = Path("data/cache").iterdir()
    assert not any(path.name == "cache" for path in Path("photos").rglob("*"))
    again = load()
    said = capsys.readouterr().out
    assert f"taken from the cache {cache}" in said and "decoding" not in said
    assert again.sha256 == first.sha256 and torch.equal(again.train_images, first.train_images)
    load(split=1)
    load(size=3)
    assert len(list(Path("data/cache").iterdir())) == 3
    cache.write_bytes(cache.read_bytes()[:-200])
    with pytest.raises(DataError, match=f"{cache} is damaged.*Delete this file"):
        load()
    monkeypatch.setenv("PDOE_DATA", "root")
    load()
    assert len(list(Path("root/cache").iterdir())) == 1


def test_more_than_256_classes_keep_their_labels():
    for number in range(258):
        pixel = np.array([[number % 256, number // 256]], np.uint8)
        for copy in range(2):
            path = Path(f"photos/{number:03}/{copy}.pgm")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"P5 2 2 255 " + pixel.tobytes() + bytes([copy, copy]))
    for _ in range(2):  # decoded, and from the cache
        data = load()
        images = data.train_images[:, 0, 0].long()
        assert data.classes == 258 and data.train_labels.max() == 257
        assert torch.equal(images[:, 0] + 256 * images[:, 1], data.train_labels)
    arrays = {part: np.zeros(3, np.uint8) for part in PARTS}
    wide = {**arrays, "train_labels": np.array([0, 1, 257], np.uint16)}
    other = {**wide, "train_labels": np.array([0, 1, 1], np.uint16)}
    assert len(set(map(digest, (arrays, wide, other)))) == 3


def test_copies_across_the_split_are_reported(capsys):
    photos("photos/train")
    photos("photos/test", {"cat": 2, "dog": 1}, shift=50)
    load()
    assert "equal to" not in capsys.readouterr().out
    shutil.copyfile("photos/train/dog/00.png", "photos/test/cat/copy.png")
    load()
    assert "1 of 4 test images are equal to training images" in capsys.readouterr().out


def test_files_that_are_no_images_by_their_names_are_left_out_and_named(capsys):
    photos()
    for name in (
        "photos/notes.txt",
        "photos/cat/a.heic",
        "photos/.hidden.png",
        "photos/dog/._0.png",
    ):
        Path(name).write_bytes(b"x")
    Path("photos/.git").mkdir()
    assert len(load().train_images) == 12
    said = capsys.readouterr().out
    assert (
        "left out (in no class, or no images by their names): 2, photos/cat/a.heic, photos/notes"
        in said
    )


def test_impossible_folders_are_refused_in_one_line():
    cases = {
        "no folders": (lambda: Path("photos").mkdir(), "photos has no folders: put the images of"),
        "one class": (lambda: photos(counts={"cat": 3}), "photos has one class, cat: a classifier"),
        "an empty class": (lambda: (photos(), Path("photos/eel").mkdir()),
                           "photos/eel has no images, it is empty: add some"),
        "no image": (lambda: (photos(), Path("photos/eel").mkdir(),
                              Path("photos/eel/a.heic").write_bytes(b"x")),
                     r"photos/eel has no images, it holds a.heic: .*\.png"),
        "one image": (lambda: photos(counts={"cat": 3, "dog": 1}), "dog has too few .*, 1: none"),
        "train alone": (lambda: photos("photos/train"),
                        "classes in train/ and none in test/: .*data.root=photos/train"),
        "test alone": (lambda: photos("photos/test"), "classes in test/ and none in train/"),
        "other classes": (lambda: (photos("photos/train"),
                                   photos("photos/test", {"cat": 2, "eel": 2})),
                          "photos: the class dog is in train/ alone"),
    }  # fmt: skip
    for make, message in cases.values():
        make()
        with pytest.raises(DataError, match=message) as refused:
            load()
        assert "\n" not in str(refused.value) and "PDOE_DATA" not in str(refused.value)
        shutil.rmtree("photos")
    with pytest.raises(DataError, match="data.root names photos, which does not exist"):
        load()
    with pytest.raises(ValueError, match="data=folder needs data.root.* such as data.root=photos"):
        load(None)


@pytest.mark.parametrize("keys, message", [
    ({"size": 0}, "data.size is a side from 1 to 4096"), ({"size": 32.0}, "data.size"),
    ({"channels": 2}, "data.channels is 1, 3, 4 or null, not 2"), ({"channels": True}, "channels"),
    ({"test_fraction": 1.0}, "data.test_fraction is between 0 and 1"),
    ({"test_fraction": 0}, "test_fraction"), ({"split": -1}, "data.split is an integer"),
    ({"skip_broken": "yes"}, "data.skip_broken is true or false"),
])  # fmt: skip
def test_impossible_keys_are_refused_before_anything_is_read(keys, message):
    with pytest.raises(ValueError, match=message):
        Wanted(**keys)


# --- files ---------------------------------------------------------------------------------------


def test_images_are_resized_and_their_middle_is_cut_out():
    photos(side=20)
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 200
    for name in ("cat", "dog"):
        for path in Path("photos", name).iterdir():
            save(path, wide)
    data = load(size=10)
    assert data.train_images.shape[1:] == (1, 10, 10)
    assert (data.train_images >= 185).all()  # bicubic: the border of the middle is blurred
    assert (data.train_images[..., 2:-2].int() - 200).abs().max() <= 1
    assert load(size=40).train_images.shape[1:] == (1, 40, 40)  # enlarged
    with pytest.raises(
        DataError, match="60x20 pixels, and the networks take squares: set data.size=20"
    ):
        load()


def test_mixed_sizes_need_a_size():
    photos(side=6)
    save("photos/cat/99.png", np.zeros((8, 9), np.uint8))
    message = "2 sizes, .* of 6x6 and photos/cat/99.png of 9x8 pixels: set data.size=6"
    with pytest.raises(DataError, match=message):
        load()
    assert load(size=6).train_images.shape[1:] == (1, 6, 6)


def test_channels_are_those_of_the_images_or_those_asked_for():
    photos()
    assert load().train_images.shape[1] == 1
    colour = np.zeros((6, 6, 3), np.uint8)
    colour[..., 0] = 255
    save("photos/cat/red.png", colour)
    save("photos/dog/palette.png", Image.fromarray(colour).quantize(4))
    data = load()
    assert data.train_images.shape[1] == 3 and len(data.mean) == 3
    images = rows(torch.cat([data.train_images, data.test_images]))
    assert images.count(colour.transpose(2, 0, 1).tobytes()) == 2
    assert load(channels=1).train_images.shape[1] == 1
    four = load(channels=4).train_images
    assert four.shape[1] == 4 and (four[:, 3] == 255).all()


def test_photos_are_upright_as_their_tag_says():
    photos(side=8)
    stored = np.zeros((8, 8), np.uint8)
    stored[0] = 255  # a bright row, the first
    tag = Image.Exif()
    tag[0x0112] = 6  # shown rotated by 90 degrees clockwise
    save("photos/cat/tagged.png", stored, exif=tag)
    data = load(size=8, channels=1)
    images = rows(torch.cat([data.train_images, data.test_images]))
    assert np.rot90(stored, -1).tobytes() in images and stored.tobytes() not in images


def damaged(name):
    raw = io.BytesIO()
    if name == "truncated":
        Image.fromarray(synthetic(1, 64)[0]).save(raw, "PNG")
        return raw.getvalue()[:-2000]
    if name == "frames":
        first, second = (Image.fromarray(image) for image in synthetic(2, 6))
        first.save(raw, "GIF", save_all=True, append_images=[second])
    elif name == "16 bits":
        Image.fromarray(np.full((6, 6), 3000, np.uint16)).save(raw, "PNG")
    elif name == "transparent":
        Image.fromarray(np.full((6, 6, 4), 100, np.uint8)).save(raw, "PNG")
    return raw.getvalue() or {"empty": b"", "text": b"<html>not found</html>"}[name]


@pytest.mark.parametrize("name, message", [
    ("empty", "is empty"), ("text", "is no image that Pillow reads"),
    ("truncated", "cannot be decoded"), ("frames", "has 2 frames: save one"),
    ("16 bits", r"has more than 8 bits per pixel \(mode I;16\): save it with 8 bits"),
    ("transparent", "has transparent pixels: set data.channels=3"),
])  # fmt: skip
def test_a_file_that_cannot_be_used_stops_the_run_or_is_skipped_and_counted(name, message, capsys):
    photos(side=64 if name == "truncated" else 6)
    Path("photos/cat/bad.png").write_bytes(damaged(name))
    Path("photos/dog/worse.jpg").write_bytes(damaged(name))
    with pytest.raises(DataError) as refused:
        load()
    text = str(refused.value)
    assert re.match(
        rf"photos/(cat/bad.png|dog/worse.jpg) {message}.*\(and 1 more cannot be used", text
    )
    assert "data.skip_broken=true" in text and "\n" not in text
    for source in ("decoding", "taken from the cache"):
        data = load(skip_broken=True)
        assert len(data.train_images) + len(data.test_images) == 15
        said = capsys.readouterr().out
        assert source in said and "skipped 2 of 17 files" in said


def test_opaque_alpha_is_dropped_and_transparency_is_kept_or_dropped_as_asked():
    photos()
    opaque = np.full((6, 6, 4), 255, np.uint8)
    opaque[..., 0] = 7
    save("photos/cat/opaque.png", opaque)
    assert load().train_images.shape[1] == 3
    clear = opaque.copy()
    clear[..., 3] = 9
    save("photos/cat/clear.png", clear)
    for channels in (3, 4):
        data = load(channels=channels)
        images = rows(torch.cat([data.train_images, data.test_images]))
        assert clear[..., :channels].transpose(2, 0, 1).tobytes() in images


def test_a_class_whose_images_are_all_broken_is_refused():
    photos()
    for path in Path("photos/cat").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="the class cat has too few images that can be used, 0"):
        load(skip_broken=True)


def test_images_that_do_not_fit_into_memory_are_refused(monkeypatch):
    photos()
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    with pytest.raises(
        DataError, match="15 images of 4096x4096 pixels need 0 GB, .*smaller data.size"
    ):
        load(size=4096, channels=1)
