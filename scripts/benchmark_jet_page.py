"""The page of `scripts/benchmark_jet.py`: ratios, targets, and the exponent of the cost."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark import format_cell, name_file
from benchmark_measure import ROOT

from pdoe.files import as_csv, write_whole
from pdoe.report import figures
from pdoe.tables.markdown import grid

PAGE = ROOT / "experiments" / "benchmarks" / "jet.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
COLUMNS = (
    "case", "phase", "precision", "jet_layers", "dense_ms", "auto_ms", "ratio", "ratio_q1",
    "ratio_q3", "rounds", "dense_mib", "auto_mib", "device", "threads", "torch", "commit", "dirty",
    "date",
)  # fmt: skip
SCALED = "order p"  # with these words begin the cases that differ in the order of the group


@dataclass(frozen=True)
class Target:
    """The least ratio dense / auto of some lines, in float32 and in bfloat16."""

    case: str
    phase: str
    fp32: float
    bf16: float


TARGETS = (
    Target("layer p8, 45 fields, 8x8, *", "*", 3, 2.5),
    Target("layer p8, 23 fields, 16x16, *", "*", 2.5, 2),
    Target("layer p8, 11 fields, 32x32, *", "*", 1.5, 1.2),
    Target("layer p16, 16 fields, 16x16, *", "*", 4, 3),
    Target("layer p8, 16 fields, gaussian 9x9, *", "*", 6, 4),
    Target("network cifar10_pdo_p8_44, *", "train", 2, 1.7),
    Target("*", "*", 0.98, 0.98),
)


def write_results(lines: list[dict], hardware: dict, results: Path) -> None:
    """Write the lines and their figure to ``results``, and on a CPU the section of the page."""
    path = results / f"{name_file(str(hardware['device']), hardware['threads'])}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [{name: format_cell((line | hardware).get(name)) for name in COLUMNS} for line in lines]
    write_whole(path, as_csv(COLUMNS, whole))
    if any(line["case"].startswith(SCALED) and line["precision"] == "fp32" for line in lines):
        panels = [partial(plot_orders, lines, phase) for phase in ("eval", "train")]
        write_whole(path.with_suffix(".svg"), figures.render(panels, 410, 330, columns=2))
    if hardware["threads"] is None:  # a GPU
        return
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    figure = os.path.relpath(path.with_suffix(".svg"), PAGE.parent)
    source = (
        f"\n{hardware['device']}, {hardware['threads']} threads, torch {hardware['torch']}, commit "
        f"{str(hardware['commit'])[:10]}{' with changes' * bool(hardware['dirty'])}.\n\n"
    )
    block = f"{source}{judge_targets(lines)}\n![Cost against the order of the group]({figure})\n\n"
    write_whole(PAGE, f"{before}{BEGIN}\n{block}{tabulate(lines)}\n{END}{after}")


def tabulate(lines: list[dict]) -> str:
    rows = []
    for line in lines:
        memory = f"{line['auto_mib'] / line['dense_mib']:.2f}" if line.get("auto_mib") else "–"
        ratio = f"{line['ratio']:.2f} ({line['ratio_q1']:.2f} to {line['ratio_q3']:.2f})"
        times = f"{line['dense_ms']:.4g}", f"{line['auto_ms']:.4g}"
        names = line["case"], line["phase"], line["precision"], str(line["jet_layers"])
        rows.append([*names, *times, ratio, memory])
    header = (
        "case", "phase", "precision", "layers in jet form", "dense, ms", "auto, ms",
        "dense / auto", "peak memory",
    )  # fmt: skip
    return grid(header, rows)


def judge_targets(lines: list[dict]) -> str:
    rows = []
    for target in TARGETS:
        row = [f"`{target.case}`" if target.case != "*" else "all in jet form", target.phase]
        for precision, bound in (("fp32", target.fp32), ("bf16", target.bf16)):
            found = [
                line["ratio"]
                for line in lines
                if fnmatchcase(line["case"], target.case)
                and fnmatchcase(line["phase"], target.phase)
                and line["precision"] == precision
                and line["jet_layers"]  # else both are the dense layer
            ]
            worst = f"{min(found):.2f}" if found else "–"
            verdict = "" if not found else " met" if min(found) >= bound else " missed"
            row += [f">= {bound}", worst + verdict]
        rows.append(row)
    for phase in ("eval", "train"):
        row = ["exponent of the cost in the order of the group; dense in brackets", phase]
        for precision in ("fp32", "bf16"):
            try:
                ours, dense = (
                    fit_exponent(lines, phase, precision, f"{name}_ms")
                    for name in ("auto", "dense")
                )
            except (IndexError, RuntimeError, ValueError):  # not measured
                row += ["<= 1.2", "–"]
                continue
            row += ["<= 1.2", f"{ours:.2f} ({dense:.2f}) {'met' if ours <= 1.2 else 'missed'}"]
        rows.append(row)
    header = "cases", "phase", "fp32: bound", "the worst", "bf16: bound", "the worst"
    return grid(header, rows)


def plot_orders(lines: list[dict], phase: str, axes: Any) -> None:
    """Time of a layer of 12 fields against the order of its group."""
    styles = (
        ("dense_ms", "dense", figures.SECOND, "D"),
        ("auto_ms", "jet form", figures.ACCENT, "o"),
    )
    own = [line for line in lines if line["case"].startswith(SCALED)]
    own = [line for line in own if (line["phase"], line["precision"]) == (phase, "fp32")]
    orders = [int(line["case"].removeprefix(SCALED).partition(",")[0]) for line in own]
    every = [line[column] for line in own for column, *_ in styles]
    for column, label, colour, mark in styles:
        slope = fit_exponent(lines, phase, "fp32", column)
        times = [line[column] for line in own]
        axes.plot(orders, times, marker=mark, color=colour, label=f"{label}: exponent {slope:.2f}")
    axes.set(xlabel="order of the group", ylabel="ms")
    figures.set_log_scale(axes.xaxis, min(orders) / 1.1, max(orders) * 1.1)
    figures.set_log_scale(axes.yaxis, min(every) / 1.5, max(every) * 1.5)
    axes.set_xticks(orders, [str(order) for order in orders])
    axes.set_title("evaluation" if phase == "eval" else "forward and backward", loc="left")
    axes.legend(loc="upper left")


def fit_exponent(lines: list[dict], phase: str, precision: str, column: str) -> float:
    """The slope of log time against log |G|, at 12 fields, by least squares."""
    points = [
        (math.log(int(line["case"].removeprefix(SCALED).partition(",")[0])), math.log(line[column]))
        for line in lines
        if line["case"].startswith(SCALED)
        and (line["phase"], line["precision"]) == (phase, precision)
    ]
    x, y = torch.tensor(points, dtype=torch.float64).unbind(1)
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()
