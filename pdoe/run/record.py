"""The record of a run, ``result.json``: its identity, and whether an earlier record fits it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .overrides import join_overrides
from .repository import repository_state

SCHEMA = 1  # of result.json; raise it when an older version would misread the file
# The version of the arithmetic. Raise it when a change makes the same configuration and seed give
# other numbers, so that no run mixes both.
NUMBERS = 1
LATER = ("reason", "ranks", "schema", "numbers")  # fields that the first records lack
LARGEST = 1e15  # no number of a record is larger
MOST_EPOCHS = 10**6
WAYS_OUT = "move {} away, or discard it with restart=true"


class RecordError(Exception):
    """A run folder cannot be used as it is; the message says why and what to do."""


def digest(value: Any) -> str:
    """Twelve hexadecimal digits that stand for a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_id(config_hash: str, seed: int, data_sha256: str) -> str:
    """The name of a run: the same configuration, seed and data always have the same one."""
    return digest([config_hash, seed, data_sha256])


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin_record(
    *,
    experiment: str,
    overrides: Sequence[str],
    seed: int,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    hardware: Mapping[str, Any],
    code: str | Path,
) -> dict[str, Any]:
    """The record of a run that begins.

    Status is "finished", "interrupted", "failed" or "diverged". It is "interrupted" from the start,
    so that the record of a killed run is right. Errors are in per cent, times in seconds.

    Args:
        config: what determines the result apart from seed and data.
        data: name, provenance and sha256; class_names and the shape of an image where the set's
            facts have none.
        hardware: device, precision, threads, torch and ranks.
        code: a folder in the repository whose commit is recorded.
    """
    config_hash = digest(config)
    commit, dirty = repository_state(code)
    return {
        "schema": SCHEMA,
        "run_id": run_id(config_hash, seed, data["sha256"]),
        "experiment": experiment,
        "overrides": join_overrides(overrides),
        "seed": seed,
        "status": "interrupted",
        "test_error": None,
        "test_error_best": None,
        "parameters": None,
        "epochs": 0,
        "seconds": 0.0,
        "seconds_per_epoch": None,
        **hardware,
        "numbers": NUMBERS,
        "commit": commit,
        "dirty": dirty,
        "data": dict(data),
        "config_hash": config_hash,
        "equivariance_error": {"trunk": None, "logits": None},
        "started": now(),
        "ended": now(),
        "reason": "killed, or still running",
    }


def continue_record(
    record: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    folder: str | Path,
    config: Mapping[str, Any],
    config_before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The record of a run that may have begun before.

    Args:
        record: the new record, see :func:`begin_record`.
        before: the record that an earlier start left in ``folder``; None if there is none.
        config, config_before: the configuration, and the one that lies in ``folder``.

    Returns:
        ``record`` where nothing was before; ``before`` if that run is finished; else ``before``
        with this process's hardware and code.

    Raises:
        RecordError: ``before`` is damaged, or belongs to another configuration, seed or data; the
            message names what differs.
    """
    if before is None:
        if config_before is not None and digest(config_before) != record["config_hash"]:
            raise RecordError(
                f"{folder} holds a run of another configuration, whose record is lost: "
                f"{'; '.join(_list_differences(config_before, config))}; {WAYS_OUT.format(folder)}"
            )
        return dict(record)
    if damaged := _find_damaged_fields(before, record, config):
        names = ", ".join(dict.fromkeys(damaged))
        raise RecordError(f"{folder}/result.json is damaged at {names}; {WAYS_OUT.format(folder)}")
    parts = ("seed", "data")
    differ = _list_differences(
        {key: before[key] for key in parts}, {key: record[key] for key in parts}
    )
    if before["config_hash"] != record["config_hash"]:
        known = _list_differences(config_before, config) if config_before else []
        differ += known or [f"config_hash {before['config_hash']}, now {record['config_hash']}"]
    if differ:
        raise RecordError(
            f"{folder} holds a run ({before['status']}) of another configuration, seed or data: "
            f"{'; '.join(differ)}; {WAYS_OUT.format(folder)}"
        )
    if before["status"] == "finished":
        return dict(before)
    hardware = ("device", "precision", "threads", "torch", "ranks")
    had = {"numbers": 1, **before}
    same = had["numbers"] == record["numbers"]
    return {
        **before,
        **{key: record[key] for key in (*hardware, "schema", "status", "reason") if key in record},
        **{key: _join(before[key], record[key]) for key in ("commit", "device")},
        "numbers": had["numbers"] if same else _join(str(had["numbers"]), str(record["numbers"])),
        "dirty": record["dirty"] or before["dirty"],
    }


def check_schema(found: Any, known: int, path: Path) -> None:
    """Refuse with a RecordError a file that a newer version of this package has written."""
    if type(found) is not int or found < 1:
        raise RecordError(f"{path} is damaged: its schema is {found!r}, not a version such as 1")
    if found > known:
        raise RecordError(
            f"{path} was written by a newer version of this package (schema {found}, this one "
            f"reads up to {known}): update the package"
        )


def _find_damaged_fields(
    before: Mapping[str, Any], record: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    """The names of fields that are missing, or that hold what no record holds."""
    missing = [key for key in record if key not in before and key not in LATER]
    texts = [key for key, value in record.items() if isinstance(value, str) and key != "reason"]
    had = {**dict.fromkeys(record), "manifest": {}, **before}  # the first records have no manifest
    recipe, counts, manifest = config.get("recipe"), had["epochs"], had["manifest"]
    most = recipe.get("epochs", MOST_EPOCHS) if isinstance(recipe, Mapping) else MOST_EPOCHS
    lists = [_map(manifest).get(key, []) for key in ("environments", "parts")]
    whole = {
        **{key: isinstance(had[key], str) for key in texts},
        "epochs": type(counts) is int and 0 <= counts <= most,
        "seconds": is_number(had["seconds"]),
        "test_error": is_number(had["test_error"])
        or (had["test_error"] is None and had["status"] != "finished"),
        "data": set(record["data"]) <= set(_map(had["data"])),
        "dirty": isinstance(had["dirty"], bool),
        "equivariance_error": isinstance(had["equivariance_error"], Mapping),
        "manifest": isinstance(manifest, Mapping)
        and all(isinstance(x, list) and all(isinstance(y, Mapping) for y in x) for x in lists),
    }
    for key in ("parameters", "test_error_best", "seconds_per_epoch"):
        whole[key] = had[key] is None or is_number(had[key])
    return missing + [key for key, fits in whole.items() if not fits]


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a record may hold: finite, and none that overflows."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _join(had: str, has: str) -> str:
    """All the values that the parts of a run had."""
    parts = had.split("+")
    return had if has in parts else "+".join([*parts, has])


def _list_differences(had: Mapping[str, Any], has: Mapping[str, Any], name: str = "") -> list[str]:
    """The entries that two nested mappings do not share, dotted."""
    lines = []
    for key in dict.fromkeys([*had, *has]):
        old, new = had.get(key), has.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _list_differences(old, new, f"{name}{key}.")
        elif digest(old) != digest(new):  # as the hash sees it: 0 and 0.0 are two values
            lines.append(f"{name}{key} {old}, now {new}")
    return lines
