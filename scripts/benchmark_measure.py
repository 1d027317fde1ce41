"""Measurements of `scripts/benchmark.py`: times of contestants that alternate, and peak memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.nn.functional as F
from benchmark_cases import Case, list_cases
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
IMPORT = "import pdoe"  # the name of the case that times imports
LAYOUTS = {"": torch.contiguous_format, ", channels last": torch.channels_last}
Work = Callable[[], None]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Setting:
    """How a case is measured: fp32 or bf16; eager, compiled or graphs; on which device."""

    precision: str
    mode: str
    device: torch.device
    rounds: int = 3


# ---- Work ---------------------------------------------------------------------------------------


def prepare_work(case: Case, rival: str, model: nn.Module, phase: str, setting: Setting) -> Work:
    """Prepare the work that is timed: one evaluation or one training step."""
    device, mode = setting.device, setting.mode
    model = model.to(device).train(phase == "train")
    x = torch.randn(case.shape, device=device)
    for layout, memory_format in LAYOUTS.items():
        if rival in (f"plain{layout}", f"e2cnn{layout}", f"ours{layout}"):
            x = x.contiguous(memory_format=memory_format)
        if rival == f"plain{layout}":
            model = model.to(memory_format=memory_format)
    if mode == "compiled" and not rival.startswith("e2cnn"):
        model = torch.compile(model)
    # With its cache, autocast would hold casts of weights beyond the recording of a graph.
    half, cache = setting.precision == "bf16", mode != "graphs"
    autocast = torch.autocast(device.type, torch.bfloat16, half, cache_enabled=cache)
    if phase == "eval":
        return partial(evaluate, model, x, autocast)
    if case.size:  # a part of a network: gradients of the input, too
        x.requires_grad_()
        with autocast:
            gradient = torch.randn_like(model(x))
        return partial(differentiate, model, x, gradient, autocast)
    optimizer = torch.optim.Adam(model.parameters(), capturable=mode == "graphs")
    labels = torch.randint(0, 10, (len(x),), device=device)
    return partial(train_step, model, x, labels, optimizer, autocast)


def evaluate(model: nn.Module, x: torch.Tensor, autocast: torch.autocast) -> None:
    with torch.no_grad(), autocast:
        model(x)


def differentiate(
    model: nn.Module, x: torch.Tensor, gradient: torch.Tensor, autocast: torch.autocast
) -> None:
    x.grad = None
    model.zero_grad()
    with autocast:
        y = model(x)
    y.backward(gradient)


def train_step(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    autocast: torch.autocast,
) -> None:
    with autocast:
        logits = model(x)
    optimizer.zero_grad()
    F.cross_entropy(logits.float(), labels).backward()
    optimizer.step()


def record_graph(work: Work) -> Work:
    """Record the work as a CUDA graph and return its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # first calls allocate memory and choose algorithms
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def record_graphs(works: Mapping[str, Work]) -> dict[str, Work]:
    """Record all contestants, without e2cnn if a graph cannot hold its work."""
    replays = {}
    for name, work in works.items():
        try:
            replays[name] = record_graph(work)
        except RuntimeError as error:
            if not name.startswith("e2cnn"):
                raise
            print(f"{name} fits no CUDA graph ({str(error).splitlines()[0]})", flush=True)
    return replays


# ---- Time ---------------------------------------------------------------------------------------


