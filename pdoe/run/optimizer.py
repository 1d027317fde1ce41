"""Update the weights: optimisers, L1 and L2 on the weights, the moving average of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "sgd": partial(SGD, momentum=0.9, nesterov=True),
    "momentum": partial(SGD, momentum=0.9),
    "adadelta": partial(Adadelta, rho=0.9, eps=1e-6),
}


def make_optimizer(name: str, model: nn.Module, weight_decay: float) -> Optimizer:
    """Make one of ``OPTIMIZERS``, with L2 in the gradient; its rate is set at every step.

    "adam"; SGD with Nesterov momentum 0.9 ("sgd") or plain momentum 0.9 ("momentum"); "adadelta"
    with decay 0.9, whose rate is a factor (1 in its paper).
    """
    groups = group_parameters(model, weight_decay)
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    # A fused optimiser updates all parameters in one call; Adadelta has no such kernel.
    fused = {"fused": True} if on_gpu and name != "adadelta" else {}
    return OPTIMIZERS[name](groups, lr=0.0, **fused)


def group_parameters(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups with L2 on convolution and linear weights only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def add_l1(optimizer: Optimizer, strength: float) -> None:
    """Add the gradient of ``strength`` times the sum of |w|, over the weights that have L2."""
    for weight in optimizer.param_groups[0]["params"]:
        if weight.grad is not None:
            weight.grad.add_(weight.detach().sign(), alpha=strength)


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Begin an exponential moving average of weights and running statistics."""
    average = make_moving_average(decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def make_moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """Return torch's exponential moving average for floating-point tensors.

    Integer buffers are index tables and counters. They are copied: torch would average and truncate
    them.
    """
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], count: Any) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
        else:
            torch._foreach_copy_(averaged, current)

    return update
