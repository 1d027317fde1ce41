"""The tables and figures of experiments/cifar/equal-cost.md; `scripts/equal_cost.py` calls this."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from equal_cost_networks import COLUMNS, FEW, FRACTIONS, NETWORKS, SETS

from pdoe.files import as_csv, write_whole
from pdoe.report import figures
from pdoe.run.compose import compose_config
from pdoe.tables.markdown import grid, insert

Rows = Sequence[dict[str, Any]]


def format_error(row: dict[str, Any]) -> str:
    """Mean ± standard deviation (n), or that there is no run."""
    if not row["errors"]:
        return "not run"
    spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
    return f"{row['mean']:.2f}{spread} (n = {row['n']}){row['marks']}"


def tabulate_costs(rows: Rows) -> str:
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


def tabulate_fractions(rows: Rows) -> str:
    """A line for each network: its errors by the number of training images of CIFAR-10."""
    found = {(r["network"], r["train_images"]): r for r in rows if r["data"] == "cifar10"}
    cells = [[n.name, *(format_error(found[n.name, images]) for images in FRACTIONS)] for n in FEW]
    return grid(("network", *(f"{images:,} images" for images in FRACTIONS)), cells)


def tabulate_recipes() -> str:
    """A line for each number of training images: how long its recipe trains."""
    cells = []
    for images, name in FRACTIONS.items():
        recipe = compose_config("experiment=cifar10_resnet_26", f"recipe={name}")["recipe"]
        epochs, size = recipe["epochs"], recipe["batch_size"]
        rate = max(rate for _, rate in recipe["learning_rate"])
        steps = epochs * (images // size)
        cells.append(
            [f"{images:,}", f"`{name}`", f"{epochs:,}", str(size), f"{steps:,}", f"{rate:g}"]
        )
    header = ("images", "recipe", "epochs", "batch", "steps", "largest learning rate")
    return grid(header, cells)


# ---- The figures --------------------------------------------------------------------------------


def plot_costs(rows: Rows, data: str, axes: Any) -> None:
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


def plot_fractions(rows: Rows, axes: Any) -> None:
    """Error against the number of training images: the mean as a line, every seed as a mark."""
    shown: list[float] = []
    for network in FEW:
        own = [r for r in rows if (r["data"], r["network"]) == ("cifar10", network.name)]
        if not (own := [row for row in own if row["errors"]]):
            continue
        points = [(row["train_images"], error) for row in own for error in row["errors"]]
        shown += [error for _, error in points]
        means = [(row["train_images"], row["mean"]) for row in own]
        axes.plot(*zip(*means, strict=True), color=network.colour)
        style = {"color": network.colour, "label": network.name}
        axes.plot(*zip(*points, strict=True), network.mark, **style)
    axes.set(xlabel="training images of CIFAR-10", ylabel="test error, %")
    figures.set_log_scale(axes.xaxis, min(FRACTIONS) / 1.5, max(FRACTIONS) * 1.5)
    figures.set_log_scale(axes.yaxis, max(min(shown), 0.1) / 1.3, max(shown) * 1.3)
    axes.set_xticks(list(FRACTIONS), [f"{images:,}" for images in FRACTIONS])
    figures.add_legend(axes, "best")


def draw_figures(rows: Rows) -> dict[str, str]:
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


def write_page(rows: Rows, page: Path, results: Path) -> None:
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
    text = insert(text, "recipes", tabulate_recipes())
    write_whole(page, text)
