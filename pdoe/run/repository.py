"""Which code runs: the commit of a checkout, and a digest of what differs from it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

# Changes below results/ do not count: they are what runs produce.
CODE = ("--", ":/", ":(top,exclude)results")
# A difference that does not depend on the user's settings of git.
PLAIN = (
    *("--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--diff-algorithm=myers"),
)


def repository_state(folder: str | Path) -> tuple[str, bool]:
    """The commit of the code in ``folder``, and whether the code differs from it.

    Where git is missing or refuses the checkout, the commit is "unknown", the code counts as
    different, and one line on stderr gives the reason, once for a process.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD").decode().strip()
        return commit, bool(_git(folder, "status", "--porcelain", *CODE).strip())
    except (OSError, subprocess.CalledProcessError) as error:
        _report_once(_explain(error))
        return "unknown", True


def hash_difference(folder: str | Path) -> str | None:
    """SHA-256 of what differs from the commit of the code in ``folder``; None without git.

    The digest covers git's binary difference, and names and contents of new files.
    """
    try:
        root = Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel").rstrip(b"\n")))
        sha = hashlib.sha256(_git(folder, "diff", *PLAIN, "HEAD", *CODE))
        listed = ("ls-files", "--others", "--exclude-standard", "--full-name", "-z")
        for name in sorted(filter(None, _git(folder, *listed, *CODE).split(b"\0"))):
            path = root / os.fsdecode(name)
            sha.update(name + b"\0" + (path.read_bytes() if path.is_file() else b""))
    except (OSError, subprocess.CalledProcessError):
        return None
    return sha.hexdigest()


def _git(folder: str | Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


def _explain(error: OSError | subprocess.CalledProcessError) -> str:
    """Why git does not name the commit, in one line."""
    if isinstance(error, OSError):
        return f"git cannot be run ({error.strerror or error})"
    lines = error.stderr.decode(errors="replace").splitlines() or [f"code {error.returncode}"]
    reason = lines[0].removeprefix("fatal: ")
    if "dubious ownership" in reason:
        reason += "; `git config --global --add safe.directory FOLDER` allows it"
    return reason


@cache
def _report_once(reason: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"the commit is recorded as unknown: {reason}", file=sys.stderr, flush=True)
