"""Train rows of a paper's table, seed by seed, and compare them with it.

    python scripts/reproduce.py mnist_rot --rows mnistrot_pdo_p8,mnistrot_p4 --seeds 0,1,2
    python scripts/reproduce.py mnist_rot --rows mnistrot_pdo_p8 --scale smoke

Finished runs are skipped and unfinished ones are resumed, so the same command again is the resume.
A smoke run always begins anew. The exit status is 0 if every run finished, 75 if stopped, else 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from pdoe.run.compose import compose_config
from pdoe.run.config import select_hashed
from pdoe.run.cost import estimate_seconds
from pdoe.run.folder import RunFolder, run_folder
from pdoe.run.hardware import device_name, resolve_device
from pdoe.run.record import RecordError, digest
from pdoe.tables.paper import read_rows

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 75


def list_rows(table: str) -> list[str]:
    """Rows of the table that have an experiment file, in the table's order."""
    paper = ROOT / "experiments" / table / "paper.csv"
    if not paper.exists():
        tables = sorted(path.parent.name for path in paper.parent.parent.glob("*/paper.csv"))
        raise SystemExit(f"unknown table {table!r}; there are: {', '.join(tables)}")
    rows = [line.row for line in read_rows(paper.parent)]
    return [row for row in rows if (ROOT / "configs" / "experiment" / f"{row}.yaml").exists()]


def choose_rows(patterns: str, known: list[str]) -> list[str]:
    """The rows that match comma-separated names or patterns such as ``mnistrot_*``."""
    chosen: list[str] = []
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matching = [row for row in known if fnmatchcase(row, pattern)]
        if not matching:
            raise SystemExit(f"unknown row {pattern!r}; there are: {', '.join(known)}")
        chosen += [row for row in matching if row not in chosen]
    if not chosen:
        raise SystemExit(f"name a row with --rows; there are: {', '.join(known)}")
    return chosen


def parse_seeds(text: str) -> list[int]:
    seeds = [part.strip() for part in text.split(",") if part.strip()]
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise SystemExit(f"seeds are numbers such as 0,1,2, not {text!r}")
    return list(dict.fromkeys(map(int, seeds)))


configuration_of = cache(compose_config)


@dataclass(frozen=True)
class Cell:
    """One run of a table or a sweep: an experiment, its overrides, a seed, a scale."""

    experiment: str
    overrides: tuple[str, ...]
    seed: int
    scale: str = "full"
    outputs: str = "outputs"

    @property
    def command(self) -> list[str]:
        smoke = ["recipe=smoke", "restart=true"] if self.scale == "smoke" else []
        folder = [f"outputs={self.outputs}"] if self.outputs != "outputs" else []
        chosen = [f"experiment={self.experiment}", *self.overrides, f"seed={self.seed}"]
        return [*chosen, *smoke, *folder]

    def record(self) -> dict[str, Any]:
        """Its record so far; empty if there is none, or none that can be read."""
        where = self.experiment, sorted(self.overrides), self.seed, self.scale
        try:
            return RunFolder(run_folder(ROOT / self.outputs, *where)).read_result() or {}
        except RecordError:
            return {}

    def configuration(self) -> dict[str, Any]:
        return configuration_of(f"experiment={self.experiment}", *self.overrides)

    @property
    def finished(self) -> bool:
        """Whether a run of this very configuration finished; a smoke run always begins anew."""
        if self.scale == "smoke":
            return False
        record = self.record()
        had = record.get("status"), record.get("config_hash"), record.get("seed", self.seed)
        return had == ("finished", digest(select_hashed(self.configuration())), self.seed)

    def __str__(self) -> str:
        return " ".join([self.experiment, *self.overrides, f"seed {self.seed}"])


# ---- The cost -----------------------------------------------------------------------------------


def announce_cost(cells: Sequence[Cell]) -> None:
    """Print what is left to do and, from a few steps of each network, how long it takes here.

    Raises:
        SystemExit: a configuration cannot be composed; one line says why.
    """
    try:
        estimate_cost(cells)
    except (HydraException, ValueError) as error:
        raise SystemExit(str(error).strip().splitlines()[0]) from None


