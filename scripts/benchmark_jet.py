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
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from benchmark import describe_hardware
from benchmark_cases import Case, OnPlanar, make_network
from benchmark_jet_page import SCALED, write_results
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

ORDERS = (4, 6, 8, 12, 16, 24, 32)


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
