"""Train one MNIST-rot network with eight groups, at about equal parameters, with the common recipe.

    python scripts/sweep_groups.py --seeds 0,1,2 --groups p1,p4,p8

The network is that of `mnistrot_pdo_p8`, all frames turned by pi/8; with that offset p1 and p4 are
PDO-eConvs, not the CNN and the G-CNN. Its uniform width is the largest whose parameters are not
more than the 26,747 of p8. Finished runs are skipped, unfinished ones go on, and what failed is
listed at the end; the exit code is 0 only if every run finished. `make report` draws the figure.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any

from reproduce import Cell, announce, chosen_seeds, composed, run

from pdoe.report.learning import GROUPS, SWEEP
from pdoe.run.config import build_model, parse_group

EXPERIMENT, RECIPE = SWEEP[0], f"recipe={SWEEP[1]}"
INTERRUPTED = 75


def parameters(config: dict[str, Any], width: int) -> int:
    """Of the network with that many fields in every layer."""
    config = copy.deepcopy(config)
    config["model"]["widths"] = [width] * len(config["model"]["widths"])
    return sum(p.numel() for p in build_model(config).parameters())


def widest(config: dict[str, Any], most: int) -> tuple[int, int]:
    """The largest width with at most that many parameters, and how many it has."""
    if parameters(config, 1) > most:
        raise ValueError(f"one field of {config['group']} has more than {most} parameters")
    low, high = 1, 2
    while parameters(config, high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(config, middle) <= most else (low, middle)
    return low, parameters(config, low)


def cells_of(group: str, seeds: list[int], most: int) -> tuple[str, list[Cell]]:
    """A line about the network of a group, and its runs."""
    config = composed(f"experiment={EXPERIMENT}", f"group={group}", RECIPE)
    width, count = widest(config, most)
    original = composed(f"experiment={EXPERIMENT}")
    depth = len(original["model"]["widths"])
    overrides = [RECIPE]
    if group != original["group"]:
        overrides.append(f"group={group}")
    if [width] * depth != original["model"]["widths"]:
        overrides.append(f"model.widths=[{','.join([str(width)] * depth)}]")
    line = f"{group:>4}: {width} fields a layer, {count:,} parameters"
    return line, [Cell(EXPERIMENT, tuple(sorted(overrides)), seed) for seed in seeds]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 if every run finished, 75 if stopped, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", default=",".join(GROUPS), help="comma-separated")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    options = parser.parse_args(arguments)
    try:
        groups = [parse_group(group.strip()).name for group in options.groups.split(",")]
    except ValueError as error:
        parser.error(str(error))
    seeds = [int(seed) for seed in chosen_seeds(options.seeds)]
    original = composed(f"experiment={EXPERIMENT}")
    most = parameters(original, original["model"]["widths"][0])

    cells = []
    for group in groups:
        line, some = cells_of(group, seeds, most)
        print(line, flush=True)
        cells += some
    announce(cells)
    for cell in cells:
        if not cell.finished and run("train.py", *cell.command) == INTERRUPTED:
            return INTERRUPTED
    compared = run("scripts/compare.py", "mnist_rot")
    failed = [cell for cell in cells if not cell.finished]
    for cell in failed:
        reason = cell.record().get("reason") or "it left no record"
        print(f"not finished: {cell}: {reason}", file=sys.stderr)
    print(f"{len(cells) - len(failed)} of {len(cells)} runs are finished", flush=True)
    return 1 if failed or compared == 2 else 0


if __name__ == "__main__":
    sys.exit(main())
