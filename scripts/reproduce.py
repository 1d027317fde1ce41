"""Train rows of a paper's table, seed by seed, and hold them against it.

    python scripts/reproduce.py mnist_rot --rows mnistrot_pdo_p8,mnistrot_p4 --seeds 0,1,2

Finished runs are skipped and unfinished ones go on, so the same command again is the resume. The
table is made from whatever finished; the exit code is 0 only if every run did.
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

from pdoe.run.config import composed, hashed
from pdoe.run.cost import estimated_seconds
from pdoe.run.folder import RunFolder, run_folder
from pdoe.run.hardware import device_name, resolve_device
from pdoe.run.record import RecordError, digest
from pdoe.tables.table import read_rows

ROOT = Path(__file__).resolve().parent.parent


def known_rows(table: str) -> list[str]:
    """Rows of the table that have an experiment file, in the table's order."""
    paper = ROOT / "experiments" / table / "paper.csv"
    if not paper.exists():
        tables = sorted(path.parent.name for path in paper.parent.parent.glob("*/paper.csv"))
        raise SystemExit(f"unknown table {table!r}; there are: {', '.join(tables)}")
    rows = [line.row for line in read_rows(paper.parent)]
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
    return list(dict.fromkeys(str(int(seed)) for seed in seeds))


configuration_of = cache(composed)


@dataclass(frozen=True)
class Cell:
    """One run of a table or a sweep: an experiment, what differs from it, and a seed."""

    experiment: str
    overrides: tuple[str, ...]
    seed: int

    @property
    def command(self) -> list[str]:
        return [f"experiment={self.experiment}", *self.overrides, f"seed={self.seed}"]

    def record(self) -> dict[str, Any]:
        """What it has left so far; empty if there is nothing, or nothing that can be read."""
        folder = run_folder(ROOT / "outputs", self.experiment, sorted(self.overrides), self.seed)
        try:
            return RunFolder(folder).read_result() or {}
        except RecordError:
            return {}

    def configuration(self) -> dict[str, Any]:
        return configuration_of(*self.command[:-1])

    @property
    def finished(self) -> bool:
        """Whether its own configuration is: train.py refuses a folder that holds another's run."""
        record = self.record()
        had = record.get("status"), record.get("config_hash"), record.get("seed", self.seed)
        return had == ("finished", digest(hashed(self.configuration())), self.seed)

    def __str__(self) -> str:
        return " ".join([self.experiment, *self.overrides, f"seed {self.seed}"])


def announce(cells: Sequence[Cell]) -> None:
    """Say what is left to do and, from a few steps of each network, how long it takes here.

    Raises:
        SystemExit: a configuration cannot be made; one line says why.
    """
    try:
        estimate(cells)
    except (HydraException, ValueError) as error:
        raise SystemExit(str(error).strip().splitlines()[0]) from None


def estimate(cells: Sequence[Cell]) -> None:
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
                whole[network] = estimated_seconds(config, device)
                said = f"about {duration(whole[network])} a run"
            except (RuntimeError, MemoryError) as error:  # which need not stop the run itself
                whole[network] = None
                said = f"no step of it could be timed ({str(error).strip().splitlines()[0]})"
            print(f"{' '.join(network)}: {said}", flush=True)
        done = cell.record().get("epochs") or 0
        total += (whole[network] or 0.0) * max(0.0, 1 - done / config["recipe"]["epochs"])
    more = "at least" if None in whole.values() else "about"
    print(
        f"{more} {duration(total)} in all on {device_name(device)}, by a few steps of each "
        "network; Ctrl-C stops, and the same command goes on",
        flush=True,
    )


def duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


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
    if not smoke:
        announce([Cell(row, tuple(recipe), int(seed)) for row in rows for seed in seeds])
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
