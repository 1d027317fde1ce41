"""CIFAR: nothing is unpickled unless it is the known file."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prepare_data import main as prepare
from samples import colours, md5

from pdoe.data import DataError, cifar, downloads, load_data
from pdoe.data.cifar import CIFAR10, CIFAR100, Release
from pdoe.data.dataset import channel_statistics, digest

ROOT = Path("root")
REAL_CIFAR10 = "9d6cf58250fc25168a49668dafaaef4bc8b81ec2668d6f5bb3950e8c3259598c"


# --- files in the true format ---------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: text is bytes, and NumPy's core has its old name."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text: bytes | str) -> None:
        raw = text.encode() if isinstance(text, str) else text
        short = len(raw) < 256
        self.write(b"U" + bytes([len(raw)]) if short else b"T" + struct.pack("<i", len(raw)))
        self.write(raw)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string

    def save_global(self, thing: object, name: str | None = None) -> None:
        module = thing.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{thing.__name__}\n".encode())
        self.memoize(thing)


def pickled(content: object) -> bytes:
    memory = io.BytesIO()
    Python2Pickler(memory, protocol=2).dump(content)
    return memory.getvalue()


@dataclass
class Tiny:
    """A small set in the true format, where the big one is expected."""

    release: Release
    raws: dict[str, bytes]  # the files by name
    archive: bytes
    arrays: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return self.release.name

    def write_folder(self, root: Path) -> Path:
        folder = root / self.release.folder
        folder.mkdir(parents=True)
        for name, raw in self.raws.items():
            (folder / name).write_bytes(raw)
        return folder

    def write_archive(self, root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        path = root / self.release.archive
        path.write_bytes(self.archive)
        return path


def tar_bytes(members: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz", compresslevel=1) as archive:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return memory.getvalue()


def make_tiny(
    release: Release, raws: dict[str, bytes], arrays: dict[str, np.ndarray], monkeypatch
) -> Tiny:
    """These files with their own sums, where those of `release` are expected."""
    archive = tar_bytes({f"{release.folder}/{name}": raw for name, raw in raws.items()})
    sums = {
        part: {name: md5(raws[name]) for name in getattr(release, part)}
        for part in ("train", "test", "meta")
    }
    small = replace(release, archive_md5=md5(archive), **sums)
    monkeypatch.setattr(cifar, release.name.upper(), small)
    return Tiny(small, raws, archive, arrays)


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=lambda release: release.name)
def tiny(request, monkeypatch) -> Tiny:
    """Three images in each file of CIFAR-10, and of CIFAR-100."""
    release, raws, arrays = request.param, {}, {}
    for part in ("train", "test"):
        images, labels = [], []
        for number, name in enumerate(getattr(release, part)):
            images.append(colours(3, 10 * number + (part == "test")))
            labels.append(images[-1][:, 0, 1, 1] % release.classes)
            content = {
                b"batch_label": part.encode(),
                release.labels: labels[-1].tolist(),
                b"data": images[-1].reshape(3, -1),
                b"filenames": [f"image_{i}.png".encode() for i in range(3)],
                b"coarse_labels": [0, 0, 0],
            }
            raws[name] = pickled(content)
        arrays[f"{part}_images"] = np.concatenate(images)
        arrays[f"{part}_labels"] = np.concatenate(labels)
    raws[next(iter(release.meta))] = pickled({b"label_names": [b"cat", b"dog"]})
    return make_tiny(release, raws, arrays, monkeypatch)


def assert_is_tiny(tiny: Tiny, root: str | None = "root", source: str = "auto") -> None:
    data = load_data(tiny.name, root, source)
    assert (data.name, data.provenance) == (tiny.name, "original")
    assert data.classes == tiny.release.classes and data.sha256 == digest(tiny.arrays)
    assert data.train_images.dtype == torch.uint8 and data.train_labels.dtype == torch.int64
    for part, array in tiny.arrays.items():
        assert np.array_equal(getattr(data, part).numpy(), array)


def test_the_files_begin_as_the_true_ones_do(tiny):
    first = tiny.raws[next(iter(tiny.release.train))]
    assert first.startswith(b"\x80\x02}q\x00(U\x0bbatch_labelq\x01U\x05train")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in first


@pytest.mark.parametrize("source", ["auto", "original"])
@pytest.mark.parametrize("inner", [False, True])
def test_the_folder_is_read_as_it_was_written(tiny, inner, source):
    tiny.write_folder(ROOT / tiny.name if inner else ROOT)
    assert_is_tiny(tiny, source=source)


@pytest.mark.parametrize("inner", [False, True])
def test_the_archive_gives_the_same_set_and_nothing_is_unpacked_on_disk(tiny, inner):
    path = tiny.write_archive(ROOT / tiny.name if inner else ROOT)
    assert_is_tiny(tiny)
    assert [found for found in ROOT.rglob("*") if found.is_file()] == [path]


def test_local_files_come_before_any_download(tiny, monkeypatch):
    monkeypatch.setattr(downloads, "download", lambda *_: pytest.fail("a download was tried"))
    tiny.write_archive(Path("data"))
    assert_is_tiny(tiny, root=None)


def test_unknown_sources_and_statistics_say_what_is_allowed(tiny):
    with pytest.raises(ValueError, match=rf"'embedded' of {tiny.name}: .*\('auto', 'original'\)"):
        load_data(tiny.name, source="embedded")
    for name in (tiny.name, "mnist_rot"):
        with pytest.raises(ValueError, match=r"statistics 'test'.*\('train', 'train_test'\)"):
            load_data(name, statistics="test")


def test_the_sums_are_those_of_torchvision():
    sets = pytest.importorskip("torchvision").datasets
    for release, theirs in ((CIFAR10, sets.CIFAR10), (CIFAR100, sets.CIFAR100)):
        assert list(release.train.items()) == [tuple(pair) for pair in theirs.train_list]
        assert list(release.test.items()) == [tuple(pair) for pair in theirs.test_list]
        assert release.meta == {theirs.meta["filename"]: theirs.meta["md5"]}
        assert (release.folder, release.archive) == (theirs.base_folder, theirs.filename)
        assert release.archive_md5 == theirs.tgz_md5
        assert f"{release.mirrors[0]}/{release.archive}" == theirs.url


# --- damage ---------------------------------------------------------------------------------------


class Trap:
    """Unpickled by the ordinary reader, it leaves a file behind."""

    def __reduce__(self):
        return os.system, ("touch sprung",)


def test_the_trap_works():
    pickle.loads(pickled(Trap()))
    assert Path("sprung").exists()


@pytest.mark.parametrize("which", [0, -2, -1])
def test_a_flipped_bit_is_refused_by_name_and_never_replaced(tiny, which):
    folder = tiny.write_folder(ROOT)
    tiny.write_archive(ROOT)
    name, raw = list(tiny.raws.items())[which]
    (folder / name).write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    message = f"{folder}/{name}: {len(raw)} bytes of MD5 .*, expected {md5(raw)}. Replace it"
    with pytest.raises(DataError, match=message):
        load_data(tiny.name, "root")


@pytest.mark.parametrize("which", [0, -2, -1])
def test_a_file_with_a_wrong_sum_is_not_unpickled(tiny, which):
    folder = tiny.write_folder(ROOT)
    (folder / list(tiny.raws)[which]).write_bytes(pickled(Trap()))
    with pytest.raises(DataError, match="expected"):
        load_data(tiny.name, "root")
    assert not Path("sprung").exists()


class Dotted:
    """A function of NumPy's own, as protocol 4 spells it, that writes a file."""

    def __reduce__(self):
        return np.ndarray.tofile, (np.zeros(1, np.uint8), "sprung")


