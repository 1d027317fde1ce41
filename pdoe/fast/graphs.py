"""A training step on a GPU that does not wait for the host."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .norm import BatchNorm  # noqa: F401 - under which name it was known


def replayed(model: nn.Module, x: Tensor, precision: str) -> bool:
    """Make the model, in training, replay what it does with a batch like ``x`` as CUDA graphs.

    Its forward and its backward pass become one call of the host each. Nothing is trained: running
    statistics and random states stay as they are. Other modes run as before. A copy of the model
    would replay the model itself: :func:`released` undoes it.

    Returns:
        Whether it does: a model that waits for the host in between fits no graph, and is left
        alone.
    """
    released(model)
    model.train()
    generator = torch.cuda.default_generators[x.device.index or 0]
    random, whole = generator.get_state(), generator.clone_state()
    statistics = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        # Autocast would keep casts of weights for the whole of its block, beyond the recording.
        half = torch.autocast("cuda", torch.bfloat16, precision == "bf16", cache_enabled=False)
        with torch.cuda.device(x.device), half:
            torch.cuda.make_graphed_callables(model, (x,))
    except (RuntimeError, AssertionError) as error:  # the latter for a model with hooks
        print(f"CUDA graph: no ({(str(error).splitlines() or ['unknown'])[0]})", flush=True)
        generator.graphsafe_set_state(whole)  # the other one takes itself to be recorded still
        return False
    else:
        generator.set_state(random)
        return True
    finally:
        with torch.no_grad():
            for buffer, kept in statistics.items():
                buffer.copy_(kept)


def released(model: nn.Module) -> None:
    """Let a model that replays run operation by operation again, and let go of the graphs."""
    model.__dict__.pop("forward", None)
