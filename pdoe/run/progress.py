"""What a run shows while it trains: a bar on a terminal, lines in a log, the time that is left."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from .recipe import Recipe
from .state import Progress

FIRST_SECONDS = 10.0  # until the first line of a log
LINE_SECONDS = 30.0  # between two lines of a log
POSTFIX_SECONDS = 0.5  # between two texts behind the bar
STEP_SECONDS = 10.0  # between two calls of log_step
LogStep = Callable[[int, float, float], None]


class Pace:
    """How fast a run is on this machine, and how long the rest of it takes.

    Args:
        steps: of an epoch.
        test_share: test images over training images.
    """

    def __init__(self, recipe: Recipe, steps: int, test_share: float):
        self.recipe, self.steps, self.test_share = recipe, steps, test_share
        self.seconds_per_step = 0.0  # in this epoch
        self.begin(0)

    def begin(self, step: int) -> None:
        """Begin an epoch, or resume it after ``step`` steps, which are not measured."""
        self.first, self.began = step, time.perf_counter()

    def measure(self, step: int) -> None:
        """Measure the seconds per step, now that ``step`` steps of the epoch are done."""
        if step > self.first:
            self.seconds_per_step = (time.perf_counter() - self.began) / (step - self.first)

    @property
    def images_per_second(self) -> float:
        return self.recipe.batch_size / max(self.seconds_per_step, 1e-9)

    def seconds_left(self, progress: Progress) -> float:
        """Estimate the time of the steps and evaluations that are left."""
        epochs = self.recipe.epochs
        steps = (epochs - progress.epoch) * self.steps - progress.step
        tests = sum(map(self.recipe.tests, range(progress.epoch + 1, epochs + 1)))
        # Until it is measured: the forward pass is a third of a training step.
        guess = self.test_share * self.steps * self.seconds_per_step / 3
        return steps * self.seconds_per_step + tests * (progress.evaluation_seconds or guess)


class Display:
    """Shows the progress of a run.

    On a terminal: a bar over the images of an epoch with images per second, loss and the time that
    is left of the run, and a line for each epoch. Elsewhere: the same as a line, after ten seconds
    and then at most every 30 seconds, and the line for each epoch.

    Args:
        pace: the speed of the run.
        shown: whether this process is the one that prints.
        label: printed before every line, such as "run 2 of 8".
        log_step: called with step (of the whole run), loss and images per second, at most every ten
            seconds and never for a number that the device has not handed over anyway.
    """

    def __init__(
        self, pace: Pace, shown: bool = True, label: str = "", log_step: LogStep | None = None
    ):
        self.pace, self.shown, self.label = pace, shown, f"{label}, " if label else ""
        self.log_step = log_step if shown else None
        self.interactive = shown and has_room_for_bar(sys.stderr)
        self.bar: tqdm | None = None
        self.losses: deque[float] = deque(maxlen=20)
        self.last_postfix = time.perf_counter()
        self.last_line = self.last_postfix + FIRST_SECONDS - LINE_SECONDS
        self.last_step = -STEP_SECONDS

    def resume(self, progress: Progress) -> None:
        """Say where a resumed run goes on."""
        if progress.epoch or progress.step:
            self._print(f"resuming from epoch {progress.epoch + 1}, step {progress.step}")

    def stop(self, progress: Progress) -> None:
        """Say where a run stops early."""
        if progress.step:
            step = f"step {progress.step}/{self.pace.steps}"
            self._print(f"stopped in {self._format_epoch(progress)} after {step}")

    def begin_epoch(self, progress: Progress) -> None:
        self.losses.clear()
        self.pace.begin(progress.step)
        batch, steps = self.pace.recipe.batch_size, self.pace.steps
        self._open(self._format_epoch(progress), steps * batch, progress.step * batch)

    def update(self, progress: Progress, losses: Sequence[float]) -> None:
        """Show the steps that are done, and the losses that the host has seen since."""
        self.losses.extend(losses)
        self.pace.measure(progress.step)
        now = time.perf_counter()
        if self.bar is not None:
            if now - self.last_postfix > POSTFIX_SECONDS:
                self.bar.set_postfix_str(self._format_state(progress), refresh=False)
                self.last_postfix = now
            self.bar.update(progress.step * self.pace.recipe.batch_size - self.bar.n)
        elif now - self.last_line >= LINE_SECONDS:
            step = f"step {progress.step}/{self.pace.steps}"
            rate = f"{self.pace.images_per_second:.4g} images/s"
            self._print(
                f"{self._format_epoch(progress)}, {step}: {rate}, {self._format_state(progress)}"
            )
        if self.log_step and losses and time.monotonic() - self.last_step >= STEP_SECONDS:
            self.last_step = time.monotonic()
            done = progress.epoch * self.pace.steps + progress.step
            self.log_step(done, losses[-1], self.pace.images_per_second)

    def begin_test(self, progress: Progress, images: int) -> Callable[[int], None]:
        """An evaluation begins: call the result with the number of images that are done."""
        name = f"{self._format_epoch(progress)}, test"
        self._open(name, images, 0)

        def show(done: int) -> None:
            if self.bar is not None:
                self.bar.update(done - self.bar.n)
            elif time.perf_counter() - self.last_line >= LINE_SECONDS:
                self._print(f"{name}: {done:,} of {images:,} images")

        return show

    def end_epoch(self, row: Mapping[str, Any], progress: Progress) -> None:
        """Print the line of a complete epoch, and the time that is left."""
        words = [f"epoch {row['epoch']}/{self.pace.recipe.epochs}: loss {row['train_loss']:.4f}"]
        for name in ("train_error", "validation_error", "test_error"):
            if row.get(name) is not None:
                words.append(f"{name.replace('_', ' ')} {row[name]:.2f} %")
        words.append(f"{row['seconds']:.1f} s")
        if row["epoch"] < self.pace.recipe.epochs:
            words.append(format_time_left(self.pace.seconds_left(progress)))
        self.close()
        self._print(", ".join(words))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _open(self, name: str, images: int, done: int) -> None:
        self.close()
        if self.interactive:
            self.bar = tqdm(
                total=images, initial=done, desc=self.label + name, unit=" images",
                unit_scale=True, leave=False, dynamic_ncols=True,
            )  # fmt: skip

    def _format_epoch(self, progress: Progress) -> str:
        epochs = self.pace.recipe.epochs
        return f"epoch {min(progress.epoch + 1, epochs)}/{epochs}"

    def _format_state(self, progress: Progress) -> str:
        mean = sum(self.losses) / max(1, len(self.losses))
        return f"loss {mean:.4f}, {format_time_left(self.pace.seconds_left(progress))}"

    def _print(self, line: str) -> None:
        self.last_line = time.perf_counter()
        if self.interactive:
            tqdm.write(self.label + line)
        elif self.shown:
            print(self.label + line, flush=True)


def has_room_for_bar(stream: TextIO) -> bool:
    """Return whether a stream is a terminal; of 0 columns, as containers have them, it has no room.

    In such a terminal tqdm shows nothing at all.
    """
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:  # it has no size: tqdm assumes one
        return True


def format_time_left(seconds: float) -> str:
    """The time that is left of a run, in words.

    >>> format_time_left(9.6), format_time_left(480), format_time_left(7980)
    ('about 10 s left', 'about 8 min left', 'about 2 h 13 min left')
    """
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"about {seconds:.0f} s left"
    hours = f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
    return f"about {hours} left"


def format_count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> format_count(1, "epoch"), format_count(1200, "epoch")
    ('1 epoch', '1,200 epochs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
