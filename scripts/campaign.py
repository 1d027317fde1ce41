"""Train a list of runs in order of value, in calls of limited time, each resumed from the last.

    python scripts/campaign.py                      # nine minutes of experiments/cifar/campaign.csv
    python scripts/campaign.py --list experiments/cifar/equal_cost.csv --limit 8h --only '*p6_26'

A line of the list is one run: experiment, recipe (empty: the experiment's own), overrides, seed,
the minutes expected on the device in the last column (empty: not known). Finished runs are skipped;
the first unfinished one trains for the time that is left, and if it finishes, the next begins. A
run that fails is reported, the next begins, and a later call tries it again after all others.

Ctrl-C, SIGTERM and the end of the time save a checkpoint; the same command goes on. After each
finished run the command that merges it into results/ is printed; ``--publish`` carries it out if
the code has no uncommitted changes. Exit status: 0, all finished; 1, a run failed; 2, the list
cannot be used; 75, runs are left.
"""

from __future__ import annotations

import argparse
import csv
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from reproduce import INTERRUPTED, ROOT, Cell, format_duration

from pdoe.run.overrides import split_overrides
from pdoe.run.progress import format_count
from pdoe.run.repository import repository_state

COLUMNS = ["experiment", "recipe", "overrides", "seed", "minutes", "device"]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
RESERVE = 25.0  # seconds of a call in which a run ends its step and saves a checkpoint


@dataclass(frozen=True)
class Entry:
    """A line of the list: a run, and the minutes that it takes on a device."""

    cell: Cell
    minutes: float | None
    device: str

    @property
    def finished(self) -> bool:
        return self.cell.record().get("status") == "finished" and self.cell.finished

    def seconds_left(self) -> float | None:
        """By the epochs that it has done, else by the list; None if nothing is known."""
        record = self.cell.record()
        if record.get("epochs") and (pace := record.get("seconds_per_epoch")):
            return pace * (self.cell.configuration()["recipe"]["epochs"] - record["epochs"])
        return None if self.minutes is None else 60 * self.minutes

    def __str__(self) -> str:
        record, seconds = self.cell.record(), self.seconds_left()
        done = record.get("epochs")
        state = f"{record['status']} after {done} epochs, " if record else ""
        if seconds is None:
            return f"{self.cell}: {state}time unknown"
        source = "its epochs" if done else f"the list, on {self.device or 'an unknown device'}"
        return f"{self.cell}: {state}{format_duration(seconds)} left by {source}"


def parse_limit(text: str) -> float | None:
    """The seconds of 90s, 9m or 8h; None for 0."""
    found = re.fullmatch(r"(\d+)([smh])|0", text)
    if not found:
        raise ValueError(f"a limit is 90s, 9m or 8h, or 0 for none, not {text!r}")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found[1] else None


def read_list(path: Path, outputs: str) -> list[Entry]:
    """The lines of a list; ValueError for a line that is not one run."""
    entries = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for line in reader:
            texts = [line.get(name) for name in COLUMNS]
            if list(line) != COLUMNS or None in texts or not texts[3].isdecimal():
                raise ValueError(
                    f"{path}:{reader.line_num}: a line is {','.join(COLUMNS)}, the seed a number"
                )
            experiment, recipe, overrides, seed, minutes, device = texts
            if not (ROOT / "configs" / "experiment" / f"{experiment}.yaml").exists():
                raise ValueError(f"{path}:{reader.line_num}: unknown experiment {experiment!r}")
            words = ([f"recipe={recipe}"] if recipe else []) + split_overrides(overrides)
            cell = Cell(experiment, tuple(sorted(words)), int(seed), outputs=outputs)
            entries.append(Entry(cell, float(minutes) if minutes else None, device))
    return entries


def choose(entries: Sequence[Entry], patterns: str) -> list[Entry]:
    """The entries whose experiment matches one of the patterns, in the order of the list."""
    words = [word.strip() for word in patterns.split(",")]
    chosen = [e for e in entries if any(fnmatchcase(e.cell.experiment, word) for word in words)]
    if not chosen:
        raise ValueError(f"no run of the list matches {patterns!r}")
    return chosen


