"""Train one MNIST-rot network with eight groups, at about equal parameters, with the common recipe.

    python scripts/sweep_groups.py --seeds 0,1,2 --groups p1,p4,p8

The network is that of `mnistrot_pdo_p8`, with all frames rotated by pi/8; with that offset p1 and
p4 are PDO-eConvs, not the CNN and the G-CNN. Its uniform number of fields is the largest whose
parameters are not more than those of p8. Finished runs are skipped, unfinished ones are resumed,
and failed runs and groups are named in the last lines. The exit status is 0 if every run finished,
75 if stopped, else 1. `make compare PUBLISH=1`, then `make report` draw the figure.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any

from reproduce import Cell, announce_cost, compose_config, finish, parse_seeds, train_cells

from pdoe.report.learning import GROUPS, SWEEP
from pdoe.run.config import build_model, parse_group

EXPERIMENT, RECIPE = SWEEP[0], f"recipe={SWEEP[1]}"


def count_parameters(config: dict[str, Any], width: int) -> int:
    """Count the parameters of the network with ``width`` fields in every layer."""
    config = copy.deepcopy(config)
    config["model"]["widths"] = [width] * len(config["model"]["widths"])
    return sum(p.numel() for p in build_model(config).parameters())


def find_width(config: dict[str, Any], most: int) -> tuple[int, int]:
    """Find the largest width with at most ``most`` parameters, and its count.

    Raises:
        ValueError: even one field has more.
    """
    if count_parameters(config, 1) > most:
        raise ValueError(f"one field of {config['group']} has more than {most} parameters")
    low, high = 1, 2
    while count_parameters(config, high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count_parameters(config, middle) <= most else (low, middle)
    return low, count_parameters(config, low)


def make_cells(group: str, seeds: list[int], most: int) -> tuple[str, list[Cell]]:
    """A line about the network of a group, and its runs; ValueError if no network is possible."""
    group = parse_group(group).name
    config = compose_config(f"experiment={EXPERIMENT}", f"group={group}", RECIPE)
    width, count = find_width(config, most)
    original = compose_config(f"experiment={EXPERIMENT}")
    depth = len(original["model"]["widths"])
    overrides = [RECIPE]
    if group != original["group"]:
        overrides.append(f"group={group}")
    if [width] * depth != original["model"]["widths"]:
        overrides.append(f"model.widths=[{','.join([str(width)] * depth)}]")
    line = f"{group:>4}: {width} fields a layer, {count:,} parameters"
    return line, [Cell(EXPERIMENT, tuple(sorted(overrides)), seed) for seed in seeds]


def main(arguments: list[str] | None = None) -> int:
    """Train and compare; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", default=",".join(GROUPS), help="comma-separated")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    options = parser.parse_args(arguments)
    seeds = parse_seeds(options.seeds)
    original = compose_config(f"experiment={EXPERIMENT}")
    most = count_parameters(original, original["model"]["widths"][0])

    cells, refused = [], []
    for group in filter(None, (name.strip() for name in options.groups.split(","))):
        try:
            line, some = make_cells(group, seeds, most)
        except ValueError as error:  # the other groups run
            refused.append(f"group {group!r} is left out: {error}")
            continue
        print(line, flush=True)
        cells += some
    if not cells:
        parser.error("; ".join(refused) or "--groups names no group")
    announce_cost(cells)
    status = finish(train_cells(cells), len(cells), "mnist_rot")
    for line in refused:
        print(line, file=sys.stderr, flush=True)
    return status or int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
