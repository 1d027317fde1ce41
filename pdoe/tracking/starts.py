"""A run as W&B stores it, joined from the logs of its starts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .names import rename_from_wandb

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class LoggedError(ValueError):
    """A run or a project that cannot be read; one line says why."""


@dataclass(frozen=True)
class Logged:
    """One run as W&B stores it.

    Attributes:
        where: a folder or an address, for messages; it does not count when runs are compared.
        record: as in ``result.json``. A run that was killed has the record that it began with,
            updated to its last logged epoch; its seconds are then those of its epochs alone.
        metrics: as in ``metrics.jsonl``, one row per epoch.
        diagnostics: as given to ``Tracker.finish``, or None.
    """

    where: str = field(compare=False)
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    diagnostics: dict[str, Any] | None


@dataclass(frozen=True)
class Fragment:
    """The log of one start of a run. An offline run cannot be resumed: each start has a folder."""

    where: str
    run_id: str
    started: str
    begun: dict[str, Any]
    ended: dict[str, Any] | None
    rows: list[dict[str, Any]]
    diagnostics: dict[str, Any] | None


def make_fragment(
    where: str,
    run_id: str,
    started: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]],
) -> Fragment:
    if "record" not in config:
        raise LoggedError(f"{where}: skipped: no record in its config, so it is no run of pdoe")
    begun, ended, diagnostics = (
        _parse_object(where, name, text)
        for name, text in (
            ("record", config["record"]),
            ("record", summary.get("record")),
            ("diagnostics", summary.get("diagnostics")),
        )
    )
    if begun is None:
        raise LoggedError(f"{where}: skipped: the record in its config is empty")
    rows = []
    for item in history:
        row = {
            key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
            for key, value in rename_from_wandb(item).items()
        }
        epoch = row.get("epoch")
        if isinstance(epoch, int | float):  # others are steps, and the end of a run
            # An online run that began anew repeats its epochs in the same history.
            rows = [other for other in rows if other["epoch"] < epoch]
            rows.append(row)
    return Fragment(where, run_id, started, begun, ended, rows, diagnostics)


def _parse_object(where: str, name: str, text: object) -> dict[str, Any] | None:
    """Parse a JSON object that was logged as text."""
    try:
        value = json.loads(text) if text is not None else None
    except (TypeError, ValueError):
        value = text
    if value is not None and not isinstance(value, dict):
        raise LoggedError(f"{where}: skipped: its {name} is no JSON object: {str(text)[:40]!r}")
    return value


def join_starts(fragments: list[Fragment]) -> Logged:
    """Join the starts of one run."""
    fragments = sorted(fragments, key=lambda fragment: fragment.started)
    last = fragments[-1]
    rows: dict[int, dict[str, Any]] = {}
    try:
        for fragment in fragments:
            # A start goes on after the epochs of its record; one that began anew has none.
            begun = fragment.begun.get("epochs") or 0
            rows = {epoch: row for epoch, row in rows.items() if epoch <= begun}
            rows |= {row["epoch"]: row for row in fragment.rows}
        names = dict.fromkeys(name for row in rows.values() for name in row)
        metrics = [{name: rows[e].get(name) for name in names} for e in sorted(rows)]
        record = last.ended or _bring_up_to_date(last.begun, metrics)
    except TypeError as error:
        raise LoggedError(
            f"{last.where}: skipped: its record or rows are damaged: {error}"
        ) from None
    diagnostics = [f.diagnostics for f in fragments if f.diagnostics is not None]
    return Logged(last.where, record, metrics, diagnostics[-1] if diagnostics else None)


def _bring_up_to_date(begun: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Update the record of a run that was killed to the last epoch that it logged."""
    since = [row for row in metrics if row["epoch"] > (begun.get("epochs") or 0)]
    if not since:
        return begun
    errors = [row.get("test_error") for row in metrics]
    known = [error for error in [*errors, begun.get("test_error_best")] if error is not None]
    spent = sum(row.get("seconds") or 0.0 for row in since)
    return {
        **begun,
        "epochs": since[-1]["epoch"],
        "test_error": errors[-1],
        "test_error_best": min(known, default=None),
        "seconds": round((begun.get("seconds") or 0.0) + spent, 1),
    }
