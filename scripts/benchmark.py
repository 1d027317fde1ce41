"""What the layers cost: every figure is a ratio, measured side by side in one process.

    python scripts/benchmark.py                         # all cases of this machine's hardware
    python scripts/benchmark.py --select 'block*' --precision fp32 --rounds 31

Cases and targets stand in `scripts/benchmark_cases.py`. The rivals of a case:

- `plain`: the ordinary network that does the same arithmetic, made by `pdoe.export_plain`:
  `Conv2d`, `BatchNorm2d`, `ReLU` on the expanded channels, with free weights. It is the limit.
- `e2cnn`: e2cnn 0.2.3 with as many regular fields and the same support, where it is installed
  (`pip install '.[peers]'`) and has the group; never compiled.

Each runs with contiguous and with channels-last input, and so do our layers and blocks, while a
network of ours chooses for itself; the ratio is that of the faster one to the faster one.

On a GPU fp32 is float32, not TF32.

Contestants take turns, in an order that is reversed every round; times are medians, ratios medians
of the rounds' own ratios with their quartiles. Peak memory is that of a training step above what is
held between two steps, on a CPU in a fresh process each. `--mode graphs`, on a GPU, records what
every contestant does as a CUDA graph and replays it, as training does there: what the card takes,
not the host that feeds it.

Writes `results/benchmarks/<hardware>.csv` (figures of cases that were not selected stay), a table
beside it, and a figure of cost against size.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from statistics import median, quantiles

import torch
from benchmark_cases import TARGETS, Case, cases
from torch import nn

from pdoe.files import as_csv, write_whole
from pdoe.report.figures import render
from pdoe.report.layer_charts import exponents, scaling
from pdoe.run.hardware import device_name, resolve_device, resolve_precision
from pdoe.run.record import now, repository_state
from pdoe.run.training import train_step
from pdoe.tables.markdown import grid

ROOT = Path(__file__).resolve().parents[1]


COLUMNS = (
    "case", "phase", "precision", "mode", "rival", "layout", "ours_ms", "rival_ms", "ratio",
    "ratio_q1", "ratio_q3", "rounds", "images_per_second", "ours_mib", "rival_mib", "ours_build_ms",
    "rival_build_ms", "device", "threads", "torch", "commit", "dirty", "date",
)  # fmt: skip
IMPORT = "import pdoe"
LAYOUTS = {"": torch.contiguous_format, ", channels last": torch.channels_last}


# ---- Measurement --------------------------------------------------------------------------------


def prepared(
    case: Case, rival: str, model: nn.Module, phase: str, precision: str, device, mode="eager"
) -> Callable[[], None]:
    """A function of no arguments that does the work to be timed once."""
    model = model.to(device).train(phase == "train")
    x = torch.randn(case.shape, device=device)
    for layout, memory_format in LAYOUTS.items():
        if rival in (f"plain{layout}", f"e2cnn{layout}", f"ours{layout}"):
            x = x.contiguous(memory_format=memory_format)
        if rival == f"plain{layout}":
            model = model.to(memory_format=memory_format)
    if mode == "compiled" and not rival.startswith("e2cnn"):
        model = torch.compile(model)
    # Autocast would keep casts of weights beyond the recording of a graph.
    half, keep = precision == "bf16", mode != "graphs"
    autocast = torch.autocast(device.type, torch.bfloat16, half, cache_enabled=keep)
    if phase == "eval":

        def work():
            with torch.no_grad(), autocast:
                model(x)

        return work
    if case.size:  # inside a network: gradients of the input, too
        x.requires_grad_()
        with autocast:
            gradient = torch.randn_like(model(x))

        def work():
            x.grad = None
            model.zero_grad()
            with autocast:
                y = model(x)
            y.backward(gradient)

        return work
    optimizer = torch.optim.Adam(model.parameters(), capturable=mode == "graphs")
    labels = torch.randint(0, 10, (len(x),), device=device)

    return lambda: train_step(model, optimizer, x, labels, precision)


def recorded(work: Callable[[], None]) -> Callable[[], None]:
    """The replay of the work as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # what is allocated and chosen once is none of the recording
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def all_recorded(works: dict[str, Callable[[], None]]) -> dict[str, Callable[[], None]]:
    """The replays, without the peer if its work fits no graph."""
    replays = {}
    for name, work in works.items():
        try:
            replays[name] = recorded(work)
        except RuntimeError as error:
            if not name.startswith("e2cnn"):
                raise
            print(f"{name} fits no CUDA graph ({str(error).splitlines()[0]})", flush=True)
    return replays


