"""Training and evaluation: one loop, read from top to bottom."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from .checkpoints import Position, Progress, load, save
from .data import DataSet
from .data.batches import epoch_batches, to_input
from .distributed import Ranks
from .evaluation import autocast, confusion_matrix, error_of, evaluate, number_type
from .gpu import released, replayed
from .recipes import (
    add_l1,
    augmentation,
    check,
    is_evaluated,
    learning_rate_at,
    make_optimizer,
    moving_average,
)

__all__ = ["Diverged", "Stop", "evaluate", "fit"]

CHECKPOINT_SECONDS = 300.0  # between checkpoints within an epoch


class Diverged(Exception):
    """The loss is not a finite number."""


class Stop:
    """A request to stop after the step at hand, as from a signal.

    ``listening`` is true while a training loop will obey it.
    """

    def __init__(self) -> None:
        self.requested = self.listening = False


def fit(
    model: nn.Module,
    data: DataSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: Sequence[tuple[float, float]],
    optimizer: str = "adam",
    schedule: str = "step",
    weight_decay: float = 0.0,
    l1: float = 0.0,
    label_smoothing: float = 0.0,
    average: float | None = None,
    augment: str = "none",
    evaluate_every: int = 10,
    evaluate_last: float = 0.25,
    evaluate_select: str = "last",
    evaluate_tta_angles: Sequence[float] = (),
    train_images: int | None = None,
    test_images: int | None = None,
    seed: int = 0,
    precision: str = "fp32",
    cuda_graph: bool = False,
    checkpoint: Path | None = None,
    conditions: Mapping[str, Any] | None = None,
    any_conditions: bool = False,
    max_seconds: float | None = None,
    stop: Stop | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008
    log: Callable[[dict[str, Any], Progress], None] = lambda row, progress: None,
) -> Progress:
    """Train with a schedule of the rate; resume from ``checkpoint`` if it holds a state.

    The model and the data lie on one device. The last partial batch of an epoch is dropped. The
    same seed on the same device, thread count, precision and number of ranks gives bit-identical
    weights, whether or not the run was interrupted, at whatever step; the global random state must
    be seeded by the caller, who also initialised the model from it. Several ranks share every
    batch: they compute what one would, up to rounding, if no batch norm and no dropout is there,
    which see a rank's own images alone.

    Args:
        model: images [B, C, H, W] -> logits [B, classes].
        batch_size: images of a step, of all ranks together.
        learning_rate, schedule: pairs (epoch counted from 0, rate), and what is between them, see
            :func:`learning_rate_at`.
        optimizer: see :func:`make_optimizer`.
        weight_decay: L2 term of the gradient, on convolution and linear weights only.
        l1: the same with L1: the sum of their magnitudes times this is added to the loss.
        label_smoothing: of the cross entropy.
        average: decay per step of an exponential moving average of weights and running statistics,
            which is what is tested, and what the model holds when all epochs are done; None for
            none.
        augment: "none", "rotation" (a turn of its own for every image, bilinear; with
            "rotation_nearest" by nearest neighbours), "quarter_turns" (a multiple of 90 degrees,
            exact), "crop_flip" (a shift by up to 4 pixels and a reflection) or "shift_flip" (by up
            to 2 pixels, interpolated).
        evaluate_every, evaluate_last: see :func:`is_evaluated`.
        evaluate_select: the epoch whose weights count, and are in the model in the end: the "last",
            or the first one with the least error on ``data.validation``, on the test set
            ("test_best", which makes the test error too low) or in training ("train_best"). With
            "validation" the test set is seen once, after the last epoch. Both choose among the
            epochs that are evaluated.
        evaluate_tta_angles: test on images turned by these angles, see :func:`confusion_matrix`.
        train_images, test_images: use only the first so many; None for all.
        precision: "fp32", "bf16" (autocast) or "fp64" (of a model in float64).
        cuda_graph: replay the passes of a step, see :func:`pdoe.gpu.replayed`; one rank alone. It
            costs a step or two of time and the memory of one.
        checkpoint: folder of the resumable state, written after each epoch and every five minutes;
            None for none.
        conditions: what else must be as it was to go on, name -> value.
        any_conditions: go on under other conditions, too, if not bit for bit.
        max_seconds: stop when the next step, or evaluation, would end after this time; one is done
            in any case.
        stop: a request to stop after the step at hand.
        ranks: the processes that train together.
        log: called after each epoch with its row of metrics and the progress.

    Returns:
        The progress; ``stopped`` says why if not all epochs are complete.

    Raises:
        Diverged: a loss or a weight is not finite; the last good checkpoint stays.
        CheckpointMismatch: the state was made with another precision, thread count, device, ...
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
    check(
        augment,
        learning_rate,
        schedule,
        label_smoothing,
        average,
        l1,
        evaluate_select,
        evaluate_tta_angles,
    )
    examined = data.validation if evaluate_select == "validation" else data
    if examined is None:
        raise ValueError("evaluate.select is validation, and the data hold no images out for it")
    if batch_size % ranks.count:
        raise ValueError(f"a batch of {batch_size} cannot be shared evenly by {ranks.count} ranks")
    device = data.train_images.device
    images, labels = data.train_images[:train_images], data.train_labels[:train_images]
    if len(images) < batch_size:
        raise ValueError(f"a batch of {batch_size} is larger than the {len(images)} images")
    optimize = make_optimizer(optimizer, model, weight_decay)
    averaged = None
    if average is not None:
        averaged = AveragedModel(model, multi_avg_fn=moving_average(average), use_buffers=True)
    tested = model if averaged is None else averaged.module
    generator = torch.Generator().manual_seed(seed)  # order of the data, augmentation
    progress, position = Progress(), Position(generator.get_state(), generator.get_state())
    selected: dict[str, Tensor] | None = None  # weights of the best epoch so far
    recorded = False
    if cuda_graph and ranks.count == 1:
        batch = to_input(images[:batch_size], data.mean, data.std, number_type(precision))
        recorded = replayed(model, batch, precision)
    must_be = {
        "device": device.type,
        "precision": precision,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "average": average,
        "ranks": ranks.count,
        "cuda_graph": recorded or None,
        **(conditions or {}),
    }
    if checkpoint is not None:
        found = load(checkpoint, model, averaged, optimize, must_be, ranks, any_conditions)
        progress, position = found or (progress, position)
        selected = position.selected
        generator.set_state(position.generator)
    progress.stopped = None
    trained = ranks.wrapped(model)
    augmented, steps = augmentation(augment, data), len(images) // batch_size
    dtype = number_type(precision)
    test_count = len(data.test_images[:test_images])
    stop = stop or Stop()
    # How often the host looks at what a GPU computes, and the ranks agree on whether to go on.
    interval = 1 if device.type == "cpu" else 20

    began = saved = time.perf_counter()
    started = began - progress.seconds  # as if there had been no interruption
    done = False  # whether this call has done anything yet

    def write() -> None:
        nonlocal saved
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise Diverged(f"{name} is not finite {_place(progress, epochs)}")
        progress.seconds = time.perf_counter() - started
        if checkpoint is not None:
            position.generator = generator.get_state()
            position.selected = selected
            save(checkpoint, model, averaged, optimize, position, must_be, progress, ranks)
        saved = time.perf_counter()

    def tested_on(where: DataSet, count: int | None) -> Tensor | None:
        ranks.share_buffers(tested)
        asked = ranks, lambda: bool(reason_to_stop()), evaluate_tta_angles
        return confusion_matrix(tested, where, precision, count, *asked)

    def reason_to_stop(ahead: float = 0.0) -> str | None:
        """Why what takes so many seconds more should not be begun; the same on every rank."""
        late = max_seconds is not None and done
        late = late and time.perf_counter() - began + ahead > max_seconds
        return (None, "time", "signal")[ranks.largest(2 if stop.requested else int(late), device)]

    interactive = sys.stderr.isatty() and ranks.first
    bar = tqdm(total=epochs, initial=progress.epoch, unit="epoch", disable=not interactive)
    announced = False
    stop.listening = True
    try:
        while progress.epoch < epochs and not progress.stopped:
            epoch, first = progress.epoch, progress.step
            if first == 0:
                position = Position(generator.get_state(), generator.get_state())
            generator.set_state(position.order)
            batches = list(epoch_batches(len(images), batch_size, generator, device=device))
            if first:
                generator.set_state(position.generator)
            sums = torch.tensor(position.sums, dtype=torch.float64, device=device)
            unseen: list[Tensor] = []  # losses that the host has not looked at
            here = time.perf_counter()
            since = here - progress.epoch_seconds
            trained.train()
            for step in range(first, steps):
                step_began = time.perf_counter()
                for part in optimize.param_groups:
                    part["lr"] = learning_rate_at(epoch + step / steps, learning_rate, schedule)
                # Every rank draws for the whole batch: how many there are changes nothing.
                inputs = ranks.share(augmented(images[batches[step]], generator))
                truth = ranks.share(labels[batches[step]])
                with autocast(device, precision):
                    logits = trained(to_input(inputs, data.mean, data.std, dtype))
                loss = F.cross_entropy(logits.to(dtype), truth, label_smoothing=label_smoothing)
                optimize.zero_grad()
                loss.backward()
                if l1:
                    add_l1(optimize, l1)
                optimize.step()
                if averaged is not None:
                    averaged.update_parameters(model)
                unseen.append(loss.detach())
                sums[0] += unseen[-1] * len(truth)
                sums[1] += (logits.detach().argmax(1) != truth).sum()
                progress.step = step + 1
                done = True
                if progress.step % interval and progress.step < steps:
                    continue
                finite = torch.stack(unseen).isfinite().tolist()
                if ranks.largest(int(not all(finite)), device):
                    bad = (finite + [False]).index(False) % len(finite)  # or on another rank
                    progress.step -= len(finite) - 1 - bad
                    value = unseen[bad].item() if not all(finite) else "not finite on another rank"
                    raise Diverged(f"the loss is {value} {_place(progress, epochs)}")
                unseen = []
                if progress.step == steps:
                    break
                progress.stopped = reason_to_stop(time.perf_counter() - step_began)
                due = ranks.first and time.perf_counter() - saved > CHECKPOINT_SECONDS
                if progress.stopped or ranks.largest(int(due), device):
                    position.sums = sums.tolist()
                    progress.epoch_seconds = time.perf_counter() - since
                    write()
                    if not interactive and ranks.first:
                        loss_so_far = position.sums[0] * ranks.count / (progress.step * batch_size)
                        print(
                            f"epoch {epoch + 1}/{epochs}, step {progress.step}/{steps}: "
                            f"loss {loss_so_far:.4f}, {progress.epoch_seconds:.1f} s",
                            flush=True,
                        )
                if progress.stopped:
                    break
            if progress.stopped:
                break
            position.sums = sums.tolist()
            progress.epoch_seconds = time.perf_counter() - since

            error = None  # on the images that are examined
            evaluation_began = time.perf_counter()
            if is_evaluated(epoch + 1, epochs, evaluate_every, evaluate_last):
                progress.stopped = reason_to_stop(progress.evaluation_seconds or 0.0)
                if not progress.stopped:
                    confusion = tested_on(examined, test_images)
                    if confusion is None:
                        progress.stopped = reason_to_stop()
                if progress.stopped:  # this epoch is complete but for its evaluation
                    write()
                    break
                done = True
                error, progress.confusion = error_of(confusion), confusion.tolist()
                progress.evaluation_seconds = time.perf_counter() - evaluation_began
            total_loss, wrong = ranks.total(sums).tolist()
            training_seconds = progress.epoch_seconds
            # What an epoch takes now: its steps of an earlier call may have met another machine.
            pace = training_seconds
            if first < steps:
                pace = (since + training_seconds - here) * steps / (steps - first)
            progress.epoch, progress.step, progress.epoch_seconds = epoch + 1, 0, 0.0
            progress.training_seconds += training_seconds
            train_error = 100 * wrong / (steps * batch_size)
            test_error = error if examined is data else None
            progress.test_error = test_error
            if test_error is not None:
                best = progress.test_error_best
                progress.test_error_best = test_error if best is None else min(best, test_error)
            score = train_error if evaluate_select == "train_best" else error
            least = progress.selected_error
            if evaluate_select != "last" and score is not None and (least is None or score < least):
                progress.selected_epoch, progress.selected_error = epoch + 1, score
                selected = {k: v.detach().cpu().clone() for k, v in tested.state_dict().items()}
            progress.seconds = time.perf_counter() - started
            evaluated = time.perf_counter() - evaluation_began if error is not None else 0.0
            row = {
                "epoch": epoch + 1,
                "learning_rate": learning_rate_at(epoch, learning_rate, schedule),
                "train_loss": total_loss / (steps * batch_size),
                "train_error": train_error,
                "test_error": test_error,
                **({} if examined is data else {"validation_error": error}),
                "seconds": round(training_seconds + evaluated, 3),
            }
            # In this order: an epoch logged but not saved is repeated, and none is ever missing.
            ranks.by_first(lambda row=row: log(row, progress))
            position = Position(generator.get_state(), generator.get_state())
            write()
            if ranks.first:
                _report(bar, row, epochs, interactive)
            left = sum(
                pace
                + is_evaluated(e, epochs, evaluate_every, evaluate_last)
                # Until it is measured: the forward pass is a third of a training step.
                * (progress.evaluation_seconds or pace * test_count / len(images) / 3)
                for e in range(epoch + 2, epochs + 1)
            )
            if left and not announced and ranks.first:
                _announce(left, pace + evaluated)
            announced = True
            if progress.epoch < epochs:
                progress.stopped = reason_to_stop(pace / steps)
        if selected is not None and not progress.stopped:
            tested.load_state_dict(selected)
            confusion = tested_on(data, test_images)
            if confusion is None:
                progress.stopped = reason_to_stop()
            else:
                progress.test_error, progress.confusion = error_of(confusion), confusion.tolist()
            progress.seconds = time.perf_counter() - started
    finally:
        stop.listening = False
        released(model)
        bar.close()
    if tested is not model and progress.epoch == epochs:
        model.load_state_dict(tested.state_dict())
    return progress


def _place(progress: Progress, epochs: int) -> str:
    if progress.step == 0:
        return f"after epoch {progress.epoch} of {epochs}"
    return f"in step {progress.step} of epoch {progress.epoch + 1} of {epochs}"


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
