"""Build the sdist and the wheel, and run the layers' tests with the installed wheel.

    python scripts/check_wheel.py             # a fresh environment, with torch from the index
    python scripts/check_wheel.py --shared    # the same with the packages of this environment

The build starts from a fresh clone of the last commit, and the wheel is built from the sdist. The
tests run in a folder of their own, where no checkout can be imported. Both files go to ``dist/``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = "banks groups jet kernel_cache layers strides turns"
TEST_PACKAGES = ["pytest>=8", "hypothesis>=6.100", "sympy>=1.13", "scipy>=1.13"]
LARGEST_WHEEL = 1_000_000  # bytes
UNPACKED = ("results/", ".")  # tracked, and not needed in an sdist


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return its output; end with that output if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def without(*names: str) -> dict[str, str]:
    """The environment's variables apart from some."""
    return {name: value for name, value in os.environ.items() if name not in names}


def make_venv(folder: Path, shared: bool = False) -> Path:
    """Make a virtual environment, with the packages of this one if ``shared``; its python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    if shared:
        purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        (Path(purelib.strip()) / "shared.pth").write_text(sysconfig.get_path("purelib"))
    return python


def build(folder: Path) -> tuple[Path, Path]:
    """Build in a fresh clone; the sdist and the wheel.

    Raises:
        SystemExit: the build fails or warns.
    """
    clone, dist = folder / "clone", ROOT / "dist"
    if run("git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"):
        print("uncommitted changes are not in the build", flush=True)
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, clone)
    python = make_venv(folder / "build")
    run(python, "-m", "pip", "install", "--quiet", "build>=1.2")
    shutil.rmtree(dist, ignore_errors=True)
    variables = without("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # the second makes setuptools warn
    output = run(python, "-m", "build", "--outdir", dist, clone, env=variables)
    if warnings := [line for line in output.splitlines() if "warn" in line.lower()]:
        raise SystemExit("the build warns:\n" + "\n".join(warnings))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    check_contents(clone, sdist, wheel)
    return sdist, wheel


def check_contents(clone: Path, sdist: Path, wheel: Path) -> None:
    """Compare the files of the package, and of the sdist, with those of the clone.

    Raises:
        SystemExit: a file is missing, or the wheel is too large.
    """
    tracked = set(run("git", "-C", clone, "ls-files").splitlines())
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        unpacked = {name.partition("/")[2] for name in archive.getnames()}
    if lacking := sorted(name for name in tracked - packed if name.startswith("pdoe/")):
        raise SystemExit(f"{wheel.name} lacks {', '.join(lacking)}: add them to package-data")
    lacking = sorted(name for name in tracked - unpacked if not name.startswith(UNPACKED))
    if lacking:
        raise SystemExit(f"{sdist.name} lacks {', '.join(lacking)}: add them to MANIFEST.in")
    size = wheel.stat().st_size
    if size > LARGEST_WHEEL:
        raise SystemExit(f"{wheel.name} has {size:,} bytes, expected at most {LARGEST_WHEEL:,}")
    print(f"{wheel.name}: {size:,} bytes; {sdist.name}: {sdist.stat().st_size:,} bytes", flush=True)


def check_installed(wheel: Path, folder: Path, shared: bool) -> None:
    """Install the wheel in a fresh environment, and run the tests with it."""
    python = make_venv(folder / "fresh", shared)
    packages = ["--no-deps", wheel] if shared else [wheel, *TEST_PACKAGES]
    run(python, "-m", "pip", "install", "--quiet", *packages)
    outside = folder / "outside"
    (outside / "library").mkdir(parents=True)
    for name in ("conftest.py", "commands.py"):
        shutil.copy(ROOT / "tests" / name, outside)
    for name in TESTS.split():
        shutil.copy(ROOT / "tests" / "library" / f"test_{name}.py", outside / "library")
    markers = "markers=slow: long\nhard: fuzzers"
    # A cache of its own, so that the C++ code is built from the file in the wheel.
    variables = without("PYTHONPATH") | {"XDG_CACHE_HOME": str(folder / "cache")}
    where = run(python, "-c", "import pdoe; print(pdoe.__file__)", cwd=outside, env=variables)
    if not Path(where.strip()).is_relative_to(folder):
        raise SystemExit(f"pdoe is imported from {where.strip()}, not from the wheel")
    tests = [outside / "library", "--pyargs", "pdoe.groups", "pdoe.layers", "pdoe.pretrained"]
    options = ["-q", "--doctest-modules", "-m", "not slow and not hard", "-o", markers]
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", *options, *tests]
    print(run(*pytest, cwd=outside, env=variables).rstrip().splitlines()[-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", action="store_true", help="use the packages of this Python")
    shared = parser.parse_args().shared
    with tempfile.TemporaryDirectory() as name:
        _, wheel = build(Path(name))
        check_installed(wheel, Path(name), shared)


if __name__ == "__main__":
    main()
