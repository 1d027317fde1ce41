"""Convert networks of torchvision and timm, and write what came out to results/convert/table.md.

    python scripts/convert_table.py --groups p4,p4m,p8 --networks resnet18,timm/resnet26

Networks of timm need the extra `convert`; without it they are left out, and named.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import torchvision
from torch import nn

from pdoe import PointGroup, convert
from pdoe.run.hardware import device_name
from pdoe.run.record import repository_state

NETWORKS = (
    "resnet18 resnet50 wide_resnet50_2 resnext50_32x4d vgg11_bn densenet121 mobilenet_v2 "
    "convnext_tiny squeezenet1_0 googlenet efficientnet_b0 regnet_y_400mf shufflenet_v2_x0_5 "
    "inception_v3 vit_b_16 swin_t timm/resnet26 timm/regnetx_002 timm/convnext_pico"
).split()
LARGE = ("wide_resnet50_2",)  # on p8, its kernels in float64 fill 9 GB: on p4 alone
HEADER = "| network | group | parameters | multiplications | error at quarter turns | seconds |"


def build_network(name: str) -> nn.Module:
    """Return an untrained network of torchvision, or of timm for names such as timm/resnet26."""
    library, _, short = name.rpartition("/")
    if library:
        import timm

        return timm.create_model(short)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **options)


def write_row(name: str, group: str) -> str:
    """Convert a network and return its line of the table."""
    network, start = build_network(name), time.perf_counter()
    try:
        report = convert(network, PointGroup.named(group)).report
    except ValueError as error:
        return f"| {name} | {group} | {error} | | | |"
    seconds = time.perf_counter() - start
    counts = (
        f"{before / 1e6:,.1f} M -> {after / 1e6:,.1f} M"
        for before, after in (report.parameters, report.multiplications)
    )
    cells = name, group, *counts, f"{report.quarter_turns:.0e}", f"{seconds:.0f}"
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--groups", default="p4,p8")
    parser.add_argument("--output", type=Path, default=Path("results/convert/table.md"))
    options = parser.parse_args(arguments)
    names, left_out = options.networks.split(","), []
    if find_spec("timm") is None:
        left_out = [name for name in names if name.startswith("timm/")]
        names = [name for name in names if name not in left_out]
    commit, dirty = repository_state(Path(__file__).parent)
    rows = []
    for name in names:
        for group in options.groups.split(","):
            if name in LARGE and len(PointGroup.named(group)) > 4:
                continue
            rows.append(write_row(name, group))
            print(rows[-1], flush=True)
            if "cannot convert" in rows[-1]:
                break
    made = (
        f"Commit {commit}{', with changes' if dirty else ''}; {device_name(torch.device('cpu'))}; "
    )
    made += f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python "
    made += f"{platform.python_version()}, {torch.get_num_threads()} threads."
    lines = [
        "# Converted networks",
        "",
        "Written by `scripts/convert_table.py`. Untrained networks, `match=\"parameters\"`, "
        "`exact=True`. Multiplications are for one",
        "image of 224x224 pixels. The error is that of the logits in float64 on images of 64x64; "
        "seconds are for the conversion",
        "with its measurements. A refused network has its message in place of numbers.",
        "",
        made,
        *([f"Left out, since timm is not installed: {', '.join(left_out)}."] if left_out else []),
        "",
        HEADER,
        "|--|--|--|--|--|--|",
        *rows,
        "",
    ]  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
