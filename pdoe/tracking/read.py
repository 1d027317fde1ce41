"""Read runs back out of W&B: from its folders, without a server, or from a project.

Both give the same :class:`Logged` for the same run. The format of W&B's log files is private; its
command ``wandb leet inspect --json`` (wandb 0.31 and later) reads them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .service import end_service
from .starts import Fragment, Logged, LoggedError, join_starts, make_fragment

__all__ = ["Logged", "LoggedError", "read_offline", "read_offline_all", "read_project"]

FOLDER = re.compile(r"(offline-)?run-\d{8}_\d{6}-.+")
_TIMEOUT = 10  # seconds, of a question to the server


# ---- Folders ------------------------------------------------------------------------------------


def read_offline(folder: Path) -> Logged:
    """Read one folder of W&B, ``offline-run-*`` or ``run-*``, of a run that ended or was killed.

    Raises:
        LoggedError: no log, a damaged log, a run of another project, or wandb before 0.31.
    """
    return join_starts([_read_folder(Path(folder))])


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
            runs.append(join_starts(ones))
        except LoggedError as error:
            problems.append(str(error))
    return runs, sorted(problems)


def _read_folder(folder: Path) -> Fragment:
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
    return make_fragment(
        str(folder), run["run_id"], run.get("start_time", ""), config, summary, rows
    )


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
                runs.append(
                    join_starts([make_fragment(run.url, run.id, "", run.config, summary, rows)])
                )
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
