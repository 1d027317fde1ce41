"""Train one network of one table: config -> data, model, recipe -> training -> record.

    python train.py experiment=mnistrot_pdo_p8
    python train.py -m experiment=mnistrot_pdo_p8 group=p4,p6,p8 seed=0,1
    torchrun --nproc-per-node=4 train.py experiment=cifar10_pdo_p8_44
    python train.py mode=evaluate checkpoint=outputs/mnistrot_pdo_p8/seed=0

The same command again continues an unfinished run and skips a finished one. Exit codes: 0 finished,
1 failed or refused, 75 interrupted (by Ctrl-C, SIGTERM or max_time): repeat the command to go on.
Under torchrun and with a launcher, which have codes of their own, 1 for all that is not finished.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pdoe.data import DataError, DataSet
from pdoe.export import export_plain, load_exported_weights
from pdoe.files import STORAGE_ERRORS
from pdoe.run.checkpoints import CheckpointMismatch, Progress
from pdoe.run.command_line import as_path, check_groups, check_words, seconds
from pdoe.run.config import (
    build_model,
    completed,
    configured_data,
    effective_overrides,
    hashed,
    resolved,
    without_seed,
)
from pdoe.run.diagnostics import diagnose, measured_equivariance, turned_filters
from pdoe.run.folder import RunFolder, run_folder
from pdoe.run.hardware import (
    Settings,
    device_name,
    make_repeatable,
    resolve_device,
    resolve_precision,
)
from pdoe.run.provenance import (
    device_label,
    environment,
    extend_manifest,
    reset_peak_memory,
    update_last_part,
)
from pdoe.run.ranks import Ranks, join, leave, said_of_ranks, synchronised
from pdoe.run.recipe import Recipe
from pdoe.run.record import RecordError, continue_record, new_record, now
from pdoe.run.trained import configuration_at, configuration_in, load_weights
from pdoe.run.training import Diverged, Stop, Training, check, evaluate
from pdoe.run.weights import tested_file
from pdoe.tracking.write import Tracker

ROOT = Path(__file__).resolve().parent
INTERRUPTED = 75  # EX_TEMPFAIL: the same command goes on


_statuses: list[str] = []  # of the runs of this process: a sweep has several
_stop = Stop()


def main() -> None:
    sys.argv[1:] = map(as_path, sys.argv[1:])
    try:
        check_groups(sys.argv[1:])
    except ValueError as error:  # which Hydra would tell in a traceback
        sys.exit(f"train.py: {error}")
    before = {kind: signal.signal(kind, _interrupt) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        _main()
    except KeyboardInterrupt:  # outside of a run
        sys.exit(INTERRUPTED)
    finally:
        leave()
        for kind, handler in before.items():
            signal.signal(kind, handler)
    launched = any(re.match(r"(hydra/)?launcher=", word) for word in sys.argv)
    if not _statuses and {"-m", "--multirun"} & set(sys.argv) and not launched:
        sys.exit("train.py: the sweep names no run (does a glob match nothing?)")
    if set(_statuses) - {"finished", "interrupted"}:
        sys.exit(1)
    if "interrupted" in _statuses:
        sys.exit(INTERRUPTED)


def _interrupt(*_: Any) -> None:
    """Ctrl-C or a polite kill: finish the step, keep the state; once more ends it at once."""
    first, _stop.requested = not _stop.requested, True
    if not _stop.listening:
        raise KeyboardInterrupt
    if first:
        os.write(1, b"stopping after this step; once more stops at once\n")  # print may be at work
    elif "WORLD_SIZE" not in os.environ:  # torchrun passes a signal on that the rank has got, too
        raise KeyboardInterrupt


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="config")
def _main(cfg: DictConfig) -> None:
    # A run that fails or is refused does not keep the others of a sweep from running.
    _stop.requested = False
    job = "submitit" in HydraConfig.get().launcher._target_  # in a process that has no `main`
    if job:  # SIGUSR2: the time of a Slurm job is nearly over, or it is preempted
        for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(kind, _interrupt)
    try:
        if cfg.mode not in ("train", "evaluate"):
            raise ValueError(f"mode is train or evaluate, not {cfg.mode!r}")
        with ExitStack() as held:
            status = run(cfg, held) if cfg.mode == "train" else evaluate_alone(cfg)
    except (RecordError, CheckpointMismatch, DataError, ValueError, OSError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"train.py: {error}", file=sys.stderr)
        status = "refused"
    except KeyboardInterrupt:
        status = "interrupted"
    _statuses.append(status)
    if job and status != "finished":
        raise RuntimeError(f"the run is {status}: its record says why")  # told to the launcher
    if _stop.requested:
        sys.exit(INTERRUPTED)  # the other runs of a sweep are not begun
    if status not in ("finished", "interrupted") and "WORLD_SIZE" in os.environ:
        sys.exit(1)  # the other ranks may be elsewhere: they end with this one


def run(cfg: DictConfig, held: ExitStack) -> str:
    """Carry out one run, or go on with it, or skip it; its status.

    ``held`` lets go of the run's folder when the run has ended, in whatever way.
    """
    began = time.perf_counter()
    experiment = HydraConfig.get().runtime.choices.experiment or "custom"
    config = resolved(cfg, experiment)
    recipe = config["recipe"]
    check_words(cfg)
    overrides = effective_overrides(config, list(HydraConfig.get().overrides.task))
    max_seconds = seconds(cfg.max_time)
    ranks, device = join(resolve_device(cfg.device))

    def say(line: str) -> None:
        if ranks.first:
            print(line, flush=True)

    folder = RunFolder(run_folder(cfg.outputs, experiment, overrides, cfg.seed, recipe["scale"]))
    row = f"{experiment} {','.join(overrides)}".strip()
    say(f"\n{row}, seed {cfg.seed}: {folder.path}")

    make_repeatable(device, cfg.deterministic in ("auto", True))
    reset_peak_memory()
    data = ranks.first_before_others(lambda: configured_data(config, cfg.data.root)).to(device)
    problem: Exception | None = None
    chosen: list[str] = []
    try:
        plan = Recipe.of(recipe)
        check(plan, data, ranks.count)
        model, settings, chosen = built(cfg, config, data, device, ranks)
    except Exception as error:
        if cfg.restart:  # before anything is thrown away
            raise ValueError(str(error)) from error
        problem = error
    hardware = {
        "device": device_label(device),
        "precision": config["precision"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "ranks": ranks.count,
    }
    here = environment(device, ROOT, hardware | dict(line.split(": ") for line in chosen))

    def begin() -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The record that was there, and the one of this run."""
        held.enter_context(folder.taken())
        if cfg.restart:
            folder.discard()
        before = folder.read_result()
        record = new_record(
            experiment=experiment,
            overrides=overrides,
            seed=cfg.seed,
            config=hashed(config),
            data={"name": data.name, "provenance": data.provenance, "sha256": data.sha256},
            hardware=hardware,
            code=ROOT,
        )
        known = hashed(without_seed(configuration_in(folder.path)))
        record = continue_record(record, before, folder.path, hashed(config), known)
        if record["status"] != "finished":
            if lost := folder.missing_epochs(record["epochs"]):
                print(f"{folder.path}/metrics.jsonl lacks epochs {lost[0]} to {lost[-1]}")
            if record["epochs"] and not folder.checkpoint.exists():
                raise RecordError(
                    f"{folder.path} has a record of {record['epochs']} epochs but no checkpoint to "
                    "go on from: bring it back, or begin anew with restart=true"
                )
            known = record.get("manifest")
            record["manifest"] = extend_manifest(known, here, config, now(), record["epochs"])
            folder.write_config(OmegaConf.to_yaml(OmegaConf.create({**config, "seed": cfg.seed})))
            folder.write_result(record)
        return before, record

    # One folder, decided once: what a rank finds there may be another's doing.
    before, record = ranks.by_first(begin)
    if record["status"] == "finished":
        say(f"already {closing_line(record, folder)}")
        return "finished"
    tracker = Tracker(
        cfg.tracking.mode if ranks.first else "disabled",
        folder.path,
        project=cfg.tracking.project,
        run_id=record["run_id"],
        name=f"{row}, seed {cfg.seed}",
        group=row,
        tags=[data.name, config["group"]["name"], data.provenance, recipe["scale"]],
        config={**config, "seed": cfg.seed, "manifest": record["manifest"]},
        record=record,
    )

    def log(metrics: dict[str, Any], progress: Progress) -> None:
        folder.append_metrics(metrics)
        record.update(progress.for_record(), ended=now())
        update_last_part(record["manifest"], record["ended"], progress.epoch)
        folder.write_result(record)
        tracker.log(metrics)

    mirrored: dict[str, Any] = {}
    try:
        if problem is not None:
            raise problem
        record["parameters"] = sum(p.numel() for p in model.parameters())
        count = len(data.train_images[: recipe["train_images"]])
        say(
            f"{recipe['epochs']} epochs on {count:,} images ({data.provenance}), "
            f"{record['parameters']:,} parameters, {config['group']['name']}, {record['device']}, "
            f"{record['precision']}, threads: {record['threads']}"
        )
        say("; ".join(chosen))
        if ranks.count > 1:
            torch.manual_seed(cfg.seed + 1_000_003 * ranks.rank)  # dropout of its own
            record["shared"] = said_of_ranks(model, ranks, recipe["batch_size"])
            say(record["shared"])
        training = Training(
            model,
            data,
            plan,
            seed=cfg.seed,
            precision=config["precision"],
            cuda_graph=settings.cuda_graph,
            checkpoint=folder.checkpoint,
            conditions={
                "machine": device_name(device),
                "torch": str(torch.__version__),  # a plain text, or the state would not load
                "compile": settings.compile,
                "channels_last": settings.channels_last,
                "configuration": record["config_hash"],
                "seed": cfg.seed,
                "data": data.sha256[:12],
            },
            any_conditions=cfg.resume == "any",
            max_seconds=max_seconds and max(0.0, max_seconds - (time.perf_counter() - began)),
            stop=_stop,
            ranks=ranks,
            log=log,
        )
        progress, protocol = training.run(), training.recipe.protocol
        del training  # its optimiser and averages have done their work
        record.update(progress.for_record())
        if progress.epoch == recipe["epochs"] and not progress.stopped:
            record["equivariance_error"] = measured_equivariance(model, data)
            if ranks.first:
                mirrored = closing_measurements(model, data, config, folder, progress, say)
            record.update(protocol(progress.selected_epoch))
            record.update(status="finished", reason=None)
        elif progress.stopped == "time":
            record["reason"] = f"max_time={cfg.max_time} is used up"
        else:
            record["reason"] = "stopped by a signal"
    except KeyboardInterrupt:
        record["reason"] = "stopped by a signal"
        raise
    except CheckpointMismatch:
        record = before or record  # nothing was trained: the record stays as it was
        raise
    except Diverged as error:
        record.update(status="diverged", reason=str(error))
    except Exception as error:
        record.update(reason=f"{type(error).__name__}: {error}")
        # On a full disk what was written stays, and the run can go on.
        if not (isinstance(error, OSError) and error.errno in STORAGE_ERRORS):
            record.update(status="failed")
            if not isinstance(error, (ValueError, TypeError)):  # those say all that is to be said
                traceback.print_exc()
    finally:
        if record is not before:
            record["ended"] = now()
            update_last_part(record["manifest"], record["ended"], record["epochs"])
            say(closing_line(record, folder))
        try:
            if ranks.first:
                folder.write_result(record)
        except OSError as error:
            say(f"{folder.path}/result.json is as it was: {error}")
        tracker.finish(record, failed=record["status"] in ("failed", "diverged"), **mirrored)
    return record["status"]