@pytest.mark.parametrize("where", ["folder", "archive"])
@pytest.mark.parametrize(
    ("trap", "named"),
    [
        (pickled({b"data": Trap()}), "posix.system|nt.system"),
        (pickle.dumps({b"data": Trap()}, protocol=5), "posix.system|nt.system"),
        (pickle.dumps(Dotted(), protocol=4), "getattr|tofile"),
        (pickle.dumps(np.load), "numpy.load"),
    ],
    ids=["python2", "python3", "dotted", "numpy"],
)
def test_a_file_with_the_right_sum_may_only_make_arrays(tiny, monkeypatch, trap, named, where):
    name = next(iter(tiny.release.train))
    small = make_tiny(tiny.release, tiny.raws | {name: trap}, {}, monkeypatch)
    small.write_folder(ROOT) if where == "folder" else small.write_archive(ROOT)
    with pytest.raises(DataError, match=f"{name} cannot be read: it asks for .*({named})"):
        load_data(tiny.name, "root")
    assert not Path("sprung").exists()


@pytest.mark.parametrize("which", [0, -2, -1])
def test_a_missing_file_is_named(tiny, monkeypatch, which):
    name = list(tiny.raws)[which]
    folder = tiny.write_folder(ROOT)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{folder} is incomplete: {name} not found"):
        load_data(tiny.name, "root")
    rest = {f"{tiny.release.folder}/{n}": raw for n, raw in tiny.raws.items() if n != name}
    archive = tar_bytes(rest | {name: tiny.raws[name]})  # there, but in no folder
    release = replace(tiny.release, archive_md5=md5(archive))
    path = Tiny(release, {}, archive, {}).write_archive(Path("other"))
    with pytest.raises(DataError, match=f"{path} is incomplete: {name} not found"):
        cifar.read_cifar(Path("other"), release)


