"""Training: one loop, read from top to bottom in :meth:`Training.run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..data import DataSet
from ..data.batches import epoch_batches, to_input
from ..fast.graphs import released, replayed
from .checkpoints import Position, Progress, load, save
from .console import Console
from .evaluation import autocast, confusion_matrix, error_of, evaluate, number_type
from .ranks import Ranks
from .recipe import Recipe, add_l1, augmentation, make_optimizer, moving_average
from .stop import Stop

__all__ = ["Diverged", "Stop", "Training", "check", "evaluate", "fit"]

CHECKPOINT_SECONDS = 300.0  # between checkpoints within an epoch


class Diverged(Exception):
    """The loss is not a finite number."""


def fit(model: nn.Module, data: DataSet, **settings: Any) -> Progress:
    """Train a model, and say how far it came: settings of :class:`Recipe` and :class:`Training`."""
    of_recipe = {field.name for field in fields(Recipe)} & set(settings)
    recipe = Recipe(**{name: settings.pop(name) for name in of_recipe})
    return Training(model, data, recipe, **settings).run()


def check(recipe: Recipe, data: DataSet, ranks: int = 1) -> None:
    """Refuse with a ValueError a recipe that does not fit the data, or so many processes."""
    if recipe.evaluate_select == "validation" and data.validation is None:
        raise ValueError("evaluate.select is validation, and the data hold no images out for it")
    size, images = recipe.batch_size, len(data.train_images[: recipe.train_images])
    if size % ranks:
        raise ValueError(f"a batch of {size} cannot be shared evenly by {ranks} ranks")
    if images < size:
        raise ValueError(f"a batch of {size} is larger than the {images} images")


class Training:
    """A model, its data and a recipe; resumed from ``checkpoint`` if that holds a state.

    The model and the data lie on one device. The last partial batch of an epoch is dropped. The
    same seed on the same device, thread count, precision and number of ranks gives bit-identical
    weights, whether or not the run was interrupted, at whatever step; the global random state must
    be seeded by the caller, who also initialised the model from it. Several ranks share every
    batch: they compute what one would, up to rounding, if no batch norm and no dropout is there,
    which see a rank's own images alone.

    Args:
        model: images [B, C, H, W] -> logits [B, classes].
        seed: of the order of the data, and of augmentation.
        precision: "fp32", "bf16" (autocast) or "fp64" (of a model in float64).
        cuda_graph: replay the passes of a step, see :func:`replayed`; one rank alone. It
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

    Raises:
        ValueError: the recipe does not fit the data, or the ranks.
        CheckpointMismatch: the state was made with another precision, thread count, device, ...
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        recipe: Recipe,
        *,
        seed: int = 0,
        precision: str = "fp32",
        cuda_graph: bool = False,
        checkpoint: Path | None = None,
        conditions: Mapping[str, Any] | None = None,
        any_conditions: bool = False,
        max_seconds: float | None = None,
        stop: Stop | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008 - a frozen value
        log: Callable[[dict[str, Any], Progress], None] = lambda row, progress: None,
    ):
        self.model, self.data, self.recipe, self.precision = model, data, recipe, precision
        self.checkpoint, self.max_seconds, self.stop = checkpoint, max_seconds, stop or Stop()
        self.ranks, self.log = ranks, log
        check(recipe, data, ranks.count)
        # The images that the epochs are tested on.
        self.examined = data.validation if recipe.evaluate_select == "validation" else data
        self.images = data.train_images[: recipe.train_images]
        self.labels = data.train_labels[: recipe.train_images]
        batch_size = recipe.batch_size
        self.steps = len(self.images) // batch_size
        self.device, self.dtype = self.images.device, number_type(precision)
        self.augmented = augmentation(recipe.augment, data)
        self.optimizer = make_optimizer(recipe.optimizer, model, recipe.weight_decay)
        self.averaged, self.tested = None, model
        if recipe.average is not None:
            average = moving_average(recipe.average)
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
            self.tested = self.averaged.module
        self.generator = torch.Generator().manual_seed(seed)
        self.progress, self.position = Progress(), self._here()
        recorded = False
        if cuda_graph and ranks.count == 1:
            recorded = replayed(model, self._input(self.images[:batch_size]), precision)
        self.conditions = {
            "device": self.device.type,
            "precision": precision,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "average": recipe.average,
            "ranks": ranks.count,
            "cuda_graph": recorded or None,
            **(conditions or {}),
        }
        if checkpoint is not None:
            # A record without this folder has lost it; with it, nothing has been saved yet.
            ranks.by_first(lambda: checkpoint.mkdir(parents=True, exist_ok=True))
            parts = checkpoint, model, self.averaged, self.optimizer, self.conditions
            found = load(*parts, ranks, any_conditions)
            self.progress, self.position = found or (self.progress, self.position)
            self.generator.set_state(self.position.generator)
        self.progress.stopped = None
        self.trained = ranks.wrapped(model)
        self.console = Console(recipe.epochs, self.progress.epoch, ranks.first)
        self.began = self.saved = time.perf_counter()
        self.started = self.began - self.progress.seconds  # as if there had been no interruption
        self.worked = False  # whether anything has been done yet
        self.pace = 0.0  # seconds that the steps of an epoch take now

    def run(self) -> Progress:
        """Train until all epochs are complete, the time is used up, or a stop is asked for.

        Returns:
            The progress; ``stopped`` says why if not all epochs are complete.

        Raises:
            Diverged: a loss or a weight is not finite; the last good checkpoint stays.
        """
        progress = self.progress
        self.stop.listening = True
        try:
            while progress.epoch < self.recipe.epochs and not progress.stopped:
                self._train()
                error = None if progress.stopped else self._examine()
                if not progress.stopped:
                    self._close(error)
            if self.position.selected is not None and not progress.stopped:
                self.tested.load_state_dict(self.position.selected)
                confusion = self._tested_on(self.data)
                if confusion is not None:
                    progress.test_error = error_of(confusion)
                    if self.examined is self.data:  # else the test set is seen here alone
                        self._note_best()
                    progress.confusion = confusion.tolist()
                progress.seconds = time.perf_counter() - self.started
        finally:
            self.stop.listening = False
            released(self.model)
            self.console.close()
        if self.tested is not self.model and progress.epoch == self.recipe.epochs:
            self.model.load_state_dict(self.tested.state_dict())
        return progress

    def _train(self) -> None:
        """The steps of the epoch that are left, or as many as there is time for."""
        progress, position, first = self.progress, self.position, self.progress.step
        self.generator.set_state(position.order)
        size = self.recipe.batch_size
        batches = list(epoch_batches(len(self.images), size, self.generator, device=self.device))
        if first:
            self.generator.set_state(position.generator)
        sums = torch.tensor(position.sums, dtype=torch.float64, device=self.device)
        unseen: list[Tensor] = []  # losses that the host has not looked at
        # How often it looks at what a GPU computes, and the ranks agree on whether to go on.
        interval = 1 if self.device.type == "cpu" else 20
        here = time.perf_counter()
        since = here - progress.epoch_seconds

        def note() -> None:
            position.sums = sums.tolist()
            progress.epoch_seconds = time.perf_counter() - since

        self.trained.train()
        for step in range(first, self.steps):
            step_began = time.perf_counter()
            loss, wrong, count = self._step(batches[step], progress.epoch + step / self.steps)
            unseen.append(loss)
            sums[0] += loss * count
            sums[1] += wrong
            progress.step = step + 1
            self.worked = True
            if progress.step % interval and progress.step < self.steps:
                continue
            self._must_be_finite(unseen)
            unseen = []
            if progress.step == self.steps:
                break
            progress.stopped = self._reason_to_stop(time.perf_counter() - step_began)
            due = self.ranks.first and time.perf_counter() - self.saved > CHECKPOINT_SECONDS
            if progress.stopped or self.ranks.largest(int(due), self.device):
                note()
                self._save()
                mean = position.sums[0] * self.ranks.count / (progress.step * size)
                self.console.saved(progress, self.steps, mean)
            if progress.stopped:
                return
        note()
        # The steps of an earlier call may have met another machine.
        self.pace = progress.epoch_seconds
        if first < self.steps:
            self.pace = (since + self.pace - here) * self.steps / (self.steps - first)

    def _step(self, batch: Tensor, epoch: float) -> tuple[Tensor, Tensor, int]:
        """One step: the loss and how many are wrong of this rank's images, and how many these are.

        ``batch`` holds the indices of the images of all ranks.
        """
        for part in self.optimizer.param_groups:
            part["lr"] = self.recipe.rate_at(epoch)
        # Every rank draws for the whole batch: how many there are changes nothing.
        inputs = self.ranks.share(self.augmented(self.images[batch], self.generator))
        truth = self.ranks.share(self.labels[batch])
        with autocast(self.device, self.precision):
            logits = self.trained(self._input(inputs))
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits.to(self.dtype), truth, label_smoothing=smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.l1:
            add_l1(self.optimizer, self.recipe.l1)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return loss.detach(), (logits.detach().argmax(1) != truth).sum(), len(truth)

    def _examine(self) -> float | None:
        """The error after the epoch whose steps are done, in per cent; None if none is due.

        Also None where there is no time for it: the epoch is complete then, but for its test.
        """
        progress = self.progress
        if not self.recipe.tests(progress.epoch + 1):
            return None
        began = time.perf_counter()
        progress.stopped = self._reason_to_stop(progress.evaluation_seconds or 0.0)
        confusion = None if progress.stopped else self._tested_on(self.examined)
        if confusion is None:
            self._save()
            return None
        self.worked = True
        progress.confusion = confusion.tolist()
        progress.evaluation_seconds = time.perf_counter() - began
        return error_of(confusion)

    def _close(self, error: float | None) -> None:
        """The epoch is complete: its row of metrics, its checkpoint, and what is ahead.

        In this order: an epoch logged but not saved is repeated, and none is ever missing.
        """
        progress, recipe = self.progress, self.recipe
        epoch, seconds = progress.epoch + 1, progress.epoch_seconds
        sums = torch.tensor(self.position.sums, dtype=torch.float64, device=self.device)
        loss, wrong = self.ranks.total(sums).tolist()
        images = self.steps * recipe.batch_size
        train_error = 100 * wrong / images
        progress.epoch, progress.step, progress.epoch_seconds = epoch, 0, 0.0
        progress.training_seconds += seconds
        progress.test_error = error if self.examined is self.data else None
        self._note_best()
        self.position = self._here(self.position.selected)
        self._select(train_error if recipe.evaluate_select == "train_best" else error)
        progress.seconds = time.perf_counter() - self.started
        evaluation = 0.0 if error is None else progress.evaluation_seconds
        row = {
            "epoch": epoch,
            "learning_rate": recipe.rate_at(epoch - 1),
            "train_loss": loss / images,
            "train_error": train_error,
            "test_error": progress.test_error,
            **({} if self.examined is self.data else {"validation_error": error}),
            "seconds": round(seconds + evaluation, 3),
        }
        self.ranks.by_first(lambda: self.log(row, progress))
        self._save()
        self.console.epoch(row)
        self.console.ahead(self.pace + evaluation, self._seconds_left())
        if epoch < recipe.epochs:
            progress.stopped = self._reason_to_stop(self.pace / self.steps)

    def _note_best(self) -> None:
        error, known = self.progress.test_error, self.progress.test_error_best
        if error is not None:
            self.progress.test_error_best = error if known is None else min(known, error)

    def _select(self, score: float | None) -> None:
        """Keep the weights of the epoch if they are the best so far, where that is what counts."""
        progress, least = self.progress, self.progress.selected_error
        if self.recipe.evaluate_select == "last" or score is None:
            return
        if least is not None and score >= least:
            return
        progress.selected_epoch, progress.selected_error = progress.epoch, score
        weights = self.tested.state_dict()
        self.position.selected = {k: v.detach().cpu().clone() for k, v in weights.items()}

    def _tested_on(self, data: DataSet) -> Tensor | None:
        """The confusion matrix; None, and a reason in the progress, where it was stopped."""
        self.ranks.share_buffers(self.tested)
        count, angles = self.recipe.test_images, self.recipe.evaluate_tta_angles
        asked = self.ranks, lambda: bool(self._reason_to_stop()), angles
        found = confusion_matrix(self.tested, data, self.precision, count, *asked)
        if found is None:
            self.progress.stopped = self._reason_to_stop()
        return found

    def _save(self) -> None:
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise Diverged(f"{name} is not finite {self._place()}")
        progress, position = self.progress, self.position
        progress.seconds = time.perf_counter() - self.started
        if self.checkpoint is not None:
            position.generator = self.generator.get_state()
            parts = self.checkpoint, self.model, self.averaged, self.optimizer, position
            save(*parts, self.conditions, progress, self.ranks)
        self.saved = time.perf_counter()

    def _reason_to_stop(self, ahead: float = 0.0) -> str | None:
        """Why what takes so many seconds more should not be begun; the same on every rank."""
        late = self.max_seconds is not None and self.worked
        late = late and time.perf_counter() - self.began + ahead > self.max_seconds
        reason = 2 if self.stop.requested else int(late)
        return (None, "time", "signal")[self.ranks.largest(reason, self.device)]

    def _must_be_finite(self, losses: Sequence[Tensor]) -> None:
        finite = torch.stack(list(losses)).isfinite().tolist()
        if self.ranks.largest(int(not all(finite)), self.device):
            bad = (finite + [False]).index(False) % len(finite)  # or on another rank
            self.progress.step -= len(finite) - 1 - bad
            value = losses[bad].item() if not all(finite) else "not finite on another rank"
            raise Diverged(f"the loss is {value} {self._place()}")

    def _seconds_left(self) -> float:
        """What the epochs that are left will take."""
        left = range(self.progress.epoch + 1, self.recipe.epochs + 1)
        tests = sum(map(self.recipe.tests, left))
        # Until it is measured: the forward pass is a third of a training step.
        share = len(self.data.test_images[: self.recipe.test_images]) / len(self.images) / 3
        test = self.progress.evaluation_seconds or share * self.pace
        return len(left) * self.pace + tests * test

    def _here(self, selected: dict[str, Tensor] | None = None) -> Position:
        """The position at the beginning of an epoch."""
        state = self.generator.get_state()
        return Position(state, state, selected=selected)

    def _input(self, images: Tensor) -> Tensor:
        return to_input(images, self.data.mean, self.data.std, self.dtype)

    def _place(self) -> str:
        progress, epochs = self.progress, self.recipe.epochs
        if progress.step == 0:
            return f"after epoch {progress.epoch} of {epochs}"
        return f"in step {progress.step} of epoch {progress.epoch + 1} of {epochs}"
