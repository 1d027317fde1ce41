"""The pins, the lock file, the Makefile's targets, and a first user's mistakes."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import make_environment
import pytest
from make_environment import explain_no_lock, format_lock, name_platform, read_pins, run_pip
from packaging.requirements import Requirement
from reproduce import choose_rows, list_rows, parse_seeds

ROOT = Path(__file__).resolve().parents[2]
PINS = read_pins((ROOT / "environment.yml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_pins_are_exact_and_within_the_ranges_of_the_package():
    listed = [Requirement(pin) for pin in PINS]
    exact = {r.name: next(iter(r.specifier)) for r in listed}
    assert all(
        s.operator == "==" and len(r.specifier) == 1
        for r, s in zip(listed, exact.values(), strict=True)
    )
    extras = project()["optional-dependencies"]
    for line in project()["dependencies"] + extras["test"] + extras["report"]:
        wanted = Requirement(line)
        assert exact[wanted.name].version in wanted.specifier, line


def test_the_runtime_needs_the_seven_packages_and_no_more():
    runtime = "torch torchvision hydra-core omegaconf wandb numpy tqdm"
    assert {Requirement(line).name for line in project()["dependencies"]} == {*runtime.split()}


def test_the_pip_block_is_read_without_comments():
    text = (
        "dependencies:\n  - python=3.11\n  - pip:\n      - a==1  # why\n      # b\n\n      - c==2\n"
    )
    assert read_pins(text) == ["a==1", "c==2"]
    assert read_pins(text + "variables:\n  x: 1\n") == ["a==1", "c==2"]
    with pytest.raises(SystemExit, match="no `- pip:` block"):
        read_pins("dependencies:\n  - python=3.11\n")


def test_the_lock_holds_every_pin_and_a_hash_of_every_package():
    packages = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in packages)
    locked = {line.split()[0].lower() for line in packages}
    assert {pin.lower() for pin in PINS} <= locked


def test_a_lock_is_used_where_it_fits_and_else_a_line_says_why():
    wheel = {"archive_info": {"hashes": {"sha256": "0" * 64}}}
    package = {"metadata": {"name": "A", "version": "1"}, "download_info": wheel}
    lock = format_lock({"install": [package]})
    assert f"A==1 --hash=sha256:{'0' * 64}\n" in lock
    assert explain_no_lock(lock, ["a==1"]) == ""
    assert "lacks a==2, b==1 of" in explain_no_lock(lock, ["a==2", "b==1"])
    other = lock.replace(name_platform(), "CPython 2.7, Amiga m68k, no glibc")
    assert f"is for CPython 2.7, Amiga m68k, no glibc; this is {name_platform()}" in (
        explain_no_lock(other, ["a==1"])
    )
    assert "does not say what it was made for" in explain_no_lock("a==1\n", ["a==1"])


@pytest.fixture
def fake_pip(tmp_path):
    """A Python whose pip prints what the real one does, and what it was asked for."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> "{tmp_path}/asked"\n'
        'case "$*" in *bad*) exit 1;; esac\n'
        "echo 'Collecting a==1 (from -r lock (line 3))'\n"
        "echo '  Downloading a-1-py3-none-any.whl.metadata (5 kB)'\n"
        "echo 'Downloading a-1-py3-none-any.whl (12.3 MB)'\n"
        "echo 'Installing collected packages: b, a'\n"
        "echo 'Successfully installed a-1 b-2'\n",
        encoding="utf-8",
    )
    python.chmod(0o755)
    return python


def test_packages_are_named_as_they_come(fake_pip, capsys):
    assert run_pip(fake_pip, ["a==1"]) == (0, ["a-1", "b-2"])
    lines = ["a==1", "downloading a-1-py3-none-any.whl (12.3 MB)", "unpacking 2 packages"]
    assert capsys.readouterr().out.splitlines() == [f"  {line}" for line in lines]


@pytest.mark.parametrize("locked", [True, False])
def test_an_environment_is_made_with_hashes_where_there_are_some(
    tmp_path, fake_pip, monkeypatch, capsys, locked
):
    real_run = subprocess.run
    venv = [sys.executable, "-m", "venv", str(tmp_path)]
    done = subprocess.CompletedProcess(venv, 0)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **how: done if command == venv else real_run(command)
    )
    pins, lock = tmp_path / "environment.yml", tmp_path / "requirements.lock"
    pins.write_text("dependencies:\n  - pip:\n      - a==1\n", encoding="utf-8")
    if locked:
        wheel = {"archive_info": {"hashes": {"sha256": "0" * 64}}}
        package = {"metadata": {"name": "a", "version": "1"}, "download_info": wheel}
        lock.write_text(format_lock({"install": [package]}), encoding="utf-8")
    monkeypatch.setattr(make_environment, "PINS", pins)
    monkeypatch.setattr(make_environment, "LOCK", lock)
    make_environment.make_environment(str(tmp_path))
    first, second = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert ("--require-hashes" in first) == locked == (" a==1" not in first)
    assert second.endswith(f"--no-deps --editable {ROOT}")
    told = capsys.readouterr().out.splitlines()
    assert ("without hashes: there is no requirements.lock" in told[0]) == (not locked)
    assert re.fullmatch(r"installed into .* in \d+ min \d+ s: a-1, b-2, pdoe", told[-1])

    pins.write_text("dependencies:\n  - pip:\n      - bad==1\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="cannot be installed here: bad==1"):
        make_environment.make_environment(str(tmp_path))


def test_every_target_of_the_makefile_explains_itself():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, encoding="utf-8"
    ).stdout
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
    with pytest.raises(SystemExit, match="name a row with --rows"):
        choose_rows(" ", known)
    with pytest.raises(SystemExit, match="unknown table 'imagenet'; there are: .*mnist_rot"):
        list_rows("imagenet")


def test_a_script_that_is_interrupted_has_the_time_to_end_well(tmp_path):
    (tmp_path / "child.py").write_text(
        "import sys, time\n"
        "try: print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: time.sleep(1); print('saved', flush=True); sys.exit(75)\n",
        encoding="utf-8",
    )
    code = f"import reproduce, sys; sys.exit(reproduce.run({str(tmp_path / 'child.py')!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        stdout=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.communicate(timeout=60)[0] == "saved\n"
    assert process.returncode == 75


def test_seeds_are_numbers():
    assert parse_seeds("0, 1,2") == [0, 1, 2]
    for wrong in ("", "a", "1.5", "-1"):
        with pytest.raises(SystemExit, match="seeds are numbers"):
            parse_seeds(wrong)
