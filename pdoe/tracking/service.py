"""W&B's service process: wait until a log is written, and end the process at last.

``wandb`` sends what it logs to a process of its own, ``wandb-core``, which writes the log file.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PATIENCE = 4.0  # seconds that the service has to end by itself
WRITING = 60.0  # seconds to wait for a log, on a machine that is busy with other work
_QUIET = 1.0  # seconds without growth after which a log counts as written, where nothing tells


def wait_for_log(log: Path) -> bool:
    """Wait until W&B's service has written and closed a log file; False after ``WRITING`` seconds.

    ``Run.finish`` tells the service to close the log and does not wait for that (it *publishes*
    ``inform_finish``). Until then most of a short log is in the memory of the service: of 12,206
    bytes 7 were on the disk. Linux tells which files a process has open; elsewhere the log must
    have stopped growing.
    """
    deadline = time.monotonic() + WRITING
    size, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        if Path("/proc/self/fd").exists():
            if not any(log in open_files(pid) for pid in services(everybody=True)):
                return True
        elif (now := log.stat().st_size if log.exists() else 0) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > _QUIET:
            return True
        time.sleep(0.01)
    return False


def end_service() -> None:
    """Let W&B's service of this process end, and kill it if it does not.

    ``wandb.teardown`` waits without a limit for a service that is busy with a server that does not
    answer. If the service was killed, ``wandb.teardown`` exits the process.
    """
    import wandb

    def ask() -> None:
        with suppress(BaseException):
            wandb.teardown()

    asked = threading.Thread(target=ask, daemon=True)
    asked.start()
    asked.join(PATIENCE)
    if asked.is_alive():
        for pid in services():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        asked.join(PATIENCE)


def services(everybody: bool = False) -> list[int]:
    """List the service processes that this process started, or ``everybody``'s; Linux only."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            command = status.with_name("cmdline").read_bytes()
            parent = int(status.read_bytes().rpartition(b")")[2].split()[1])
            if b"wandb-core" in command and (everybody or parent == os.getpid()):
                found.append(int(status.parent.name))
    return found


def open_files(pid: int) -> Iterator[Path]:
    """Yield the files that a process has open, as far as this user may see them; Linux only."""
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield Path(os.readlink(entry.path))
