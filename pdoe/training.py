"""Training and evaluation: one loop, read from top to bottom."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .checkpoints import Progress, load, save
from .data import DataSet
from .data.batches import epoch_batches, random_quarter_turns, random_rotation, to_input

AUGMENTATIONS = {
    "none": lambda images, generator: images,
    "rotation": random_rotation,
    "quarter_turns": random_quarter_turns,
}


class Diverged(Exception):
    """The loss is not a finite number."""


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first GPU where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is auto, cpu, cuda or cuda:1, not {device!r}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device}: PyTorch finds no GPU here; use device=cpu or auto")
    return chosen


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` is bf16 where the hardware multiplies it, else fp32."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision is auto, bf16 or fp32, not {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"


def learning_rate_at(
    epoch: float, rates: Sequence[tuple[float, float]], schedule: str = "step"
) -> float:
    """The rate at an epoch, counted from 0, of pairs (epoch, rate).

    Schedule "step" keeps a rate until the next pair, "linear" goes straight to it.
    """
    rates = sorted(rates, key=lambda pair: pair[0])  # of two pairs at an epoch the last one begins
    begin, rate = [pair for pair in rates if pair[0] <= epoch][-1]
    ahead = [pair for pair in rates if pair[0] > epoch]
    if schedule == "step" or not ahead:
        return rate
    end, goal = ahead[0]
    return rate + (goal - rate) * (epoch - begin) / (end - begin)


def is_evaluated(epoch: int, epochs: int, every: int, last: float) -> bool:
    """Whether the test error is taken after that many epochs (from 1).

    Every ``every``-th epoch, each one in the last part ``last`` of the run, and the final one.
    """
    return epoch % every == 0 or epoch > epochs * (1 - last) or epoch == epochs


def moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """The exponential average of torch, of numbers that may be averaged.

    Buffers of integers are index tables and counters: they are copied, while torch would average
    and truncate them.
    """
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], count: Any) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
        else:
            torch._foreach_copy_(averaged, current)

    return update


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """L2 on the weights of convolutions and linear layers alone, none on norms and biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def evaluate(
    model: nn.Module, data: DataSet, precision: str = "fp32", count: int | None = None
) -> float:
    """Test error in per cent, over the first ``count`` test images or all of them."""
    model.eval()
    device = data.test_images.device
    images, labels = data.test_images[:count], data.test_labels[:count]
    size = 100 if device.type == "cpu" else 2000  # on a CPU the maps of a batch stay in its cache
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for batch, truth in zip(images.split(size), labels.split(size), strict=True):
        with autocast(device, precision):
            logits = model(to_input(batch, data.mean, data.std))
        wrong += (logits.argmax(1) != truth).sum()
    return 100 * wrong.item() / len(images)