def race(works: dict[str, Callable[[], None]], rounds: int, device) -> dict[str, list[float]]:
    """Seconds of every round, the contestants taking turns."""
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-2, rounds):  # two rounds to warm up
        for name in sorted(works, reverse=number % 2 == 1):
            sync()
            began = time.perf_counter()
            works[name]()
            sync()
            if number >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def peak_mib(case: Case, rival: str, precision: str, device) -> float:
    """Peak memory of training; on a CPU, where all that is resident counts, in its own process."""
    if device.type == "cuda":
        return measure_peak(case, rival, precision, device)
    command = [sys.executable, __file__, "--peak", json.dumps([case.name, rival, precision])]
    command += ["--device", str(device)]
    # Maps get pages of their own and give them back, so that what is resident is what is held.
    frees = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    environment = {**os.environ, **frees}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def measure_peak(case: Case, rival: str, precision: str, device) -> float:
    """MiB at the peak of a training step above what is held between two steps."""
    work = prepared(case, rival, case.makers()[rival](), "train", precision, device)
    for _ in range(2):  # the first step allocates gradients and the libraries' own memory
        work()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here

    def resident(name: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", status)[1])

    before = resident("VmRSS")
    work()
    return (resident("VmHWM") - before) / 2**10


def measure(
    case: Case, precision: str, mode: str, rounds: int, device, hardware: dict
) -> list[dict]:
    """The lines of a case."""
    makers, built, models = case.makers(), {}, {}
    for name, make in makers.items():
        began = time.perf_counter()
        models[name] = make()
        built[name] = 1e3 * (time.perf_counter() - began)
    peaks = {}
    if "train" in case.phases and mode != "compiled":
        peaks = {name: peak_mib(case, name, precision, device) for name in makers}
    lines = []
    for phase in case.phases:
        works = {n: prepared(case, n, m, phase, precision, device, mode) for n, m in models.items()}
        if mode == "graphs":
            works = all_recorded(works)
        times = race(works, rounds, device)
        ours, *rivals = (faster(times, kind) for kind in ("ours", "plain", "e2cnn"))
        for rival in filter(None, rivals):
            line = {
                "case": case.name,
                "phase": phase,
                "precision": precision,
                "mode": mode,
                **compared(times, ours, rival),
                # Of ours; a network of ours chooses for itself, and an ordinary one has one.
                "layout": (ours.partition(", ")[2] or "contiguous") if case.size else None,
                "images_per_second": case.shape[0] / median(times[ours]),
                "ours_mib": peaks.get(ours),
                "rival_mib": peaks.get(rival),
                "ours_build_ms": built[ours],
                "rival_build_ms": built[rival] if rival.startswith("e2cnn") else None,
                **hardware,
            }
            lines.append(line)
            told = f"{case.name}, {phase}, {precision}, {mode}"
            print(f"{told}: {line['ratio']:.3f} of {rival}", flush=True)
    return lines


def faster(times: dict[str, list[float]], kind: str) -> str | None:
    """The contestant of a kind, in whichever layout, whose median is the lowest; None without."""
    names = (name for name in times if name.startswith(kind))
    return min(names, key=lambda name: median(times[name]), default=None)


def compared(times: dict[str, list[float]], ours: str, rival: str) -> dict:
    """Medians in ms, and the median and quartiles of the rounds' own ratios."""
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


def measure_imports(rounds: int, hardware: dict) -> list[dict]:
    """What an import costs in a fresh process, beside what we import and beside e2cnn."""
    modules = {"ours": "pdoe", "torch, numpy": "torch, numpy"}
    if find_spec("e2cnn"):
        modules["e2cnn"] = "e2cnn.nn"

    def work(names: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {names}"], cwd=ROOT, check=True)

    works = {name: partial(work, names) for name, names in modules.items()}
    times = race(works, rounds, torch.device("cpu"))
    nothing = dict.fromkeys(COLUMNS)
    lines = []
    for rival in list(modules)[1:]:
        line = {"case": IMPORT, "phase": "import", "precision": "any", "mode": "eager"}
        lines.append({**nothing, **line, **compared(times, "ours", rival), **hardware})
        print(f"{IMPORT}: {lines[-1]['ratio']:.3f} of {rival}", flush=True)
    return lines


# ---- Results ------------------------------------------------------------------------------------


def text_of(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [dict.fromkeys(COLUMNS, "") | line for line in csv.DictReader(file)]


def merged(
    before: list[dict[str, str]], lines: list[dict], known: Sequence[Case]
) -> list[dict[str, str]]:
    """New lines in the place of those of the same case, phase, precision and mode."""
    new = [{column: text_of(line[column]) for column in COLUMNS} for line in lines]

    def key(line):
        return line["case"], line["phase"], line["precision"], line["mode"]

    replaced = {key(line) for line in new}
    order = {case.name: number for number, case in enumerate(known)}
    kept = [line for line in before if key(line) not in replaced]
    return sorted(kept + new, key=lambda line: (order.get(line["case"], len(order)), key(line)))


def table(hardware: str, lines: list[dict[str, str]], before: list[dict[str, str]]) -> str:
    """The figures as Markdown, beside those that were committed before."""
    keys = ("case", "phase", "precision", "mode", "rival")

    def kind(line: dict[str, str]) -> tuple[str, ...]:
        return *(line[k] for k in keys[:-1]), line["rival"].removesuffix(", channels last")

    earlier = {kind(line): line["ratio"] for line in before}
    rows = []
    for line in lines:
        old = earlier.get(kind(line), "–")
        memory = "–"
        if line["ours_mib"]:
            memory = f"{float(line['ours_mib']) / float(line['rival_mib']):.2f}"
        rows.append(
            [*(line[k] for k in keys), line["layout"] or "–", line["ours_ms"], line["rival_ms"],
             f"{line['ratio']} ({line['ratio_q1']} to {line['ratio_q3']})", old, memory,
             line["commit"][:10] + "*" * (line["dirty"] == "True")]
        )  # fmt: skip
    header = (
        "case", "phase", "precision", "mode", "rival", "our layout", "ours, ms", "rival, ms",
        "ratio (quartiles)", "before", "peak memory", "commit",
    )  # fmt: skip
    return (
        f"# {hardware}: what the layers cost\n\n{targets(lines)}\n"
        f"## All figures\n\n{grid(header, rows)}\n"
        "Ratios are ours / rival, below 1 where we are faster: median and quartiles over the\n"
        "rounds of one process in which the contestants took turns, the faster of two layouts of\n"
        "each. `plain` is the ordinary network of the same arithmetic. `before`: the ratio that\n"
        "stood here before the line was measured again; `peak memory`: the ratio of the peaks of\n"
        "a training step. How they are measured: `scripts/benchmark.py`.\n"
    )


def targets(lines: list[dict[str, str]]) -> str:
    """What is aimed at and what was measured, the worst line of each target.

    As training runs it: recorded on a GPU, eager on a CPU.
    """
    graphs = [line for line in lines if line["mode"] == "graphs"]
    lines = graphs or [line for line in lines if line["mode"] == "eager"]
    rows = []
    for target in TARGETS:
        found = target.of(lines)
        verdict = "not measured" if not found else "met" if max(found) <= target.bound else "missed"
        worst = f"{max(found):.3f}" if found else "–"
        rows.append((target.what, f"<= {target.bound}", worst, verdict))
    if fits := exponents(lines):
        (ours, _), (plain, _) = fits["ours"], fits["plain"]
        verdict = "met" if abs(ours - plain) <= 0.05 else "missed"
        aim = f"{plain:.2f} (plain) +- 0.05"
        rows.append(("exponent of the cost in planar channels", aim, f"{ours:.2f}", verdict))
    return grid(("target", "bound", "measured, the worst case", "verdict"), rows)


def write(
    path: Path, before: list[dict[str, str]], lines: list[dict], known: Sequence[Case]
) -> None:
    """The figures, the table and the drawing of what was there before and what is new."""
    after = merged(before, lines, known)
    write_whole(path, as_csv(COLUMNS, after))
    write_whole(path.with_suffix(".md"), table(path.stem, after, before))
    if (fits := exponents(after)) and find_spec("matplotlib"):
        write_whole(path.with_suffix(".svg"), render([scaling(fits)], 410, 330))


def named(device: torch.device) -> str:
    """The device; a CPU with what it computes with, as one name stands for several generations."""
    if device.type != "cpu":
        return device_name(device)
    units = [torch.backends.cpu.get_cpu_capability()]
    units += ["bf16"] if resolve_precision("auto", device) == "bf16" else []
    return f"{device_name(device)} ({', '.join(units)})"


def slug(device: str, threads: int | None) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return name if threads is None else f"{name}-{threads}-threads"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--select", default="*", help="patterns of case names, 'a*;b*'")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp32,bf16")
    parser.add_argument("--mode", default="eager", help="of eager, compiled and graphs")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        device = resolve_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    known = cases(device.type)
    if options.peak:
        name, rival, precision = json.loads(options.peak)
        (case,) = [case for case in known if case.name == name]
        print(measure_peak(case, rival, precision, device))
        return 0

    patterns = options.select.split(";")
    chosen = [case for case in known if any(fnmatchcase(case.name, p) for p in patterns)]
    precisions, modes = options.precision.split(","), options.mode.split(",")
    words = set(precisions) <= {"fp32", "bf16"} and set(modes) <= {"eager", "compiled", "graphs"}
    imports = any(fnmatchcase(IMPORT, pattern) for pattern in patterns)
    if not (chosen or imports) or not words or options.rounds < 3:
        names = "\n  ".join([*(case.name for case in known), IMPORT])
        parser.error(
            "precisions are fp32 and bf16, modes eager, compiled and graphs, rounds at least 3, "
            f"and cases are\n  {names}"
        )
    if "compiled" in modes and device.type == "cpu" and not (which("g++") or which("clang++")):
        parser.error("torch.compile needs a C++ compiler for the CPU, and there is none here")
    if "graphs" in modes and device.type == "cpu":
        parser.error("CUDA graphs need a GPU; here modes are eager and compiled")
    threads = torch.get_num_threads() if device.type == "cpu" else None
    commit, dirty = repository_state(ROOT)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    hardware = {
        "device": named(device), "threads": threads, "torch": torch.__version__,
        "commit": commit, "dirty": dirty, "date": now(),
    }  # fmt: skip
    path = options.results / f"{slug(hardware['device'], threads)}.csv"
    before = read_lines(path) if path.exists() else []
    lines = measure_imports(options.rounds, hardware) if imports else []
    write(path, before, lines, known)
    for precision in precisions:
        for mode in modes:
            for case in chosen:
                lines += measure(case, precision, mode, options.rounds, device, hardware)
                write(path, before, lines, known)  # after every case: what was measured is kept
    print(f"{len(lines)} figures in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
