"""Training: the step first, then the loop over steps and epochs, from top to bottom."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data import DataSet
from ..data.batches import epoch_batches, to_input
from ..fast import release_graphs, replay_as_graphs
from .checkpoints import CheckpointMismatch, list_conditions, load, save
from .divergence import check_weights, read_losses
from .evaluation import autocast, number_type
from .frames import RandomFrame
from .limits import Limits
from .optimizer import add_l1, average_weights, make_optimizer
from .options import Options, check
from .progress import Display, Pace
from .recipe import Recipe, make_augmentation
from .selection import Evaluator
from .state import Position, Progress

CHECKPOINT_SECONDS = 300.0  # between checkpoints within an epoch


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    precision: str = "fp32",
    label_smoothing: float = 0.0,
    l1: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Carry out one step of training: forward pass, loss, backward pass, update of the weights.

    Args:
        model: images [B, C, H, W] -> logits [B, classes].
        images: normalised, [B, C, H, W].
        labels: int64 [B].
        precision: "fp32", "bf16" (autocast) or "fp64" (a model and images in float64).
        label_smoothing: of the cross entropy.
        l1: the sum of the weights' magnitudes times this is added to the loss.

    Returns:
        The loss, a scalar, and the logits; the host does not wait for them.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> images, labels = torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 1])
    >>> first, second = (train_step(model, optimizer, images, labels)[0] for _ in range(2))
    >>> bool(second < first)
    True
    """
    with autocast(images.device, precision):
        logits = model(images)
    logits = logits.to(number_type(precision))
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    if l1:
        add_l1(optimizer, l1)
    optimizer.step()
    return loss.detach(), logits.detach()


def fit(model: nn.Module, data: DataSet, **settings: Any) -> Progress:
    """Train a model; the settings are those of :class:`Recipe` and of :class:`Options`."""
    of_recipe = {field.name for field in fields(Recipe)} & set(settings)
    recipe = Recipe(**{name: settings.pop(name) for name in of_recipe})
    return Training(model, data, recipe, **settings).run()


