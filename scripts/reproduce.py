"""Train rows of a paper's table, seed by seed, and hold them against it.

    python scripts/reproduce.py mnist_rot --rows mnistrot_pdo_p8,mnistrot_p4 --seeds 0,1,2

Finished runs are skipped and unfinished ones go on, so the same command again is the resume. The
table is made from whatever finished; the exit code is 0 only if every run did.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def known_rows(table: str) -> list[str]:
    """Rows of the table that have an experiment file, in the table's order."""
    paper = ROOT / "experiments" / table / "paper.csv"
    if not paper.exists():
        tables = sorted(path.parent.name for path in paper.parent.parent.glob("*/paper.csv"))
        raise SystemExit(f"unknown table {table!r}; there are: {', '.join(tables)}")
    with open(paper, newline="", encoding="utf-8") as file:
        rows = [line["row"] for line in csv.DictReader(file)]
    return [row for row in rows if (ROOT / "configs" / "experiment" / f"{row}.yaml").exists()]


def chosen_rows(patterns: str, known: list[str]) -> list[str]:
    """The rows that a comma-separated list of names or patterns such as ``mnistrot_*`` asks for."""
    chosen: list[str] = []
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matching = [row for row in known if fnmatchcase(row, pattern)]
        if not matching:
            raise SystemExit(f"unknown row {pattern!r}; there are: {', '.join(known)}")
        chosen += [row for row in matching if row not in chosen]
    if not chosen:
        raise SystemExit(f"no row is asked for; there are: {', '.join(known)}")
    return chosen


def chosen_seeds(text: str) -> list[str]:
    seeds = [part.strip() for part in text.split(",") if part.strip()]
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise SystemExit(f"seeds are numbers such as 0,1,2, not {text!r}")
    return seeds


def run(*command: str) -> int:
    """Exit code of a script of ours; on Ctrl-C it has all the time that it needs to end well."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the script has got the signal, too
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="a folder of experiments/, such as mnist_rot")
    parser.add_argument("--rows", required=True, help="names or patterns, comma-separated")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--scale", default="full", choices=("full", "smoke"))
    parser.add_argument("--recipe", default="", help="another recipe for all rows, cifar_short")
    arguments = parser.parse_args()
    rows = chosen_rows(arguments.rows, known_rows(arguments.table))
    seeds = chosen_seeds(arguments.seeds)

    smoke = arguments.scale == "smoke"
    if smoke and arguments.recipe:
        raise SystemExit("--scale smoke has a recipe of its own: no --recipe")
    recipe = [f"recipe={arguments.recipe}"] if arguments.recipe else []
    trained = run(
        "train.py",
        "-m",
        f"experiment={','.join(rows)}",
        f"seed={','.join(seeds)}",
        *(["recipe=smoke", "hydra.sweep.dir=outputs/smoke/.sweep"] if smoke else recipe),
    )
    # Rows with another recipe are lines of their own, and do not count as runs of the row.
    asked = [] if recipe else ["--rows", ",".join(rows)]
    compared = run("scripts/compare.py", arguments.table, "--scale", arguments.scale, *asked)
    sys.exit(trained or compared)


if __name__ == "__main__":
    main()
