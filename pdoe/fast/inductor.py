"""Where ``torch.compile`` keeps generated code."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import torch


def set_inductor_cache(folder: str | Path | None = None) -> Path:
    """Give generated code a folder for this CPU's capability, and return the folder.

    Inductor's cache does not tell CPU capabilities apart (``ATEN_CPU_CAPABILITY``), so code that
    was generated for one is loaded under another and may be wrong there. Sets
    ``TORCHINDUCTOR_CACHE_DIR``; to be called before the first compilation of the process.

    Args:
        folder: the parent folder; None: ``TORCHINDUCTOR_CACHE_DIR`` if it is set, else a folder of
            the user in the system's temporary one.
    """
    if folder is None:
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if folder is None:
        folder = Path(tempfile.gettempdir(), f"torchinductor_{_user()}")
    capability = torch.backends.cpu.get_cpu_capability().lower()
    path = Path(folder)
    if path.name != capability:
        path = path / capability
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path)
    return path


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in containers
        return str(os.getuid())
