"""The tutorials run from top to bottom, each in a folder of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from make_notebook import format_notebook

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
SLOW = {"images", "reproduce"}  # these train in processes of their own
PAGES = [
    pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
    for path in sorted(TUTORIALS.glob("*.md"))
]


def run_commands(text, folder):
    """Run the lines of a block in bash; ``python`` there is the one of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    bash = ["bash", "-euo", "pipefail", "-c", text]
    environment = {**os.environ, "PATH": path, "WANDB_MODE": "disabled"}
    subprocess.run(bash, cwd=folder, env=environment, check=True, timeout=300)


def copy_checkout(folder):
    """Copy what commands need from a checkout, apart from what others measured."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("configs", "experiments", "pdoe", "scripts", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("pyproject.toml", "train.py"):
        shutil.copy(ROOT / name, folder)


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_runs(page, tmp_path, monkeypatch, one_thread):
    blocks = re.findall(
        r"^```(python|bash)\n(.*?)^```$", (TUTORIALS / f"{page}.md").read_text("utf-8"), re.M | re.S
    )
    assert any(language == "python" for language, _ in blocks)
    if any(language == "bash" for language, _ in blocks):
        copy_checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, f"{page}.md", "exec"), names)
        else:
            run_commands(text, tmp_path)


@pytest.mark.parametrize("notebook", sorted(path.name for path in TUTORIALS.glob("*.ipynb")))
def test_a_notebook_is_that_of_its_page(notebook):
    path = TUTORIALS / notebook
    page = path.with_suffix(".md").read_text("utf-8")
    remedy = f"run: python scripts/make_notebook.py docs/tutorials/{path.stem}.md"
    assert path.read_text("utf-8") == format_notebook(page), remedy
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code"]
    assert code == re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)  # the test above runs
