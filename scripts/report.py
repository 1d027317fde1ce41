"""The runs, the published tables and the measurements as one page.

    python scripts/report.py

Reads what is committed, `experiments/<table>/paper.csv` and `results/`, and writes
`results/report.html`, one file that loads nothing, and its figures as SVG files under
`results/<table>/figures/`. The same inputs give the same bytes. What is missing keeps its place in
the page, with the command that makes it; what is damaged is named, here and there, and left out.

Exit status: 0, the page is written; 2, refused (the line says why), nothing is written.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # nothing is shown, whatever the user's is

from pdoe import report
from pdoe.files import write_whole
from pdoe.tables.runs import TableError

ROOT = Path(__file__).resolve().parents[1]


def say(line: str) -> None:
    print(f"report: {line}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="read and written")
    args = parser.parse_args(argv)
    if not args.results.is_dir():
        say(f"refused: {args.results} is no folder")
        return 2
    if not find_spec("matplotlib"):
        say("refused: figures need matplotlib: pip install '.[report]'")
        return 2
    try:
        page, files, problems = report.compose(ROOT / "experiments", args.results)
        for path, svg in files.items():
            write_whole(path, svg)
        write_whole(args.results / "report.html", page)
    except (TableError, OSError, UnicodeDecodeError) as error:
        say(f"refused: {error}")
        return 2
    for problem in problems:
        say(problem)
    print(f"{args.results / 'report.html'}, with {len(files)} figures under {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
