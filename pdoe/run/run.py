"""One run, from its configuration to its record: opened, trained, closed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ..tracking.write import Label, Tracker
from .checkpoints import CheckpointMismatch, Progress
from .closing import closing_line, is_disk_error, measure_trained
from .compose import reduce_overrides, resolve_config
from .config import drop_seed, select_hashed
from .diagnostics import measure_equivariance
from .divergence import Diverged
from .folder import RunFolder, run_folder
from .overrides import join_overrides
from .preparation import Setup
from .progress import format_count
from .provenance import describe_environment, extend_manifest, update_last_part
from .ranks import describe_ranks
from .record import RecordError, begin_record, continue_record, now
from .stop import Stop
from .trained import read_configuration_in
from .training import Training
from .values import check_run, check_words, parse_duration


def carry_out(cfg: DictConfig, experiment: str, task: Sequence[str], code: Path, stop: Stop) -> str:
    """Carry out one run, resume it, or skip it if it is finished.

    The arguments and errors are those of :class:`Run`.

    Returns:
        The status of its record: "finished", "interrupted", "failed" or "diverged".
    """
    run = Run(cfg, experiment, task, code, stop)
    try:
        if run.open():
            run.train()
    finally:
        run.close()
    return run.record["status"]


class Run:
    """One run of a configuration with one seed.

    Args:
        cfg: the composed configuration.
        experiment: the name of its experiment file, or "custom".
        task: the overrides of the command line.
        code: a folder in the repository whose commit is recorded.
        stop: the request to stop after the current step.

    Raises:
        ValueError: a value is impossible. Nothing has been read or written by then.
    """

    def __init__(
        self, cfg: DictConfig, experiment: str, task: Sequence[str], code: Path, stop: Stop
    ):
        self.began = time.perf_counter()
        self.cfg, self.experiment, self.code, self.stop = cfg, experiment, code, stop
        check_words(cfg)
        self.max_seconds = parse_duration(cfg.max_time)
        self.config = resolve_config(cfg, experiment)
        self.recipe = check_run(cfg, self.config)
        self.overrides = reduce_overrides(self.config, list(task))
        self.row = f"{experiment} {join_overrides(self.overrides)}".strip()
        self.smoke = cfg.recipe.scale == "smoke"
        self.folder = RunFolder(
            run_folder(cfg.outputs, experiment, self.overrides, cfg.seed, cfg.recipe.scale)
        )
        self.held = ExitStack()  # holds the lock of the folder
        self.record: dict[str, Any] = {}
        self.before: dict[str, Any] | None = None  # the record that an earlier call left
        self.tracker: Tracker | None = None
        self.mirrored: dict[str, Any] = {}  # diagnostics and weights for W&B

    # ---- Open ---------------------------------------------------------------------------------

    def open(self) -> bool:
        """Load the data, build the network, and lock the run's folder.

        Returns:
            Whether there is something to do: false if the run is finished.

        Raises:
            ValueError: the recipe does not fit the data, or the ranks.
            DataError: the data cannot be had.
            RecordError: the folder is in use, or holds another run.
        """
        self.setup = Setup(self.cfg, self.config)
        self.ranks = self.setup.ranks
        self._say(f"\n{self.row}, seed {self.cfg.seed}: {self.folder.path}")
        self.setup.load(self.recipe)
        self.setup.build()
        self.ranks.by_first(lambda: self.held.enter_context(self.folder.lock()))
        # The first rank decides: what another rank finds may be the first one's doing.
        self.before, self.record = self.ranks.by_first(self._begin)
        if self.record["status"] == "finished":
            self._say(f"already {closing_line(self.record, self.folder)}")
            return False
        self.tracker = self._track()
        return True

    def _begin(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Return the record that an earlier call left, and the record of this one.

        A smoke run measures nothing: what an earlier call left is discarded if it does not fit.
        """
        if self.cfg.restart:
            self.folder.discard()
        try:
            return self._read_or_begin()
        except RecordError:
            if not self.smoke:
                raise
            self.folder.discard()
            return self._read_or_begin()

    def _read_or_begin(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        folder, config, setup = self.folder, self.config, self.setup
        hardware = setup.describe_hardware()
        before = folder.read_result()
        record = begin_record(
            experiment=self.experiment,
            overrides=self.overrides,
            seed=self.cfg.seed,
            config=select_hashed(config),
            data=setup.describe_data(),
            hardware=hardware,
            code=self.code,
        )
        config_before = select_hashed(drop_seed(read_configuration_in(folder.path)))
        record = continue_record(record, before, folder.path, select_hashed(config), config_before)
        if record["status"] == "finished":
            return before, record
        folder.check_epochs(record["epochs"])
        settings = hardware | dict(line.split(": ") for line in setup.chosen)
        here = describe_environment(setup.device, self.code, settings)
        known = record.get("manifest")
        record["manifest"] = extend_manifest(known, here, config, now(), record["epochs"])
        folder.write_config(OmegaConf.to_yaml(OmegaConf.create(self._add_seed())))
        folder.write_result(record)
        return before, record

    def _track(self) -> Tracker:
        """Begin to mirror the run to W&B; other ranks than the first do not."""
        data = self.setup.data
        tags = [data.name, self.config["group"], data.provenance, self.cfg.recipe.scale]
        return Tracker(
            self.cfg.tracking if self.ranks.first else "disabled",
            self.folder.path,
            Label(
                project=self.cfg.project,
                run_id=self.record["run_id"],
                name=f"{self.row}, seed {self.cfg.seed}",
                group=self.row,
                tags=tags,
            ),
            config={**self._add_seed(), "manifest": self.record["manifest"]},
            record=self.record,
        )

    # ---- Train --------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the end, to a stop or to a failure; the record says which of them it was.

        Raises:
            CheckpointMismatch: the checkpoint cannot be resumed; the record stays as it was.
            KeyboardInterrupt: a signal came while no training step was running.
        """
        try:
            self._train()
        except KeyboardInterrupt:
            self.record["reason"] = "stopped by a signal"
            raise
        except CheckpointMismatch:
            self.record = self.before or self.record  # nothing was trained
            raise
        except Diverged as error:
            self.record.update(status="diverged", reason=str(error))
        except Exception as error:
            self.record["reason"] = f"{type(error).__name__}: {error}"
            if not is_disk_error(error):  # on a full disk the run can be resumed
                self.record["status"] = "failed"
                if not isinstance(error, ValueError | TypeError):  # their messages say enough
                    traceback.print_exc()

    def _train(self) -> None:
        self._announce()
        progress = self._resume().run()
        record = self.record
        record.update(progress.for_record())
        if progress.epoch == self.recipe.epochs and not progress.stopped:
            self._measure(progress)
            record.update(self.recipe.protocol(progress.selected_epoch))
            record.update(status="finished", reason=None)
        elif progress.stopped == "time":
            record["reason"] = f"max_time={self.cfg.max_time} is used up"
        else:
            record["reason"] = "stopped by a signal"

    def _announce(self) -> None:
        """Print what is trained, on what and how."""
        config, record, setup = self.config, self.record, self.setup
        record["parameters"] = sum(p.numel() for p in setup.model.parameters())
        count = len(setup.data.train_images[: self.recipe.train_images])
        epochs = format_count(self.recipe.epochs, "epoch")
        self._say(
            f"{epochs} on {count:,} images ({setup.data.provenance}), "
            f"{record['parameters']:,} parameters, {config['group']}, {record['device']}, "
            f"{record['precision']}, threads: {record['threads']}"
        )
        self._say("; ".join(setup.chosen))
        if self.ranks.count > 1:
            torch.manual_seed(self.cfg.seed + 1_000_003 * self.ranks.rank)  # dropout of its own
            record["shared"] = describe_ranks(setup.model, self.ranks, self.recipe.batch_size)
            self._say(record["shared"])

    def _resume(self) -> Training:
        """Return the training with the state of the checkpoint, if there is one."""
        try:
            return self._make_training()
        except CheckpointMismatch:
            if not self.smoke:
                raise
        self.ranks.by_first(self.folder.discard)
        self.setup.build()
        self.before, self.record = self.ranks.by_first(self._begin)
        self._announce()
        return self._make_training()

    def _make_training(self) -> Training:
        left = self.max_seconds
        if left:
            left = max(0.0, left - (time.perf_counter() - self.began))
        setup = self.setup
        return Training(
            setup.model,
            setup.data,
            self.recipe,
            seed=self.cfg.seed,
            precision=self.config["precision"],
            cuda_graph=setup.settings.cuda_graph,
            checkpoint=self.folder.checkpoint,
            conditions={
                **setup.list_network_conditions(),
                "configuration": self.record["config_hash"],
                "seed": self.cfg.seed,
                "data": setup.data.sha256[:12],
            },
            any_conditions=self.cfg.resume == "any",
            max_seconds=left,
            stop=self.stop,
            ranks=self.ranks,
            log=self._log,
            log_step=self.tracker.log_step,
        )

    def _log(self, metrics: dict[str, Any], progress: Progress) -> None:
        """Write the metrics of an epoch and the record so far."""
        self.folder.append_metrics(metrics)
        self.record.update(progress.for_record(), ended=now())
        update_last_part(self.record["manifest"], self.record["ended"], progress.epoch)
        self.folder.write_result(self.record)
        self.tracker.log(metrics)

    def _measure(self, progress: Progress) -> None:
        """Measure the trained network once more."""
        model, data = self.setup.model, self.setup.data
        self.record["equivariance_error"] = measure_equivariance(model, data)
        if self.ranks.first:
            trained = model, data, self.config, progress
            self.mirrored = measure_trained(*trained, self.folder, self._say)

    # ---- Close --------------------------------------------------------------------------------

    def close(self) -> None:
        """Write the record, end the tracking, and unlock the folder."""
        with self.held:
            if self.tracker is None:  # refused, or finished before
                return
            record = self.record
            if record is not self.before:
                record["ended"] = now()
                update_last_part(record["manifest"], record["ended"], record["epochs"])
                self._say(closing_line(record, self.folder))
            try:
                if self.ranks.first:
                    self.folder.write_result(record)
            except OSError as error:
                self._say(f"{self.folder.path}/result.json could not be written: {error}")
            failed = record["status"] in ("failed", "diverged")
            self.tracker.finish(record, failed=failed, **self.mirrored)

    def _say(self, line: str) -> None:
        """Print a line once, whatever the number of ranks."""
        if self.ranks.first:
            print(line, flush=True)

    def _add_seed(self) -> dict[str, Any]:
        return {**self.config, "seed": self.cfg.seed}