def time_rounds(works: Mapping[str, Work], rounds: int, device: torch.device) -> Times:
    """Measure the seconds of every round; contestants alternate, in reversed order every round."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: Times = {name: [] for name in works}
    for number in range(-2, rounds):  # two rounds to warm up
        for name in sorted(works, reverse=number % 2 == 1):
            synchronize()
            start = time.perf_counter()
            works[name]()
            synchronize()
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def measure_case(case: Case, setting: Setting) -> list[dict]:
    """The lines of a case: one for each phase and rival."""
    built, models = {}, {}
    for name, make in case.makers().items():
        start = time.perf_counter()
        models[name] = make()
        built[name] = 1e3 * (time.perf_counter() - start)
    peaks = {}
    if "train" in case.phases and setting.mode != "compiled":
        peaks = {name: measure_peak(case, name, setting) for name in models}
    lines = []
    for phase in case.phases:
        works = {n: prepare_work(case, n, model, phase, setting) for n, model in models.items()}
        if setting.mode == "graphs":
            works = record_graphs(works)
        times = time_rounds(works, setting.rounds, setting.device)
        ours, *rivals = (find_fastest(times, kind) for kind in ("ours", "plain", "e2cnn"))
        for rival in filter(None, rivals):
            line = {
                "case": case.name,
                "phase": phase,
                "precision": setting.precision,
                "mode": setting.mode,
                **compare_times(times, ours, rival),
                # Of ours; a whole network of ours chooses its own layout.
                "layout": (ours.partition(", ")[2] or "contiguous") if case.size else None,
                "images_per_second": case.shape[0] / median(times[ours]),
                "ours_mib": peaks.get(ours),
                "rival_mib": peaks.get(rival),
                "ours_build_ms": built[ours],
                "rival_build_ms": built[rival] if rival.startswith("e2cnn") else None,
            }
            lines.append(line)
            print(
                f"{case.name}, {phase}, {setting.precision}, {setting.mode}: "
                f"{line['ratio']:.3f} of {rival}",
                flush=True,
            )
    return lines


def find_fastest(times: Times, kind: str) -> str | None:
    """The contestant of a kind with the lowest median, in whichever layout; None without one."""
    names = (name for name in times if name.startswith(kind))
    return min(names, key=lambda name: median(times[name]), default=None)


def compare_times(times: Times, ours: str, rival: str) -> dict:
    """Medians in ms, and the median and quartiles of the ratios of each round."""
    ratios = [a / b for a, b in zip(times[ours], times[rival], strict=True)]
    q1, _, q3 = quantiles(ratios, n=4)
    return {
        "rival": rival,
        "ours_ms": 1e3 * median(times[ours]),
        "rival_ms": 1e3 * median(times[rival]),
        "ratio": median(ratios),
        "ratio_q1": q1,
        "ratio_q3": q3,
        "rounds": len(ratios),
    }


def measure_imports(rounds: int) -> list[dict]:
    """Time an import of pdoe in a fresh process, beside its dependencies and beside e2cnn."""
    modules = {"ours": "pdoe", "torch, numpy": "torch, numpy"}
    if find_spec("e2cnn"):
        modules["e2cnn"] = "e2cnn.nn"

    def import_modules(names: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {names}"], cwd=ROOT, check=True)

    works = {name: partial(import_modules, names) for name, names in modules.items()}
    times = time_rounds(works, rounds, torch.device("cpu"))
    lines = []
    for rival in list(modules)[1:]:
        line = {"case": IMPORT, "phase": "import", "precision": "any", "mode": "eager"}
        lines.append(line | compare_times(times, "ours", rival))
        print(f"{IMPORT}: {lines[-1]['ratio']:.3f} of {rival}", flush=True)
    return lines


# ---- Peak memory --------------------------------------------------------------------------------


def measure_peak(case: Case, rival: str, setting: Setting) -> float:
    """Measure the peak memory of training in MiB, on a CPU in a process of its own."""
    if setting.device.type == "cuda":
        return measure_peak_here(case, rival, setting)
    names = [case.name, rival, setting.precision, str(setting.device)]
    # With these settings freed maps are returned at once, so that resident memory is used memory.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(names)],
        capture_output=True, text=True, check=True, env={**os.environ, **malloc},
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def measure_peak_here(case: Case, rival: str, setting: Setting) -> float:
    """MiB at the peak of a training step, above what is allocated between two steps."""
    work = prepare_work(case, rival, case.makers()[rival](), "train", setting)
    for _ in range(2):  # the first step allocates gradients and memory of the libraries
        work()
    if setting.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak counts from here

    def read_kib(name: str) -> int:
        status = Path("/proc/self/status").read_text("utf-8")
        return int(re.search(rf"{name}:\s+(\d+) kB", status)[1])

    before = read_kib("VmRSS")
    work()
    return (read_kib("VmHWM") - before) / 2**10


if __name__ == "__main__":
    name, rival, precision, device = json.loads(sys.argv[1])
    (case,) = [case for case in list_cases(device.partition(":")[0]) if case.name == name]
    print(measure_peak_here(case, rival, Setting(precision, "eager", torch.device(device))))