def estimate_cost(cells: Sequence[Cell]) -> None:
    left = [cell for cell in cells if not cell.finished]
    print(f"{len(cells)} runs: {len(cells) - len(left)} finished, {len(left)} to do", flush=True)
    if not left:
        return
    device = resolve_device("auto")
    whole: dict[tuple[str, ...], float | None] = {}
    total = 0.0
    for cell in left:
        network, config = (cell.experiment, *cell.overrides), cell.configuration()
        if network not in whole:
            try:
                whole[network] = estimate_seconds(config, device)
                cost = f"about {format_duration(whole[network])} a run"
            except (RuntimeError, MemoryError) as error:  # which need not stop the run itself
                whole[network] = None
                cost = f"no step of it could be timed ({str(error).strip().splitlines()[0]})"
            print(f"{' '.join(network)}: {cost}", flush=True)
        done = cell.record().get("epochs") or 0
        total += (whole[network] or 0.0) * max(0.0, 1 - done / config["recipe"]["epochs"])
    more = "at least" if None in whole.values() else "about"
    print(
        f"{more} {format_duration(total)} in all on {device_name(device)}, by a few steps of each "
        "network; after Ctrl-C the same command resumes",
        flush=True,
    )


def format_duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


# ---- The runs -----------------------------------------------------------------------------------


def run(*command: str) -> int:
    """Exit status of a script of ours; on Ctrl-C it has all the time that it needs to end well."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the script has got the signal, too
            pass


def train_cells(cells: Sequence[Cell]) -> dict[Cell, int]:
    """Train what is left of the cells; the exit status of each. A stop begins no other run."""
    statuses = {}
    left = [cell for cell in cells if not cell.finished]
    for number, cell in enumerate(left, start=1):
        if len(left) > 1:
            print(f"run {number} of {len(left)}: {cell}", flush=True)
        statuses[cell] = run("train.py", *cell.command)
        if statuses[cell] == INTERRUPTED:
            break
    return statuses


def describe_failures(statuses: dict[Cell, int], total: int) -> str:
    """One line about the runs that did not finish; empty if all did."""
    failed = {cell: status for cell, status in statuses.items() if status}
    if not failed:
        return ""
    reasons = []
    for cell, status in failed.items():
        record = cell.record() if cell.scale == "full" else {}  # of smoke, an old run may be left
        known = record.get("reason") if record.get("status") != "finished" else None
        reasons.append(f"{cell}: {known or f'train.py ended with {status}, see its message'}")
    return f"{len(failed)} of {total} runs did not finish: {'; '.join(reasons)}"


def finish(statuses: dict[Cell, int], total: int, *compare: str) -> int:
    """Compare what finished, then name what did not, as the last line; the exit status.

    Args:
        statuses: exit statuses of the runs that were begun; all others had finished before.
        total: how many runs were asked for.
        compare: arguments of scripts/compare.py.
    """
    if INTERRUPTED in statuses.values():
        print("stopped; the same command resumes", flush=True)
        return INTERRUPTED
    failures, compared = describe_failures(statuses, total), 0
    if 0 in statuses.values() or len(statuses) < total:
        compared = run("scripts/compare.py", *compare)
    if failures:
        print(failures, file=sys.stderr, flush=True)
    return 1 if failures else compared


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="a folder of experiments/, such as mnist_rot")
    parser.add_argument("--rows", required=True, help="names or patterns, comma-separated")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--scale", default="full", choices=("full", "smoke"))
    parser.add_argument("--recipe", default="", help="another recipe for all rows, cifar_short")
    options = parser.parse_args(arguments)
    rows = choose_rows(options.rows, list_rows(options.table))
    seeds = parse_seeds(options.seeds)
    if options.scale == "smoke" and options.recipe:
        raise SystemExit("--scale smoke has a recipe of its own: no --recipe")
    recipe = (f"recipe={options.recipe}",) if options.recipe else ()
    cells = [Cell(row, recipe, seed, options.scale) for row in rows for seed in seeds]
    if options.scale == "full":
        announce_cost(cells)
    statuses = train_cells(cells)
    # Rows with another recipe are lines of their own, and do not count as runs of the row.
    asked = [] if recipe else ["--rows", ",".join(rows)]
    return finish(statuses, len(cells), options.table, "--scale", options.scale, *asked)


if __name__ == "__main__":
    sys.exit(main())
