"""Quality against the number of labelled images, for networks at equal parameters and equal cost.

Lines are those of ``results/elpv/cells.csv``. For each number of labels, every network has the same
seeds. A network is named by what its widths match and by its group; the plain network comes a
second time with ``views``, tested with the mean over the eight symmetries of the square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from ..tables.markdown import grid
from ..tables.statistics import Summary
from . import figures

Line = Mapping[str, Any]
Network = tuple[str, str]  # match, group
Cells = Callable[[Network, int], str]
PLAIN: Network = ("parameters", "p1")
VIEWS: Network = ("views", "p1")
MATCHES = {"parameters": "equal parameters", "cost": "equal cost", "views": "equal parameters"}
MEASURES = ("auc", "balanced_accuracy")
AREA = "Area under the ROC curve, %"
COLOURS = dict(zip(("p1", "p4", "p4m", "p8", "p8m"), (figures.INK, *figures.SERIES), strict=True))


def list_networks(lines: Sequence[Line]) -> list[Network]:
    """Return the networks, the plain one first, each once."""
    found = {(line["match"], line["group"]) for line in lines}
    order = [PLAIN, VIEWS, *product(("parameters", "cost"), COLOURS)]
    return sorted(found, key=order.index)


def list_counts(lines: Sequence[Line]) -> list[int]:
    return sorted({int(line["labels"]) for line in lines})


def values(lines: Sequence[Line], network: Network, count: int, measure: str) -> list[float]:
    """Return a measure of the runs of a network with ``count`` labels, in the order of seeds."""
    own = [r for r in lines if (r["match"], r["group"]) == network and int(r["labels"]) == count]
    return [float(line[measure]) for line in sorted(own, key=lambda line: int(line["seed"]))]


def summarise(lines: Sequence[Line], network: Network, count: int, measure: str) -> Summary:
    return Summary.of(values(lines, network, count, measure))


def labels_needed(lines: Sequence[Line], network: Network, goal: float, measure: str) -> float:
    """Return the number of labels at which the mean of a network first reaches ``goal``.

    Between two numbers of labels the mean is interpolated, linear in the logarithm. It is the
    smallest number if that is enough, and infinite if none is.
    """
    counts = list_counts(lines)
    means = [summarise(lines, network, count, measure).mean for count in counts]
    if means[0] >= goal:
        return counts[0]
    for i in range(1, len(counts)):
        if means[i] >= goal:
            part = (goal - means[i - 1]) / (means[i] - means[i - 1])
            return counts[i - 1] * (counts[i] / counts[i - 1]) ** part
    return math.inf


# ---- Tables -------------------------------------------------------------------------------------


def make_tables(lines: Sequence[Line]) -> dict[str, str]:
    """Return the tables in Markdown, by name: a row for each network."""
    return {
        **{measure: _tabulate_quality(lines, measure) for measure in MEASURES},
        "difference": _tabulate_differences(lines, "auc"),
        "needed": _tabulate_needed(lines, "auc"),
    }


def describe_runs(lines: Sequence[Line]) -> str:
    """Say in a sentence which seeds, device, precision and commits the lines have."""
    seeds = ", ".join(
        f"{len(values(lines, PLAIN, count, 'auc'))} with {count:,}" for count in list_counts(lines)
    )
    made = "; ".join(
        f"{key} {', '.join(sorted({str(line[key])[:length] for line in lines}))}"
        for key, length in (("device", None), ("precision", None), ("commit", 10))
    )
    return f"Seeds: {seeds} labelled cells; {made}.\n"


def _name(network: Network) -> list[str]:
    plain = {PLAIN: "plain", VIEWS: "plain, 8 views"}
    return [plain.get(network, network[1]), MATCHES[network[0]]]


def _table(lines: Sequence[Line], networks: Sequence[Network], cells: Cells) -> str:
    """A row for each network and a column for each number of labels."""
    counts = list_counts(lines)
    header = ["network", "widths at", *(f"{count:,} cells" for count in counts)]
    return grid(header, [[*_name(n), *(cells(n, count) for count in counts)] for n in networks])


def _tabulate_quality(lines: Sequence[Line], measure: str) -> str:
    def cell(network: Network, count: int) -> str:
        found = summarise(lines, network, count, measure)
        return f"{found.mean:.1f}" + ("" if found.std is None else f" ± {found.std:.1f}")

    return _table(lines, list_networks(lines), cell)


def compare(
    lines: Sequence[Line], network: Network, count: int, measure: str
) -> tuple[float, float | None]:
    """Return the mean difference to the plain network, paired by seed, and its half width."""
    pairs = zip(
        values(lines, network, count, measure), values(lines, PLAIN, count, measure), strict=True
    )
    paired = Summary.of([ours - plain for ours, plain in pairs])
    return paired.mean, paired.half_width


def _tabulate_differences(lines: Sequence[Line], measure: str) -> str:
    def cell(network: Network, count: int) -> str:
        mean, half = compare(lines, network, count, measure)
        text = f"{mean:+.1f}" + ("" if half is None else f" ± {half:.1f}")
        return f"**{text}**" if half is not None and abs(mean) > half else text

    return _table(lines, list_networks(lines)[1:], cell)


def _tabulate_needed(lines: Sequence[Line], measure: str) -> str:
    counts = list_counts(lines)
    goals = [summarise(lines, PLAIN, count, measure).mean for count in counts]
    header = ["network", "widths at", "parameters", "multiplications"]
    rows = []
    for network in list_networks(lines):
        one = next(line for line in lines if (line["match"], line["group"]) == network)
        needed = [labels_needed(lines, network, goal, measure) for goal in goals]
        rows.append(
            [*_name(network), f"{int(one['parameters']):,}",
             f"{int(one['multiplications']) / 1e6:.1f} M",
             *(_format_needed(number, counts) for number in needed)]
        )  # fmt: skip
    return grid([*header, *(f"plain at {count:,}" for count in counts)], rows)


def _format_needed(needed: float, counts: Sequence[int]) -> str:
    if math.isinf(needed):
        return f"> {counts[-1]:,}"
    return f"≤ {counts[0]:,}" if needed <= counts[0] else f"{needed:,.0f}"


# ---- Figures ------------------------------------------------------------------------------------


def draw_figures(lines: Sequence[Line]) -> dict[str, str]:
    """Draw the figures: name of the file -> SVG."""
    panels = [partial(_plot_labels, lines, match) for match in ("parameters", "cost")]
    drawn = {"auc.svg": figures.render(panels, 400, 330, 2)}
    counts = list_counts(lines)
    chosen = [counts[0], counts[(len(counts) - 1) // 2], counts[-1]]
    panels = [partial(_plot_cost, lines, count) for count in dict.fromkeys(chosen)]
    return drawn | {"cost.svg": figures.render(panels, 300, 320, 3)}


def _plot_labels(lines: Sequence[Line], match: str, axes: Any) -> None:
    counts = list_counts(lines)
    networks = [n for n in list_networks(lines) if n in (PLAIN, VIEWS) or n[0] == match]
    for place, network in enumerate(networks):
        found = [summarise(lines, network, count, "auc") for count in counts]
        shift = 1.035 ** (place - (len(networks) - 1) / 2)  # so that the bars stay apart
        bars = [s.std or 0 for s in found]
        axes.errorbar(
            [count * shift for count in counts],
            [s.mean for s in found],
            bars,
            color=COLOURS[network[1]],
            label=_name(network)[0],
            marker="o",
            markersize=3.5,
            elinewidth=0.9,
            linewidth=1.5,
            linestyle="--" if network == VIEWS else "-",
        )
    figures.set_log_scale(axes.xaxis, 0.85 * counts[0], 1.2 * counts[-1])
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set(xlabel="labelled cells", ylabel=AREA)
    figures.set_title(axes, MATCHES[match][0].upper() + MATCHES[match][1:])
    figures.add_legend(axes, "lower right", handlelength=1.2)


def _plot_cost(lines: Sequence[Line], count: int, axes: Any) -> None:
    """Area under the curve against multiplications; hollow marks are networks of equal cost."""
    costs = []
    for network in list_networks(lines):
        one = next(line for line in lines if (line["match"], line["group"]) == network)
        costs.append(int(one["multiplications"]))
        found = summarise(lines, network, count, "auc")
        colour, hollow = COLOURS[network[1]], network[0] != "parameters"
        axes.errorbar(
            costs[-1], found.mean, found.std or 0, color=colour, markersize=6,
            marker="D" if network == VIEWS else "o",
            markerfacecolor=figures.SURFACE if hollow else colour, elinewidth=0.9,
            label=None if network[0] == "cost" else _name(network)[0], linestyle="none",
        )  # fmt: skip
    figures.set_log_scale(axes.xaxis, 0.6 * min(costs), 1.7 * max(costs))
    axes.set(xlabel="multiplications for one cell", ylabel=AREA)
    figures.set_title(axes, f"{count:,} labelled cells", "hollow: widths at equal cost")
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.6 * (high - low), high)  # room for the legend
    figures.add_legend(axes, "lower right", handlelength=0.8)
