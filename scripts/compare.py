"""Compare your runs with a published table and with the committed runs.

    python scripts/compare.py mnist_rot
    python scripts/compare.py mnist_rot cifar --rows mnistrot_pdo_p8,mnistrot_z2
    python scripts/compare.py mnist_rot --scale smoke
    python scripts/compare.py mnist_rot --runs outputs from-cluster/wandb --wandb entity/project
    python scripts/compare.py mnist_rot --publish --readme README.md
    python scripts/compare.py mnist_rot --publish --validation

Runs are the ``result.json`` below ``outputs/``, offline folders of W&B, wherever they were copied
to, and runs of a W&B project; a run's own record goes before W&B's copy.

Without ``--publish`` nothing below ``results/`` changes. Printed is a line for each run: published
error, committed error, yours, the difference, and whether yours repeats the committed run bit for
bit. This comparison and a table of your runs are written to ``outputs/tables/<table>``, at smoke
scale to ``outputs/smoke/tables/<table>``.

With ``--publish`` the runs are merged into ``results/<table>/runs.csv``, and the pages and CSV
files beside it are written anew. A run replaces its own earlier line alone: the same configuration,
seed and data on the same device at the same commit. Smoke runs and trials (overrides of epochs or
of numbers of images) are not published. Curves, diagnostics and manifest of a finished run go to
``details/<run_id>.json``. Runs that were tested on held-out training images (``data.validation``)
have a table of their own, ``<table>/validation/``: ``--validation``. Those of a cross-validation
(``data.fold``) are compared fold by fold in ``cross_validation.md`` there.

Exit status: 0, the table is written; 1, it is written, but a row of ``--rows`` has no finished run,
or records were skipped and not one finished run is left; 2, refused, nothing is written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pdoe.files import write_whole
from pdoe.tables import columns, pages, runs, sources
from pdoe.tables import table as tables
from pdoe.tables.comparison import Comparison, compare_runs, describe_pairs, describe_smoke
from pdoe.tables.markdown import format_terminal, insert
from pdoe.tables.paper import read_rows
from pdoe.tables.results import Outcome, Table, publish
from pdoe.tables.runs import RunsFile, TableError
from pdoe.tables.sources import Found
from pdoe.tracking import read as logged
from pdoe.tracking.read import LoggedError

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = ROOT / "outputs"
SHOWN = (*columns.SHORT, ("verdict", lambda line: line.judgement[0]))  # in a terminal


def say(line: str) -> None:
    print(f"compare: {line}", file=sys.stderr)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", help="folders of experiments/ with a paper.csv")
    parser.add_argument("--rows", default="", help="rows that must have a finished run, a,b")
    parser.add_argument(
        "--runs", nargs="+", help="folders of run folders or of offline W&B runs (default: outputs)"
    )
    parser.add_argument("--wandb", nargs="+", default=[], help="projects of W&B: entity/project")
    parser.add_argument("--results", help="the committed results (default: results/<table>)")
    parser.add_argument("--write", help="where your tables go (default: outputs/tables/<table>)")
    parser.add_argument("--scale", choices=("full", "smoke"), default="full")
    parser.add_argument(
        "--validation", action="store_true", help="the runs tested on held-out training images"
    )
    parser.add_argument("--publish", action="store_true", help="merge the runs into results/")
    parser.add_argument("--readme", help="with --publish: rewrite the marked table in this file")
    return parser.parse_args(argv)


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if args.scale == "smoke" and (args.publish or args.results):
        raise TableError("smoke runs are never published: no --publish, no --results")
    if args.readme and not args.publish:
        raise TableError("the table of a README shows published results: give --publish, too")
    if args.validation and (args.readme or args.rows):
        raise TableError("held-out images are no published test set: no --readme, no --rows")
    if len(args.tables) > 1 and (args.results or args.write):
        raise TableError("--results and --write are folders of one table: name one table")


def open_tables(args: argparse.Namespace) -> list[Table]:
    """The tables that were asked for, with their committed runs.

    Raises:
        TableError: the request cannot be met; nothing is written.
    """
    check_options(args)
    known = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/paper.csv"))
    if unknown := [name for name in args.tables if name not in known]:
        raise TableError(f"no table {unknown[0]!r}; there are: {', '.join(known)}")
    outputs = OUTPUTS / ("smoke" * (args.scale == "smoke")) / "tables"
    below = "validation" * args.validation
    opened = []
    for name in args.tables:
        results = Path(args.results or ROOT / "results" / name) / below
        own = Path(args.write or outputs / name) / below
        # Smoke runs are compared with nothing that is committed.
        committed = RunsFile() if args.scale == "smoke" else runs.read_csv(results / "runs.csv")
        paper = read_rows(ROOT / "experiments" / name)
        folders = results, own, committed
        opened.append(Table(name, paper, *folders, args.scale, args.validation))
    rows = [row for one in opened for row in one.rows]
    if unknown := [row for row in list_rows(args) if row not in rows]:
        names = ", ".join(args.tables)
        raise TableError(f"no row {', '.join(unknown)} in {names}; rows: {', '.join(rows)}")
    return opened


def list_rows(args: argparse.Namespace) -> list[str]:
    return args.rows.replace(",", " ").split()


def choose_folders(args: argparse.Namespace) -> list[Path]:
    """Where runs are read; TableError if scales would mix."""
    folders = [Path(folder) for folder in args.runs or ([] if args.wandb else [OUTPUTS])]
    for folder in folders if args.runs else ():
        if not folder.is_dir():
            raise TableError(f"{folder} is no folder")
    if args.scale == "smoke":
        return [folder / "smoke" for folder in folders]
    if args.runs and any("smoke" in folder.parts for folder in folders):
        raise TableError("a folder holds smoke runs: give its parent and --scale smoke")
    return folders


def collect_runs(args: argparse.Namespace, folders: list[Path]) -> tuple[list[Found], list[str]]:
    """The runs of all sources, each once, and a line for each record that cannot be used."""
    found, mirrors, problems = [], [], []
    other_scale = ["smoke"] if args.scale == "full" else []
    for folder in folders:
        for things, (more, skipped) in (
            (found, sources.read_folders(folder, other_scale)),
            (mirrors, logged.read_offline_all(folder)),
        ):
            things += more
            problems += skipped
    for project in args.wandb:
        more, skipped = logged.read_project(project)
        mirrors += more
        problems += skipped
    for one in mirrors:
        try:
            found.append(sources.from_mirror(one.where, one.record, one.metrics, one.diagnostics))
        except ValueError as error:
            problems.append(f"{one.where}: skipped: {runs.one_line(str(error))}")
    # The first runs have no scale in a manifest: their folder tells it, and in W&B it was full.
    of_scale = [
        one
        for one in found
        if (one.scale or ("full" if one.mirrored else args.scale)) == args.scale
    ]
    if len(of_scale) < len(found):
        other = len(found) - len(of_scale)
        problems.append(f"{other} run{'s' * (other != 1)} of another scale: left out")
    once, skipped = sources.drop_copies(of_scale)
    return once, problems + skipped


# ---- What a person reads ------------------------------------------------------------------------


def shorten_path(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def close_comparison(args: argparse.Namespace, outcomes: Sequence[Comparison]) -> list[str]:
    """The lines that end the output without --publish."""
    pairs = [pair for one in outcomes for pair in one.pairs]
    where = [f"Table: {shorten_path(one.page)}" for one in outcomes if one.pairs]
    name = args.tables[0].replace("_", "")
    if args.scale == "smoke":
        sentence = describe_smoke([pair.yours for pair in pairs])
        return [sentence, f"This measures nothing. At full scale: make reproduce-{name}", *where]
    if not pairs:
        return [f"No run of {', '.join(args.tables)} was found. To make one: make reproduce-{name}"]
    trials = sum(one.trials for one in outcomes)
    last = "results/ is unchanged. To add these runs to it: make compare PUBLISH=1"
    if trials == len(pairs):
        last = "results/ is unchanged. Runs with fewer epochs or images are never added to it."
    return [describe_pairs(pairs), *where, last]


def close_publishing(table: Table, found: Sequence[Found], outcome: Outcome) -> list[str]:
    """The lines that end the output with --publish; its table is printed before."""
    if rows := [line for line in pages.select_rows(outcome.lines) if line.ours]:
        cells = [[cell(line) for _, cell in SHOWN] for line in rows]
        print(f"{table.name}\n{format_terminal([name for name, _ in SHOWN], cells)}")
    new = len(outcome.runs) - len(table.committed.runs)
    return [
        f"{table.name}: {len(found)} runs read, {new} lines new, {len(outcome.runs)} lines in all.",
        *([] if table.held_out else [pages.format_summary(outcome.lines)]),
        f"Table: {shorten_path(table.folder / 'table.md')}",
    ]


# ---- The command --------------------------------------------------------------------------------


def read_marks(args: argparse.Namespace, opened: list[Table]) -> list[str]:
    """The tables that the README has a place for; TableError for a README without any."""
    if not args.readme:
        return []
    text = Path(args.readme).read_text("utf-8")
    marked = [one.name for one in opened if f"<!-- table:{one.name} -->" in text]
    for name in marked or args.tables:
        insert(text, name, "")
    return marked


def publish_table(
    args: argparse.Namespace, table: Table, found: list[Found], marked: list[str]
) -> tuple[Outcome, list[str]]:
    outcome = publish(table, found)
    if table.name in marked:
        readme = Path(args.readme)
        text = readme.read_bytes().decode()
        write_whole(readme, insert(text, table.name, pages.format_readme_table(outcome.lines)))
    return outcome, close_publishing(table, found, outcome)


def compare(args: argparse.Namespace) -> int:
    """Read, compare or publish, and say what came of it; the exit status."""
    opened = open_tables(args)
    marked = read_marks(args, opened)  # before anything is written
    found, problems = collect_runs(args, choose_folders(args))
    problems += [problem for one in opened for problem in one.committed.problems]
    for problem in problems:
        say(problem)
    outcomes, closing = [], []
    for table in opened:
        mine = [
            one
            for one in found
            if one.run["experiment"] in table.rows
            and tables.is_held_out(one.run) == args.validation
        ]
        if args.publish:
            outcome, lines = publish_table(args, table, mine, marked)
            closing += lines
        else:
            outcome = compare_runs(table, mine)
            print(outcome.text, end="")
        outcomes.append(outcome)
        for problem in outcome.problems:
            say(problem)
    print("\n".join(closing or close_comparison(args, outcomes)), flush=True)

    lines = [line for one in outcomes for line in one.lines]
    have = {line.paper.row for line in lines if line.ours and not line.overrides}
    missing = [row for row in list_rows(args) if row not in have]
    if missing:
        say(f"no finished run at {args.scale} scale of: {', '.join(missing)}")
    empty = not any(run.finished for one in outcomes for run in one.runs)
    return 1 if missing or (empty and problems) else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
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
