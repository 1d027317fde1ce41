"""Write the report: what was found, as one page, and its figures as SVG files.

    python scripts/report.py

Reads what is committed, `experiments/<table>/paper.csv` and `results/`. Writes
`outputs/report.html`, one file that loads nothing, and the figures that the Markdown pages show,
under `results/<table>/figures/`. The same inputs give the same bytes. A section without data names
the command that makes them; damaged input is reported and left out.

Exit status: 0, the page is written; 2, refused with one line, nothing is written.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # no window, whatever the user's setting is

from pdoe import report
from pdoe.files import write_whole
from pdoe.tables.runs import TableError

ROOT = Path(__file__).resolve().parents[1]


def print_problem(line: str) -> None:
    print(f"report: {line}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="read; figures")
    parser.add_argument("--page", type=Path, default=ROOT / "outputs" / "report.html")
    options = parser.parse_args(argv)
    if not options.results.is_dir():
        print_problem(f"refused: {options.results} is no folder")
        return 2
    if not find_spec("matplotlib"):
        print_problem("refused: figures need matplotlib: pip install '.[report]'")
        return 2
    try:
        page, files, problems = report.compose(ROOT / "experiments", options.results)
        for path, svg in files.items():
            write_whole(path, svg)
        write_whole(options.page, page)
    except (TableError, OSError, UnicodeDecodeError) as error:
        print_problem(f"refused: {error}")
        return 2
    for problem in problems:
        print_problem(problem)
    print(f"{options.page}, with {len(files)} figures under {options.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
