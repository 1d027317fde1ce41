"""Compare PDO-eConv with plain networks of equal parameters and of equal multiplications.

    python scripts/campaign.py --list experiments/cifar/equal_cost.csv --limit 0 --publish
    python scripts/campaign.py --list experiments/cifar/fractions.csv --limit 0 --publish
    python scripts/equal_cost.py

Counts the multiplications of four networks, and reads their runs in `results/cifar/runs.csv`.
Writes `results/cifar/equal_cost.csv`, two figures in `results/cifar/figures/`, and what stands
between the marks of `experiments/cifar/equal-cost.md`. A network without a finished run stays in
the table, without an error; a figure without any run is left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from pdoe import GroupConv
from pdoe.conversion.report import count_multiplications
from pdoe.files import as_csv, write_whole
from pdoe.report import figures
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model
from pdoe.tables import runs
from pdoe.tables.markdown import grid, insert
from pdoe.tables.paper import read_rows
from pdoe.tables.table import Line, table_lines

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments" / "cifar" / "equal-cost.md"
RESULTS = ROOT / "results" / "cifar"
RECIPE = "cifar_fast"
SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
FRACTIONS = {500: f"{RECIPE}_500", 5_000: f"{RECIPE}_5000", 50_000: RECIPE}
COLUMNS = (
    "data", "network", "overrides", "parameters", "multiplications", "jet_multiplications",
    "train_images", "n", "mean", "std", "low", "high",
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """One of the networks that are compared: the row without its data set, and its widths."""

    name: str
    row: str
    widths: str
    colour: str
    mark: str

    def overrides(self, recipe: str) -> str:
        """The overrides of its runs, joined as in runs.csv."""
        words = [f"model.plain_widths={self.widths}"] if self.widths else []
        return ",".join([*words, f"recipe={recipe}"])


NETWORKS = (
    Network("PDO-eConv p6", "pdo_p6_26", "", figures.ACCENT, "o"),
    Network("ResNet, equal parameters", "resnet_26", "", figures.SERIES[2], "s"),
    Network("ResNet, equal cost, jet form", "resnet_26", "[25,50,100]", figures.SERIES[3], "^"),
    Network("ResNet, equal cost, dense", "resnet_26", "[63,126,252]", figures.SECOND, "D"),
)
FEW = (NETWORKS[0], NETWORKS[1], NETWORKS[3])  # trained on few images, too


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiplications for one image: dense convolutions, and the jet form."""

    parameters: int
    dense: int
    jet: int


@cache
def count_cost(data: str, network: Network) -> Cost:
    """The cost of a network of a data set, counted layer by layer."""
    words = [f"model.plain_widths={network.widths}"] if network.widths else []
    model = build_model(compose_config(f"experiment={data}_{network.row}", *words))
    counts, _ = count_multiplications(model, 3, 32)
    jet = sum(count_jet(model.get_submodule(name), count) for name, count in counts.items())
    return Cost(sum(p.numel() for p in model.parameters()), sum(counts.values()), jet)


def count_jet(layer: nn.Module, dense: int) -> int:
    """Multiplications of a layer in the jet form; ``dense`` for a layer that has none.

    For C to C' fields over n rotations, n even: (26 n - 26) C C' for each pixel of the output, and
    the transforms over the group, n² for each field and pixel of the input and of the output
    (experiments/benchmarks/jet.md). Stencils, whose cost is linear in n C, are left out.
    """
    if not (isinstance(layer, GroupConv) and layer.bank_kind == "operators"):
        return dense
    n, fields, outputs = layer.group.n, layer.in_channels, layer.out_channels
    if n % 2 or layer.group.reflections or layer.kernel_size != 5:
        raise ValueError(f"the jet form of {layer} has another count")
    pixels = dense // (25 * n * n * fields * outputs)
    transforms = n * n * (fields * layer.stride**2 + outputs)
    return pixels * ((26 * n - 26) * fields * outputs + transforms)


# ---- The runs -----------------------------------------------------------------------------------


def read_results(experiments: Path, results: Path) -> dict[tuple[str, str], Line]:
    """The lines with a finished run, by experiment and overrides."""
    found = runs.read_csv(results / "runs.csv")
    lines = table_lines(read_rows(experiments), found.runs, "full")
    return {(line.paper.row, line.overrides): line for line in lines if line.ours}


def collect(lines: dict[tuple[str, str], Line]) -> list[dict[str, Any]]:
    """A row for each network, data set and number of training images, with its errors if any."""
    rows = []
    for data in SETS:
        for network in NETWORKS:
            cost = count_cost(data, network)
            few = FRACTIONS if data == "cifar10" and network in FEW else {50_000: RECIPE}
            for images, recipe in few.items():
                overrides = network.overrides(recipe)
                line = lines.get((f"{data}_{network.row}", overrides))
                row = {
                    "data": data,
                    "network": network.name,
                    "overrides": overrides,
                    "parameters": cost.parameters,
                    "multiplications": cost.dense,
                    "jet_multiplications": cost.jet,
                    "train_images": images,
                    "errors": [run["test_error"] for run in line.finished] if line else [],
                    "marks": line.marks if line else "",
                }
                if line:
                    row |= {name: getattr(line.ours, name) for name in COLUMNS[-5:]}
                rows.append(row)
    return rows


