"""What the jet form gains: the same layer or network, dense and in the jet form, side by side.

    python scripts/benchmark_jet.py                     # about 7 minutes on two quiet cores
    python scripts/benchmark_jet.py --select 'layer*' --precision fp32 --rounds 15

Contestants alternate in one process. A layer has channels-last or contiguous maps, whichever is
faster for each contestant; a network chooses for itself. "dense" is `algorithm = "dense"`, "auto"
is what the library does by itself. Ratios dense / auto are medians of the ratios of each round,
above 1 where the jet form is faster.

On a GPU (`--device cuda`), where the library is dense by itself, "auto" stands for
`algorithm = "jet"`, and the page below stays as it is.

Writes `results/jet/<hardware>.csv` and `.svg`, and the table between the marks of
`experiments/benchmarks/jet.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmark import describe_hardware, format_cell, name_file
from benchmark_cases import Case, OnPlanar, make_network
from benchmark_measure import (
    ROOT,
    Setting,
    compare_times,
    find_fastest,
    measure_peak_here,
    prepare_work,
    time_rounds,
)
from torch import nn

from pdoe import GroupConv, PointGroup
from pdoe.fast import jet
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
ORDERS, SCALED = (4, 6, 8, 12, 16, 24, 32), "order p"


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


# ---- Cases --------------------------------------------------------------------------------------


def make_layer(
    name: str, fields: int, side: int, batch: int, kind: str = "layer", size: int | None = None
) -> Case:
    group = PointGroup.named(name)
    bank = "operators" if size is None else "gaussian"
    kernel = "" if size is None else f" gaussian {size}x{size},"

    def build() -> nn.Module:
        return OnPlanar(GroupConv(group, fields, fields, bank, size, offset=math.pi / 8), fields)

    title = f"{kind} {name}" if kind == "layer" else f"{SCALED}{group.n}"
    planar = fields * len(group)
    return Case(
        f"{title}, {fields} fields,{kernel} {side}x{side}, batch {batch}",
        build, (batch, planar, side, side), planar,
    )  # fmt: skip


def list_cases() -> list[Case]:
    layers = [
        ("p8", 45, 8, 64), ("p8", 23, 16, 32), ("p8", 11, 32, 32), ("p16", 16, 16, 16),
        ("p8", 16, 16, 64), ("p8", 7, 24, 64), ("p6", 26, 8, 64), ("p6", 13, 16, 64),
        ("p6", 6, 32, 32), ("p16", 8, 16, 64), ("p6m", 12, 16, 32), ("p8", 2, 16, 64),
    ]  # fmt: skip
    networks = [
        ("cifar10_pdo_p8_44", 32), ("cifar10_pdo_p8_26", 16), ("cifar10_pdo_p6_26", 32),
        ("cifar10_pdo_p8_26", 8, "group=p16"), ("mnistrot_pdo_p8", 128),
        ("mnistrot_pdo_p8", 64, "group=p16"), ("mnistrot_pdo_p8_large", 32),
        ("mnistrot_pdo_gauss_p8", 128),
    ]  # fmt: skip
    return [
        *(make_layer(*layer) for layer in layers),
        make_layer("p8", 16, 16, 16, size=9),
        *(make_layer(f"p{n}", 12, 16, 8, kind="order") for n in ORDERS),
        *(make_network(*network) for network in networks),
    ]


def make_contestant(case: Case, algorithm: str) -> nn.Module:
    torch.manual_seed(0)
    model = case.build()
    for module in model.modules():
        if isinstance(module, GroupConv) and module.bank_kind in jet.BANKS:
            module.algorithm = algorithm
    return model


# ---- Measurement --------------------------------------------------------------------------------


def measure_case(case: Case, phase: str, setting: Setting) -> dict:
    works: dict[str, Callable[[], None]] = {}
    for algorithm in ("dense", "auto"):
        for layout in ("", ", channels last") if case.size else ("",):
            forced = algorithm == "auto" and setting.device.type == "cuda"
            model = make_contestant(case, "jet" if forced else algorithm)
            works[algorithm + layout] = prepare_work(case, f"ours{layout}", model, phase, setting)
    layers = count_jet_layers(works["auto"])
    times = time_rounds(works, setting.rounds, setting.device)
    dense, auto = find_fastest(times, "dense"), find_fastest(times, "auto")
    compared = compare_times(times, dense, auto)
    line = {
        "case": case.name, "phase": phase, "precision": setting.precision,
        "jet_layers": layers, "dense_ms": compared["ours_ms"], "auto_ms": compared["rival_ms"],
        **{name: compared[name] for name in ("ratio", "ratio_q1", "ratio_q3", "rounds")},
    }  # fmt: skip
    on_cpu = setting.device.type == "cpu"
    if phase == "train" and case.name.startswith("network") and on_cpu:
        for algorithm in ("dense", "auto"):
            line[f"{algorithm}_mib"] = measure_peak(case, algorithm, setting)
    print(f"{case.name}, {phase}, {setting.precision}: {line['ratio']:.2f}", flush=True)
    return line


def count_jet_layers(work: Callable[[], None]) -> int:
    """How many layers took the jet form in one run."""
    with mock.patch.object(jet, "convolve", wraps=jet.convolve) as convolve:
        work()
    return convolve.call_count


def measure_peak(case: Case, algorithm: str, setting: Setting) -> float:
    """The peak memory of a training step in MiB, in a process of its own."""
    names = json.dumps([case.name, algorithm, setting.precision])
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, __file__, "--peak", names],
        capture_output=True, text=True, check=True, env={**os.environ, **malloc},
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


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


# ---- Results ------------------------------------------------------------------------------------


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


def write_results(lines: list[dict], hardware: dict, results: Path) -> None:
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
    told = (
        f"\n{hardware['device']}, {hardware['threads']} threads, torch {hardware['torch']}, commit "
        f"{str(hardware['commit'])[:10]}{' with changes' * bool(hardware['dirty'])}.\n\n"
    )
    block = f"{told}{judge_targets(lines)}\n![Cost against the order of the group]({figure})\n\n"
    write_whole(PAGE, f"{before}{BEGIN}\n{block}{tabulate(lines)}\n{END}{after}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--select", default="*", help="patterns of case names, 'a*;b*'")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "jet")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    device, cases = torch.device(options.device), list_cases()
    if options.peak:
        name, algorithm, precision = json.loads(options.peak)
        (case,) = [case for case in cases if case.name == name]
        chosen = Case(name, partial(make_contestant, case, algorithm), case.shape, case.size)
        print(measure_peak_here(chosen, "ours", Setting(precision, "eager", device)))
        return 0
    patterns = options.select.split(";")
    lines = []
    for case in cases:
        if not any(fnmatchcase(case.name, pattern) for pattern in patterns):
            continue
        for precision in options.precision.split(","):
            for phase in case.phases:
                # The long ones are stable after a few rounds.
                rounds = options.rounds if case.size else max(3, options.rounds // 2)
                setting = Setting(precision, "eager", device, rounds)
                lines.append(measure_case(case, phase, setting))
    write_results(lines, describe_hardware(device), options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
