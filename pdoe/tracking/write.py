"""Weights & Biases behind one small object. No account and no network ever stop a run.

:mod:`pdoe.tracking.read` reads the same run back.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.facts import SETS
from . import start
from .media import Mistake, make_pictures, make_tables
from .names import STEP, STEP_LOSS, THROUGHPUT, rename_for_wandb
from .service import end_service, wait_for_log
from .start import MODES, choose_mode, find_lost_server, format_error, set_environment, start_run

__all__ = ["MODES", "Label", "Mistake", "Tracker"]

UPLOAD = 120  # seconds for the weights, on a server that answers
BETWEEN_STEPS = 2.0  # seconds between two steps that are logged, at least


@dataclass(frozen=True)
class Label:
    """How W&B lists a run: ``run_id`` identifies it, ``group`` is averaged over seeds."""

    project: str
    run_id: str
    name: str
    group: str
    tags: Sequence[str] = ()


class Tracker:
    """Mirrors a run to W&B; if W&B fails, one line says so and the run goes on without it.

    Args:
        mode: ``auto`` obeys WANDB_MODE if it is set, else goes online if a login is stored and
            offline if not, without ever asking; ``online`` falls back to offline too if the
            server cannot be had; ``offline``; ``disabled``.
        folder: of the run. W&B keeps all its files in ``<folder>/wandb``, so that a copy of the
            folder can be uploaded elsewhere: `wandb sync` in it.
        label: how W&B lists the run.
        config: the run's configuration; ``data.name`` gives the class names, unless the record has
            them.
        record: of the run as it begins; goes into the config as JSON text, exact to the digit.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(
        self,
        mode: str,
        folder: Path,
        label: Label,
        config: Mapping[str, Any],
        record: Mapping[str, Any] | None = None,
    ):
        mode, why = choose_mode(mode)
        self._run, self._online, self._last_step = None, False, -float("inf")
        data = config.get("data")
        name = data.get("name") if isinstance(data, Mapping) else None
        known = SETS[name].class_names if name in SETS else ()
        self._class_names = (record or {}).get("data", {}).get("class_names", known)
        if mode == "disabled":
            return
        arguments = {
            "project": label.project,
            "id": label.run_id,
            "name": label.name,
            "group": label.group,
            "job_type": "train",
            "tags": list(label.tags),
            "config": dict(config) | ({} if record is None else {"record": json.dumps(record)}),
            "dir": str(folder),
        }
        try:
            self._run, self._online, why = start_run(mode, arguments, why)
            self._run.define_metric("*", step_metric="epoch")
            self._run.define_metric(STEP, hidden=True)  # or W&B adds an epoch to the rows of steps
            for metric in (STEP_LOSS, THROUGHPUT):
                self._run.define_metric(metric, step_metric=STEP)
            # Not in `folder` if that cannot be written to: W&B then takes another one.
            self._kept = Path(self._run.dir).parent
        except Exception as error:
            self._lose(error)
            return
        look = f"look with `make view` or `wandb leet {_quote(self._kept)}`"
        if self._online:
            print(f"tracking: online, {self._run.url}; {look}")
        else:
            upload = f"`cd {_quote(self._kept.parents[1])} && wandb sync`"
            print(f"tracking: offline{why}; {look}; upload with {upload}")

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the metrics of an epoch, a row of ``metrics.jsonl``."""
        self._log(rename_for_wandb(row), row["epoch"])

    def log_step(self, step: int, loss: float, images_per_second: float) -> None:
        """Log a training step; steps that follow the last one within two seconds are left out.

        Args:
            step: counted from the start of the training, across epochs and resumed runs.
            loss: mean over the batch.
            images_per_second: of training.
        """
        now = time.monotonic()
        if now - self._last_step >= BETWEEN_STEPS:
            self._last_step = now
            self._log({STEP: step, STEP_LOSS: loss, THROUGHPUT: images_per_second}, step)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if self._run is None:
            return
        try:
            # W&B drops rows whose step lies behind its own. A run that began anew has such rows.
            own = {"step": step} if step >= self._run.step else {}
            self._run.log(dict(values), **own)
        except Exception as error:
            self._lose(error)

    def finish(
        self,
        record: Mapping[str, Any],
        failed: bool,
        *,
        diagnostics: Mapping[str, Any] | None = None,
        filters: np.ndarray | None = None,
        mistakes: Sequence[Mistake] = (),
        weights: Path | None = None,
    ) -> None:
        """End the run: its record in the summary, its tables and pictures, its weights.

        Every number of the record becomes a number of the summary (nested ones dotted). The whole
        record and the diagnostics are there as JSON text, too. Returns when W&B's log of the run is
        on the disk.

        Args:
            record: as in ``result.json``.
            failed: W&B shows the run as failed.
            diagnostics: ``confusion``, counts [true][predicted]; ``turned``, angle in degrees ->
                test error in per cent; ``layers``, name -> relative equivariance error. Each may
                be missing.
            filters: a picture, uint8 [H, W, 3].
            mistakes: misclassified test images.
            weights: a file, kept as the artifact ``model-<run id>``, alias ``last``.
        """
        if self._run is None:
            return
        import wandb

        numbers = collect_numbers({k: value for k, value in record.items() if k != "manifest"})
        summary = {**numbers, "record": json.dumps(record)}
        if diagnostics is not None:
            summary["diagnostics"] = json.dumps(diagnostics)
        try:
            if self._online and (lost := find_lost_server(wandb)):
                # W&B asks the server before it takes a table or a file, and waits for each.
                diagnostics = weights = None
                upload = f"`wandb sync {_quote(self._kept)}`"
                print(f"tracking: tables and weights are left out{lost}; upload with {upload}")
            with set_environment(WANDB_DATA_DIR=str(self._kept / "staging")):
                shown = make_tables(wandb, diagnostics or {}, self._class_names)
                shown |= make_pictures(wandb, filters, mistakes, self._class_names)
                # Even if empty: it closes the last row, whose numbers replace the summary's.
                self._run.log(shown)
                self._run.summary.update(summary)
                if weights is not None:
                    self._keep(wandb, Path(weights))
        except Exception as error:
            print(f"tracking: W&B did not take all of the end of the run ({format_error(error)})")
            with suppress(Exception):
                self._run.summary.update(summary)
        self._close(failed)

    def _close(self, failed: bool) -> None:
        run, self._run = self._run, None
        try:
            run.finish(exit_code=1 if failed else 0)
        except Exception as error:
            print(f"tracking: W&B failed ({format_error(error)}); the run goes on without it")
        if self._online and start.unreachable:
            end_service()  # or the process would wait for it at its end
        log = self._kept / f"run-{run.id}.wandb"
        if not wait_for_log(log):
            print(f"tracking: W&B's service is still writing {_quote(log)}")

    def _keep(self, wandb: Any, weights: Path) -> None:
        """Copy a file to where W&B keeps this run, and log the copy as an artifact."""
        copy = self._kept / "artifacts" / weights.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(weights, copy)
        artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
        entry = artifact.add_file(str(copy), policy="immutable", skip_cache=True)
        if not self._online:
            # `wandb sync` finds the file in a copy of the folder by a relative name alone, which
            # counts from the folder where it runs: the run's.
            entry.local_path = str(copy.relative_to(self._kept.parents[1]))
        logged = self._run.log_artifact(artifact, aliases=["last"])
        if self._online:
            logged.wait(timeout=UPLOAD)

    def _lose(self, error: Exception) -> None:
        run, self._run = self._run, None
        with suppress(Exception):
            run.finish(exit_code=1)
        print(f"tracking: W&B failed ({format_error(error)}); the run goes on without it")


def collect_numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, int | float]:
    """Collect the numbers of a nested mapping under dotted names.

    >>> collect_numbers({"seed": 1, "dirty": False, "error": {"trunk": 0.5}})
    {'seed': 1, 'error.trunk': 0.5}
    """
    numbers: dict[str, int | float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            numbers |= collect_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = value
    return numbers


def _quote(path: Path) -> str:
    """Quote a path as it is typed in the current folder."""
    path, here = path.resolve(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
