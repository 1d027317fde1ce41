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

import sys
from pathlib import Path

from equal_cost_networks import collect, read_results
from equal_cost_page import write_page

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments" / "cifar" / "equal-cost.md"
RESULTS = ROOT / "results" / "cifar"


def main() -> int:
    rows = collect(read_results(PAGE.parent, RESULTS))
    write_page(rows, PAGE, RESULTS)
    have = sum(bool(row["errors"]) for row in rows)
    print(f"{PAGE.relative_to(ROOT)}: {have} of {len(rows)} cells have a finished run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
