"""The words of a command line: paths are quoted, names are checked, errors are explained."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

PATHS = ("checkpoint", "outputs", "data.root")
CHOICES = ("experiment", "data", "model", "recipe", "launcher")  # folders of configs/
# The last line of a run, see `closing_line`, or the reason why there is no run.
JOB_END = re.compile(
    "^(?:(?:already )?finished: |(?:interrupted|failed|diverged) after |train\\.py: ).*", re.M
)
# Older command lines chose these with more words.
RENAMED = {"group.name": "group", "tracking.mode": "tracking", "tracking.project": "project"}


def prepare_environment() -> None:
    """Let Hydra raise its errors, which are explained here, and torch be quiet between ranks.

    Under torchrun no C++ warning of torch is printed, because one of them is about what
    ``Ranks.wrap`` does on purpose. ``TORCH_CPP_LOG_LEVEL=WARNING`` brings them back.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def quote_path(word: str) -> str:
    """Quote the value of an override if it is a path, so that Hydra reads no letter of it.

    A value in quotes is quoted already, and null remains null.

    >>> quote_path("checkpoint=outputs/a (1)/seed=0")
    "checkpoint='outputs/a (1)/seed=0'"
    """
    key, _, value = word.partition("=")
    by_hand = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if key not in PATHS or by_hand or value in ("", "null"):
        return word
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def list_names(choice: str, configs: Path) -> list[str]:
    """Return the names in one folder of ``configs``."""
    names = sorted(path.stem for path in (configs / choice).glob("*.yaml"))
    return [name for name in names if name != "defaults"]  # the schema of the recipes


