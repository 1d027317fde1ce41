"""Make a virtual environment from the pins, with the standard library alone.

    python3 scripts/make_environment.py .venv          # install
    python3 scripts/make_environment.py --lock         # write requirements.lock again

Installs ``requirements.lock``, every package by its SHA-256, where that file was made for this
Python and this platform. Elsewhere the pins of ``environment.yml`` are installed, and what they
depend on. This package is installed from the checkout (editable).
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS, LOCK = ROOT / "environment.yml", ROOT / "requirements.lock"
MADE_FOR = "# Made for: "


def read_pins(text: str) -> list[str]:
    """Read the requirements in the ``pip:`` block of an environment.yml.

    >>> read_pins("dependencies:\\n  - pip:\\n      - a==1  # why\\n")
    ['a==1']
    """
    block = re.search(r"^( *)- pip:[ \t]*\n((?:\1 +.*\n|\s*\n)+)", text + "\n", re.M)
    if block is None:
        raise SystemExit("environment.yml has no `- pip:` block")
    lines = (line.split("#")[0].strip() for line in block[2].splitlines())
    return [line.removeprefix("-").strip().strip("'\"") for line in lines if line]


def name_platform() -> str:
    """Name the Python and the platform of this process, as the lock file does."""
    python = f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"
    libc = platform.libc_ver()[0] or "no glibc"
    return f"{python}, {platform.system()} {platform.machine()}, {libc}"


def explain_no_lock(lock: str, pins: list[str]) -> str:
    """Return why the lock file cannot be used here, or "" if it can."""
    made_for = re.search(rf"^{MADE_FOR}(.*)$", lock, re.M)
    if made_for is None:
        return "requirements.lock does not say what it was made for"
    if made_for[1] != name_platform():
        return f"requirements.lock is for {made_for[1]}; this is {name_platform()}"
    locked = {line.split()[0].lower() for line in lock.splitlines() if "==" in line}
    if missing := [pin for pin in pins if pin.lower() not in locked]:
        return f"requirements.lock lacks {', '.join(missing)} of environment.yml"
    return ""


def format_lock(report: dict) -> str:
    """Format the report of ``pip install --dry-run --report`` as a lock file."""
    lines = [
        "# Every package that `make env` installs, with the SHA-256 of its file.",
        "# Written by `python3 scripts/make_environment.py --lock`; do not edit.",
        f"{MADE_FOR}{name_platform()}",
    ]
    for package in sorted(report["install"], key=lambda one: one["metadata"]["name"].lower()):
        name, version = package["metadata"]["name"], package["metadata"]["version"]
        sha256 = package["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    return "\n".join(lines) + "\n"


def write_lock() -> None:
    """Resolve the pins on this Python and platform, and write the lock file."""
    pins = read_pins(PINS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        if subprocess.run([*pip, "--report", str(report), *pins]).returncode:
            raise SystemExit("the pins cannot be resolved (pip's message is above)")
        text = format_lock(json.loads(report.read_text(encoding="utf-8")))
    LOCK.write_text(text, encoding="utf-8")
    print(f"{LOCK}: {text.count('--hash')} packages for {name_platform()}")


def run_pip(python: Path, arguments: list[str]) -> tuple[int, list[str]]:
    """Run ``pip install``, and print a line for each package that it collects or downloads.

    Returns:
        The exit status, and the packages that were installed, as name-version.
    """
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    installed: list[str] = []
    with subprocess.Popen(
        [*command, "--progress-bar", "off", *arguments],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment,
    ) as process:
        for line in process.stdout:
            words = line.split()
            if words[:1] == ["Collecting"]:
                print(f"  {words[1]}", flush=True)
            elif words[:1] == ["Downloading"] and ".metadata" not in line:
                print(f"  downloading {line.split(maxsplit=1)[1].strip()}", flush=True)
            elif words[:2] == ["Installing", "collected"]:
                print(f"  unpacking {len(words) - 3} packages", flush=True)
            elif words[:2] == ["Successfully", "installed"]:
                installed = words[2:]
    return process.returncode, installed


def make_environment(folder: str) -> None:
    """Make the virtual environment ``folder`` and install everything into it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before there is an environment
        found = sys.version.split()[0]
        raise SystemExit(f"Python 3.11 or newer is needed, this is {found}: make PYTHON=python3.11")
    began = time.monotonic()
    if subprocess.run([sys.executable, "-m", "venv", folder]).returncode:
        raise SystemExit(
            f"{sys.executable} cannot make a virtual environment in {folder}: install its venv "
            "module (on Debian: apt install python3-venv)"
        )
    python = Path(folder) / "bin" / "python"
    pins = read_pins(PINS.read_text(encoding="utf-8"))
    lock = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    why = explain_no_lock(lock, pins) if lock else "there is no requirements.lock"
    if why:
        print(f"installing {len(pins)} pinned packages into {folder}, without hashes: {why}")
        arguments = pins
    else:
        count = lock.count("--hash")
        print(f"installing {count} packages into {folder}, each checked by its SHA-256")
        arguments = ["--require-hashes", "--requirement", str(LOCK)]
    print("torch and its libraries are large: minutes on a fast line", flush=True)
    status, installed = run_pip(python, arguments)
    if status:
        raise SystemExit(explain_failure(python, pins, bool(why)))
    if run_pip(python, ["--no-deps", "--editable", str(ROOT)])[0]:
        raise SystemExit("the package pdoe itself cannot be installed (pip's message is above)")
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    what = ", ".join([*installed, "pdoe"]) if installed else "nothing new"
    print(f"installed into {folder} in {minutes} min {seconds} s: {what}")


def explain_failure(python: Path, pins: list[str], without_lock: bool) -> str:
    """Say which pin cannot be installed, each tried without its dependencies."""
    if not without_lock:
        return (
            "requirements.lock cannot be installed (pip's message is above). A wrong hash means "
            "that a package differs from the one that was locked: do not use it"
        )
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--dry-run"]
    bad = [pin for pin in pins if subprocess.run([*pip, pin], capture_output=True).returncode]
    which = f"cannot be installed here: {', '.join(bad)}" if bad else "do not go together"
    return f"pins of environment.yml {which} (pip's message is above)"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python3 scripts/make_environment.py FOLDER | --lock")
    if sys.argv[1] == "--lock":
        write_lock()
    else:
        make_environment(sys.argv[1])
