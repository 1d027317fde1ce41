"""Read runs back out of W&B: from its folders, without a server, or from a project.

Both give the same :class:`Logged` for the same run. The format of W&B's log files is private; its
command ``wandb leet inspect --json`` (wandb 0.31 and later) reads them.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .names import rename_from_wandb
from .service import end_service

FOLDER = re.compile(r"(offline-)?run-\d{8}_\d{6}-.+")
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_TIMEOUT = 10  # seconds, of a question to the server


class LoggedError(ValueError):
    """A run or a project that cannot be read; one line says why."""


@dataclass(frozen=True)
class Logged:
    """One run as W&B stores it.

    Attributes:
        where: a folder or an address, for messages; it does not count when runs are compared.
        record: as in ``result.json``. A run that was killed has the record that it began with,
            updated to its last logged epoch; its seconds are then those of its epochs alone.
        metrics: as in ``metrics.jsonl``, one row per epoch.
        diagnostics: as given to ``Tracker.finish``, or None.
    """

    where: str = field(compare=False)
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    diagnostics: dict[str, Any] | None


@dataclass(frozen=True)
class _Fragment:
    """The log of one start of a run. An offline run cannot be resumed: each start has a folder."""

    where: str
    run_id: str
    started: str
    begun: dict[str, Any]
    ended: dict[str, Any] | None
    rows: list[dict[str, Any]]
    diagnostics: dict[str, Any] | None


# ---- Folders ------------------------------------------------------------------------------------


def read_offline(folder: Path) -> Logged:
    """Read one folder of W&B, ``offline-run-*`` or ``run-*``, of a run that ended or was killed.

    Raises:
        LoggedError: no log, a damaged log, a run of another project, or wandb before 0.31.
    """
    return _join([_read_folder(Path(folder))])


def read_offline_all(root: Path) -> tuple[list[Logged], list[str]]:
    """Read every run of W&B's folders below ``root``.

    Folders of one run that lie beside each other are its starts. They are joined; a later start
    replaces the epochs that it repeats. Folders elsewhere are another copy, or another run. If a
    run folder has its ``result.json``, W&B's folders in it are not read.

    Returns:
        The runs, and a line for each folder that is left out.
    """
    folders = []
    for name, below, files in os.walk(root):
        if "result.json" in files and "wandb" in below:
            below.remove("wandb")
        found = sorted(each for each in below if FOLDER.fullmatch(each))
        folders += [Path(name, each) for each in found]
        below[:] = sorted({*below} - {*found, "latest-run"})

    fragments, problems = [], []

    def read(folder: Path) -> None:
        try:
            fragments.append(_read_folder(folder))
        except LoggedError as error:
            problems.append(str(error))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(read, folders))
    of_run = defaultdict(list)
    for fragment in sorted(fragments, key=lambda fragment: fragment.where):
        of_run[fragment.run_id, Path(fragment.where).parent].append(fragment)
    runs = []
    for ones in of_run.values():
        try:
            runs.append(_join(ones))
        except LoggedError as error:
            problems.append(str(error))
    return runs, sorted(problems)


def _read_folder(folder: Path) -> _Fragment:
    files = sorted(folder.glob("*.wandb")) if folder.is_dir() else []
    if len(files) != 1:
        raise LoggedError(f"{folder}: skipped: {len(files)} .wandb files in it, expected one")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(files[0])]
    quiet = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=quiet)
    if done.returncode == 2:  # no such command or option
        raise LoggedError(f"{folder}: skipped: reading it needs wandb 0.31 or newer")
    if done.returncode or "corrupt" in done.stderr:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LoggedError(f"{folder}: skipped: {files[0].name} is damaged: {said}")
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    run: dict[str, Any] = {}
    rows = []
    for line in filter(None, done.stdout.split("\n")):
        try:
            entry = json.loads(line)
            kind = entry["type"]
            content = dict(entry.get(kind) or {})
        except (ValueError, TypeError, KeyError):
            raise LoggedError(f"{folder}: skipped: wandb said {line[:40]!r}, no entry") from None
        if kind == "run":
            run = run or content
            config |= (content.get("config") or {}).get("update") or {}
        elif kind == "config":
            config |= content.get("update") or {}
        elif kind == "summary":
            summary |= content.get("update") or {}
        elif kind == "history":
            rows.append(content.get("item") or {})
    if not run:
        raise LoggedError(f"{folder}: skipped: {files[0].name} ends before its run begins")
    return _fragment(str(folder), run["run_id"], run.get("start_time", ""), config, summary, rows)


# ---- A project ----------------------------------------------------------------------------------


def read_project(path: str, api: Any = None) -> tuple[list[Logged], list[str]]:
    """Read every run of the project ``entity/project`` or ``project``.

    Args:
        path: of the project.
        api: a ``wandb.Api``; by default one that waits 10 s for an answer.

    Returns:
        The runs, and a line for each run that is left out.

    Raises:
        LoggedError: no login, no such project, no network.
    """
    runs, problems = [], []
    try:
        for run in (api or _api()).runs(path, lazy=False):
            try:
                # Without `keys`, which would drop every row that lacks one of them.
                rows = list(run.scan_history())
                summary = {name: run.summary.get(name) for name in ("record", "diagnostics")}
                runs.append(_join([_fragment(run.url, run.id, "", run.config, summary, rows)]))
            except LoggedError as error:
                problems.append(str(error))
    except LoggedError:
        raise
    except Exception as error:  # W&B raises many kinds
        if api is None:
            end_service()  # or the process would wait for it at its end
        said = " ".join(str(error).split())
        raise LoggedError(f"W&B project {path} cannot be read: {said}") from None
    return runs, problems


def _api() -> Any:
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):  # `wandb.Api` would ask for one
        raise LoggedError("no W&B login is stored: `wandb login`, or set WANDB_API_KEY")
    return wandb.Api(timeout=_TIMEOUT)


# ---- From a log to a run ------------------------------------------------------------------------


def _fragment(
    where: str,
    run_id: str,
    started: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]],
) -> _Fragment:
    if "record" not in config:
        raise LoggedError(f"{where}: skipped: no record in its config, so it is no run of pdoe")
    begun, ended, diagnostics = (
        _parse_object(where, name, text)
        for name, text in (
            ("record", config["record"]),
            ("record", summary.get("record")),
            ("diagnostics", summary.get("diagnostics")),
        )
    )
    if begun is None:
        raise LoggedError(f"{where}: skipped: the record in its config is empty")
    rows = []
    for item in history:
        row = {
            key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
            for key, value in rename_from_wandb(item).items()
        }
        epoch = row.get("epoch")
        if isinstance(epoch, int | float):  # others are steps, and the end of a run
            # An online run that began anew repeats its epochs in the same history.
            rows = [other for other in rows if other["epoch"] < epoch]
            rows.append(row)
    return _Fragment(where, run_id, started, begun, ended, rows, diagnostics)


def _parse_object(where: str, name: str, text: object) -> dict[str, Any] | None:
    """Parse a JSON object that was logged as text."""
    try:
        value = json.loads(text) if text is not None else None
    except (TypeError, ValueError):
        value = text
    if value is not None and not isinstance(value, dict):
        raise LoggedError(f"{where}: skipped: its {name} is no JSON object: {str(text)[:40]!r}")
    return value


def _join(fragments: list[_Fragment]) -> Logged:
    """Join the starts of one run."""
    fragments = sorted(fragments, key=lambda fragment: fragment.started)
    last = fragments[-1]
    rows: dict[int, dict[str, Any]] = {}
    try:
        for fragment in fragments:
            # A start goes on after the epochs of its record; one that began anew has none.
            begun = fragment.begun.get("epochs") or 0
            rows = {epoch: row for epoch, row in rows.items() if epoch <= begun}
            rows |= {row["epoch"]: row for row in fragment.rows}
        names = dict.fromkeys(name for row in rows.values() for name in row)
        metrics = [{name: rows[e].get(name) for name in names} for e in sorted(rows)]
        record = last.ended or _bring_up_to_date(last.begun, metrics)
    except TypeError as error:
        raise LoggedError(
            f"{last.where}: skipped: its record or rows are damaged: {error}"
        ) from None
    diagnostics = [f.diagnostics for f in fragments if f.diagnostics is not None]
    return Logged(last.where, record, metrics, diagnostics[-1] if diagnostics else None)


def _bring_up_to_date(begun: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Update the record of a run that was killed to the last epoch that it logged."""
    since = [row for row in metrics if row["epoch"] > (begun.get("epochs") or 0)]
    if not since:
        return begun
    errors = [row.get("test_error") for row in metrics]
    known = [error for error in [*errors, begun.get("test_error_best")] if error is not None]
    spent = sum(row.get("seconds") or 0.0 for row in since)
    return {
        **begun,
        "epochs": since[-1]["epoch"],
        "test_error": errors[-1],
        "test_error_best": min(known, default=None),
        "seconds": round((begun.get("seconds") or 0.0) + spent, 1),
    }