def test_a_truncated_archive_is_named_and_never_replaced(tiny, monkeypatch):
    path = tiny.write_archive(ROOT)
    cut = tiny.archive[: len(tiny.archive) // 2]
    path.write_bytes(cut)
    with pytest.raises(DataError, match=f"{path}: {len(cut)} bytes of MD5 {md5(cut)}, expected"):
        load_data(tiny.name, "root")
    for spoilt in (cut, b"<html>"):  # with a sum to match, it still fails by name
        path.write_bytes(spoilt)
        release = replace(tiny.release, archive_md5=md5(spoilt))
        with pytest.raises(DataError, match=f"{path} (cannot be unpacked|is incomplete)"):
            cifar.read_cifar(ROOT, release)


def test_an_archive_writes_nowhere_and_its_links_are_not_followed(tiny, tmp_path):
    name = next(iter(tiny.release.train))
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for place in ("/tmp/../sprung", "../sprung", f"{tiny.release.folder}/../sprung"):
            archive.addfile(tarfile.TarInfo(place), io.BytesIO())
        link = tarfile.TarInfo(f"{tiny.release.folder}/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    release = replace(tiny.release, archive_md5=md5(memory.getvalue()))
    Tiny(release, {}, memory.getvalue(), {}).write_archive(ROOT)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=f"is incomplete: {name}, "):
        cifar.read_cifar(ROOT, release)
    assert sorted(tmp_path.rglob("*")) == before


GOOD = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, 9], b"fine_labels": [3, 99]}
DAMAGES = {
    "nothing": (b"", "cannot be read"),
    "cut short": (pickled(GOOD)[:-20], "cannot be read"),
    "no pickle": (b"<html>log in first</html>", "cannot be read"),
    "a list": (pickled([1, 2]), "found no uint8 array"),
    "no images": (pickled({b"labels": [3, 9], b"fine_labels": [3, 9]}), "found no uint8 array"),
    "other numbers": (pickled(GOOD | {b"data": np.zeros((2, 3072))}), "found no uint8 array"),
    "smaller images": (pickled(GOOD | {b"data": np.zeros((2, 784), np.uint8)}), "of 784 bytes"),
    "no labels": (pickled({b"data": GOOD[b"data"]}), "found no list of labels"),
    "a label too many": (pickled(GOOD | {b"labels": [1] * 3, b"fine_labels": [1] * 3}), "3 labels"),
    "a large label": (pickled(GOOD | {b"labels": [3, 10], b"fine_labels": [0, 100]}), "no list of"),
    "a label below 0": (pickled(GOOD | {b"labels": [3, -1], b"fine_labels": [-1, 0]}), "no list"),
    "a label 1.5": (pickled(GOOD | {b"labels": [3, 1.5], b"fine_labels": [1.5, 0]}), "no list of"),
    "a label True": (pickled(GOOD | {b"labels": [3, True], b"fine_labels": [True, 0]}), "no list"),
}


@pytest.mark.parametrize("release", [CIFAR10, CIFAR100], ids=lambda release: release.name)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_wrong_in_itself_is_named(release, damage):
    raw, message = DAMAGES[damage]
    with pytest.raises(DataError, match=f"folder/file.*{message}.* Delete it."):
        cifar.parse_batch(raw, release, "folder/file", "Delete it.")
    images, labels = cifar.parse_batch(pickled(GOOD), release, "x", "")
    assert images.shape == (2, 3, 32, 32) and labels.tolist() == GOOD[release.labels]


# --- downloads, from a server on this machine -----------------------------------------------------


def from_mirrors(tiny: Tiny, mirrors: list[str], monkeypatch) -> None:
    release = replace(tiny.release, mirrors=tuple(mirrors))
    monkeypatch.setattr(cifar, tiny.name.upper(), release)


def test_the_first_mirror_with_the_right_bytes_is_taken_and_kept(tiny, server, monkeypatch, capsys):
    folder, address = server
    tiny.write_archive(folder / "good")
    tiny.write_archive(folder / "cut")
    tiny.write_archive(folder / "other").write_bytes(b"<html>log in first</html>")
    mirrors = [f"{address}/{name}" for name in ("none", "other", "cut", "good", "never")]
    from_mirrors(tiny, mirrors, monkeypatch)
    assert_is_tiny(tiny)
    kept = Path("root", tiny.release.archive)
    assert list(ROOT.iterdir()) == [kept] and kept.read_bytes() == tiny.archive
    printed = capsys.readouterr().out
    tried = [line.split()[-1] for line in printed.splitlines() if "downloading" in line]
    assert tried == [f"{mirror}/{tiny.release.archive}" for mirror in mirrors[:4]]
    for reason in ("File not found", "25 bytes of MD5", "broke off after", "(download): taken"):
        assert reason in printed
    monkeypatch.setattr(downloads, "download", lambda *_: pytest.fail("a second download"))
    assert_is_tiny(tiny)


