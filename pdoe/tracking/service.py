"""The end of W&B's service process, which may wait for a server without a limit."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

PATIENCE = 4.0  # seconds that the service has to end by itself


def end_service() -> None:
    """Let W&B's service of this process end, and end it where it does not.

    ``wandb.teardown`` waits for the service, which may be busy with a server that does not answer,
    for as long as that takes, and exits the process where its service was killed.
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


def services() -> list[int]:
    """The service processes that this one has started; only Linux tells."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = status.with_name("cmdline").read_bytes()
            if parent == os.getpid() and b"wandb-core" in command:
                found.append(int(status.parent.name))
    return found
