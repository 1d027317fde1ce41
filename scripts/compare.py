"""Hold our runs against a published table.

    python scripts/compare.py mnist_rot
    python scripts/compare.py mnist_rot --rows mnistrot_pdo_p8,mnistrot_z2 --readme README.md
    python scripts/compare.py mnist_rot --scale smoke
    python scripts/compare.py mnist_rot --validation
    python scripts/compare.py mnist_rot --runs outputs from-cluster/wandb --wandb entity/project

Merges every ``result.json`` below ``outputs/`` into ``results/<table>/runs.csv`` (a run replaces
the line of its own run_id, all other lines stay), writes ``table.md`` beside it and prints it;
``statistics.csv`` and ``differences.csv`` have its figures with twelve digits. Runs may also come
from offline folders of W&B, wherever they were copied to, and from a W&B project; a run's own
record goes before what W&B has of it. Curves, diagnostics and manifest of a finished run go to
``details/<run_id>.json``.
Without runs it renders what is committed. The table always has all published rows; ``--rows`` names
those that must have a finished run. At smoke scale everything is read and written below
``outputs/smoke/``. Runs that were tested on training images held out for it (``data.validation``)
have a table of their own, ``results/<table>/validation/``, which ``--validation`` makes.

Exit status: 0, the table is written; 1, it is written, but a requested row has no finished run, or
records were skipped and not one finished run is left; 2, refused, nothing is written. A table
without any run is no error unless ``--rows`` asks for one: every verdict is then ``not run``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pdoe.files import write_whole
from pdoe.tables import details, markdown, runs
from pdoe.tables import table as tables
from pdoe.tables.runs import Found, TableError
from pdoe.tracking import read as logged
from pdoe.tracking.read import LoggedError

ROOT = Path(__file__).resolve().parents[1]


def say(line: str) -> None:
    print(f"compare: {line}", file=sys.stderr)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="a folder of experiments/ with a paper.csv")
    parser.add_argument("--rows", default="", help="rows that must have a finished run, a,b")
    parser.add_argument(
        "--runs", nargs="+", help="folders of run folders or of offline W&B runs (default: outputs)"
    )
    parser.add_argument("--wandb", nargs="+", default=[], help="projects of W&B: entity/project")
    parser.add_argument("--results", help="where runs.csv is kept (default: results/<table>)")
    parser.add_argument("--scale", choices=("full", "smoke"), default="full")
    parser.add_argument(
        "--validation", action="store_true", help="the runs tested on held-out training images"
    )
    parser.add_argument("--readme", help="also rewrite the marked table in this file")
    return parser.parse_args(argv)


def places(args: argparse.Namespace) -> tuple[list[Path], Path]:
    """Where runs are read and where the table is written; TableError if scales would mix."""
    sources = [Path(folder) for folder in args.runs or ([] if args.wandb else [ROOT / "outputs"])]
    for folder in sources if args.runs else ():
        if not folder.is_dir():
            raise TableError(f"{folder} is no folder")
    if args.validation and (args.readme or args.rows):
        raise TableError("held-out images are no published test set: no --readme, no --rows")
    if args.scale == "smoke":
        if args.results or args.readme:
            raise TableError("smoke runs go to outputs/smoke only: no --results, no --readme")
        sources = [folder / "smoke" for folder in sources] or [ROOT / "outputs" / "smoke"]
        target = sources[0] / args.table
    elif args.runs and any("smoke" in folder.parts for folder in sources):
        raise TableError("a folder holds smoke runs: give its parent and --scale smoke")
    else:
        target = Path(args.results) if args.results else ROOT / "results" / args.table
    return sources, target / "validation" if args.validation else target


def collect(args: argparse.Namespace, sources: list[Path]) -> tuple[list[Found], list[str]]:
    """The runs of all sources, each once, and what cannot be used."""
    found, mirrors, problems = [], [], []
    other_scale = ["smoke"] if args.scale == "full" else []
    for source in sources:
        for things, (more, skipped) in (
            (found, runs.read_folders(source, other_scale)),
            (mirrors, logged.read_offline_all(source)),
        ):
            things += more
            problems += skipped
    for project in args.wandb:
        more, skipped = logged.read_project(project)
        mirrors += more
        problems += skipped
    for one in mirrors:
        try:
            found.append(runs.from_mirror(one.where, one.record, one.metrics, one.diagnostics))
        except ValueError as error:
            problems.append(f"{one.where}: skipped: {runs.one_line(str(error))}")
    of_scale = [one for one in found if (one.scale or default(one, args.scale)) == args.scale]
    if len(of_scale) < len(found):
        problems.append(f"{len(found) - len(of_scale)} runs of another scale: left out")
    once, skipped = runs.distinct(of_scale)
    return once, problems + skipped


def default(found: Found, scale: str) -> str:
    """The scale of a run whose manifest does not tell it: its folder did, in W&B it was full."""
    return "full" if found.mirrored else scale


def compare(args: argparse.Namespace) -> int:
    known = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/paper.csv"))
    if args.table not in known:
        raise TableError(f"no table {args.table!r}; there are: {', '.join(known)}")
    paper = tables.read_rows(ROOT / "experiments" / args.table)
    names = [line.row for line in paper]
    asked = args.rows.replace(",", " ").split()
    if unknown := [row for row in asked if row not in names]:
        raise TableError(f"no row {', '.join(unknown)} in {args.table}; rows: {', '.join(names)}")
    sources, target = places(args)
    readme = Path(args.readme) if args.readme else None
    if readme:  # before anything is written: a README without the marks is refused
        markdown.insert(readme.read_text("utf-8"), args.table, "")

    committed = runs.read_csv(target / "runs.csv")
    found, problems = collect(args, sources)
    of_table = [
        one
        for one in found
        if one.run["experiment"] in names and tables.on_held_out(one.run) == args.validation
    ]
    merged = runs.merge(committed, [one.run for one in of_table])
    for problem in problems + list(merged.problems):
        say(problem)
    foreign = {run["experiment"] for run in merged.runs} - set(names)
    if foreign:
        say(f"kept, but no row of {args.table}: {', '.join(sorted(foreign))}")

    lines = tables.table_lines(paper, merged.runs, args.scale)
    if args.validation:
        lines = [line for line in lines if line.runs]
    title = args.table + ", validation" * args.validation
    text = markdown.render(title, lines, args.scale, rule=not args.validation)
    write_whole(target / "runs.csv", runs.csv_text(merged))
    write_whole(target / "table.md", text)
    write_whole(target / "statistics.csv", tables.statistics_csv(lines))
    write_whole(target / "differences.csv", tables.differences_csv(tables.contrasts(lines)))
    for one in of_table:
        if one.run.finished:
            keep_details(target / "details" / f"{one.run['run_id']}.json", one)
    if readme:
        before = readme.read_bytes().decode()
        table = markdown.readme_table(lines)
        write_whole(readme, markdown.insert(before, args.table, table))
    print(text, end="")
    where = ", ".join([*map(str, sources), *args.wandb])
    say(f"{len(of_table)} runs in {where}, {len(merged.runs)} in {target / 'runs.csv'}")

    if args.scale == "smoke":
        say("smoke scale: not a reproduction")
    have = {line.paper.row for line in lines if line.ours and not line.overrides}
    missing = [row for row in asked if row not in have]
    if missing:
        say(f"no finished run at {args.scale} scale of: {', '.join(missing)}")
    empty = not any(run.finished for run in merged.runs)
    return 1 if missing or (empty and (problems or merged.problems)) else 0


def keep_details(path: Path, found: Found) -> None:
    """Write the details that there are; a part that is there and not found again stays."""
    kept, problems = found.details()
    for problem in problems:
        say(problem)
    try:
        before = path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        say(f"{path}: made again: {error}")
        before = ""
    kept = details.completed(kept, before)
    if any(kept.values()):
        text = details.text(path.stem, kept)
        if text != before:
            write_whole(path, text, durable=False)  # it can be made again, and there may be many


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets its table
    try:
        return compare(args)
    except BrokenPipeError:  # `compare.py ... | head`; the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TableError, LoggedError, OSError, UnicodeDecodeError) as error:
        say(f"refused: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
