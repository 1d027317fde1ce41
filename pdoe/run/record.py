"""What a run leaves behind: config.yaml, metrics.jsonl, result.json, checkpoints, diagnostics.json.

Run folders carry no time stamps, so that running a command again finds the run it started:
``<outputs>/<experiment>/<overrides if any>/seed=<seed>``, below ``<outputs>/<scale>`` for every
scale but "full". Files are written beside and renamed: a killed run leaves whole ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import write_whole
from .overrides import join_overrides

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RecordError(Exception):
    """A run folder that cannot be used as it is; the message says why and what to do."""


def digest(value: Any) -> str:
    """Twelve hexadecimal digits that stand for a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_id(config_hash: str, seed: int, data_sha256: str) -> str:
    """The name of a run: the same configuration, seed and data always have the same one."""
    return digest([config_hash, seed, data_sha256])


def run_folder(
    outputs: str | Path, experiment: str, overrides: Sequence[str], seed: int, scale: str = "full"
) -> Path:
    """Where a run lives; characters that no folder name should have become ``_``."""
    root = Path(outputs) if scale == "full" else Path(outputs) / scale
    name = re.sub(r"[^\w.,=+-]", "_", ",".join(overrides))
    if len(name) > 180:
        name = f"{name[:160]}-{digest(list(overrides))}"
    return root / experiment / name / f"seed={seed}"


def new_record(
    *,
    experiment: str,
    overrides: Sequence[str],
    seed: int,
    config: Mapping[str, Any],
    data: Mapping[str, str],
    hardware: Mapping[str, Any],
    code: str | Path,
    before: Mapping[str, Any] | None,
    config_before: Mapping[str, Any] | None,
    folder: str | Path,
) -> dict[str, Any]:
    """The record of a run that begins, or goes on from ``before``, or was finished before.

    Status is "finished", "interrupted", "failed" or "diverged"; it stands on "interrupted" from the
    start, so that a run that is killed says so. Errors are in per cent.

    Args:
        config: what determines the result apart from seed and data.
        data: name, provenance and sha256.
        hardware: device, precision, threads, torch and ranks.
        code: a folder in the repository whose commit is recorded.
        before, config_before: record and configuration that an earlier run left in ``folder``.

    Raises:
        RecordError: ``before`` is damaged, or the record of another configuration, seed or data;
            what differs is named.
    """
    config_hash = digest(config)
    commit, dirty = repository_state(code)
    record = {
        "run_id": run_id(config_hash, seed, data["sha256"]),
        "experiment": experiment,
        "overrides": join_overrides(overrides),
        "seed": seed,
        "status": "interrupted",
        "test_error": None,
        "test_error_best": None,
        "parameters": None,
        "epochs": 0,
        "seconds": 0.0,
        "seconds_per_epoch": None,
        **hardware,
        "commit": commit,
        "dirty": dirty,
        "data": dict(data),
        "config_hash": config_hash,
        "equivariance_error": {"trunk": None, "logits": None},
        "started": now(),
        "ended": now(),
        "reason": "killed, or still running",
    }
    if before is None:
        if config_before is not None and digest(config_before) != config_hash:
            raise RecordError(
                f"{folder} holds a run of another configuration, whose record is lost: "
                f"{'; '.join(_differences(config_before, config))}; {_WAYS_OUT.format(folder)}"
            )
        return record
    damaged = [
        key
        for key, value in record.items()
        if key not in ("reason", "ranks")  # came later than the first runs
        and (key not in before or (isinstance(value, str) and not isinstance(before[key], str)))
    ]
    if not isinstance(before.get("data"), dict) or set(data) - set(before["data"]):
        damaged.append("data")
    manifest, lists = before.get("manifest", {}), ("environments", "parts")  # the first had none
    whole = isinstance(manifest, dict) and all(isinstance(manifest.get(k, []), list) for k in lists)
    if not whole:
        damaged.append("manifest")
    if before.get("status") == "finished" and not _is_finite(before.get("test_error")):
        damaged.append("test_error")
    if damaged:
        names = ", ".join(dict.fromkeys(damaged))
        raise RecordError(f"{folder}/result.json is damaged at {names}; {_WAYS_OUT.format(folder)}")
    had = {"seed": before["seed"], "data": before["data"]}
    differ = _differences(had, {"seed": seed, "data": dict(data)})
    if before["config_hash"] != config_hash:
        known = _differences(config_before, config) if config_before else []
        differ += known or [f"config_hash {before['config_hash']}, now {config_hash}"]
    if differ:
        raise RecordError(
            f"{folder} holds a run ({before['status']}) of another configuration, seed or data: "
            f"{'; '.join(differ)}; {_WAYS_OUT.format(folder)}"
        )
    if before["status"] == "finished":
        return dict(before)
    return {
        **before,
        **hardware,
        "status": record["status"],
        **{key: _joined(before[key], record[key]) for key in ("commit", "device")},
        "dirty": dirty or before["dirty"],
        "reason": record["reason"],
    }


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _joined(had: str, has: str) -> str:
    """All the values that parts of a run had."""
    parts = had.split("+")
    return had if has in parts else "+".join([*parts, has])


