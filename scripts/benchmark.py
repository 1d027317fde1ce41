"""What the layers cost: every number is a ratio of times, measured side by side in one process.

    python scripts/benchmark.py                         # all cases on this machine's hardware
    python scripts/benchmark.py --select 'block*' --precision fp32 --rounds 31

Cases and targets are in `scripts/benchmark_cases.py`. The rivals of a case:

- `plain`: the ordinary network with the same arithmetic, made by `pdoe.export_plain`: `Conv2d`,
  `BatchNorm2d`, `ReLU` on the expanded channels, with free weights. It is the limit.
- `e2cnn`: e2cnn 0.2.3 with as many regular fields and the same support, if it is installed
  (`pip install '.[peers]'`) and has the group; never compiled.

Each runs with contiguous and with channels-last input, and so do our layers and blocks; a network
of ours chooses its own layout. The ratio is that of the faster one to the faster one. On a GPU fp32
is float32, not TF32.

Contestants alternate, in an order that is reversed every round. Times are medians; ratios are
medians of the ratios of each round, with their quartiles. Peak memory is that of a training step
above what is allocated between two steps, on a CPU in a fresh process each. `--mode graphs`, on a
GPU, records the work of every contestant as a CUDA graph and replays it, as training does there: it
measures the card, not the host.

Writes `results/benchmarks/<hardware>.csv`, where cases that were not selected keep their lines, and
a table beside it. `make report` draws the figure.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import which

import torch
from benchmark_cases import TARGETS, Case, list_cases
from benchmark_measure import IMPORT, Setting, measure_case, measure_imports

from pdoe.files import as_csv, write_whole
from pdoe.report.cost import fit_exponents
from pdoe.run.hardware import device_name, resolve_device, resolve_precision
from pdoe.run.record import now, repository_state
from pdoe.tables.markdown import grid

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    "case", "phase", "precision", "mode", "rival", "layout", "ours_ms", "rival_ms", "ratio",
    "ratio_q1", "ratio_q3", "rounds", "images_per_second", "ours_mib", "rival_mib", "ours_build_ms",
    "rival_build_ms", "device", "threads", "torch", "commit", "dirty", "date",
)  # fmt: skip
NOTE = """\
Ratios are ours / rival, below 1 where we are faster: median and quartiles over the rounds of one
process in which the contestants alternate, the faster of two layouts of each. `plain` is the
ordinary network with the same arithmetic. `before`: the ratio in this table before the line was
measured again; `peak memory`: the ratio of the peaks of a training step. How they are measured:
`scripts/benchmark.py`.
"""
Line = dict[str, str]


# ---- Results ------------------------------------------------------------------------------------


def format_cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_lines(path: Path) -> list[Line]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [dict.fromkeys(COLUMNS, "") | line for line in csv.DictReader(file)]


def merge_lines(before: Sequence[Line], lines: Sequence[dict], known: Sequence[Case]) -> list[Line]:
    """Replace lines of the same case, phase, precision and mode by the new ones."""
    new = [{column: format_cell(line.get(column)) for column in COLUMNS} for line in lines]

    def key(line: Line) -> tuple[str, ...]:
        return line["case"], line["phase"], line["precision"], line["mode"]

    replaced = {key(line) for line in new}
    order = {case.name: number for number, case in enumerate(known)}
    kept = [line for line in before if key(line) not in replaced]
    return sorted(kept + new, key=lambda line: (order.get(line["case"], len(order)), key(line)))


def tabulate_lines(hardware: str, lines: Sequence[Line], before: Sequence[Line]) -> str:
    """The page of the lines as Markdown, beside the ratios that were committed before."""
    keys = ("case", "phase", "precision", "mode", "rival")

    def kind(line: Line) -> tuple[str, ...]:
        return *(line[k] for k in keys[:-1]), line["rival"].removesuffix(", channels last")

    earlier = {kind(line): line["ratio"] for line in before}
    rows = []
    for line in lines:
        memory = "–"
        if line["ours_mib"]:
            memory = f"{float(line['ours_mib']) / float(line['rival_mib']):.2f}"
        rows.append(
            [*(line[k] for k in keys), line["layout"] or "–", line["ours_ms"], line["rival_ms"],
             f"{line['ratio']} ({line['ratio_q1']} to {line['ratio_q3']})",
             earlier.get(kind(line), "–"), memory,
             line["commit"][:10] + "*" * (line["dirty"] == "True")]
        )  # fmt: skip
    header = (
        "case", "phase", "precision", "mode", "rival", "our layout", "ours, ms", "rival, ms",
        "ratio (quartiles)", "before", "peak memory", "commit",
    )  # fmt: skip
    return (
        f"# {hardware}: what the layers cost\n\n{judge_targets(lines)}\n"
        f"## Every number\n\n{grid(header, rows)}\n{NOTE}"
    )


def judge_targets(lines: Sequence[Line]) -> str:
    """The targets as Markdown, each beside its worst line: CUDA graphs on a GPU, eager on a CPU."""
    graphs = [line for line in lines if line["mode"] == "graphs"]
    lines = graphs or [line for line in lines if line["mode"] == "eager"]
    rows = []
    for target in TARGETS:
        found = target.of(lines)
        verdict = "not measured" if not found else "met" if max(found) <= target.bound else "missed"
        worst = f"{max(found):.3f}" if found else "–"
        rows.append((target.what, f"<= {target.bound}", worst, verdict))
    if fits := fit_exponents(lines):
        (ours, _), (plain, _) = fits["ours"], fits["plain"]
        verdict = "met" if abs(ours - plain) <= 0.05 else "missed"
        aim = f"{plain:.2f} (plain) +- 0.05"
        rows.append(("exponent of the cost in planar channels", aim, f"{ours:.2f}", verdict))
    return grid(("target", "bound", "measured, the worst case", "verdict"), rows)


def write_results(
    path: Path, before: Sequence[Line], lines: Sequence[dict], known: Sequence[Case]
) -> None:
    """Write the lines, new ones in the place of earlier ones, and the table beside them."""
    after = merge_lines(before, lines, known)
    write_whole(path, as_csv(COLUMNS, after))
    write_whole(path.with_suffix(".md"), tabulate_lines(path.stem, after, before))


# ---- Command line -------------------------------------------------------------------------------


def describe_hardware(device: torch.device) -> dict[str, object]:
    """The columns of the machine; a CPU's name covers generations, so its units are added."""
    name, threads = device_name(device), None
    if device.type == "cpu":
        units = [torch.backends.cpu.get_cpu_capability()]
        units += ["bf16"] if resolve_precision("auto", device) == "bf16" else []
        name, threads = f"{name} ({', '.join(units)})", torch.get_num_threads()
    commit, dirty = repository_state(ROOT)
    return {
        "device": name, "threads": threads, "torch": torch.__version__, "commit": commit,
        "dirty": dirty, "date": now(),
    }  # fmt: skip


