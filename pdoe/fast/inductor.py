"""Where ``torch.compile`` stores generated code."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import torch

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def set_inductor_cache() -> Path:
    """Store generated code in a folder for this CPU's capability, and return the folder.

    Inductor loads code that was generated under another ``ATEN_CPU_CAPABILITY`` from its cache; the
    code then fails to compile, or returns NaN. Call this before the first compilation of a process.
    The folder lies in the one that ``TORCHINDUCTOR_CACHE_DIR`` names or else in torch's default;
    the function sets that variable.
    """
    default = Path(tempfile.gettempdir(), f"torchinductor_{_user()}")
    folder = Path(os.environ.get(VARIABLE, default))
    capability = torch.backends.cpu.get_cpu_capability().lower()
    if folder.name != capability:
        folder = folder / capability
    os.environ[VARIABLE] = str(folder)
    return folder


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in containers
        return str(os.getuid())
