"""What the theorem tests share: the group's action, pixel by pixel, from the matrices alone."""

import http.server
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import git

from pdoe.data import DataSet


@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """Maps of a few pixels: threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train_here(monkeypatch):
    """Runs ``train.py`` with words of a command line in this process; the exit code."""
    import train  # not at the top: tests of the layers also run where only the package is

    before = signal.getsignal(signal.SIGTERM)

    def launch(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        try:
            train.main()
        except SystemExit as done:
            return done.code or 0
        return 0

    yield launch
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def http_folder(monkeypatch):
    """A folder served over HTTP, and its address; a path with `cut` in it breaks off half-way."""
    Path("served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory="served")

        def log_message(self, *arguments):
            pass

        def copyfile(self, source, outputfile):
            raw = source.read()
            outputfile.write(raw[: len(raw) // 2] if "cut" in self.path else raw)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield Path("served"), f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="session")
def two_sides():
    """Makes images of two classes that a small network tells apart: bright left or right."""

    def made(count, side):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(count) % 2
        images = torch.randint(0, 100, (count, 1, side, side), generator=generator)
        images[labels == 0, :, :, : side // 2] += 150
        images[labels == 1, :, :, side // 2 :] += 150
        images = images.to(torch.uint8)
        return DataSet("toy", "made up", "0", images, labels, images, labels, 0.5, 0.3, 2)

    return made


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, of code and of results, that ignores the file `ignored`."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "results").mkdir()
    (tmp_path / "code.py").write_text("1", encoding="utf-8")
    (tmp_path / ".gitignore").write_text("ignored\n", encoding="utf-8")
    (tmp_path / "results" / "runs.csv").write_text("0", encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def index_of(matrix, matrices):
    """The one element with this matrix."""
    near = np.flatnonzero(np.abs(matrices - matrix).max((1, 2)) < 1e-9)
    assert len(near) == 1, f"{len(near)} elements have the matrix {matrix}"
    return int(near[0])


class ByMatrices:
    """The action of a group as the definition says it, without its index tables.

    Everything follows from ``group.matrices``: x points right, y up, the origin is the centre of
    the image, and [g f](x, h) = f(g^-1 x, g^-1 h).
    """

    @staticmethod
    def quotient(group):
        """Index of g^-1 h: [G][G]."""
        matrices = np.asarray(group.matrices)
        return [[index_of(np.linalg.inv(a) @ b, matrices) for b in matrices] for a in matrices]

    @staticmethod
    def keepers(group):
        """The elements that map the pixel grid to itself: those with an integer matrix."""
        matrices = np.asarray(group.matrices)
        return [g for g, a in enumerate(matrices) if np.abs(a - a.round()).max() < 1e-9]

    @staticmethod
    def moved(group, g, x):
        """g acting on [B, F], an image [B, C, H, W] or a lifted map [B, C, G, H, W]."""
        if x.ndim == 2:
            return x
        matrices = np.asarray(group.matrices)
        if x.ndim == 5:
            x = x[:, :, [index_of(np.linalg.inv(matrices[g]) @ b, matrices) for b in matrices]]
        height, width = x.shape[-2:]
        quarter = abs(matrices[g][0, 1]) > 0.5  # then the moved image lies on its side
        rows, columns = np.indices((width, height) if quarter else (height, width))
        points = columns - columns.max() / 2, rows.max() / 2 - rows
        sources = np.einsum("ab,byx->ayx", np.linalg.inv(matrices[g]), np.stack(points))
        columns, rows = sources[0] + (width - 1) / 2, (height - 1) / 2 - sources[1]
        return x[..., rows.round().astype(int), columns.round().astype(int)]

    @classmethod
    def errors(cls, model, group, x):
        """Largest relative error of model(g x) = g model(x) over those elements."""
        with torch.no_grad():
            y = model(x)
            return max(
                ((model(cls.moved(group, g, x)) - cls.moved(group, g, y)).norm() / y.norm()).item()
                for g in cls.keepers(group)
            )


@pytest.fixture
def by_matrices():
    return ByMatrices