def name_file(device: str, threads: int | None) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return name if threads is None else f"{name}-{threads}-threads"


def parse_options(argv: list[str] | None) -> tuple[argparse.Namespace, list[Case], list[Setting]]:
    """Options, the selected cases, and every setting in which they are measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--select", default="*", help="patterns of case names, 'a*;b*'")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp32,bf16")
    parser.add_argument("--mode", default="eager", help="of eager, compiled and graphs")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args(argv)
    try:
        device = resolve_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    known, patterns = list_cases(device.type), options.select.split(";")
    chosen = [case for case in known if any(fnmatchcase(case.name, p) for p in patterns)]
    options.imports = any(fnmatchcase(IMPORT, pattern) for pattern in patterns)
    options.device = device
    if not chosen and not options.imports:
        names = "\n  ".join([*(case.name for case in known), IMPORT])
        parser.error(f"no case matches {options.select!r}; cases are\n  {names}")
    precisions, modes = options.precision.split(","), options.mode.split(",")
    if not set(precisions) <= {"fp32", "bf16"} or options.rounds < 3:
        parser.error("precisions are fp32 and bf16, and rounds at least 3")
    if not set(modes) <= {"eager", "compiled", "graphs"}:
        parser.error(f"modes are eager, compiled and graphs, not {options.mode}")
    if "compiled" in modes and device.type == "cpu" and not (which("g++") or which("clang++")):
        parser.error("torch.compile needs a C++ compiler for the CPU, and found none")
    if "graphs" in modes and device.type == "cpu":
        parser.error("CUDA graphs need a GPU; on a CPU the modes are eager and compiled")
    settings = [Setting(p, mode, device, options.rounds) for p in precisions for mode in modes]
    return options, chosen, settings


def main(argv: list[str] | None = None) -> int:
    options, chosen, settings = parse_options(argv)
    if options.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    hardware = describe_hardware(options.device)
    path = options.results / f"{name_file(hardware['device'], hardware['threads'])}.csv"
    before, known = read_lines(path), list_cases(options.device.type)
    lines: list[dict] = []

    def keep(measured: list[dict]) -> None:  # after every case, so that nothing measured is lost
        lines.extend(line | hardware for line in measured)
        write_results(path, before, lines, known)

    keep(measure_imports(options.rounds) if options.imports else [])
    for setting in settings:
        for case in chosen:
            keep(measure_case(case, setting))
    print(f"{len(lines)} lines in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
