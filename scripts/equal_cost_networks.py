"""The networks of equal parameters and of equal multiplications, their costs and their runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from pdoe import GroupConv
from pdoe.conversion.report import count_multiplications
from pdoe.report import figures
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model
from pdoe.tables import runs
from pdoe.tables.paper import read_rows
from pdoe.tables.table import Line, table_lines

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
