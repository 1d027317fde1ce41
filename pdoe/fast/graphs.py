"""CUDA graphs: a training step on a GPU that does not wait for the host."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def replay_as_graphs(model: nn.Module, x: Tensor, precision: str) -> bool:
    """Record the passes of a model in training as CUDA graphs, which later calls replay.

    The forward and the backward pass become one call of the host each. Recording trains nothing:
    running statistics and random states stay as they are. Evaluation runs as before. A copy of the
    model would replay the original: call :func:`release_graphs` before copying.

    Args:
        model: a model on a GPU.
        x: a batch of the shape and dtype to train with.
        precision: "bf16" for autocast to bfloat16, "fp32" for none.

    Returns:
        Whether the model replays. A model that waits for the host fits no graph; it stays as it
        is, and the reason is printed.
    """
    release_graphs(model)
    model.train()
    generator = torch.cuda.default_generators[x.device.index or 0]
    state, original = generator.get_state(), generator.clone_state()
    statistics = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        # Without the cache of casts, which would outlive the recording.
        half = torch.autocast("cuda", torch.bfloat16, precision == "bf16", cache_enabled=False)
        with torch.cuda.device(x.device), half:
            torch.cuda.make_graphed_callables(model, (x,))
    except (RuntimeError, AssertionError) as error:  # the latter for a model with hooks
        print(f"CUDA graph: no ({(str(error).splitlines() or ['unknown'])[0]})", flush=True)
        generator.graphsafe_set_state(original)  # the failed recording still holds the other one
        return False
    else:
        generator.set_state(state)
        return True
    finally:
        with torch.no_grad():
            for buffer, before in statistics.items():
                buffer.copy_(before)


def release_graphs(model: nn.Module) -> None:
    """Let a replaying model run operation by operation again, and free its graphs."""
    model.__dict__.pop("forward", None)
