"""What torch is doing around a layer: capturing, transforming, casting."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def is_captured() -> bool:
    """Whether the program is captured by ``torch.compile``, ``torch.export`` or ``torch.jit``."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_compiled() -> bool:
    """Whether ``torch.compile`` captures the program, for this machine alone."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # PyTorch 2.7 and later
    if is_exporting is None or not torch.compiler.is_dynamo_compiling():
        return False
    return not is_exporting()


def is_transformed() -> bool:
    """Whether ``torch.func`` transforms the program."""
    return torch._C._are_functorch_transforms_active()


def uses_torch_alone(x: Tensor) -> bool:
    """Whether ``x`` goes through torch's own operations: off the CPU, and in captured programs."""
    return x.device.type != "cpu" or is_captured()


def constant_when_compiled(function: Callable) -> Callable:
    """Let ``torch.compile`` call a function once and keep its answer, which never changes.

    ``torch.compiler.assume_constant_result`` sets the same mark, and imports the compiler.
    """
    function._dynamo_marked_constant = True
    return function


def full_precision(weight: Tensor) -> AbstractContextManager:
    """Switch autocast off on the device of ``weight``; the meta device has no autocast.

    PyTorch up to 2.11 cannot compile the question which devices have autocast.
    """
    kind = weight.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