class Training:
    """A model, its data and a recipe; resumed from ``checkpoint`` if that holds a state.

    The model and the data lie on one device. The last partial batch of an epoch is dropped. The
    same seed on the same device, thread count, precision and number of ranks gives bit-identical
    weights, whether or not the run was interrupted, at whatever step. The caller seeds the global
    random state, and initialises the model from it. Several ranks share every batch: together they
    compute what one rank would, up to rounding, if the model has no batch norm and no dropout,
    which see a rank's own images alone.

    Args:
        model: images [B, C, H, W] -> logits [B, classes].
        options: the fields of :class:`Options`.

    Raises:
        ValueError: the recipe does not fit the data, or the ranks.
        CheckpointMismatch: the state was made with another precision, thread count, device, ...
    """

    def __init__(self, model: nn.Module, data: DataSet, recipe: Recipe, **options: Any):
        self.model, self.data, self.recipe = model, data, recipe
        self.options = Options(**options)
        self.ranks, self.precision = self.options.ranks, self.options.precision
        check(recipe, data, self.ranks.count)
        self.images, self.labels = recipe.select_images(data)
        self.steps = len(self.images) // recipe.batch_size
        self.device, self.dtype = self.images.device, number_type(self.precision)
        self.augment = make_augmentation(recipe.augment, data, self.options.seed)
        self.optimizer = make_optimizer(recipe.optimizer, model, recipe.weight_decay)
        self.frame = RandomFrame(model) if recipe.random_frame else None
        self.averaged, tested = None, model
        if recipe.average is not None:
            self.averaged = average_weights(model, recipe.average)
            tested = self.averaged.module
        self.generator = torch.Generator().manual_seed(self.options.seed)
        self.progress, self.position = Progress(), self._mark_position()
        recorded = False
        if self.options.cuda_graph and self.ranks.count == 1:
            first_batch = self._input(self.images[: recipe.batch_size])
            recorded = replay_as_graphs(model, first_batch, self.precision)
        self.conditions = {
            **list_conditions(self.device, self.precision, recorded, self.ranks.count),
            "average": recipe.average,
            **(self.options.conditions or {}),
        }
        self._resume()
        self.trained = self.ranks.wrap(model)
        tested_images = len(data.test_images[: recipe.test_images])
        self.pace = Pace(recipe, self.steps, tested_images / len(self.images))
        first, options = self.ranks.first, self.options
        self.display = Display(self.pace, first, options.label, options.log_step)
        self.limits = Limits(options.max_seconds, options.stop, self.ranks, self.device)
        self.evaluator = Evaluator(tested, data, recipe, options, self.limits, self.display)
        self.saved = self.limits.began
        self.started = self.limits.began - self.progress.seconds  # as if never interrupted

    def run(self) -> Progress:
        """Train until all epochs are complete, the time is used up, or a stop is requested.

        Returns:
            The progress; ``stopped`` gives the reason if not all epochs are complete.

        Raises:
            Diverged: a loss or a weight is not finite; the last good checkpoint stays.
        """
        progress = self.progress
        self.options.stop.listening = True
        try:
            self.display.resume(progress)
            while progress.epoch < self.recipe.epochs and not progress.stopped:
                self._train_epoch()
                if progress.stopped:
                    break
                error = self.evaluator.evaluate(progress)
                if progress.stopped:
                    self._save()
                    break
                self._end_epoch(error)
            if self.position.selected is not None and not progress.stopped:
                self.evaluator.test_selected(progress, self.position)
                progress.seconds = time.perf_counter() - self.started
            if progress.stopped:
                self.display.stop(progress)
        finally:
            self.options.stop.listening = False
            release_graphs(self.model)
            self.display.close()
        if self.averaged is not None and progress.epoch == self.recipe.epochs:
            self.model.load_state_dict(self.averaged.module.state_dict())
        return progress

    def _train_epoch(self) -> None:
        """Do the steps of the epoch that are left, or as many as there is time for."""
        progress, position, first = self.progress, self.position, self.progress.step
        self.generator.set_state(position.order)
        size = self.recipe.batch_size
        batches = list(epoch_batches(len(self.images), size, self.generator, device=self.device))
        if first:
            self.generator.set_state(position.generator)
        sums = torch.tensor(position.sums, dtype=torch.float64, device=self.device)
        unseen: list[Tensor] = []  # losses that the host has not read
        # How often the host reads what a GPU computes, and the ranks agree on whether to go on.
        interval = 1 if self.device.type == "cpu" else 20
        began = time.perf_counter() - progress.epoch_seconds  # as if never interrupted

        def note() -> None:
            position.sums = sums.tolist()
            progress.epoch_seconds = time.perf_counter() - began

        self.display.begin_epoch(progress)
        self.trained.train()
        for step in range(first, self.steps):
            step_began = time.perf_counter()
            loss, wrong, count = self._step(batches[step], progress.epoch + step / self.steps)
            unseen.append(loss)
            sums[0] += loss * count
            sums[1] += wrong
            progress.step = step + 1
            self.limits.worked = True
            if progress.step % interval and progress.step < self.steps:
                continue
            losses = read_losses(unseen, progress, self.recipe.epochs, self.ranks)
            self.display.update(progress, losses)
            unseen = []
            if progress.step == self.steps:
                break
            progress.stopped = self.limits.reason_to_stop(time.perf_counter() - step_began)
            due = self.ranks.first and time.perf_counter() - self.saved > CHECKPOINT_SECONDS
            if progress.stopped or self.ranks.largest(int(due), self.device):
                note()
                self._save()
            if progress.stopped:
                return
        note()

    def _step(self, batch: Tensor, epoch: float) -> tuple[Tensor, Tensor, int]:
        """Train on this rank's part of a batch; return loss, wrong images and number of images.

        ``batch`` holds the indices of the images of all ranks.
        """
        for part in self.optimizer.param_groups:
            part["lr"] = self.recipe.rate_at(epoch)
        # Every rank draws for the whole batch: the number of ranks changes nothing.
        drawn = self.images[batch], self.generator, batch, self.progress.epoch
        images = self.ranks.share(self.augment(*drawn))
        labels, recipe = self.ranks.share(self.labels[batch]), self.recipe
        # Drawn after the augmentation, by every rank alike.
        with self.frame.rotate(self.generator) if self.frame else nullcontext():
            loss, logits = train_step(
                *(self.trained, self.optimizer, self._input(images), labels),
                *(self.precision, recipe.label_smoothing, recipe.l1),
            )
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return loss, (logits.argmax(1) != labels).sum(), len(labels)

    def _end_epoch(self, error: float | None) -> None:
        """Complete the epoch: its row of metrics, then its checkpoint.

        In this order: an epoch that is logged but not saved is repeated, and none is ever missing.
        """
        progress, recipe = self.progress, self.recipe
        epoch, seconds = progress.epoch + 1, progress.epoch_seconds
        sums = torch.tensor(self.position.sums, dtype=torch.float64, device=self.device)
        loss, wrong = self.ranks.total(sums).tolist()
        images = self.steps * recipe.batch_size
        train_error = 100 * wrong / images
        if not self.pace.seconds_per_step:  # every step was done by an earlier call
            self.pace.seconds_per_step = seconds / self.steps
        progress.epoch, progress.step, progress.epoch_seconds = epoch, 0, 0.0
        progress.training_seconds += seconds
        progress.test_error = error if self.evaluator.sees_test_images else None
        progress.update_best()
        self.position = self._mark_position(self.position.selected)
        score = train_error if recipe.evaluate_select == "train_best" else error
        self.evaluator.select(score, progress, self.position)
        progress.seconds = time.perf_counter() - self.started
        evaluation = 0.0 if error is None else progress.evaluation_seconds
        row = {
            "epoch": epoch,
            "learning_rate": recipe.rate_at(epoch - 1),
            "train_loss": loss / images,
            "train_error": train_error,
            "test_error": progress.test_error,
            **({} if self.evaluator.sees_test_images else {"validation_error": error}),
            "seconds": round(seconds + evaluation, 3),
        }
        self.ranks.by_first(lambda: self.options.log(row, progress))
        self._save()
        self.display.end_epoch(row, progress)
        if epoch < recipe.epochs:
            progress.stopped = self.limits.reason_to_stop(self.pace.seconds_per_step)

    def _resume(self) -> None:
        """Restore the state of the checkpoint folder, if it holds one."""
        folder = self.options.checkpoint
        if folder is None:
            return
        parts = folder, self.model, self.averaged, self.optimizer, self.conditions
        found = load(*parts, self.ranks, self.options.any_conditions)
        self.progress, self.position = found or (self.progress, self.position)
        if self.progress.epoch > self.recipe.epochs or self.progress.step > self.steps:
            place = f"epoch {self.progress.epoch}, step {self.progress.step}"
            raise CheckpointMismatch(f"{folder} holds {place}, which this run does not have")
        self.generator.set_state(self.position.generator)
        self.progress.stopped = None
        # A record without this folder has lost it; with it, nothing has been saved yet.
        self.ranks.by_first(lambda: folder.mkdir(parents=True, exist_ok=True))

    def _save(self) -> None:
        check_weights(self.model, self.progress, self.recipe.epochs)
        progress, position = self.progress, self.position
        progress.seconds = time.perf_counter() - self.started
        if self.options.checkpoint is not None:
            position.generator = self.generator.get_state()
            parts = self.options.checkpoint, self.model, self.averaged, self.optimizer, position
            save(*parts, self.conditions, progress, self.ranks)
        self.saved = time.perf_counter()

    def _mark_position(self, selected: dict[str, Tensor] | None = None) -> Position:
        """The position at the beginning of an epoch."""
        state = self.generator.get_state()
        return Position(state, state, selected=selected)

    def _input(self, images: Tensor) -> Tensor:
        return to_input(images, self.data.mean, self.data.std, self.dtype)
