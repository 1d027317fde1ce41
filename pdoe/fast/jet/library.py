"""The C++ code of the jet form: built at first use, kept in a cache folder, called by ctypes.

No import builds anything. Where there is no compiler, or the build fails, one line is logged and
the layers stay dense. ``PDOE_JET=0`` in the environment asks for that.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("jet.cpp")
FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
_log = logging.getLogger(__name__)

_INTEGERS = (
    "order", "radius", "blocks", "slots", "batch", "inputs", "outputs", "source_height",
    "source_width", "source_origin", "source_step", "height", "width", "origin", "step",
    "numbers", "cache", "central",
)  # fmt: skip
_POINTERS = (
    "block_table", "slot_table", "transform", "taps", "mixing", "source", "weights", "bias",
    "result", "target", "gradient",
)  # fmt: skip


class JetCall(ctypes.Structure):
    """The arguments of ``jet_run``, see ``jet.cpp``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


def choose_vector_flags() -> list[str]:
    """Compiler flags for the vectors that torch uses, which ATEN_CPU_CAPABILITY may limit."""
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    if capability == "AVX512":
        flags = ["-march=x86-64-v4"]
        flags += ["-mavx512bf16"] if has_bf16_products() else []
        return [*flags, "-mamx-tile", "-mamx-bf16"] if has_amx_products() else flags
    return ["-march=x86-64-v3"] if capability == "AVX2" else []


def has_bf16_products() -> bool:
    """Whether the CPU multiplies numbers of 16 bits, and torch is not kept from using it."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.cpu._is_avx512_bf16_supported()
    )


@cache
def has_amx_products() -> bool:
    """Whether the CPU multiplies tiles of numbers of 16 bits, and neither torch nor oneDNN is kept
    from using it; asks the system for the permission that this needs."""
    return has_bf16_products() and convolves_by_amx() and torch.cpu._init_amx()


@cache
def convolves_by_amx() -> bool:
    """Whether oneDNN, which computes the dense convolution, may use AMX for bfloat16."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    allowed = limit.upper() in ("ALL", "DEFAULT") or "AMX" in limit.upper()
    return allowed and torch.cpu._is_amx_tile_supported()


def name_cache_folder() -> Path:
    """Where the build for this source, torch and CPU lies."""
    flags = FLAGS + choose_vector_flags()
    key = "\n".join([SOURCE.read_text(encoding="utf-8"), torch.__version__, *flags])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "pdoe" / f"jet-{name}"


@cache
def load() -> ctypes.CDLL | None:
    """The library, built if it has to be; None where it cannot be built."""
    if os.environ.get("PDOE_JET") == "0":
        return None
    try:
        path = name_cache_folder() / "jet.so"
        if not path.exists():
            _build(path)
        library = ctypes.CDLL(str(path))
        library.jet_run.argtypes = [ctypes.POINTER(JetCall)]
        return library
    except Exception as error:  # whatever a compiler, a linker or a file system has to say
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _log.warning("the jet form could not be built, layers stay dense: %s", reason)
        return None


def _build(path: Path) -> None:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a GPU
    from torch.utils import cpp_extension

    _log.info("building the jet form, once: about 10 s")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own for every build: two processes do not wait for each other, and what an
    # interrupted one leaves behind holds up nobody.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = cpp_extension.load(
            "pdoe_jet",
            [str(SOURCE)],
            extra_cflags=FLAGS + choose_vector_flags(),
            extra_ldflags=["-fopenmp"],
            build_directory=folder,
            is_python_module=False,
        )
        os.replace(built, path)
