"""What a run says while it trains: a bar on a terminal, lines elsewhere, when it will be over."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from .checkpoints import Progress


class Console:
    """Of a run of so many epochs, some of them ``done``; silent unless it ``speaks``."""

    def __init__(self, epochs: int, done: int, speaks: bool):
        self.epochs, self.speaks, self.announced = epochs, speaks, False
        self.interactive = speaks and sys.stderr.isatty()
        self.bar = tqdm(total=epochs, initial=done, unit="epoch", disable=not self.interactive)

    def saved(self, progress: Progress, steps: int, loss: float) -> None:
        """A checkpoint was written in the middle of an epoch."""
        if self.speaks and not self.interactive:
            print(
                f"epoch {progress.epoch + 1}/{self.epochs}, step {progress.step}/{steps}: "
                f"loss {loss:.4f}, {progress.epoch_seconds:.1f} s",
                flush=True,
            )

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is complete."""
        test = "" if row["test_error"] is None else f", test error {row['test_error']:.2f} %"
        line = f"loss {row['train_loss']:.4f}, train error {row['train_error']:.2f} %{test}"
        if self.interactive:
            self.bar.set_postfix_str(line, refresh=False)
            self.bar.update()
        elif self.speaks:
            print(f"epoch {row['epoch']}/{self.epochs}: {line}, {row['seconds']:.1f} s", flush=True)

    def ahead(self, epoch: float, left: float) -> None:
        """Once, when it will be over: by the seconds of an epoch and of all that is left."""
        if left and self.speaks and not self.announced:
            minutes = round(left / 60)
            duration = (
                f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
            )
            over = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
            tqdm.write(f"{epoch:.1f} s for the first epoch, about {duration} left: over at {over}")
        self.announced = True

    def close(self) -> None:
        self.bar.close()
