"""Train one network of one table: configuration -> data, model, recipe -> training -> record.

    python train.py experiment=mnistrot_pdo_p8
    python train.py -m experiment=mnistrot_pdo_p8 group=p4,p6,p8 seed=0,1
    torchrun --nproc-per-node=4 train.py experiment=cifar10_pdo_p8_44
    python train.py mode=evaluate checkpoint=outputs/mnistrot_pdo_p8/seed=0

The same command resumes an unfinished run and skips a finished one. Exit codes: 0 finished, 1
failed or refused, 2 neither experiment nor model chosen, 75 interrupted (Ctrl-C, SIGTERM, max_time;
repeat the command). Under torchrun or a Hydra launcher, any unfinished run exits with 1.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pdoe.run.stop import Stop  # without torch: signals are handled before anything slow begins

ROOT = Path(__file__).resolve().parent
CONFIGS = ROOT / "configs"
INTERRUPTED = 75  # EX_TEMPFAIL: the same command resumes the run
SIGNALS = (signal.SIGTERM, signal.SIGINT)

stop = Stop()
statuses: list[str] = []  # of the runs of this process; a sweep has several


def interrupt(*_: Any) -> None:
    """Handle Ctrl-C or SIGTERM: save after the training step; a second signal stops at once."""
    again, stop.requested = stop.requested, True
    if stop.listening:
        if not again:
            os.write(1, b"stopping after this step; once more stops at once\n")  # print may be busy
        elif "WORLD_SIZE" not in os.environ:  # torchrun repeats a signal that the rank has got
            raise KeyboardInterrupt
    elif stop.running or again:
        raise KeyboardInterrupt
    else:
        os.write(2, b"train.py: stopped before a run began\n")
        if not statuses:  # nothing has been opened: leave from within any import
            os._exit(INTERRUPTED)


def main() -> None:
    """Read the command line, carry out its runs, and exit with the code that the runs deserve."""
    before = {kind: signal.signal(kind, interrupt) for kind in SIGNALS}
    statuses.clear()
    try:
        _launch()
    except KeyboardInterrupt:  # between runs, or twice
        sys.exit(INTERRUPTED)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    failed = set(statuses) - {"finished", "interrupted"}
    sys.exit(1 if failed else INTERRUPTED if "interrupted" in statuses else 0)


def _launch() -> None:
    """Let Hydra compose the configuration of each run and carry it out."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from pdoe.run import command_line

    words, began = sys.argv[1:], time.time()
    if missing := command_line.explain_choices(words, CONFIGS):
        print(f"train.py: {missing}", file=sys.stderr)
        sys.exit(2)
    command_line.prepare_environment()
    run_all = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
    try:
        command_line.check_names(words, CONFIGS)
        sys.argv[1:] = map(command_line.quote_path, words)
        run_all(_carry_out)()
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"train.py: {command_line.explain_error(error, words, CONFIGS)}")
    finally:
        if ranks := sys.modules.get("pdoe.run.ranks"):
            ranks.leave()
        command_line.print_job_ends(words, began)
    command_line.report_unfinished(words, statuses)


def _carry_out(cfg: Any) -> None:
    """Carry out one run. A refused run does not keep the other runs of a sweep from running."""
    from hydra.core.hydra_config import HydraConfig

    from pdoe.run.command_line import describe_place

    chosen = HydraConfig.get()
    job = "submitit" in chosen.launcher._target_
    if job:  # in a process without `main`; SIGUSR2: a Slurm job is out of time, or preempted
        for kind in (*SIGNALS, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(kind, interrupt)
    if stop.requested:
        sys.exit(INTERRUPTED)
    if chosen.mode.name == "MULTIRUN" and not job and os.environ.get("RANK", "0") == "0":
        print(describe_place(sys.argv[1:], len(statuses) + 1), flush=True)
    statuses.append(_status(cfg, chosen))
    if job and statuses[-1] != "finished":
        raise ValueError(f"a run is {statuses[-1]}, see its line above")  # for the launcher
    if stop.requested:
        sys.exit(INTERRUPTED)  # the other runs of a sweep do not begin
    if statuses[-1] not in ("finished", "interrupted") and "WORLD_SIZE" in os.environ:
        sys.exit(1)  # other ranks may wait for this one: torchrun ends them


def _status(cfg: Any, chosen: Any) -> str:
    """Train or evaluate; the status of the run, or "refused"."""
    from omegaconf.errors import OmegaConfBaseException

    from pdoe.data import DataError
    from pdoe.run.checkpoints import CheckpointMismatch
    from pdoe.run.command_line import check_name, explain_error
    from pdoe.run.record import RecordError
    from pdoe.run.run import carry_out
    from pdoe.run.trained import evaluate_checkpoint

    refusals = (RecordError, CheckpointMismatch, DataError, OmegaConfBaseException)
    experiment = chosen.runtime.choices.experiment or "null"
    stop.running = True
    try:
        check_name("experiment", experiment, CONFIGS)  # a path, too, reads a file
        experiment = "custom" if experiment == "null" else experiment
        if cfg.mode == "train":
            return carry_out(cfg, experiment, chosen.overrides.task, ROOT, stop)
        if cfg.mode != "evaluate":
            raise ValueError(f"mode is train or evaluate, not {cfg.mode!r}")
        evaluate_checkpoint(cfg, experiment)
        return "finished"
    except (*refusals, ValueError, OSError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"train.py: {explain_error(error, sys.argv[1:], CONFIGS)}", file=sys.stderr)
        return "refused"
    except KeyboardInterrupt:
        print("train.py: stopped; repeat the command to resume", file=sys.stderr)
        return "interrupted"
    finally:
        stop.running = False


if __name__ == "__main__":
    main()
