"""Where networks lose equivariance, how much at every angle, and of which order the layers are.

    python scripts/equivariance.py experiment=cifar10_pdo_p8_44 model.downsample=avgpool
    python scripts/equivariance.py outputs/mnistrot_pdo_p8/seed=0 --angles
    python scripts/equivariance.py outputs/mnistrot_pdo_p8/seed=0 --results results/equivariance
    python scripts/equivariance.py --rows 'cifar10_*' --insert experiments/cifar/README.md
    python scripts/equivariance.py --page results/equivariance

The first form shows the error of every layer, the largest over the rotations and reflections that
keep the pixel grid, and the first layer that loses equivariance, with the reason. For a run folder,
a checkpoint or a weights file it shows the network before and after training. `--angles` adds the
error over all angles and the order in which layers of the network's group converge; `--results`
writes all of that as CSV. `--rows` prints a line for each experiment with a group, as published and
with the variants that commute, or inserts them between `<!-- table:equivariance -->` and
`<!-- /table -->` of a file. `--page` measures the orders of several groups and writes the tables of
experiments/equivariance/README.md from the folder's CSV; `make report` draws the figures.

A network that is not trained has seed 0, or the run's, and running statistics of its input.
Networks on p1 are compared with p4.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import equivariance_page as page
import torch
from equivariance_measure import (
    build_network,
    load_run,
    measure_angles,
    measure_layers,
    measure_order,
)
from hydra.errors import HydraException

from pdoe import PointGroup
from pdoe.files import write_whole
from pdoe.models import Images
from pdoe.run.checkpoints import CheckpointMismatch
from pdoe.run.compose import compose_config
from pdoe.run.config import find_images
from pdoe.run.record import repository_state
from pdoe.tables.markdown import grid, insert
from pdoe.tables.runs import TableError

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {
    "as published": (),
    "avgpool": ("model.downsample=avgpool",),
    "avgpool, invariant head": ("model.downsample=avgpool", "model.head=invariant"),
}
COLUMNS = ("experiment", "network", "trunk", "logits", "first layer that loses it")
PAGE_GROUPS = ("p1", "p6m", "p8", "p12")
PAPER_OFFSET = torch.pi / 8


def load_networks(
    words: list[str], source: str | None = None
) -> tuple[str, dict, Images, dict[str, torch.nn.Module]]:
    """Name, configuration, images and networks by state of a command line: overrides, or a run."""
    if all("=" in word and "/" not in word.split("=")[0] for word in words):
        config = compose_config(*words)
        others = [word for word in words if not word.startswith("experiment=")]
        name = " ".join([config["experiment"], *others])
        return name, config, find_images(config), {"initialised": build_network(config)}
    if len(words) > 1:
        raise ValueError(f"a run stands alone on the command line, not {' '.join(words)}")
    path = Path(words[0])
    if not path.exists():
        raise ValueError(f"{path} is neither a run on disk nor an override like experiment=...")
    config, seed, images, trained = load_run(path, source)
    models = {"initialised": build_network(config, seed, images), "trained": trained}
    return config["experiment"], config, images, models


def show_network(
    words: list[str], angles: bool, results: Path | None, source: str | None = None
) -> None:
    """Measure and print a network or a run; write the measurements if asked to."""
    if results:
        page.check_folder(results)
    name, config, images, models = load_networks(words, source)
    layers, verdicts = [], []
    for state, model in models.items():
        torch.manual_seed(0)
        found = measure_layers(images, model, state == "trained")
        layers += [
            {"network": name, "state": state, "layer": layer or "logits", "error": error,
             "reason": found.reason if layer == found.first_broken else ""}
            for layer, error in found.errors.items()
        ]  # fmt: skip
        lost = f"first lost at {found.first_broken or 'logits'}: {found.reason}"
        verdict = lost if found.first_broken is not None else "nothing is lost"
        verdicts.append(f"{name}, {state}: {verdict}")
    print(page.tabulate_layers(layers), *verdicts, sep="\n")
    if not angles and not results:
        return

    curves = []
    for state, model in models.items():
        for output, curve in measure_angles(images, model, state == "trained").items():
            label = name if output == "logits" else f"{name}, {output}"
            curves += [
                {"network": label, "state": state, "angle": angle, "error": error}
                for angle, error in curve.items()
            ]
    offset = config["model"].get("offset")  # without an offset there are no frames and no order
    orders = [] if offset is None else measure_order(models["initialised"].group, offset)
    print(f"\n{page.tabulate_angles(curves)}", end="")
    print(f"\n{page.tabulate_orders(orders)}" if orders else "", end="")
    if results:
        page.merge_lines(results, describe_commit(), layers=layers, angles=curves, order=orders)
        print(f"written to {results}; `make report` draws the figures")


def describe_commit() -> str:
    commit, dirty = repository_state(ROOT)
    return commit + "*" * dirty


def tabulate_experiments(pattern: str) -> str:
    """Markdown of the experiments that match the pattern and have a group."""
    names = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))
    matching = {n: compose_config(f"experiment={n}") for n in names if fnmatchcase(n, pattern)}
    chosen = {n: config for n, config in matching.items() if config["group"] != "p1"}
    if not chosen:
        raise ValueError(f"no experiment with a group matches {pattern!r}; there are: {names}")
    lines = []
    for name, config in chosen.items():
        for variant, overrides in VARIANTS.items():
            if overrides and config["model"]["name"] != "resnet":
                continue
            print(f"{name}, {variant}", file=sys.stderr, flush=True)
            changed = compose_config(f"experiment={name}", *overrides)
            found = measure_layers(find_images(changed), build_network(changed), trained=False)
            trunk, logits = (f"{found.errors[layer]:.0e}" for layer in ("trunk", ""))
            broken = f"`{found.first_broken}`" if found.first_broken else "none"
            lines.append((f"`{name}`", variant, trunk, logits, broken))
    commit, dirty = repository_state(ROOT)
    source = f"`scripts/equivariance.py --rows '{pattern}'` at {commit[:9]}{' *' * dirty}, float64."
    return f"{grid(COLUMNS, lines)}\n{source}\n"


def show_experiments(pattern: str, path: Path | None) -> None:
    """Print the table of experiments, or insert it into a file."""
    before = path.read_text("utf-8") if path else ""
    if path:
        insert(before, "equivariance", "")  # refuses a file without marks before the work
    text = tabulate_experiments(pattern)
    print(text, end="")
    if path:
        write_whole(path, insert(before, "equivariance", text))


def write_page(folder: Path) -> None:
    """Measure the orders of several groups and fill the tables of the page."""
    page.check_folder(folder)
    for name in ("angles", "layers"):
        if not page.read_lines(folder, name):
            raise ValueError(
                f"{folder} lacks {name}.csv, which the page shows: measure a network first, with "
                f"--results {folder}"
            )
    groups = map(PointGroup.named, PAGE_GROUPS)
    orders = [line for group in groups for line in measure_order(group, PAPER_OFFSET)]
    page.merge_lines(folder, describe_commit(), order=orders)
    page.fill_tables(folder)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="*", help="a run, or experiment=... and overrides")
    parser.add_argument("--angles", action="store_true", help="also the error over all angles")
    parser.add_argument("--results", type=Path, help="folder for the measurements, as CSV")
    parser.add_argument("--source", help="the function of your own that builds the run's network")
    parser.add_argument("--rows", help="experiments, such as 'cifar10_*', one line for each")
    parser.add_argument("--insert", type=Path, help="with --rows: the file to put the table into")
    parser.add_argument("--page", type=Path, help="folder with CSV: write the page's tables anew")
    options = parser.parse_args(arguments)
    forms = bool(options.network), bool(options.rows), bool(options.page)
    if sum(forms) != 1 or (options.insert and not options.rows):
        parser.error("give a network, --rows or --page, and --insert with --rows alone")
    if (options.angles or options.results) and not options.network:
        parser.error("--angles and --results belong to a network")
    try:
        if options.network:
            show_network(options.network, options.angles, options.results, options.source)
        elif options.page:
            write_page(options.page)
        else:
            show_experiments(options.rows, options.insert)
    except (
        ValueError, TypeError, OSError, TableError, CheckpointMismatch, HydraException,
    ) as error:  # fmt: skip
        print(f"equivariance: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
