"""Scripts that are not large enough for a file of tests of their own."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARKS = "before\n<!-- table:equivariance -->\n<!-- /table -->\nafter\n"


@pytest.fixture
def equivariance():
    return runpy.run_path(str(ROOT / "scripts" / "equivariance.py"))["main"]


def test_the_report_of_equivariance_names_the_first_layer_that_loses_it(
    equivariance, tmp_path, capsys, one_thread
):
    path = tmp_path / "README.md"
    path.write_text(MARKS)
    assert equivariance(["--rows", "cifar10_pdo_p6_26", "--insert", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    published, pooled, invariant = (
        [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()[4:7]
    )
    assert published[0] == "as published" and published[3] == "`trunk.blocks.4.shortcut`"
    assert float(published[1]) > 1e-2
    assert float(pooled[1]) < 1e-12 < float(pooled[2])  # the head is not invariant
    assert invariant[3] == "none" and float(invariant[2]) < 1e-12


def test_one_network_is_shown_layer_by_layer(equivariance, capsys, one_thread):
    assert equivariance(["experiment=mnistrot_p4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| trunk.0 ") and lines[-1].endswith("nothing is lost")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["experiment=nothing"], "nothing"),
        (["--rows", "nothing*"], "no experiment with a group matches 'nothing*'"),
        (["--rows", "mnistrot_p4", "--insert", "LICENSE"], "expected one <!-- table:equivariance"),
    ],
)
def test_what_cannot_be_reported_is_refused(equivariance, capsys, arguments, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert equivariance(arguments) == 1
    assert said in capsys.readouterr().err
