"""An empty folder without a network, or with a server on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdoe.data import downloads
from pdoe.data.files import Absent

REAL_ROOT = Path(os.environ.get("PDOE_DATA") or "data").resolve()
real_download = downloads.download


@pytest.fixture(autouse=True)
def empty_folder_without_network(tmp_path, monkeypatch):
    """The current folder holds an empty data root named `root`; every download fails."""

    def no_network(url, limit, slowest=0):
        raise Absent(f"{url}: no network in tests")

    monkeypatch.chdir(tmp_path)
    Path("root").mkdir()
    for variable in ("PDOE_DATA", "PDOE_CIFAR_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(downloads, "download", no_network)


@pytest.fixture
def server(http_folder, monkeypatch):
    """A folder served over HTTP, and its address without the last slash."""
    monkeypatch.setattr(downloads, "download", real_download)
    folder, address = http_folder
    return folder, address.rstrip("/")


@pytest.fixture
def real_root():
    """The folder with real data, if there is one."""
    return REAL_ROOT