def format_error(row: dict[str, Any]) -> str:
    """Mean ± standard deviation (n), or that there is no run."""
    if not row["errors"]:
        return "not run"
    spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
    return f"{row['mean']:.2f}{spread} (n = {row['n']}){row['marks']}"


def tabulate_costs(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each network: its cost, and its errors on all training images."""
    whole = {(r["data"], r["network"]): r for r in rows if r["train_images"] == 50_000}
    cells = []
    for network in NETWORKS:
        own = [whole[data, network.name] for data in SETS]
        first = own[0]
        jet = first["jet_multiplications"]
        cells.append([
            network.name, f"{first['parameters']:,}", f"{first['multiplications'] / 1e6:,.1f}",
            "" if jet == first["multiplications"] else f"{jet / 1e6:,.1f}",
            *map(format_error, own),
        ])  # fmt: skip
    header = ("network", "parameters", "multiplications, millions", "in the jet form")
    return grid((*header, *(f"{name}, error %" for name in SETS.values())), cells)


def tabulate_fractions(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each network: its errors by the number of training images of CIFAR-10."""
    found = {(r["network"], r["train_images"]): r for r in rows if r["data"] == "cifar10"}
    cells = [[n.name, *(format_error(found[n.name, images]) for images in FRACTIONS)] for n in FEW]
    return grid(("network", *(f"{images:,} images" for images in FRACTIONS)), cells)


# ---- The figures --------------------------------------------------------------------------------


def plot_costs(rows: Sequence[dict[str, Any]], data: str, axes: Any) -> None:
    """Error against multiplications; PDO-eConv at both of its costs, joined by a line."""
    own = {r["network"]: r for r in rows if r["data"] == data and r["train_images"] == 50_000}
    for network in NETWORKS:
        row = own[network.name]
        costs = sorted({row["jet_multiplications"], row["multiplications"]})
        style = {"color": network.colour, "marker": network.mark, "label": network.name}
        for error in row["errors"]:
            axes.plot([cost / 1e6 for cost in costs], [error] * len(costs), **style)
            style.pop("label", None)
    axes.set(xlabel="multiplications for an image, millions", ylabel="test error, %")
    figures.set_log_scale(axes.xaxis, 40, 1200)
    figures.add_legend(axes, "best")
    figures.set_title(axes, SETS[data])


def plot_fractions(rows: Sequence[dict[str, Any]], axes: Any) -> None:
    """Error against the number of training images: the mean as a line, every seed as a mark."""
    for network in FEW:
        own = [r for r in rows if (r["data"], r["network"]) == ("cifar10", network.name)]
        own = [row for row in own if row["errors"]]
        sizes = [row["train_images"] for row in own]
        axes.plot(sizes, [row["mean"] for row in own], color=network.colour)
        points = [(row["train_images"], error) for row in own for error in row["errors"]]
        style = {"color": network.colour, "label": network.name, "linestyle": "none"}
        axes.plot(*zip(*points, strict=True) if points else ([], []), network.mark, **style)
    axes.set(xlabel="training images of CIFAR-10", ylabel="test error, %")
    figures.set_log_scale(axes.xaxis, min(FRACTIONS) / 1.5, max(FRACTIONS) * 1.5)
    axes.set_xticks(list(FRACTIONS), [f"{images:,}" for images in FRACTIONS])
    figures.add_legend(axes, "best")


def draw_figures(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The figures for which there is a run, by the name of their file."""
    drawn = {}
    measured = [row for row in rows if row["errors"]]
    if data := [
        d for d in SETS if any((d, 50_000) == (r["data"], r["train_images"]) for r in measured)
    ]:
        panels = [partial(plot_costs, rows, name) for name in data]
        drawn["equal-cost.svg"] = figures.render(panels, 450, 340, columns=2)
    if any(row["train_images"] < 50_000 for row in measured):
        drawn["few-images.svg"] = figures.render([partial(plot_fractions, rows)], 560, 360)
    return drawn


def write_page(rows: Sequence[dict[str, Any]], page: Path, results: Path) -> None:
    """Write the CSV file, the figures, and the tables between the marks of the page."""
    drawn = draw_figures(rows)
    for name, svg in drawn.items():
        write_whole(results / "figures" / name, svg)
    lines = [{name: "" if row.get(name) is None else row[name] for name in COLUMNS} for row in rows]
    write_whole(results / "equal_cost.csv", as_csv(COLUMNS, lines))
    folder = Path(os.path.relpath(results / "figures", page.parent)).as_posix()
    text = page.read_text("utf-8")
    for mark, table, name, label in (
        ("equal_cost", tabulate_costs(rows), "equal-cost.svg", "Error against multiplications"),
        ("few_images", tabulate_fractions(rows), "few-images.svg", "Error against training images"),
    ):
        figure = f"\n![{label}]({folder}/{name})\n" if name in drawn else "\nNo run yet.\n"
        text = insert(text, mark, table + figure)
    write_whole(page, text)


def main() -> int:
    rows = collect(read_results(PAGE.parent, RESULTS))
    write_page(rows, PAGE, RESULTS)
    have = sum(bool(row["errors"]) for row in rows)
    print(f"{PAGE.relative_to(ROOT)}: {have} of {len(rows)} cells have a finished run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