@pytest.mark.parametrize("end", ["", "/"])
def test_a_mirror_of_ones_own_is_asked_first(tiny, server, monkeypatch, capsys, end):
    folder, address = server
    tiny.write_archive(folder / "own")
    monkeypatch.setenv(cifar.MIRROR, f"{address}/own{end}")
    from_mirrors(tiny, [f"{address}/never"], monkeypatch)
    assert_is_tiny(tiny)
    assert f"{address}/own/{tiny.release.archive}\n" in (out := capsys.readouterr().out)
    assert f"{address}/never" not in out


def test_a_download_for_a_read_only_root_goes_to_data_and_is_found_there(tiny, server, monkeypatch):
    folder, address = server
    tiny.write_archive(folder)
    from_mirrors(tiny, [address], monkeypatch)
    ROOT.chmod(0o555)
    assert_is_tiny(tiny)
    assert Path("data", tiny.release.archive).is_file() and not list(ROOT.iterdir())
    (folder / tiny.release.archive).unlink()
    assert_is_tiny(tiny)
    ROOT.chmod(0o755)


def test_nothing_to_be_had_is_one_error_with_the_ways_to_supply_it(tiny):
    with pytest.raises(DataError) as caught:
        load_data(tiny.name, "root")
    words = [
        *tiny.release.mirrors,
        "no network in tests",
        f"no {tiny.release.folder} and no {tiny.release.archive} in root or root/{tiny.name}",
        f"Either put the folder {tiny.release.folder}",
        cifar.MIRROR,
    ]
    assert all(word in str(caught.value) for word in words)
    assert len(str(caught.value).splitlines()) == 1 and not list(ROOT.iterdir())


def test_a_place_that_takes_no_files_is_named(tiny, server, monkeypatch):
    folder, address = server
    tiny.write_archive(folder)
    from_mirrors(tiny, [address] * 2, monkeypatch)
    ROOT.chmod(0o555)
    Path("data").write_bytes(b"in the way")
    with pytest.raises(DataError, match="cannot be written under data"):
        load_data(tiny.name, "root")


def test_statistics_are_those_of_each_channel(tiny):
    tiny.write_folder(ROOT)
    for statistics, parts in (("train", ["train"]), ("train_test", ["train", "test"])):
        data = load_data(tiny.name, "root", statistics=statistics)
        images = np.concatenate([tiny.arrays[f"{part}_images"] for part in parts]) / 256
        assert type(data.mean) is type(data.std) is tuple
        assert data.mean == pytest.approx(images.mean((0, 2, 3)), abs=1e-12)
        assert data.std == pytest.approx(images.std((0, 2, 3)), abs=1e-12)
    assert load_data(tiny.name, "root").mean != data.mean


@pytest.mark.parametrize("statistics", ["train", "train_test"])
def test_what_is_held_out_is_in_no_statistic(tiny, statistics):
    tiny.write_folder(ROOT)
    split = load_data(tiny.name, "root", statistics=statistics).hold_out(2)
    rest = tiny.arrays["train_images"][:-2]
    assert (split.mean, split.std) == channel_statistics(rest)
    assert len(split.train_images) == len(rest) and len(split.mean) == 3


# --- the command, and the real files --------------------------------------------------------------


def test_the_command_prints_a_number_for_each_channel_and_no_cache(tiny, capsys):
    tiny.write_folder(ROOT)
    assert prepare([tiny.name, "--root", "root", "--statistics", "train_test"]) == 0
    printed = capsys.readouterr().out
    mean, _ = channel_statistics(tiny.arrays["train_images"], tiny.arrays["test_images"])
    assert f"mean        {', '.join(f'{value:.6f}' for value in mean)}" in printed
    assert digest(tiny.arrays) in printed and "cache" not in printed
    with pytest.raises(SystemExit, match="2"):
        prepare([tiny.name, "--source", "embedded"])
    assert "expected one of ('auto', 'original')" in capsys.readouterr().err


def test_the_real_cifar10_is_the_known_one(real_root):
    if not any(
        (place / name).exists()
        for place in (real_root, real_root / "cifar10")
        for name in (CIFAR10.folder, CIFAR10.archive)
    ):
        pytest.skip(f"CIFAR-10 is not at hand: nothing in {real_root} (set PDOE_DATA)")
    data = load_data("cifar10", real_root)
    assert data.sha256 == REAL_CIFAR10
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    scale = 256 / 255  # the published figures are of value / 255
    assert [m * scale for m in data.mean] == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert [s * scale for s in data.std] == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)
    whole = load_data("cifar10", real_root, statistics="train_test")
    assert whole.mean == pytest.approx([0.4899474, 0.4807685, 0.4454305], abs=1e-7)