def suggest_word(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the known word that is most like ``word``, if any is."""
    found = get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def check_names(words: Sequence[str], configs: Path) -> None:
    """Check that experiments, data sets, models, recipes and launchers are names of the lists.

    Raises:
        ValueError: a word chooses another name; the message names the nearest ones. Or Slurm is
            chosen where it is not installed.
    """
    for word in words:
        choice, _, value = word.partition("=")
        if choice not in CHOICES or "(" in value:  # glob(...) and the like: Hydra chooses
            continue
        for name in (part.strip("'\" ") for part in value.split(",")):
            check_name(choice, name, configs)
        if word == "launcher=slurm" and not shutil.which("srun"):
            raise ValueError(
                "launcher=slurm needs Slurm, and there is no srun on this machine: submit from a "
                "login node of the cluster, or run the jobs here with launcher=local"
            )


def check_name(choice: str, name: str, configs: Path) -> None:
    """Check one name; see :func:`check_names`."""
    known = list_names(choice, configs)
    if name in known or (choice in ("experiment", "launcher") and name == "null"):
        return
    suggestion = suggest_word(name, known) or f": it is one of {', '.join(known)}"
    raise ValueError(f"unknown {choice} {name!r}{suggestion}")


def explain_choices(words: Sequence[str], configs: Path) -> str | None:
    """Say what to choose if a command line chooses neither an experiment nor a model."""
    if any(re.match(r"\+*(experiment|model|mode)=|-(?!m$|-multirun$)", word) for word in words):
        return None
    names = list_names("experiment", configs)
    width, rows = max(map(len, names)) + 2, -(-len(names) // 3)
    lines = ["".join(f"{name:{width}}" for name in names[row::rows]) for row in range(rows)]
    head = "choose an experiment, such as experiment=mnistrot_pdo_p8, or a model (see --help):"
    return "\n  ".join([head, *(line.rstrip() for line in lines)])


def describe_place(words: Sequence[str], number: int) -> str:
    """Say which run of a sweep begins; of how many, where no glob chooses them.

    >>> describe_place(["-m", "group=p4,p8", "seed=range(0,4)"], 2)
    'run 2 of 8'
    """
    parse, runs = OverridesParser.create().parse_override, 1
    try:
        for override in (parse(word) for word in words if not word.startswith("-")):
            if override.is_sweep_override():
                runs *= len(list(override.sweep_iterator()))
    except HydraException:  # Hydra alone knows what a glob matches
        return f"run {number}"
    return f"run {number} of {runs}"


def chooses_launcher(words: Sequence[str]) -> bool:
    """Return whether a command line hands its runs to a launcher, as jobs.

    >>> chooses_launcher(["-m", "seed=0,1"]), chooses_launcher(["-m", "launcher=slurm"])
    (False, True)
    """
    return any(re.match("(hydra/)?launcher=", word) for word in words)


def print_job_ends(words: Sequence[str], since: float) -> None:
    """Print the last line of each run that a launcher carried out as a job, from the jobs' logs.

    Without a launcher on the command line nothing is printed: the logs are of another sweep.

    Args:
        words: the command line, which says where the logs lie.
        since: when the sweep began, in seconds as of ``time.time``; older logs are passed over.
    """
    if not chooses_launcher(words):
        return
    chosen = [word.partition("=")[2] for word in words if word.startswith("outputs=")]
    folder = Path(chosen[-1].strip("'\"") if chosen else "outputs", ".sweep", "jobs")
    for log in sorted(folder.glob("*/*_log.out")):
        if log.stat().st_mtime < since - 2:  # file systems round
            continue
        logs = [path for path in (log, log.with_suffix(".err")) if path.exists()]
        text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
        found = JOB_END.findall(text)
        end = found[-1] if found else f"a job did not end, see {log.with_suffix('.err')}"
        print(end, flush=True)


def describe_unfinished(statuses: Sequence[str]) -> str:
    """Say which runs of a sweep did not finish, by Hydra's numbers; empty for none or one run.

    >>> describe_unfinished(["finished", "refused", "finished"])
    '1 of 3 runs did not finish, see their messages above: #1 refused'
    """
    left = [f"#{n} {status}" for n, status in enumerate(statuses) if status != "finished"]
    if len(statuses) < 2 or not left:
        return ""
    head = f"{len(left)} of {len(statuses)} runs did not finish, see their messages above"
    return f"{head}: {', '.join(left)}"


def report_unfinished(words: Sequence[str], statuses: Sequence[str]) -> None:
    """Print which runs did not finish, and exit if a sweep of this process has no run at all."""
    if unfinished := describe_unfinished(statuses):
        print(f"train.py: {unfinished}", file=sys.stderr)
    if not statuses and not chooses_launcher(words) and not {"-m", "--multirun"}.isdisjoint(words):
        sys.exit("train.py: the sweep has no run (does a glob match nothing?)")


def explain_error(error: Exception, words: Sequence[str], configs: Path) -> str:
    """Say in one line what Hydra or OmegaConf could not read, and which key was probably meant."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: {text.splitlines()[0]}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    found = re.search(r"Could not (?:override|append to config|delete)[^']*'([^']+)'", text)
    found = found or re.search(r"Error (?:merging override|appending) ([^=\s]+)", text)
    if found is None or "already at" in text:
        return text.splitlines()[0]
    key = found[1].lstrip("+~")
    known = _list_keys(words, configs)
    if key in RENAMED:
        return f"unknown key {key}: it is {RENAMED[key]} now"
    if key in known:
        return text.splitlines()[-1]
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    return f"unknown key {key}" + (suggest_word(key, known) or f": there are {', '.join(siblings)}")


def _list_keys(words: Sequence[str], configs: Path) -> list[str]:
    """Return the keys that a command line may override, given what it chooses."""
    chosen = [w.split(",")[0] for w in words if w.split("=")[0] in CHOICES and "(" not in w]
    with hydra.initialize_config_dir(str(configs), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("config", chosen), resolve=False)
    return [*CHOICES, *_join_keys(config)]


def _join_keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _join_keys(value, f"{prefix}{key}.")
    return keys
