"""What a run was made with: code, packages, machine and settings, for each part of it.

A run may go on elsewhere, so its manifest has a list of environments, each named once, and a list
of parts, each with the number of its environment, its times, epochs and peak memory.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .record import repository_state

# A difference that does not depend on settings of the user's.
PLAIN = (
    *("--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--diff-algorithm=myers"),
)


def environment(
    device: torch.device, code: str | Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """This process and its machine.

    Args:
        device: what is computed on.
        code: a folder in the repository that runs.
        settings: how: precision, threads, ranks, flags of determinism, ...
    """
    gpu = device.type == "cuda"
    commit, dirty = repository_state(code)
    packages = {p.metadata["Name"]: p.version for p in metadata.distributions() if p.metadata}
    memory = torch.cuda.get_device_properties(device).total_memory if gpu else None
    return {
        "commit": commit,
        "dirty": dirty,
        "diff_sha256": difference(code) if dirty else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": dict(sorted(packages.items(), key=lambda pair: str(pair[0]).lower())),
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "driver": _driver() if gpu else None,
        "device_memory_bytes": memory,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "settings": dict(settings),
    }


def difference(folder: str | Path) -> str | None:
    """SHA-256 of what differs from the commit of the code in ``folder``; None without git.

    Of git's binary difference, and of names and contents of new files; what lies below ``results/``
    does not count.
    """

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=True
        ).stdout

    tree = ("--", ":/", ":(top,exclude)results")
    try:
        root = Path(os.fsdecode(git("rev-parse", "--show-toplevel").rstrip(b"\n")))
        sha = hashlib.sha256(git("diff", *PLAIN, "HEAD", *tree))
        new = git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", *tree)
        for name in sorted(filter(None, new.split(b"\0"))):
            path = root / os.fsdecode(name)
            sha.update(name + b"\0" + (path.read_bytes() if path.is_file() else b""))
    except (OSError, subprocess.CalledProcessError):
        return None
    return sha.hexdigest()


def continued(
    before: Mapping[str, Any] | None,
    here: Mapping[str, Any],
    configuration: Mapping[str, Any],
    started: str,
    epochs: int,
) -> dict[str, Any]:
    """The manifest of a run with one more part, which begins after that many epochs.

    Args:
        before: the manifest so far; None for a run that begins, or began before there was one.
        here: see :func:`environment`.
        configuration: the resolved one.
        started: time, ISO 8601.
    """
    known = before or {}
    environments = list(known.get("environments", ()))
    if here not in environments:
        environments.append(dict(here))
    part = {
        "environment": environments.index(here),
        "started": started,
        "ended": started,
        "epochs": [epochs, epochs],
        "peak_memory_bytes": None,
    }
    return {
        "configuration": dict(configuration),
        "environments": environments,
        "parts": [*known.get("parts", ()), part],
    }


def note_progress(manifest: Mapping[str, Any], ended: str, epochs: int) -> None:
    """How far the last part is now."""
    part = manifest["parts"][-1]
    part.update(ended=ended, epochs=[part["epochs"][0], epochs], peak_memory_bytes=peak_memory())


def reset_peak_memory() -> None:
    """Count from now on: a process may carry out several runs."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The most memory that was in use, in bytes: of the GPU if one is used, else of the process.

    Where a process cannot tell what it used since :func:`reset_peak_memory`, since it began.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, AttributeError):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.M)[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _driver() -> str | None:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None
