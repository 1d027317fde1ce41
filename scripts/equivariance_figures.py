"""The figures of this page, drawn with matplotlib: `pip install '.[report]'`.

White background, text as text, no date: the same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pdoe import PointGroup, filter_bank
from pdoe.banks import OPERATORS, stencil

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8  # a derivative along x, seen by all
STYLES = {"initialised": "--", "trained": "-"}


def stencils(path: Path) -> None:
    """The nine basis operators on the grid: 3x3, drawn inside of the 5x5 that turned ones need."""
    figure, axes = _panels(3, 3, (5.2, 5.6))
    for (i, j), axis in zip(OPERATORS, axes.flat, strict=True):
        taps = stencil(i, j)
        _kernel(axis, taps, f"${_name(i, j)}$", darkest=5)
        for row, column in np.argwhere(taps):
            text = f"{taps[row, column]:g}".replace("-", "\N{MINUS SIGN}")
            axis.text(column, row, text, ha="center", va="center", fontsize=7)
    _save(figure, path)


def turned_filter(path: Path) -> None:
    """Sobel's filter through the eight elements of p8."""
    figure, axes = _panels(2, 4, (6.6, 3.7))
    bank = filter_bank(PointGroup(8))
    for g, (kernel, axis) in enumerate(zip(bank, axes.flat, strict=True)):
        taps = np.tensordot(SOBEL.ravel(), kernel, 1)
        _kernel(axis, taps, f"{45 * g}°", darkest=0.45)
    _save(figure, path)


def curves(lines: Sequence[Mapping[str, str]], path: Path) -> None:
    """Error against angle, the lines of `angles.csv`: networks on the left, their trunks beside."""
    networks = list(dict.fromkeys(line["network"] for line in lines))
    panels = [[n for n in networks if "," not in n], [n for n in networks if "," in n]]
    panels = [names for names in panels if names]
    figure, axes = _panels(1, len(panels), (4.4 * len(panels), 3.6), sharex=True)
    for names, axis in zip(panels, axes.flat, strict=True):
        for number, name in enumerate(names):
            for state, style in STYLES.items():
                points = [
                    (float(line["angle"]), float(line["error"]))
                    for line in lines
                    if (line["network"], line["state"]) == (name, state)
                ]
                if points:
                    points += [(360 + angle, error) for angle, error in points if angle == 0]
                    label = f"{name}, {state}"
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label)
        axis.set_xticks(range(0, 361, 90))
        axis.set_xlabel("angle, degrees")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.02 + 0.09 * len(names)))
    axes.flat[0].set_ylabel("relative error")
    _save(figure, path)


def orders(lines: Sequence[Mapping[str, str]], path: Path) -> None:
    """Error against spacing with the fitted orders: the lines of `order.csv`."""
    figure, axes = _panels(1, 1, (5.6, 4.2))
    axis = axes.flat[0]
    series: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    for line in lines:
        key = line["group"], line["angle"], line["layer"], line["order"]
        series.setdefault(key, []).append((float(line["spacing"]), float(line["error"])))
    for number, ((group, angle, layer, order), points) in enumerate(series.items()):
        axis.loglog(
            *zip(*points, strict=True),
            marker="o",
            markersize=3,
            color=f"C{number // 2 % 10}",
            linestyle="-" if number % 2 else "--",
            label=f"{group}, {float(angle):g}°, {layer}: {float(order):.2f}",
        )
    spacings = sorted({float(line["spacing"]) for line in lines})
    axis.set_xticks(spacings, [f"1/{1 / h:g}" for h in spacings])
    axis.minorticks_off()
    axis.set_xlabel("grid spacing h (the shortest wave has length 4)")
    axis.set_ylabel("relative error")
    axis.grid(alpha=0.3)
    figure.legend(fontsize=7, title="fitted order", loc="outside right upper", handlelength=5)
    _save(figure, path)


def _name(i: int, j: int) -> str:
    axes = "".join(rf"\partial_{axis}^{{{k}}}" for axis, k in (("x", i), ("y", j)) if k)
    return axes.replace("^{1}", "") or "1"


def _panels(rows: int, columns: int, size: tuple[float, float], **options):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pdoe", "font.size": 9})
    from matplotlib import pyplot

    return pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )


def _kernel(axis, taps: np.ndarray, title: str, darkest: float) -> None:
    """Taps that are not 0 as squares, red where positive, blue where negative."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(np.abs(taps) > 1e-12):
        color = colormaps["RdBu_r"](0.5 + taps[row, column] / darkest / 2)
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color))
    edge = len(taps) - 0.5
    axis.set(aspect="equal", xlim=(-0.5, edge), ylim=(edge, -0.5), title=title)
    axis.set_xticks(np.arange(0.5, edge), [])
    axis.set_yticks(np.arange(0.5, edge), [])
    axis.tick_params(length=0)
    axis.grid(color="0.85", linewidth=0.5)


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)
