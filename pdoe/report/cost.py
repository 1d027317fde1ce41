"""Sections about cost: speed beside ordinary networks, and a list of every run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..groups import PointGroup
from ..tables.runs import Run
from . import figures
from .contents import NONE, Panel, Report, format_commits, report_missing
from .page import fold, join, prose, table, tag

TEXTS = ("case", "phase", "precision", "mode", "rival", "device", "threads", "commit")
FIGURES = ("ours_ms", "rival_ms", "ratio", "ratio_q1", "ratio_q3", "rounds")
SCALING = re.compile(r"scaling (p[1-9]\d*m?), (\d+) fields,")
Fits = dict[str, tuple[float, list[tuple[int, float]]]]


# ---- Speed --------------------------------------------------------------------------------------


def add_speed(report: Report) -> None:
    """A figure for each machine that was measured."""
    parts = []
    for path in sorted((report.results / "benchmarks").glob("*.csv")):
        lines = report.read_lines(f"benchmarks/{path.name}", TEXTS, FIGURES)
        lines = [line for line in lines if min(line["ours_ms"], line["rival_ms"]) > 0]
        drawn = select_main_mode(lines)
        if not (panels := list_speed_panels(drawn)):
            continue
        device = ", ".join(sorted({format_device(line) for line in lines}))
        precision, mode = drawn[0]["precision"], drawn[0]["mode"]
        mode = "replayed as CUDA graphs" if mode == "graphs" else mode
        rounds = sorted({int(line["rounds"]) for line in lines})
        caption = (
            f"On {device}, {precision}, {mode}, random images. Networks and blocks: our time "
            "over that of the ordinary network with the same arithmetic, below 1 where ours is "
            f"faster; median and quartiles over n = {rounds[0]} to {rounds[-1]} alternating "
            f"rounds. Last panel: medians of single layers ({format_commits(lines)}). Every "
            f"number: `results/benchmarks/{path.stem}.md`."
        )
        title = f"Time beside ordinary networks, {device}"
        place = f"benchmarks/{path.stem}"
        parts.append(report.add_figure(place, title, panels, caption, (410, 340)))
    if not parts:
        parts.append(report_missing("No speed was measured yet.", "`make benchmark`"))
    report.add_section("speed", "Speed", *parts)


def list_speed_panels(lines: list[dict]) -> list[Panel]:
    panels: list[Panel] = []
    for kind, name in (("network", "Networks"), ("block", "Blocks: layer, norm, ReLU")):
        own = [line for line in lines if line["case"].startswith(f"{kind} ")]
        if own := [line for line in own if line["rival"].startswith("plain")]:
            panels.append((partial(plot_ratios, name, own), name))
    if fits := fit_exponents(lines):
        panels.append((partial(plot_scaling, fits), "Time against channels"))
    return panels


def plot_ratios(name: str, lines: Sequence[dict], axes: Any) -> None:
    """Our time over that of the plain network, median and quartiles, by case and phase."""
    cases = list(dict.fromkeys(line["case"] for line in lines))
    styles = {
        "train": ("training", -0.16, figures.ACCENT, "o"),
        "eval": ("evaluation", 0.16, figures.SECOND, "D"),
    }
    for phase, (label, shift, colour, mark) in styles.items():
        own = [line for line in lines if line["phase"] == phase]
        heights = [cases.index(line["case"]) + shift for line in own]
        low, ratio, high = (
            np.array([line[name] for line in own]) for name in ("ratio_q1", "ratio", "ratio_q3")
        )
        bars = {"xerr": [ratio - low, high - ratio], "elinewidth": 1.2, "markersize": 4.5}
        axes.errorbar(ratio, heights, **bars, fmt=mark, color=colour, label=label)
    axes.axvline(1, color=figures.MUTED, linewidth=1)
    axes.set_yticks(range(len(cases)), [case.partition(" ")[2] for case in cases], fontsize=9)
    axes.set(ylim=(len(cases) - 0.4, -1.7), xlabel="time, ours / plain")
    axes.grid(axis="y", visible=False)
    figures.add_legend(axes, "upper right", ncols=2)
    figures.set_title(axes, name)


def plot_scaling(fits: Fits, axes: Any) -> None:
    """Time of a layer against its planar channels |G| x C, with the fitted exponents."""
    sizes, times = zip(*(p for _, points in fits.values() for p in points), strict=True)
    figures.set_log_scale(axes.xaxis, min(sizes) / 1.3, max(sizes) * 1.3)
    figures.set_log_scale(axes.yaxis, min(times) / 1.6, max(times) * 1.6)
    for (name, (slope, points)), colour, mark in zip(
        fits.items(), (figures.ACCENT, figures.SECOND), "oD", strict=True
    ):
        style = {"markersize": 5, "fillstyle": "none", "label": f"{name}: exponent {slope:.2f}"}
        axes.plot(*zip(*points, strict=True), mark, color=colour, **style)
    axes.set(xlabel="planar channels |G| × C", ylabel="evaluation of a layer, ms")
    figures.add_legend(axes, "lower right")
    figures.set_title(axes, "16 × 16 maps, batch 32; p4, p8, p16")


def count_planar_channels(case: str) -> int | None:
    """|G| x C of a benchmark case that measures how cost grows with size; None for others."""
    found = SCALING.match(case)
    return len(PointGroup.named(found[1])) * int(found[2]) if found else None


def select_main_mode(lines: Sequence[Mapping[str, Any]]) -> list:
    """The lines of one precision and mode: fp32 before bf16, CUDA graphs before eager."""
    kinds = [(line["precision"], line["mode"]) for line in lines]
    first = max(kinds, default=None)  # in alphabetical order
    return [line for line, kind in zip(lines, kinds, strict=True) if kind == first]


def fit_exponents(lines: Sequence[Mapping[str, Any]]) -> Fits:
    """Fit the exponent of time in planar channels |G| x C, for ours and for the plain network.

    Args:
        lines: Lines of a benchmark, of which only the cases about size count.

    Returns:
        By contestant the exponent and the points (channels, milliseconds); empty if there are too
        few points.
    """
    lines = select_main_mode([line for line in lines if count_planar_channels(line["case"])])
    sizes = [count_planar_channels(line["case"]) for line in lines]
    fits = {}
    for name, cost in (("ours", "ours_ms"), ("plain", "rival_ms")):
        points = sorted((n, float(line[cost])) for n, line in zip(sizes, lines, strict=True))
        if len(set(sizes)) > 1:
            fits[name] = float(np.polyfit(*np.log(np.array(points).T), 1)[0]), points
    return fits


def format_device(line: Mapping[str, Any] | Run) -> str:
    count = line["threads"]
    threads = f", {count} thread{'s' * (str(count) != '1')}" if count else ""
    return (line["device"] or "unknown device") + threads


# ---- Runs ---------------------------------------------------------------------------------------

RUN = ("run", "row", "settings", "seed", "status", "error", "epochs", "hours", "device",
       "precision", "data", "started", "commit")  # fmt: skip
NOTE = (
    "Hours are the runs' own, with their evaluations. `*`: the tree had uncommitted changes, so "
    "its commit does not describe the run fully. Runs that were tested on held-out training "
    "images, by which recipes were chosen, are in `results/*/validation` and not counted here."
)


def add_runs(report: Report) -> None:
    """The hours on each device, and a folded list of every run."""
    anchor, heading = "runs", "Runs"
    runs = [run for one in report.tables for run in one.runs]
    if not runs:
        command = "`make reproduce-mnistrot`, then `make compare`"
        report.add_section(anchor, heading, report_missing("Nothing ran yet.", command))
        return
    statuses = Counter(run["status"] for run in runs)
    devices: Counter[str] = Counter()
    for run in runs:
        devices[format_device(run)] += (run["seconds"] or 0) / 3600
    counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items()))
    hours = ", ".join(f"{value:,.1f} on {name}" for name, value in devices.most_common())
    total = f"{counts}; {sum(devices.values()):,.1f} hours: {hours}."
    label = f"Every run ({len(runs):,})"
    listed = table(RUN, map(write_run, runs), label, "seed|error|epochs|hours")
    report.add_section(anchor, heading, prose(total), fold(label, listed), prose(NOTE, "note"))


def write_run(run: Run) -> list[object]:
    commits = {part[:10] + "*" * bool(run["dirty"]) for part in (run["commit"] or "–").split("+")}
    return [
        tag("code", run["run_id"]),
        run["experiment"],
        tag("code", run["overrides"] or NONE),
        run["seed"],
        run["status"],
        NONE if run["test_error"] is None else f"{run['test_error']:.3f}",
        NONE if run["epochs"] is None else run["epochs"],
        f"{(run['seconds'] or 0) / 3600:,.2f}",
        format_device(run),
        run["precision"] or NONE,
        run["data.provenance"] or NONE,
        (run["started"] or NONE)[:10],
        join((tag("code", commit) for commit in sorted(commits)), ", "),
    ]
