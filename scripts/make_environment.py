"""Make .venv from the pip block of environment.yml, with the standard library alone.

    python3 scripts/make_environment.py .venv

Installs the pins and this package (editable). A pin that cannot be installed is named.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pins(text: str) -> list[str]:
    """The requirements of the ``pip:`` block of an environment.yml."""
    block = re.search(r"^( *)- pip:[ \t]*\n((?:\1 +.*\n|\s*\n)+)", text + "\n", re.M)
    if block is None:
        raise SystemExit("environment.yml has no `- pip:` block")
    lines = (line.split("#")[0].strip() for line in block[2].splitlines())
    return [line.removeprefix("-").strip().strip("'\"") for line in lines if line]


def main(folder: str) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before there is an environment
        found = sys.version.split()[0]
        raise SystemExit(f"Python 3.11 or newer is needed, this is {found}: make PYTHON=python3.11")
    python = Path(folder) / "bin" / "python"
    made = subprocess.run([sys.executable, "-m", "venv", folder])
    if made.returncode:
        raise SystemExit(
            f"{sys.executable} cannot make a virtual environment in {folder}: install its venv "
            "module (on Debian: apt install python3-venv)"
        )
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = pins((ROOT / "environment.yml").read_text(encoding="utf-8"))
    print(f"installing {len(wanted)} pinned packages into {folder} (torch is large)", flush=True)
    if subprocess.run([*pip, *wanted]).returncode:
        # One by one, without their dependencies, to tell which pin it is.
        bad = [
            pin
            for pin in wanted
            if subprocess.run([*pip, "--no-deps", "--dry-run", pin], capture_output=True).returncode
        ]
        which = f"cannot be installed here: {', '.join(bad)}" if bad else "do not go together"
        raise SystemExit(f"pins of environment.yml {which} (pip's message is above)")
    if subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)]).returncode:
        raise SystemExit("the package pdoe itself cannot be installed (pip's message is above)")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python3 scripts/make_environment.py FOLDER")
    main(sys.argv[1])
