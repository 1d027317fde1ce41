"""Write a notebook of a Markdown page, so that the text stands once.

    python scripts/make_notebook.py docs/tutorials/layers.md    # writes docs/tutorials/layers.ipynb

Blocks of Python become code cells without outputs, the text between them becomes Markdown cells.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any


def make_notebook(page: str) -> dict[str, Any]:
    """Make the notebook of a page, as the content of an ``.ipynb`` file (format 4.5).

    >>> cells = make_notebook("# A\\n\\n```python\\nx = 1\\n```\\n")["cells"]
    >>> [(cell["cell_type"], cell["source"]) for cell in cells]
    [('markdown', ['# A']), ('code', ['x = 1'])]
    """
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```$", page, flags=re.M | re.S)):
        if not (text := part.strip("\n")):
            continue
        cell: dict[str, Any] = {"id": f"cell-{len(cells)}", "metadata": {}}
        if number % 2:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        else:
            cell |= {"cell_type": "markdown"}
        cells.append(cell | {"source": text.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    language = {"name": "python", "file_extension": ".py"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": language},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def format_notebook(page: str) -> str:
    return json.dumps(make_notebook(page), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path, help="Markdown files")
    for page in parser.parse_args().pages:
        notebook = page.with_suffix(".ipynb")
        notebook.write_text(format_notebook(page.read_text("utf-8")), "utf-8")
        print(notebook)


if __name__ == "__main__":
    main()
