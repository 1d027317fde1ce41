"""Train one network of one table: config -> data, model, recipe -> fit -> record.

    python train.py experiment=mnistrot_pdo_p8
    python train.py -m experiment=mnistrot_pdo_p8 group=p4,p6,p8 seed=0,1

The same command again continues an unfinished run and skips a finished one. Exit codes: 0 finished,
1 failed or refused, 75 interrupted (by Ctrl-C, SIGTERM or max_time): repeat the command to go on.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pdoe import PointGroup, equivariance_error
from pdoe.checkpoints import CheckpointMismatch, Progress
from pdoe.data import DataError, DataSet, load_data
from pdoe.data.batches import to_input
from pdoe.models import MODELS
from pdoe.records import RecordError, RunFolder, digest, new_record, now, run_folder
from pdoe.tracking import Tracker
from pdoe.training import Diverged, fit, resolve_device, resolve_precision

ROOT = Path(__file__).resolve().parent
# What a run computes does not depend on these: they neither name a run nor enter its hash.
BESIDE_THE_POINT = ("seed", "device", "max_time", "restart", "outputs", "tracking")
# Keys that came after the first committed runs. At these values they change nothing and stay out of
# the hash, so that those runs are still runs of their configuration.
LATER = {
    "data": {"validation": 0},
    "recipe": {"schedule": "step", "label_smoothing": 0.0, "average": None},
}
INTERRUPTED = 75  # EX_TEMPFAIL: the same command goes on


_statuses: list[str] = []  # of the runs of this process: a sweep has several


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    _main()
    if not _statuses and {"-m", "--multirun"} & set(sys.argv):
        sys.exit("train.py: the sweep names no run (does a glob match nothing?)")
    if set(_statuses) - {"finished", "interrupted"}:
        sys.exit(1)
    if "interrupted" in _statuses:
        sys.exit(INTERRUPTED)


def _interrupt(*_: Any) -> None:
    """A polite kill ends a run like Ctrl-C does: the record says so and the checkpoint stays."""
    raise KeyboardInterrupt


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="config")
def _main(cfg: DictConfig) -> None:
    # A run that fails or is refused does not keep the others of a sweep from running.
    try:
        _statuses.append(run(cfg))
    except (RecordError, CheckpointMismatch, DataError, ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        _statuses.append("refused")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def run(cfg: DictConfig) -> str:
    """Carry out one run, or go on with it, or skip it; its status."""
    experiment = HydraConfig.get().runtime.choices.experiment or "custom"
    config = resolved(cfg, experiment)
    recipe = config["recipe"]
    if not isinstance(cfg.restart, bool):  # it throws results away
        raise ValueError(f"restart is true or false, not {cfg.restart!r}")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise ValueError(f"seed is an integer of at least 0, not {cfg.seed!r}")
    overrides = effective_overrides(config, list(HydraConfig.get().overrides.task))
    device, max_seconds = resolve_device(cfg.device), seconds(cfg.max_time)
    folder = RunFolder(run_folder(cfg.outputs, experiment, overrides, cfg.seed, recipe["scale"]))
    row = f"{experiment} {','.join(overrides)}".strip()
    print(f"\n{row}, seed {cfg.seed}: {folder.path}", flush=True)

    make_repeatable(device)
    data = load_data(cfg.data.name, cfg.data.root, cfg.data.source).to(device)
    if config["data"]["validation"] != 0:
        data = data.held_out(config["data"]["validation"])
    if cfg.restart:
        folder.discard()
    before = folder.read_result()
    record = new_record(
        experiment=experiment,
        overrides=overrides,
        seed=cfg.seed,
        config=hashed(config),
        data={"name": data.name, "provenance": data.provenance, "sha256": data.sha256},
        hardware={
            "device": device_name(device),
            "precision": config["precision"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        code=ROOT,
        before=before,
        config_before=hashed(configuration_in(folder)),
        folder=folder.path,
    )
    if record["status"] == "finished":
        print(f"already {closing_line(record, folder)}")
        return "finished"
    folder.write_config(OmegaConf.to_yaml(OmegaConf.create({**config, "seed": cfg.seed})))
    folder.write_result(record)
    tracker = Tracker(
        cfg.tracking.mode,
        folder.path,
        project=cfg.tracking.project,
        run_id=record["run_id"],
        name=f"{row}, seed {cfg.seed}",
        group=row,
        tags=[data.name, config["group"]["name"], data.provenance, recipe["scale"]],
        config={**config, **{key: record[key] for key in ("seed", "commit", "dirty", "data")}},
    )

    def log(metrics: dict[str, Any], progress: Progress) -> None:
        folder.append_metrics(metrics)
        record.update(progress_fields(progress), ended=now())
        folder.write_result(record)
        tracker.log(metrics)

    try:
        torch.manual_seed(cfg.seed)
        model = build_model(config, data).to(device)
        record["parameters"] = sum(p.numel() for p in model.parameters())
        count = len(data.train_images[: recipe["train_images"]])
        print(
            f"{recipe['epochs']} epochs on {count:,} images ({data.provenance}), "
            f"{record['parameters']:,} parameters, {config['group']['name']}, {record['device']}, "
            f"{record['precision']}, threads: {record['threads']}",
            flush=True,
        )
        progress = fit(
            model,
            data,
            epochs=recipe["epochs"],
            batch_size=recipe["batch_size"],
            learning_rate=recipe["learning_rate"],
            schedule=recipe["schedule"],
            weight_decay=recipe["weight_decay"],
            label_smoothing=recipe["label_smoothing"],
            average=recipe["average"],
            augment=recipe["augment"],
            evaluate_every=recipe["evaluate"]["every"],
            evaluate_last=recipe["evaluate"]["last"],
            train_images=recipe["train_images"],
            test_images=recipe["test_images"],
            seed=cfg.seed,
            precision=config["precision"],
            checkpoint=folder.checkpoint,
            max_seconds=max_seconds,
            log=log,
        )
        record.update(progress_fields(progress))
        if progress.epoch == recipe["epochs"]:
            record["equivariance_error"] = measured_equivariance(model, data)
            record.update(status="finished", reason=None)
        else:
            record["reason"] = f"max_time={cfg.max_time} is used up"
    except KeyboardInterrupt:
        record["reason"] = "stopped by a signal"
        raise
    except CheckpointMismatch:
        record = before or record  # nothing was trained: the record stays as it was
        raise
    except Diverged as error:
        record.update(status="diverged", reason=str(error))
    except Exception as error:
        record.update(status="failed", reason=f"{type(error).__name__}: {error}")
        if not isinstance(error, (ValueError, TypeError)):  # those say all that is to be said
            traceback.print_exc()
    finally:
        if record is not before:
            record["ended"] = now()
            print(closing_line(record, folder), flush=True)
        folder.write_result(record)
        tracker.finish(record, failed=record["status"] in ("failed", "diverged"))
    return record["status"]


def closing_line(record: dict[str, Any], folder: RunFolder) -> str:
    if record["status"] == "finished":
        return f"finished: test error {record['test_error']:.2f} %, {folder.path}/result.json"
    again = "; repeat the command to go on" if record["status"] == "interrupted" else ""
    return f"{record['status']} after epoch {record['epochs']}: {record['reason']}{again}"


def resolved(cfg: DictConfig, experiment: str) -> dict[str, Any]:
    """What determines the result of a run apart from seed and data, as plain values."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for key in BESIDE_THE_POINT:
        del config[key]
    del config["data"]["root"]
    config["precision"] = resolve_precision(cfg.precision, resolve_device(cfg.device))
    return {"experiment": experiment, **config}


