"""Train one network of one table: config -> data, model, recipe -> fit -> record.

    python train.py experiment=mnistrot_pdo_p8
    python train.py -m experiment=mnistrot_pdo_p8 group=p4,p6,p8 seed=0,1

The same command again continues an unfinished run and skips a finished one. Exit codes: 0 finished,
1 failed or refused, 75 interrupted (by Ctrl-C, SIGTERM or max_time): repeat the command to go on.
"""

from __future__ import annotations

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
from pdoe.data import DataError, DataSet, load_data
from pdoe.data.batches import to_input
from pdoe.models import MODELS
from pdoe.records import (
    RecordError,
    RunFolder,
    digest,
    now,
    repository_state,
    run_folder,
    run_id,
)
from pdoe.tracking import Tracker
from pdoe.training import (
    CheckpointMismatch,
    Diverged,
    Progress,
    fit,
    resolve_device,
    resolve_precision,
)

# What a run computes does not depend on these: they neither name a run nor enter its hash.
BESIDE_THE_POINT = ("seed", "device", "max_time", "restart", "outputs", "tracking")
INTERRUPTED = 75  # EX_TEMPFAIL: the same command goes on


class Refused(Exception):
    """The run cannot be started as asked; the message says why and what to do."""


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    _main()


def _interrupt(*_: Any) -> None:
    """A polite kill ends a run like Ctrl-C does: the record says so and the checkpoint stays."""
    raise KeyboardInterrupt


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def _main(cfg: DictConfig) -> None:
    try:
        status = run(cfg)
    except (Refused, RecordError, CheckpointMismatch, DataError) as error:
        sys.exit(f"train.py: {error}")
    if status == "interrupted":
        sys.exit(INTERRUPTED)
    if status != "finished":
        sys.exit(1)


