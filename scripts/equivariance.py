"""Where networks lose equivariance, how much at every angle, and how fast it comes back.

    python scripts/equivariance.py experiment=cifar10_pdo_p8_44 model.downsample=avgpool
    python scripts/equivariance.py outputs/mnistrot_pdo_p8/seed=0 --angles
    python scripts/equivariance.py outputs/mnistrot_pdo_p8/seed=0 --results results/equivariance
    python scripts/equivariance.py --rows 'cifar10_*' --insert experiments/cifar/README.md
    python scripts/equivariance.py --page results/equivariance

The first form shows the error of every layer, the largest over the turns and reflections that keep
the pixel grid, and the first layer that loses it, with the reason. Of a run folder, or a checkpoint
or a file of weights in it, it shows the network as initialised with the run's seed beside the
trained one. `--angles` adds the error over all angles and the order in which two layers of the
network's group converge, `--results` writes all that as CSV and figures. `--rows` has a line for
each experiment that has a group, as published and with the variants that commute, between the marks
`<!-- table:equivariance -->` and `<!-- /table -->` of a file. `--page` fits the orders of several
groups and makes figures and tables of experiments/equivariance/README.md from the folder's CSV.

Networks run in float64, in evaluation mode. One that is not trained has running statistics of the
input, and seed 0 unless it is a run's. Layers see a random image, angles smooth random fields that
are evaluated at the turned pixels; networks on p1 are asked about p4.
"""

from __future__ import annotations

import argparse
import copy
import sys
from fnmatch import fnmatchcase
from functools import partial
from math import pi, radians
from pathlib import Path

import equivariance_page as page
import torch
from hydra.errors import HydraException
from torch import nn

from pdoe import GroupConv, GroupPool, LiftingConv, PointGroup
from pdoe.data import SHAPES
from pdoe.equivariance.angles import convergence_order, equivariance_curve, smooth_field
from pdoe.equivariance.error import EquivarianceReport, equivariance_report
from pdoe.files import write_whole
from pdoe.run.checkpoints import CheckpointMismatch
from pdoe.run.config import build_model, composed
from pdoe.run.record import repository_state
from pdoe.run.trained import configuration_at, load_weights
from pdoe.tables.markdown import grid, insert
from pdoe.tables.runs import TableError

ROOT = Path(__file__).resolve().parents[1]


VARIANTS = {
    "as published": (),
    "avgpool": ("model.downsample=avgpool",),
    "avgpool, invariant head": ("model.downsample=avgpool", "model.head=invariant"),
}
COLUMNS = ("experiment", "network", "trunk", "logits", "first layer that loses it")
FITTED = ("p1", "p6m", "p8", "p12")  # --page
PAPER_OFFSET = pi / 8


# ---- Networks -----------------------------------------------------------------------------------


def network(config: dict, seed: int = 0) -> nn.Module:
    """The network as a run with this seed begins."""
    torch.manual_seed(seed)
    return build_model(config).double().eval()