def built(
    cfg: DictConfig, config: dict[str, Any], data: DataSet, device: torch.device, ranks: Ranks
) -> tuple[torch.nn.Module, Settings, list[str]]:
    """The network as it is to be run, and lines that say how."""
    torch.manual_seed(cfg.seed)
    model = build_model(config, data).to(device)
    if config["precision"] == "fp64":
        model.double()
    settings, chosen = Settings.resolve(cfg, device, model, ranks.count)
    if config["recipe"]["sync_bn"]:
        model = synchronised(model, device)
    settings.apply(model)
    return model, settings, chosen


def closing_measurements(
    model: torch.nn.Module,
    data: DataSet,
    config: dict[str, Any],
    folder: RunFolder,
    progress: Progress,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the finished network once more, write it down, and say what W&B is to mirror.

    The run is trained and tested by then: what fails here is said, and does not undo it.
    """
    mirrored: dict[str, Any] = {"weights": tested_file(folder.checkpoint)}
    test_images = config["recipe"]["test_images"]
    try:
        found = diagnose(model, data, config["precision"], test_images, progress.confusion)
        mirrored |= {"diagnostics": found, "filters": turned_filters(model)}
        folder.write_diagnostics(found)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            raise
        say(f"diagnostics are left out: {type(error).__name__}: {error}")
    return mirrored


def evaluate_alone(cfg: DictConfig) -> str:
    """Print the test error of weights that are there: a run, a checkpoint, an exported network.

    A run and its files are tested on their own data with their own network; a file of weights
    elsewhere on what the command line chooses. Of several ranks the first one does it.
    """
    if os.environ.get("RANK", "0") != "0":
        return "finished"
    if cfg.checkpoint is None:
        raise ValueError("mode=evaluate needs checkpoint=: a run folder, a checkpoint or a file")
    path = Path(str(cfg.checkpoint))
    if not path.exists():
        raise ValueError(f"checkpoint={path} does not exist")
    device = resolve_device(cfg.device)
    precision = resolve_precision(cfg.precision, device)
    make_repeatable(device)
    config = configuration_at(path)
    if config is None:
        config = resolved(cfg, HydraConfig.get().runtime.choices.experiment or "custom")
    config = completed(config)
    data = configured_data(config, cfg.data.root).to(device)
    model = build_model(config, data)
    if path.suffix == ".pt2":
        model = load_exported_weights(export_plain(model), path)
    else:
        model = load_weights(model, path)
    model = model.to(device, torch.float64 if precision == "fp64" else None)
    count = len(data.test_images[: config["recipe"]["test_images"]])
    error = evaluate(model, data, precision, count, config["recipe"]["evaluate"]["tta_angles"])
    wrong = round(error * count / 100)
    print(
        f"{path}: test error {error:.3f} %, {wrong:,} of {count:,} images of {data.name} "
        f"({data.provenance}), {device_name(device)}, {precision}",
        flush=True,
    )
    return "finished"


def closing_line(record: dict[str, Any], folder: RunFolder) -> str:
    if record["status"] == "finished":
        return f"finished: test error {record['test_error']:.2f} %, {folder.path}/result.json"
    again = "; repeat the command to go on" if record["status"] == "interrupted" else ""
    return f"{record['status']} after epoch {record['epochs']}: {record['reason']}{again}"


if __name__ == "__main__":
    main()