def run(cfg: DictConfig) -> str:
    """Carry out one run, or go on with it, or skip it; its status."""
    choices = HydraConfig.get().runtime.choices
    experiment = choices.experiment or "custom"
    config = resolved(cfg, experiment)
    overrides = effective_overrides(config, list(HydraConfig.get().overrides.task))
    recipe = config["recipe"]
    folder = RunFolder(run_folder(cfg.outputs, experiment, overrides, cfg.seed, recipe["scale"]))
    device = resolve_device(cfg.device)
    title = f"{experiment} {','.join(overrides)}".strip() + f", seed {cfg.seed}"
    print(f"\n{title}: {folder.path}", flush=True)

    data = load_data(cfg.data.name, cfg.data.root, cfg.data.source).to(device)
    config_hash = digest(config)
    identity = {"config_hash": config_hash, "data.sha256": data.sha256}
    if cfg.restart and folder.path.exists():
        discard(folder)
    before = folder.read_result()
    if before is not None:
        check_identity(folder, before, identity)
        if before["status"] == "finished":
            print(f"already finished: test error {before['test_error']:.2f} %")
            return "finished"

    torch.manual_seed(cfg.seed)
    model = build_model(config, data).to(device)
    commit, dirty = repository_state(Path(__file__).parent)
    if before is not None and commit not in before["commit"].split("+"):
        commit, dirty = f"{before['commit']}+{commit}", dirty or before["dirty"]
    record: dict[str, Any] = {
        "run_id": run_id(config_hash, cfg.seed, data.sha256),
        "experiment": experiment,
        "overrides": ",".join(overrides),
        "seed": cfg.seed,
        "status": "interrupted",
        "test_error": None,
        "test_error_best": None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": 0,
        "seconds": 0.0,
        "seconds_per_epoch": None,
        "device": device_name(device),
        "precision": config["precision"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
        "dirty": dirty,
        "data": {"name": data.name, "provenance": data.provenance, "sha256": data.sha256},
        "config_hash": config_hash,
        "equivariance_error": {"trunk": None, "logits": None},
        "started": before["started"] if before else now(),
        "ended": now(),
        "reason": "killed or still running",
    }
    folder.write_config(OmegaConf.to_yaml(OmegaConf.create({**config, "seed": cfg.seed})))
    folder.write_result(record)
    tracker = Tracker(
        cfg.tracking.mode,
        folder.path,
        project=cfg.tracking.project,
        run_id=record["run_id"],
        name=title,
        group=f"{experiment} {','.join(overrides)}".strip(),
        tags=[data.name, config["group"]["name"], data.provenance, recipe["scale"]],
        config={**config, "seed": cfg.seed, "commit": commit, "data_sha256": data.sha256},
    )

    def log(row: dict[str, Any], progress: Progress) -> None:
        if row["epoch"] == 1:
            folder.keep_epochs(0)
        folder.append_metrics(row)
        record.update(progress_fields(progress), ended=now())
        folder.write_result(record)
        tracker.log(row)

    print(
        f"{recipe['epochs']} epochs on {len(data.train_images[: recipe['train_images']]):,} images "
        f"({data.provenance}), {record['parameters']:,} parameters, {config['group']['name']}, "
        f"{record['device']}, {config['precision']}, {record['threads']} threads",
        flush=True,
    )
    try:
        progress = fit(
            model,
            data,
            epochs=recipe["epochs"],
            batch_size=recipe["batch_size"],
            learning_rate=recipe["learning_rate"],
            weight_decay=recipe["weight_decay"],
            augment=recipe["augment"],
            evaluate_every=recipe["evaluate"]["every"],
            evaluate_last=recipe["evaluate"]["last"],
            train_images=recipe["train_images"],
            test_images=recipe["test_images"],
            seed=cfg.seed,
            precision=config["precision"],
            checkpoint=folder.checkpoint,
            max_seconds=seconds(cfg.max_time),
            log=log,
        )
        record.update(progress_fields(progress))
        if progress.epoch == recipe["epochs"]:
            group = PointGroup.named(config["group"]["name"])
            record["equivariance_error"] = measured_equivariance(model, group, data)
            record.update(status="finished", reason=None)
        else:
            record["reason"] = f"max_time={cfg.max_time} is used up"
    except KeyboardInterrupt:
        record["reason"] = "stopped by a signal"
    except Diverged as error:
        record.update(status="diverged", reason=str(error))
    except CheckpointMismatch:
        raise
    except BaseException as error:
        record.update(status="failed", reason=f"{type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        record["ended"] = now()
        folder.write_result(record)
        tracker.finish(record, failed=record["status"] in ("failed", "diverged"))
    if record["status"] == "finished":
        print(f"finished: test error {record['test_error']:.2f} %, {folder.path}/result.json")
    else:
        again = "; repeat the command to go on" if record["status"] == "interrupted" else ""
        print(f"{record['status']} after epoch {record['epochs']}: {record['reason']}{again}")
    return record["status"]


def resolved(cfg: DictConfig, experiment: str) -> dict[str, Any]:
    """What determines the result of a run apart from seed and data, as plain values."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for key in BESIDE_THE_POINT:
        del config[key]
    del config["data"]["root"]
    config["precision"] = resolve_precision(cfg.precision, resolve_device(cfg.device))
    return {"experiment": experiment, **config}


def effective_overrides(config: dict[str, Any], task: list[str]) -> list[str]:
    """The overrides that set this run apart from its experiment, sorted.

    An override that changes nothing (``group=p8`` for a row that is p8) does not count, nor does
    the smoke recipe, which has a folder of its own.
    """
    experiment = [o for o in task if re.match(r"\+?experiment=", o)]
    others = sorted(o.lstrip("+") for o in task if o not in experiment)
    kept = [o for o in others if o != "recipe=smoke"]
    for override in list(kept):
        rest = [o for o in others if o != override]
        if resolved(hydra.compose("config", experiment + rest), config["experiment"]) == config:
            kept.remove(override)
    return kept


def check_identity(folder: RunFolder, before: dict[str, Any], identity: dict[str, str]) -> None:
    """Refuse to mix two different runs in one folder, and say what differs."""
    had = {"config_hash": before["config_hash"], "data.sha256": before["data"]["sha256"]}
    differ = [f"{key} {had[key]}, now {identity[key]}" for key in had if had[key] != identity[key]]
    if differ:
        raise Refused(
            f"{folder.path} holds a {before['status']} run of another configuration or other data "
            f"({'; '.join(differ)}); its config.yaml says what it was. Move the folder away, or "
            "give restart=true to throw it away"
        )


def discard(folder: RunFolder) -> None:
    for path in (*folder.checkpoint.glob("*"), folder.path / "result.json"):
        path.unlink(missing_ok=True)
    folder.keep_epochs(0)


def build_model(config: dict[str, Any], data: DataSet) -> torch.nn.Module:
    """The network of a resolved configuration, for the images of ``data``."""
    arguments = dict(config["model"])
    recipe = config["recipe"]
    return MODELS[arguments.pop("name")](
        PointGroup.named(config["group"]["name"]),
        **arguments,
        dropout=recipe["dropout"],
        norm_eps=recipe["norm"]["eps"],
        norm_momentum=recipe["norm"]["momentum"],
        in_channels=data.train_images.shape[1],
        classes=data.classes,
        image_size=data.train_images.shape[-1],
    )


def measured_equivariance(
    model: torch.nn.Module, group: PointGroup, data: DataSet
) -> dict[str, float]:
    """Largest relative error over the elements that keep the grid, on 64 test images, float32."""
    model.eval()
    x = to_input(data.test_images[:64], data.mean, data.std)
    parts = {"trunk": model.trunk, "logits": model}
    return {k: max(equivariance_error(part, group, x).values()) for k, part in parts.items()}


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
        raise Refused(f"max_time is HH:MM:SS, such as 00:30:00, not {duration}")
    hours, minutes, rest = map(int, match.groups())
    return 3600 * hours + 60 * minutes + rest


if __name__ == "__main__":
    main()
