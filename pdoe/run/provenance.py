"""What a run was made with: code, packages, machine and settings, for each part of it.

A run may be resumed elsewhere, so its manifest has a list of environments, each named once, and a
list of parts, each with the number of its environment, its times, epochs and peak memory.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .hardware import device_name
from .repository import hash_difference, repository_state


def describe_environment(
    device: torch.device, code: str | Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """This process and its machine.

    Args:
        device: the device of the computation.
        code: a folder in the repository that runs.
        settings: name -> value: precision, threads, ranks, flags of determinism, ...
    """
    gpu = device.type == "cuda"
    commit, dirty = repository_state(code)
    packages = {p.metadata["Name"]: p.version for p in metadata.distributions() if p.metadata}
    memory = torch.cuda.get_device_properties(device).total_memory if gpu else None
    return {
        "commit": commit,
        "dirty": dirty,
        "diff_sha256": hash_difference(code) if dirty else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": dict(sorted(packages.items(), key=lambda pair: str(pair[0]).lower())),
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "driver": _read_driver() if gpu else None,
        "device_memory_bytes": memory,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "instruction_set": instruction_set(),
        "settings": dict(settings),
    }


def instruction_set() -> dict[str, str | None]:
    """Which CPU instructions the libraries use here: they decide how sums are rounded.

    ``cpu_capability`` is that of PyTorch's own kernels. ``onednn_isa`` and ``mkl_limit`` are the
    limits that the user set by ``ONEDNN_MAX_CPU_ISA`` and ``MKL_ENABLE_INSTRUCTIONS``; without one,
    oneDNN uses all that the CPU has. ``blas_kernel`` is the core that NumPy's OpenBLAS computes
    filter banks for.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn_isa": limit.upper() if limit else _find_widest_instructions(),
        "mkl_limit": os.environ.get("MKL_ENABLE_INSTRUCTIONS"),
        "blas_kernel": _find_openblas_core(),
    }


def label_device(device: torch.device) -> str:
    """The name of a device; a CPU with its instructions, such as "CPU AMD EPYC (AVX512)"."""
    name = device_name(device)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else name


def _find_widest_instructions() -> str | None:
    """The widest of the CPU's instructions for matrix products; None where PyTorch knows none."""
    for name, has in {
        "AVX512_CORE_AMX": "_is_amx_tile_supported",
        "AVX512_CORE_BF16": "_is_avx512_bf16_supported",
        "AVX512_CORE_VNNI": "_is_vnni_supported",
        "AVX512_CORE": "_is_avx512_supported",
        "AVX2": "_is_avx2_supported",
    }.items():
        if getattr(torch.cpu, has, bool)():
            return name
    return None


@cache
def _find_openblas_core() -> str | None:
    """The core whose kernels NumPy's OpenBLAS uses, such as "Haswell"; None for another BLAS."""
    for library in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        with suppress(OSError, AttributeError):
            core = ctypes.CDLL(str(library)).scipy_openblas_get_corename64_
            core.restype = ctypes.c_char_p
            return core().decode()
    return None


def extend_manifest(
    before: Mapping[str, Any] | None,
    here: Mapping[str, Any],
    configuration: Mapping[str, Any],
    started: str,
    epochs: int,
) -> dict[str, Any]:
    """The manifest of a run with one more part, which begins after ``epochs`` epochs.

    Args:
        before: the manifest so far; None for a run that begins, or began before there was one.
        here: see :func:`describe_environment`.
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


def update_last_part(manifest: Mapping[str, Any], ended: str, epochs: int) -> None:
    """Write into the last part how far it is now."""
    part = manifest["parts"][-1]
    part.update(
        ended=ended, epochs=[part["epochs"][0], epochs], peak_memory_bytes=measure_peak_memory()
    )


def reset_peak_memory() -> None:
    """Count from now on: a process may carry out several runs."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measure_peak_memory() -> int:
    """The largest memory in use, in bytes: of the GPU if one is used, else of the process.

    Counted from :func:`reset_peak_memory` where the system can, else from the process's start.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, AttributeError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.M)[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _read_driver() -> str | None:
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        return None