def settled(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """A copy whose batch norm has the statistics of x."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over the batches seen: this one
        elif hasattr(module, "momentum"):  # norms of our own
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def run_at(path: Path) -> tuple[dict, int, nn.Module]:
    """Configuration and seed of a run, and its network with the weights at this path."""
    config = configuration_at(path)
    if config is None:
        raise ValueError(f"{path} lies in no run folder: nothing says what network it is of")
    seed = config.get("seed")
    if not isinstance(seed, int):
        raise ValueError(f"the configuration of {path} has no seed: {seed!r}")
    return config, seed, load_weights(network(config, seed), path)


# ---- Measurement --------------------------------------------------------------------------------


def report(*overrides: str) -> EquivarianceReport:
    """The errors of every layer of the network that the overrides choose."""
    config = composed(*overrides)
    return layer_report(config, network(config), initialised=True)


def layer_report(config: dict, model: nn.Module, initialised: bool) -> EquivarianceReport:
    """On one random image. A network on p1 has no turns of its own and is asked about p4."""
    x = torch.randn(1, *SHAPES[config["data"]["name"]][0], dtype=torch.float64)
    asked = model.group if len(model.group) > 1 else PointGroup(4)
    if initialised:  # on several images: a norm without space has nothing else to average over
        model = settled(model, torch.cat([x, torch.randn(7, *x.shape[1:], dtype=x.dtype)]))
    return equivariance_report(model, asked, x)


def curves(config: dict, model: nn.Module, initialised: bool) -> dict[str, dict[float, float]]:
    """Error over all angles of the logits, and of the trunk pooled over group and space."""
    channels, size, _ = SHAPES[config["data"]["name"]][0]
    field = partial(smooth_field, size, batch=8, channels=channels)
    if initialised:
        model = settled(model, field())
    pooled = nn.Sequential(model.trunk, GroupPool(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return {
        "logits": equivariance_curve(model, model.group, field),
        "pooled trunk": equivariance_curve(pooled, model.group, field),
    }


def fitted(group: PointGroup, offset: float) -> list[dict]:
    """Error against spacing of a lifting layer, alone and before a group layer, both of seed 0.

    One line for each spacing and each turn of the group that is none of the grid. A turn that a
    turn of the grid makes of one that is there is left out: layers commute with that exactly. An
    ordinary convolution (p1) is asked about 45 degrees.
    """
    torch.manual_seed(0)
    lift = LiftingConv(group, 1, 4, offset=offset, dtype=torch.float64)
    conv = GroupConv(group, 4, 4, offset=offset, dtype=torch.float64)
    turns = [360 * r / group.n for r in range(group.n) if 4 * r % group.n]
    step = 90 if group.n % 4 == 0 else 180 if group.n % 2 == 0 else 360
    angles = [angle for angle in turns if angle < step] or ([45.0] if group.n == 1 else [])
    lines = []
    for angle in angles:
        for layer, layers in {"lifting": [lift], "lifting, group": [lift, conv]}.items():
            found = convergence_order(layers, radians(angle))
            for spacing, error in found.errors.items():
                lines.append(
                    {"group": group.name, "layer": layer, "angle": angle, "spacing": spacing,
                     "error": error, "order": found.order}
                )  # fmt: skip
    return lines


# ---- What is shown ------------------------------------------------------------------------------


def measured(words: list[str], angles: bool, results: Path | None) -> None:
    """Show a network of the command line, or a run; write what was measured where asked to."""
    if results:
        page.check(results)
    if any("=" not in word or "/" in word.split("=")[0] for word in words):
        if len(words) > 1:
            raise ValueError(f"a run stands alone on the command line, not {' '.join(words)}")
        path = Path(words[0])
        if not path.exists():
            raise ValueError(f"{path} is neither a run on disk nor a choice such as experiment=...")
        config, seed, trained = run_at(path)
        models = {"initialised": network(config, seed), "trained": trained}
    else:
        config = composed(*words)
        models = {"initialised": network(config)}
    beside = [word for word in words if not word.startswith("experiment=") and len(models) == 1]
    name = " ".join([config["experiment"], *beside])

    reports, layers = {}, []
    for state, model in models.items():
        torch.manual_seed(0)
        reports[state] = found = layer_report(config, model, state == "initialised")
        for layer, error in found.errors.items():
            why = found.reason if layer == found.first_broken else ""
            layers.append(
                {"network": name, "state": state, "layer": layer or "logits", "error": error,
                 "reason": why}
            )  # fmt: skip
    print(page.layer_table(layers), end="")
    for state, found in reports.items():
        lost = f"first lost at {found.first_broken or 'logits'}: {found.reason}"
        print(f"{name}, {state}: {lost if found.first_broken is not None else 'nothing is lost'}")
    if not angles and not results:
        return

    lines = []
    for state, model in models.items():
        for output, curve in curves(config, model, state == "initialised").items():
            label = name if output == "logits" else f"{name}, {output}"
            lines += [
                {"network": label, "state": state, "angle": angle, "error": error}
                for angle, error in curve.items()
            ]
    offset = config["model"].get("offset")  # a network without frames has no order to fit
    orders = [] if offset is None else fitted(models["initialised"].group, offset)
    print(f"\n{page.angle_table(lines)}", end="")
    print(f"\n{page.order_table(orders)}" if orders else "", end="")
    if results:
        commit, dirty = repository_state(ROOT)
        page.put(results, commit, dirty, layers=layers, angles=lines, order=orders)
        page.draw(results)
        print(f"written to {results}")


def table(pattern: str) -> str:
    """The Markdown of all experiments that the pattern matches whose group has several elements."""
    names = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))
    matching = {n: composed(f"experiment={n}") for n in names if fnmatchcase(n, pattern)}
    chosen = {n: config for n, config in matching.items() if config["group"] != "p1"}
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
    parser.add_argument("network", nargs="*", help="a run, or experiment=... and what differs")
    parser.add_argument("--angles", action="store_true", help="the error over all angles, too")
    parser.add_argument("--results", type=Path, help="folder for what was measured, as CSV and SVG")
    parser.add_argument("--rows", help="experiments, such as 'cifar10_*', one line for each")
    parser.add_argument("--insert", type=Path, help="with --rows: the file to put the table into")
    parser.add_argument("--page", type=Path, help="folder with CSV: figures and README anew")
    options = parser.parse_args(arguments)
    forms = bool(options.network), bool(options.rows), bool(options.page)
    if sum(forms) != 1 or (options.insert and not options.rows):
        parser.error("give a network, --rows or --page, and --insert with --rows alone")
    if (options.angles or options.results) and not options.network:
        parser.error("--angles and --results belong to a network")
    try:
        if options.network:
            measured(options.network, options.angles, options.results)
        elif options.page:
            page.check(options.page)
            for name in ("angles", "layers"):  # the page's tables would be emptied
                if not page.read(options.page, name):
                    raise ValueError(
                        f"{options.page} lacks {name}.csv, which the page shows: measure a network "
                        f"first, with --results {options.page}"
                    )
            groups = map(PointGroup.named, FITTED)
            orders = [line for group in groups for line in fitted(group, PAPER_OFFSET)]
            commit, dirty = repository_state(ROOT)
            page.put(options.page, commit, dirty, order=orders)
            page.draw(options.page)
            page.fill(options.page)
        else:
            before = options.insert.read_text("utf-8") if options.insert else ""
            if options.insert:
                insert(before, "equivariance", "")  # before the work: refused without marks
            text = table(options.rows)
            print(text, end="")
            if options.insert:
                write_whole(options.insert, insert(before, "equivariance", text))
    except (
        ValueError,
        TypeError,
        OSError,
        TableError,
        CheckpointMismatch,
        HydraException,
    ) as error:
        print(f"equivariance: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
