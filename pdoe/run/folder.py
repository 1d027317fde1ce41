"""The files of a run: config.yaml, metrics.jsonl, result.json, checkpoints, diagnostics.json.

Run folders carry no time stamps, so that running a command again finds the run it started:
``<outputs>/<experiment>/<overrides if any>/seed=<seed>``, below ``<outputs>/<scale>`` for every
scale but "full". Files are written beside and renamed: a killed run leaves whole ones.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import read_whole, remove, remove_parts, write_whole
from .record import SCHEMA, WAYS_OUT, RecordError, check_schema, digest, is_number

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILES = (
    *("result.json", "metrics.jsonl", "diagnostics.json", "config.yaml"),
    *("learning_curve.png", "confusion.png", "filters.png"),
)


def run_folder(
    outputs: str | Path, experiment: str, overrides: Sequence[str], seed: int, scale: str = "full"
) -> Path:
    """Where a run lives; characters that no folder name should have become ``_``."""
    root = Path(outputs) if scale == "full" else Path(outputs) / scale
    name = re.sub(r"[^\w.,=+-]", "_", ",".join(overrides))
    if len(name) > 180:
        name = f"{name[:160]}-{digest(list(overrides))}"
    return root / experiment / name / f"seed={seed}"


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from this run, until the run or its process ends.

        The folder itself is locked, where the system has such locks. Then what a killed process
        left half written is deleted.

        Raises:
            RecordError: another process has the folder, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(
                f"{self.path} cannot be made ({error.strerror}): choose another folder with "
                "outputs=..., or permit writing there"
            ) from None
        if fcntl is None:
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_parts(self.path, FILES)
            except BlockingIOError:
                raise RecordError(
                    f"{self.path} is in use by another process that runs this run: wait until it "
                    "has ended, or stop it"
                ) from None
            except OSError:
                pass  # a file system without locks
            yield
        finally:
            os.close(descriptor)

    def read_result(self) -> dict[str, Any] | None:
        """The record, or None before there is one.

        Raises:
            RecordError: the file is damaged, or a newer version of this package wrote it.
        """
        path = self.path / "result.json"
        try:
            result = json.loads(read_whole(path).decode())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} cannot be read ({error}); {WAYS_OUT.format(self.path)}"
            ) from None
        if not isinstance(result, dict):
            raise RecordError(f"{path} is no record; {WAYS_OUT.format(self.path)}")
        check_schema(result.get("schema", 1), SCHEMA, path)
        return result

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_whole(self.path / "result.json", json.dumps(result, indent=2) + "\n")

    def write_diagnostics(self, found: Mapping[str, Any]) -> None:
        write_whole(self.path / "diagnostics.json", json.dumps(found) + "\n")

    def write_config(self, text: str) -> None:
        write_whole(self.path / "config.yaml", text)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one per epoch; a last line cut short by a kill is dropped.

        Raises:
            RecordError: another line is damaged, or the file cannot be read.
        """
        path = self.path / "metrics.jsonl"
        try:
            lines = read_whole(path).splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RecordError(
                f"{path} cannot be read ({error}); {WAYS_OUT.format(self.path)}"
            ) from None
        rows = []
        for number, line in enumerate(lines, start=1):
            row = _parse_row(line)
            if row is None and number < len(lines):
                found = line[:40].decode(errors="replace")
                raise RecordError(
                    f"{path}, line {number}, is no row of an epoch: {found!r}; "
                    f"{WAYS_OUT.format(self.path)}"
                )
            if row is not None:
                rows.append(row)
        return rows

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add the row of an epoch, after those of the epochs before it.

        A resumed run repeats the epoch in which it was killed: the row of its first attempt goes.
        """
        rows = self.metrics()
        kept = [other for other in rows if other["epoch"] < row["epoch"]]
        write_whole(
            self.path / "metrics.jsonl",
            "".join(json.dumps(line) + "\n" for line in [*kept, row]),
        )

    def find_missing_epochs(self, epochs: int) -> list[int]:
        """Those of the first ``epochs`` epochs that have no row in metrics.jsonl."""
        return sorted(set(range(1, epochs + 1)) - {row["epoch"] for row in self.metrics()})

    def check_epochs(self, epochs: int) -> None:
        """Check that a run of so many epochs can be resumed; print which rows are missing.

        Raises:
            RecordError: there is no checkpoint.
        """
        if lost := self.find_missing_epochs(epochs):
            print(f"{self.path}/metrics.jsonl lacks epochs {lost[0]} to {lost[-1]}")
        if epochs and not self.checkpoint.exists():
            raise RecordError(
                f"{self.path} has a record of {epochs} epochs but no checkpoint to resume: bring "
                "the checkpoint back, or begin anew with restart=true"
            )

    def discard(self) -> None:
        """Delete what an earlier run left, apart from its tracking files.

        The checkpoint goes first, and at once: no run is resumed from what is half deleted.
        """
        aside = self.path / ".discarded"
        remove(aside)
        if os.path.lexists(self.checkpoint):
            self.checkpoint.rename(aside)
        for name in FILES:
            remove(self.path / name)
        remove(aside)


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """The row that a line of metrics.jsonl holds; None if it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("epoch")) is not int:
        return None
    whole = all(is_number(value) for value in row.values() if type(value) is int)
    return row if whole and row["epoch"] >= 1 else None