def print_left(entries: Sequence[Entry]) -> int:
    """Print what is left to do and how long it takes; how many runs that is."""
    left = [entry for entry in entries if not entry.finished]
    runs = format_count(len(entries), "run")
    print(f"\n{runs}: {len(entries) - len(left)} finished, {len(left)} left")
    print("".join(f"  {entry}\n" for entry in left), end="")
    known = [seconds for entry in left if (seconds := entry.seconds_left()) is not None]
    least = "at least " * (len(known) < len(left))
    print(f"{least}{format_duration(sum(known))} left" if known else "", flush=True)
    return len(left)


class Campaign:
    """A call: it trains entries until its time is over or a signal comes."""

    def __init__(self, limit: float | None, publish: bool):
        self.end = None if limit is None else time.monotonic() + limit - RESERVE
        self.publish, self.stopped = publish, False
        self.process: subprocess.Popen | None = None

    def stop(self, kind: int, _: Any = None) -> None:
        """Handle a signal: the run at hand saves its state and ends, and no other begins."""
        self.stopped = True
        if self.process and kind == signal.SIGTERM:  # a terminal sends Ctrl-C to the run itself
            self.process.terminate()

    def run(self, *words: str, seconds: float | None = None) -> int:
        """The exit status of a script of ours, which is asked to stop after some seconds."""
        print(f"\npython {' '.join(words)}", flush=True)
        self.process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
        if self.stopped:  # a signal came before the process
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            return self.process.wait()
        finally:
            self.process = None

    def train(self, entries: Sequence[Entry]) -> list[str]:
        """Train the entries in order, those that failed before last; a line for each failure."""
        failures = []
        left = [entry for entry in entries if not entry.finished]
        left.sort(key=lambda entry: entry.cell.record().get("status") in ("failed", "diverged"))
        for entry in left:
            seconds = None if self.end is None else self.end - time.monotonic()
            if self.stopped or (seconds is not None and seconds < 1):
                break
            status = self.run("train.py", *entry.cell.command, seconds=seconds)
            if status == 0:
                self.merge(entry.cell)
            elif status in (INTERRUPTED, -signal.SIGTERM):  # the latter while Python starts
                break
            else:
                reason = entry.cell.record().get("reason") or f"train.py ended with {status}"
                failures.append(f"{entry.cell}: {reason}")
        return failures

    def merge(self, cell: Cell) -> None:
        """Merge the records of finished runs into results/, or print the command that does."""
        table = "mnist_rot" if cell.experiment.startswith("mnistrot") else "cifar"
        folder = [] if cell.outputs == "outputs" else ["--runs", cell.outputs]
        command = ["scripts/compare.py", table, *folder, "--publish"]
        dirty = self.publish and repository_state(ROOT)[1]
        why = "not merged, the code has uncommitted changes" if dirty else "not merged yet"
        if self.publish and not dirty and not self.stopped:
            self.run(*command)
        else:
            print(f"{why}: python {' '.join(command)}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    listed = ROOT / "experiments" / "cifar" / "campaign.csv"
    parser.add_argument("--list", type=Path, default=listed, help="a CSV file of runs")
    parser.add_argument("--limit", default="9m", help="time of this call: 90s, 9m, 8h; 0: none")
    parser.add_argument("--only", default="*", help="experiments, names or patterns: a,b*")
    parser.add_argument("--outputs", default="outputs", help="the folder of the runs")
    parser.add_argument("--publish", action="store_true", help="merge finished runs into results/")
    options = parser.parse_args(arguments)
    try:
        campaign = Campaign(parse_limit(options.limit), options.publish)
        entries = choose(read_list(options.list, options.outputs), options.only)
    except (OSError, ValueError) as error:
        print(f"campaign: {error}", file=sys.stderr)
        return 2
    print_left(entries)
    before = {kind: signal.signal(kind, campaign.stop) for kind in SIGNALS}
    try:
        failures = campaign.train(entries)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    left = print_left(entries)
    for line in failures:
        print(f"failed: {line}", file=sys.stderr, flush=True)
    return 1 if failures else INTERRUPTED if left else 0


if __name__ == "__main__":
    sys.exit(main())
