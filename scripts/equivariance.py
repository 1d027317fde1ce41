"""Where networks lose equivariance: largest relative error over the turns that keep the pixel grid.

    python scripts/equivariance.py experiment=cifar10_pdo_p8_44 model.downsample=avgpool
    python scripts/equivariance.py --rows 'cifar10_*' --insert experiments/cifar/README.md

The first form shows every layer of one network, the second a line for each experiment that has a
group, as published and with the variants that commute, and can put it between the marks
`<!-- table:equivariance -->` and `<!-- /table -->` of a file. Networks are as initialised (seed 0),
in float64, in evaluation mode with running statistics of the input, which is one random image.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation

import torch  # noqa: E402
from hydra.errors import HydraException  # noqa: E402
from torch import nn  # noqa: E402

from pdoe.configuration import build_model  # noqa: E402
from pdoe.data import SHAPES  # noqa: E402
from pdoe.equivariance import EquivarianceReport, equivariance_report  # noqa: E402
from pdoe.files import write_whole  # noqa: E402
from pdoe.markdown import grid, insert  # noqa: E402
from pdoe.records import repository_state  # noqa: E402
from pdoe.runs import TableError  # noqa: E402
from train import composed  # noqa: E402

VARIANTS = {
    "as published": (),
    "avgpool": ("model.downsample=avgpool",),
    "avgpool, invariant head": ("model.downsample=avgpool", "model.head=invariant"),
}
COLUMNS = ("experiment", "network", "trunk", "logits", "first layer that loses it")


def report(*overrides: str) -> EquivarianceReport:
    """The errors of every layer of the network that the overrides choose."""
    config = composed(*overrides)
    torch.manual_seed(0)
    model = build_model(config).double()
    x = torch.randn(1, *SHAPES[config["data"]["name"]][0], dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over the batches seen: this one
    with torch.no_grad():
        model.train()(x)
    return equivariance_report(model.eval(), model.group, x)


def table(pattern: str) -> str:
    """The Markdown of all experiments that the pattern matches whose group has several elements."""
    names = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))
    matching = {n: composed(f"experiment={n}") for n in names if fnmatchcase(n, pattern)}
    chosen = {n: config for n, config in matching.items() if config["group"]["name"] != "p1"}
    if not chosen:
        raise ValueError(f"no experiment with a group matches {pattern!r}; there are: {names}")
    lines = []
    for name, config in chosen.items():
        residual = config["model"]["name"] == "resnet"
        for variant, overrides in VARIANTS.items():
            if residual or not overrides:
                print(f"{name}, {variant}", file=sys.stderr, flush=True)
                found = report(f"experiment={name}", *overrides)
                trunk, logits = (f"{found.errors[layer]:.0e}" for layer in ("trunk", ""))
                broken = f"`{found.first_broken or 'none'}`".replace("`none`", "none")
                lines.append((f"`{name}`", variant, trunk, logits, broken))
    commit, dirty = repository_state(ROOT)
    made = f"`scripts/equivariance.py --rows '{pattern}'` at {commit[:9]}{' *' * dirty}, float64."
    return f"{grid(COLUMNS, lines)}\n{made}\n"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="experiment=... and what differs from it")
    parser.add_argument("--rows", help="experiments, such as 'cifar10_*', one line for each")
    parser.add_argument("--insert", type=Path, help="with --rows: the file to put the table into")
    options = parser.parse_args(arguments)
    if bool(options.rows) == bool(options.overrides) or (options.insert and not options.rows):
        parser.error("give either experiment=... or --rows, and --insert with --rows alone")
    try:
        if options.overrides:
            print(report(*options.overrides))
            return 0
        before = options.insert.read_text("utf-8") if options.insert else ""
        if options.insert:
            insert(before, "equivariance", "")  # before the work: a file without marks is refused
        text = table(options.rows)
        print(text, end="")
        if options.insert:
            write_whole(options.insert, insert(before, "equivariance", text))
    except (ValueError, OSError, TableError, HydraException) as error:
        print(f"equivariance: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
