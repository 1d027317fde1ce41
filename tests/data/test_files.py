"""The data root, files that are read with a limit, caches, downloads, facts, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prepare_data import main as prepare
from samples import md5, tiny_arrays

from pdoe.data import SETS, DataError, amat, downloads, files, load_data
from pdoe.data.dataset import digest
from pdoe.files import write_whole

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_root_is_the_argument_or_the_environment_or_data(monkeypatch):
    assert files.data_root() == Path("data")
    monkeypatch.setenv("PDOE_DATA", "elsewhere")
    assert files.data_root() == Path("elsewhere") and files.data_root("here") == Path("here")


@pytest.mark.parametrize("name", [name for name in SETS if not SETS[name].own])
def test_a_named_root_that_is_no_folder_is_refused_by_the_name_that_named_it(name, monkeypatch):
    with pytest.raises(DataError, match="^data.root names mispelt, which does not exist: .*PDOE_"):
        load_data(name, "mispelt")
    monkeypatch.setenv("PDOE_DATA", "nowhere")
    with pytest.raises(DataError, match="^PDOE_DATA names nowhere, which does not exist: make the"):
        load_data(name)
    Path("nowhere").write_bytes(b"")
    with pytest.raises(DataError, match="^PDOE_DATA names nowhere, which is no folder"):
        load_data(name)
    assert sorted(path.name for path in Path().iterdir()) == ["nowhere", "root"]


def test_every_data_error_tells_where_the_root_came_from(monkeypatch):
    for root, variable, message in (
        ("root", None, r"\(The data root is root, from data.root; without it, PDOE_DATA's.\)$"),
        (None, "root", r"\(The data root is root, from PDOE_DATA.\)$"),
        (None, "", r"\(The data root is data/; PDOE_DATA names another folder.\)$"),
    ):
        monkeypatch.setenv("PDOE_DATA", variable or "")
        with pytest.raises(DataError, match=message):
            load_data("cifar10", root)


def test_unknown_names_say_what_is_allowed():
    with pytest.raises(
        ValueError, match=r"'mnist'.*\['cifar10', 'cifar100', 'elpv', 'folder', 'mnist_rot'\]"
    ):
        load_data("mnist")


def make_fifo(path):
    os.mkfifo(path)


def make_huge(path):
    with open(path, "wb") as file:
        file.truncate(3_000_000_000)  # sparse


PLACES = {
    "mnist_rot": [
        amat.ZIP_NAME,
        "mnist_rot/mnist_all_rotation_normalized_float_test.amat",
        "mnist/train-images-idx3-ubyte.gz",
        "mnist/t10k-labels-idx1-ubyte",
        "cache/mnist_rot-regenerated.npz",
    ],
    "cifar10": ["cifar-10-python.tar.gz", "cifar10/cifar-10-batches-py/data_batch_3"],
    "cifar100": ["cifar100/cifar-100-python.tar.gz", "cifar-100-python/meta"],
}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (make_fifo, "is a FIFO, expected a file"),
        (Path.mkdir, "is a folder, expected a file"),
        (Path.touch, "is empty"),
        (make_huge, "has 3,000,000,000 bytes, expected at most"),
        (lambda path: path.symlink_to("nothing"), "cannot be read: .*No such file"),
    ],
    ids=["fifo", "folder", "empty", "huge", "broken link"],
)
@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, places in PLACES.items() for place in places]
)
def test_what_is_no_data_file_is_named_and_never_opened(name, place, spoil, message):
    path = Path("root", place)
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in amat.AMAT_ROWS if place.endswith(".amat") else []:
        spoil(path.with_name(other))
    for other in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        if "idx" in place:
            (path.parent / other).write_bytes(b"x")
    if not files.is_there(path):
        spoil(path)
    with pytest.raises(DataError, match=f"^[^\n]*(root/[^ ]* {message}|is incomplete: )[^\n]*PDOE"):
        load_data(name, "root")


# --- caches ---------------------------------------------------------------------------------------


def save_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b"no zip"),
        save_array,
        lambda path: np.savez(path, sha256=np.array("0")),
        lambda path: files.write_cache(path, tiny_arrays(seed=1), digest(tiny_arrays())),
    ],
    ids=["cut", "no zip", "another file", "no parts", "other contents"],
)
def test_a_damaged_cache_is_named(spoil):
    path = Path("root/cache.npz")
    files.write_cache(path, tiny_arrays(), digest(tiny_arrays()))
    spoil(path)
    with pytest.raises(DataError, match=f"{path} is damaged.*Delete this file"):
        files.read_cache(path)


@pytest.mark.slow
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


# --- downloads ------------------------------------------------------------------------------------


def test_a_slow_mirror_is_left_for_another_and_else_waited_for(monkeypatch):
    tried = []

    def download(url, limit, slowest):
        tried.append(url)
        if url == "slow" and slowest:
            raise downloads.TooSlow("slow: only 70 kB per second")
        if url == "down":
            raise files.Absent("down: refused")
        return url.encode()

    monkeypatch.setattr(downloads, "download", download)
    first = downloads.download_first
    assert first("x", ["slow", "down", "fast"], md5(b"fast"), 99) == b"fast"
    assert first("x", ["slow", "down"], md5(b"slow"), 99) == b"slow"
    with pytest.raises(files.Absent, match="70 kB.*refused.*slow gave 4 bytes of MD5"):
        first("x", ["slow", "down"], md5(b"fast"), 99)
    tried.clear()
    assert first("x", ["slow"], md5(b"slow"), 99) == b"slow"
    assert tried == ["slow"]  # from the start, where nobody else can be asked


def test_a_download_is_judged_by_its_speed_after_a_while_and_by_its_size(server, monkeypatch):
    folder, address = server
    (folder / "x").write_bytes(b"some bytes")
    (folder / "empty").write_bytes(b"")
    assert downloads.download(f"{address}/x", 10, slowest=1e12) == b"some bytes"
    with pytest.raises(files.Absent, match="x: announces 10 bytes, expected at most 9"):
        downloads.download(f"{address}/x", 9)
    monkeypatch.setattr(downloads, "GRACE", 0)
    with pytest.raises(downloads.TooSlow, match=f"{address}/x: only .* kB per second"):
        downloads.download(f"{address}/x", 10, slowest=1e12)
    assert downloads.download(f"{address}/x", 10) == b"some bytes"
    assert downloads.download(f"{address}/empty", 10) == b""


def test_a_download_that_does_not_announce_its_size_ends_at_the_limit(monkeypatch):
    import urllib.request

    sent = []

    class Endless:
        headers = {}

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def read1(self, count):
            sent.append(1000)
            return bytes(1000)

    monkeypatch.undo()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Endless())
    with pytest.raises(files.Absent, match="x: sends more than the 5,000 bytes expected"):
        downloads.download("http://somewhere/x", 5000)
    assert len(sent) == 6


# --- the command and the imports ------------------------------------------------------------------


def test_the_command_prints_what_it_has(capsys):
    path = Path("root/cache/mnist_rot-original.npz")
    files.write_cache(path, tiny_arrays(), digest(tiny_arrays()))
    assert prepare(["mnist_rot", "--root", "root"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("original", "3 images", "2 images", digest(tiny_arrays()), str(path.resolve())):
        assert word in printed.out


@pytest.mark.parametrize("damaged", [True, False])
def test_the_command_reports_missing_and_damaged_data_in_one_line(capsys, damaged):
    if damaged:
        Path("root", amat.ZIP_NAME).write_bytes(b"cut")
    assert prepare(["mnist_rot", "--root", "root", "--source", "original"]) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and amat.ZIP_NAME in printed.err


def run(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, encoding="utf-8", env=environment
    )


def test_the_command_refuses_unknown_names():
    done = run(str(REPOSITORY / "scripts" / "prepare_data.py"), "mnist_rott")
    assert done.returncode == 2 and "invalid choice: 'mnist_rott'" in done.stderr


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("pdoe.data.dataset", ["torchvision", "mlxtend"]), ("pdoe.data.facts", ["torch", "numpy"])],
)
def test_importing_the_data_room_loads_no_more_than_it_needs(module, heavy):
    done = run("-c", f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SETS)
def test_the_facts_of_a_set_fit_together(name):
    facts = SETS[name]
    assert facts.classes == len(set(facts.class_names))
    assert len(facts.shape or ()) == (0 if facts.own else 3)
    module, function = facts.loader.split(":")
    assert hasattr(__import__(f"pdoe.data.{module}", fromlist=[function]), function)