def hashed(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """The part of a configuration that enters its hash."""
    if config is None:
        return None
    kept = dict(config)
    for name, neutral in LATER.items():
        if isinstance(config.get(name), dict):
            kept[name] = {
                key: value
                for key, value in config[name].items()
                if key not in neutral or digest(value) != digest(neutral[key])
            }
    return kept


def configuration_in(folder: RunFolder) -> dict[str, Any] | None:
    """What ``config.yaml`` of a run holds, to say what differs; None if it cannot be read."""
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder.path / "config.yaml"))
        return {key: value for key, value in config.items() if key != "seed"}
    except Exception:  # YAML has many ways to be damaged, and the record has the hash
        return None


def make_repeatable(device: torch.device) -> None:
    """The same numbers again on a GPU, and fp32 that is float32; a CPU does so anyway."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


def effective_overrides(config: dict[str, Any], task: list[str]) -> list[str]:
    """The overrides that set this run apart from its experiment, sorted.

    An override that changes nothing (``group=p8`` for a row that is p8) does not count, nor does
    the smoke recipe, which has a folder of its own.
    """
    kept = re.compile(rf"\+*(experiment|data\.root|({'|'.join(BESIDE_THE_POINT)})(\.\w+)*)=")
    fixed = [o for o in task if kept.match(o)]
    needed = sorted(o for o in task if o not in fixed)

    def makes_no_difference(override: str) -> bool:
        others = fixed + [o for o in needed if o != override]
        without = resolved(hydra.compose("config", others), config["experiment"])
        return digest(hashed(without)) == digest(hashed(config))

    while idle := next(filter(makes_no_difference, needed), None):
        needed.remove(idle)
    return [o for o in needed if o != "recipe=smoke"]


def build_model(config: dict[str, Any], data: DataSet) -> torch.nn.Module:
    """The network of a resolved configuration, for the images of ``data``."""
    arguments = dict(config["model"])
    recipe = config["recipe"]
    name = arguments.pop("name")
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: it is one of {', '.join(MODELS)}")
    return MODELS[name](
        PointGroup.named(config["group"]["name"]),
        **arguments,
        dropout=recipe["dropout"],
        norm_eps=recipe["norm"]["eps"],
        norm_momentum=recipe["norm"]["momentum"],
        in_channels=data.train_images.shape[1],
        classes=data.classes,
        image_size=data.train_images.shape[-1],
    )


def measured_equivariance(model: torch.nn.Module, data: DataSet) -> dict[str, float | None]:
    """Largest relative error over the elements that keep the grid, on 64 test images, float32.

    None where it is not a finite number: a network that maps everything to 0 has none.
    """
    model.eval()
    x = to_input(data.test_images[:64], data.mean, data.std)
    errors = {}
    for name, part in {"trunk": model.trunk, "logits": model}.items():
        largest = max(equivariance_error(part, model.group, x).values())
        errors[name] = largest if math.isfinite(largest) else None
    return errors


def progress_fields(progress: Progress) -> dict[str, Any]:
    per_epoch = progress.seconds_per_epoch
    return {
        "test_error": progress.test_error,
        "test_error_best": progress.test_error_best,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 1),
        "seconds_per_epoch": None if per_epoch is None else round(per_epoch, 3),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    return f"CPU {names[0]}" if names else "CPU"


def seconds(duration: str | None) -> float | None:
    """Seconds of ``HH:MM:SS``."""
    if duration is None:
        return None
    match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", str(duration))
    if not match:
        raise ValueError(f"max_time is HH:MM:SS, such as 00:30:00, not {duration}")
    hours, minutes, rest = map(int, match.groups())
    return 3600 * hours + 60 * minutes + rest


if __name__ == "__main__":
    main()
