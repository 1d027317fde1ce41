"""Several processes that train one model: started by ``torchrun``, joined by gloo or nccl.

Every process (rank) sees the same batches in the same order and works on its own share of each.
Without ``torchrun`` there is one rank, and nothing here communicates.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: ``rank`` of ``count``."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This rank's part of a batch; the parts of all ranks are disjoint and cover the batch."""
        return batch[self.rank :: self.count]

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.count > 1:
            dist.all_reduce(numbers)
        return numbers

    def largest(self, number: int, device: torch.device) -> int:
        """The largest of the ranks' numbers, on each of them."""
        if self.count == 1:
            return number
        largest = torch.tensor(number, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def by_first(self, action: Callable[[], Any]) -> Any:
        """Do an action on the first rank alone; return, or raise, its result on every rank."""
        if self.count == 1:
            return action()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = action()
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def first_before_others(self, action: Callable[[], Any]) -> Any:
        """Do an action on every rank, the first one before the others, whose output is hidden."""
        held: list[Any] = []
        self.by_first(lambda: held.append(action()))
        if not held:
            with redirect_stdout(None):
                held.append(action())
        return held[0]

    def of_all(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over the ranks.

        Running statistics are those of the first rank; constants are the same on all and stay.
        """
        if self.count == 1:
            return model
        saved = model.state_dict()
        constants = [name for name, _ in model.named_buffers() if name not in saved]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, constants)
        # With this argument gradients stay in the buckets that they have first. Else they are
        # sorted anew after a step, and sums of three ranks and more are rounded in another order:
        # a run that goes on would differ from one that was not interrupted.
        # PyTorch logs a warning about it, which train.py switches off.
        # Strides of an axis of length 1 differ between gradient and bucket. They have no effect.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(model, find_unused_parameters=True)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the first one's running statistics, as the next forward pass would."""
        if self.count > 1:
            saved = model.state_dict()
            for name, buffer in model.named_buffers():
                if name in saved:
                    dist.broadcast(buffer, 0)


def join(device: torch.device) -> tuple[Ranks, torch.device]:
    """This process among those that ``torchrun`` started, and the device that it uses.

    Waits for the others. ``cuda`` becomes the GPU of this rank.

    Raises:
        ValueError: there are fewer GPUs than ranks on this machine.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if device.type == "cuda":
        index = device.index or 0 if count == 1 else int(os.environ["LOCAL_RANK"])
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"{torch.cuda.device_count()} GPUs are here, which is too few for GPU {index} "
                "(counted from 0) of a rank of its own"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)  # whose random state is saved
    if count == 1:
        return Ranks(), device
    if not dist.is_initialized():
        # Its functions keep the group that there is when they are defined, as their default, and
        # DistributedDataParallel imports it: the group, and its threads, would outlive `leave`.
        from torch.distributed.nn import functional  # noqa: F401

        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), count), device


def leave() -> None:
    """End the communication with the other processes, and wait for its threads.

    A thread that still holds a tensor when the interpreter is gone would abort the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def synchronise_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """The model whose batch norm sees the images of all ranks.

    Raises:
        ValueError: PyTorch has none for this device, or not for one of the model's norms.
    """
    if device.type != "cuda":
        raise ValueError("recipe.sync_bn: PyTorch synchronises batch norm on GPUs alone")
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if left := find_local_norms(model):
        raise ValueError(f"recipe.sync_bn: {left[0]} is a norm of its own; leave it on false")
    return model


def find_local_norms(model: nn.Module) -> list[str]:
    """The kinds of modules with running statistics, which see the images of one rank alone."""
    kinds = {
        type(module).__name__
        for module in model.modules()
        if not isinstance(module, nn.SyncBatchNorm)
        and any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False))
    }
    return sorted(kinds)


def describe_ranks(model: nn.Module, ranks: Ranks, batch_size: int) -> str:
    """Describe in a line how several ranks share a batch, for the log and the record."""
    own = batch_size // ranks.count
    seen = f"; batch norm sees the {own} images of a rank" if find_local_norms(model) else ""
    return f"{ranks.count} ranks of {own} images{seen}; learning rate and batch as for one rank"