def _differences(had: Mapping[str, Any], has: Mapping[str, Any], name: str = "") -> list[str]:
    """The entries that two nested mappings do not share, dotted."""
    lines = []
    for key in dict.fromkeys([*had, *has]):
        old, new = had.get(key), has.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, f"{name}{key}.")
        elif digest(old) != digest(new):  # as the hash sees it: 0 and 0.0 are two values
            lines.append(f"{name}{key} {old}, now {new}")
    return lines


_WAYS_OUT = "move {} away, or give restart=true to throw it away"


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def repository_state(folder: str | Path) -> tuple[str, bool]:
    """Commit of the code in ``folder`` and whether it differs from it.

    Changes below ``results/`` do not count: they are what runs produce. Without git the commit is
    "unknown" and the state counts as different.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(
            git("status", "--porcelain", "--", ":/", ":(top,exclude)results")
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Keep other processes from this run, until it ends or its process does.

        The folder itself is locked; where the system has no such locks nothing is.

        Raises:
            RecordError: another process is at it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            yield
            return
        folder = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecordError(
                    f"{self.path} is in use by another process that runs this run: wait until it "
                    "has ended, or stop it"
                ) from None
            except OSError:
                pass  # a file system without locks
            yield
        finally:
            os.close(folder)

    def read_result(self) -> dict[str, Any] | None:
        """The record, or None before there is one.

        Raises:
            RecordError: if the file is damaged.
        """
        path = self.path / "result.json"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} cannot be read ({error}); {_WAYS_OUT.format(self.path)}"
            ) from None
        if not isinstance(result, dict):
            raise RecordError(f"{path} is no record; {_WAYS_OUT.format(self.path)}")
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
            RecordError: another line is damaged.
        """
        rows = []
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if type(row["epoch"]) is not int:
                    raise ValueError
            except (ValueError, TypeError, KeyError, RecursionError):
                if number == len(lines):
                    break
                found = line[:40].decode(errors="replace")
                raise RecordError(
                    f"{path}, line {number}, is no row of an epoch: {found!r}; "
                    f"{_WAYS_OUT.format(self.path)}"
                ) from None
            rows.append(row)
        return rows

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add the row of an epoch, after those of the epochs before it.

        A resumed run repeats the epoch that it was killed in: the row of its first attempt goes.
        """
        rows = self.metrics()
        kept = [other for other in rows if other["epoch"] < row["epoch"]]
        write_whole(
            self.path / "metrics.jsonl",
            "".join(json.dumps(line) + "\n" for line in [*kept, row]),
        )

    def discard(self) -> None:
        """Throw away what an earlier run left, its tracking files apart.

        The checkpoint goes first, and at once: no run goes on from what was half thrown away.
        """
        aside = self.path / ".discarded"
        shutil.rmtree(aside, ignore_errors=True)
        if self.checkpoint.exists():
            self.checkpoint.rename(aside)
        for name in ("result.json", "metrics.jsonl", "diagnostics.json", "config.yaml"):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