def fit(
    model: nn.Module,
    data: DataSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: Sequence[tuple[float, float]],
    schedule: str = "step",
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    average: float | None = None,
    augment: str = "none",
    evaluate_every: int = 10,
    evaluate_last: float = 0.25,
    train_images: int | None = None,
    test_images: int | None = None,
    seed: int = 0,
    precision: str = "fp32",
    checkpoint: Path | None = None,
    max_seconds: float | None = None,
    log: Callable[[dict[str, Any], Progress], None] = lambda row, progress: None,
) -> Progress:
    """Train with Adam and a schedule of its rate; resume from ``checkpoint`` if it holds a state.

    The model and the data lie on one device. The last partial batch of an epoch is dropped. The
    same seed on the same device, thread count and precision gives bit-identical weights, whether
    or not the run was interrupted; the global random state must be seeded by the caller, who also
    initialised the model from it.

    Args:
        model: images [B, C, H, W] -> logits [B, classes].
        learning_rate, schedule: pairs (epoch counted from 0, rate), and what is between them, see
            :func:`learning_rate_at`.
        weight_decay: L2 term of the gradient, on convolution and linear weights only.
        label_smoothing: of the cross entropy.
        average: decay per step of an exponential moving average of weights and running statistics,
            which is what is tested, and what the model holds when all epochs are done; None for
            none.
        augment: "none", "rotation" (a turn of its own for every image) or "quarter_turns" (a
            multiple of 90 degrees, exact).
        evaluate_every, evaluate_last: see :func:`is_evaluated`.
        train_images, test_images: use only the first so many; None for all.
        checkpoint: folder of the resumable state, written after each epoch; None for none.
        max_seconds: stop after the epoch that would otherwise be the last within this time.
        log: called after each epoch with its row of metrics and the progress.

    Returns:
        The progress; ``epoch < epochs`` if the time ran out.

    Raises:
        Diverged: the mean loss of an epoch is not finite; the checkpoint of the epoch before stays.
        CheckpointMismatch: the state was made with another precision, thread count or device.
    """
    for name, value in {
        "epochs": epochs,
        "batch_size": batch_size,
        "evaluate.every": evaluate_every,
        "train_images": train_images,
        "test_images": test_images,
    }.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is a positive integer, not {value}")
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment is one of {', '.join(AUGMENTATIONS)}, not {augment!r}")
    if not learning_rate or min(first for first, _ in learning_rate) > 0:
        raise ValueError(
            f"learning_rate needs a rate for epoch 0, such as [[0, 0.001]], not {learning_rate}"
        )
    if schedule not in ("step", "linear"):
        raise ValueError(f"schedule is step or linear, not {schedule!r}")
    if not (isinstance(label_smoothing, int | float) and 0 <= label_smoothing < 1):
        raise ValueError(f"label_smoothing is at least 0 and below 1, not {label_smoothing!r}")
    if average is not None and not (isinstance(average, float) and 0 < average < 1):
        raise ValueError(f"average is a decay between 0 and 1, or null, not {average!r}")
    device = data.train_images.device
    images, labels = data.train_images[:train_images], data.train_labels[:train_images]
    if len(images) < batch_size:
        raise ValueError(f"a batch of {batch_size} is larger than the {len(images)} images")
    optimizer = torch.optim.Adam(parameter_groups(model, weight_decay))
    averaged = None
    if average is not None:
        averaged = AveragedModel(model, multi_avg_fn=moving_average(average), use_buffers=True)
    tested = model if averaged is None else averaged.module
    generator = torch.Generator().manual_seed(seed)  # order of the data, augmentation
    conditions = {
        "device": device.type,
        "precision": precision,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "average": average,
    }
    progress = Progress()
    if checkpoint is not None and (checkpoint / "state.pt").exists():
        progress = load(checkpoint / "state.pt", model, averaged, optimizer, generator, conditions)
    turn = AUGMENTATIONS[augment]
    began, first = time.perf_counter(), progress.epoch
    test_count, evaluation_seconds = len(data.test_images[:test_images]), None
    started = began - progress.seconds  # as if there had been no interruption

    interactive = sys.stderr.isatty()
    bar = tqdm(total=epochs, initial=first, unit="epoch", disable=not interactive)
    with bar:
        for epoch in range(first, epochs):
            epoch_started = time.perf_counter()
            model.train()
            total_loss = torch.zeros((), device=device)
            wrong = torch.zeros((), dtype=torch.int64, device=device)
            seen = 0
            steps = len(images) // batch_size
            batches = epoch_batches(len(images), batch_size, generator, device=device)
            for step, batch in enumerate(batches):
                for part in optimizer.param_groups:
                    part["lr"] = learning_rate_at(epoch + step / steps, learning_rate, schedule)
                inputs = to_input(turn(images[batch], generator), data.mean, data.std)
                with autocast(device, precision):
                    logits = model(inputs)
                loss = F.cross_entropy(
                    logits.float(), labels[batch], label_smoothing=label_smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if averaged is not None:
                    averaged.update_parameters(model)
                total_loss += loss.detach() * len(batch)
                wrong += (logits.detach().argmax(1) != labels[batch]).sum()
                seen += len(batch)
            train_loss = total_loss.item() / seen
            if not math.isfinite(train_loss):
                raise Diverged(f"the loss is {train_loss} in epoch {epoch + 1} of {epochs}")
            progress.epoch = epoch + 1
            training_seconds = time.perf_counter() - epoch_started
            progress.training_seconds += training_seconds

            test_error = None
            if is_evaluated(epoch + 1, epochs, evaluate_every, evaluate_last):
                evaluation_started = time.perf_counter()
                test_error = evaluate(tested, data, precision, test_images)
                evaluation_seconds = time.perf_counter() - evaluation_started
                best = progress.test_error_best
                progress.test_error_best = test_error if best is None else min(best, test_error)
            progress.test_error = test_error
            progress.seconds = time.perf_counter() - started
            row = {
                "epoch": epoch + 1,
                "learning_rate": learning_rate_at(epoch, learning_rate, schedule),
                "train_loss": train_loss,
                "train_error": 100 * wrong.item() / seen,
                "test_error": test_error,
                "seconds": round(time.perf_counter() - epoch_started, 3),
            }
            # In this order: an epoch logged but not saved is repeated, and none is ever missing.
            log(row, progress)
            if checkpoint is not None:
                path = checkpoint / "state.pt"
                save(path, model, averaged, optimizer, generator, conditions, progress)
            _report(bar, row, epochs, interactive)
            ahead = [
                training_seconds
                + is_evaluated(e, epochs, evaluate_every, evaluate_last)
                # Until it is measured: the forward pass is a third of a training step.
                * (evaluation_seconds or training_seconds * test_count / len(images) / 3)
                for e in range(epoch + 2, epochs + 1)
            ]
            if epoch == first and ahead:
                _announce(sum(ahead), row["seconds"])
            spent = time.perf_counter() - began
            if max_seconds is not None and ahead and spent + ahead[0] > max_seconds:
                break
    if averaged is not None and progress.epoch == epochs:
        model.load_state_dict(tested.state_dict())
    return progress


def _report(bar: tqdm, row: Mapping[str, Any], epochs: int, interactive: bool) -> None:
    test = "" if row["test_error"] is None else f", test error {row['test_error']:.2f} %"
    line = f"loss {row['train_loss']:.4f}, train error {row['train_error']:.2f} %{test}"
    if interactive:
        bar.set_postfix_str(line, refresh=False)
        bar.update()
    else:
        print(f"epoch {row['epoch']}/{epochs}: {line}, {row['seconds']:.1f} s", flush=True)


def _announce(left: float, epoch: float) -> None:
    """When it will be over, after the first epoch."""
    minutes = round(left / 60)
    duration = f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
    over = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
    tqdm.write(f"{epoch:.1f} s for the first epoch, about {duration} left: over at {over}")
