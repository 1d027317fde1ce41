"""What torch does, in less time on a GPU: batch norm of few channels, a training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` of lifted maps [B, C, G, H, W], its sums taken by many more processors.

    In training on a GPU torch gives a channel to one block of threads, so that the few fields of an
    equivariant layer leave most of the card idle. Here every orientation of a field has a block,
    and the statistics are put together as ``nn.SyncBatchNorm`` does with those of several cards:
    the same numbers up to rounding, without forward-mode derivatives. Elsewhere it is
    ``nn.BatchNorm3d``.

    Measured on an NVIDIA H200: ``experiments/benchmarks``.

    >>> BatchNorm(7)(torch.randn(2, 7, 8, 5, 5)).shape
    torch.Size([2, 7, 8, 5, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._by_orientation(x):
            return super().forward(x)
        self._check_input_dim(x)
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var, self.momentum, self.eps
        return _ByOrientation.apply(x, self.weight, self.bias, *statistics)[0]

    def _by_orientation(self, x: Tensor) -> bool:
        return (
            x.is_cuda
            and self.training
            and self.affine
            and self.bias is not None
            and self.track_running_stats
            and self.momentum is not None
            and x.ndim == 5
            and x.shape[1] == self.num_features
            and x.shape[2] > 1  # else there is nothing to part
            and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
            and self.weight.dtype == torch.float32
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
        )


class _ByOrientation(torch.autograd.Function):
    """Batch norm in training, its sums by channel and orientation first."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        channels, order = x.shape[1:3]
        parts = torch.batch_norm_stats(x.flatten(1, 2), eps)
        mean, invstd = (part.view(channels, order).t().contiguous() for part in parts)
        count = torch.full_like(mean[:, 0], x.numel() // (channels * order))
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            x, mean, invstd, running_mean, running_var, momentum, eps, count
        )
        return torch.batch_norm_elemt(x, weight, bias, mean, invstd, eps), mean, invstd

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, _, _, _, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: None):
        x, weight, mean, invstd = ctx.saved_tensors
        x, gradient = x.contiguous(), gradient.contiguous()
        if torch.is_grad_enabled():  # to be differentiated again
            wanted = [True, True, True]
            gradients = torch.ops.aten.native_batch_norm_backward(
                gradient, x, weight, None, None, mean, invstd, True, ctx.eps, wanted
            )
            return *gradients, None, None, None, None
        channels, order = x.shape[1:3]
        each = (part.repeat_interleave(order) for part in (mean, invstd, weight))
        sums = torch.batch_norm_backward_reduce(
            gradient.flatten(1, 2), x.flatten(1, 2), *each, True, True, True
        )
        of_gradient, of_product, of_weight, of_bias = (s.view(channels, order).sum(1) for s in sums)
        of_x = None
        if ctx.needs_input_grad[0]:
            count = torch.full((1,), x.numel() // channels, dtype=torch.int32, device=x.device)
            of_x = torch.batch_norm_backward_elemt(
                gradient, x, mean, invstd, weight, of_gradient, of_product, count
            )
        return of_x, of_weight, of_bias, None, None, None, None


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
