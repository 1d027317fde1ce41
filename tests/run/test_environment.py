"""The list of pins, the Makefile's targets, and what a first user does wrong."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

from make_environment import pins
from reproduce import choose_rows, list_rows, parse_seeds


def test_the_pins_are_exact_and_within_the_ranges_of_the_package():
    listed = [Requirement(pin) for pin in pins((ROOT / "environment.yml").read_text())]
    exact = {r.name: next(iter(r.specifier)) for r in listed}
    assert all(
        s.operator == "==" and len(r.specifier) == 1
        for r, s in zip(listed, exact.values(), strict=True)
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in project["dependencies"] + extras["test"] + extras["report"]:
        wanted = Requirement(line)
        assert exact[wanted.name].version in wanted.specifier, line


def test_the_runtime_needs_the_seven_packages_and_no_more():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {Requirement(line).name for line in project["dependencies"]} == {
        "torch",
        "torchvision",
        "hydra-core",
        "omegaconf",
        "wandb",
        "numpy",
        "tqdm",
    }


def test_the_pip_block_is_read_without_comments():
    text = (
        "dependencies:\n  - python=3.11\n  - pip:\n      - a==1  # why\n      # b\n\n      - c==2\n"
    )
    assert pins(text) == ["a==1", "c==2"]
    assert pins(text + "variables:\n  x: 1\n") == ["a==1", "c==2"]
    with pytest.raises(SystemExit, match="no `- pip:` block"):
        pins("dependencies:\n  - python=3.11\n")


def test_every_target_of_the_makefile_explains_itself():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] == phony


def test_rows_are_names_or_patterns_and_an_unknown_one_is_named():
    known = list_rows("mnist_rot")
    assert "mnistrot_pdo_p8" in known
    assert choose_rows("mnistrot_p4, mnistrot_z2,mnistrot_p4", known) == [
        "mnistrot_p4",
        "mnistrot_z2",
    ]
    assert set(choose_rows("mnistrot_*", known)) == set(known)
    for wrong in ("mnistrot_p5", "cifar_*", "glob(mnistrot_x*)"):
        with pytest.raises(SystemExit, match=re.escape(f"unknown row '{wrong}'")):
            choose_rows(f"mnistrot_p4,{wrong}", known)
    with pytest.raises(SystemExit, match="no row"):
        choose_rows(" ", known)
    with pytest.raises(SystemExit, match="unknown table 'imagenet'; there are: .*mnist_rot"):
        list_rows("imagenet")


def test_a_script_that_is_interrupted_has_the_time_to_end_well(tmp_path):
    (tmp_path / "child.py").write_text(
        "import sys, time\n"
        "try: print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: time.sleep(1); print('saved', flush=True); sys.exit(75)\n"
    )
    code = f"import reproduce, sys; sys.exit(reproduce.run({str(tmp_path / 'child.py')!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.communicate(timeout=60)[0] == "saved\n"
    assert process.returncode == 75


def test_seeds_are_numbers():
    assert parse_seeds("0, 1,2") == ["0", "1", "2"]
    for wrong in ("", "a", "1.5", "-1"):
        with pytest.raises(SystemExit, match="seeds are numbers"):
            parse_seeds(wrong)
