"""Save the network of a run as an ordinary network, which runs without pdoe.

    python scripts/export.py outputs/mnistrot_pdo_p8/seed=0
    python scripts/export.py outputs/mnistrot_pdo_p8/seed=0 --onnx

Writes `plain.pt2` beside the record (load it with `torch.export.load(path).module()`), or
`plain.onnx`. The input is a batch of any size of normalised images, float32; the script prints the
mean and the standard deviation for the normalisation. Before it writes anything, it compares the
outputs with those of the run's network on test images. ONNX needs `pip install '.[export]'`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from pdoe import export_plain
from pdoe.data import DataError
from pdoe.data.batches import to_input
from pdoe.data.dataset import format_statistic
from pdoe.files import write_whole
from pdoe.run.checkpoints import CheckpointMismatch, newest_whole
from pdoe.run.config import build_model, load_configured_data
from pdoe.run.trained import load_weights, read_configuration_at

TOLERANCE = 1e-5  # of the relative difference of the logits


def export_run(folder: Path, root: str | None, onnx: bool, source: str | None = None) -> str:
    """Export the run in a folder and describe the file in one line.

    Raises:
        ValueError: The folder holds no run with a checkpoint, or the outputs differ.
    """
    found = newest_whole(folder / "checkpoint")
    if found is None or not (folder / "config.yaml").is_file():
        raise ValueError(
            f"{folder} is no run folder with a checkpoint: it lacks "
            f"{'checkpoint/epoch=...,step=...' if found is None else 'config.yaml'}"
        )
    parts = found[1]
    config = read_configuration_at(folder, source)
    data = load_configured_data(config, root)
    model = load_weights(build_model(config, data), found[0])
    epochs, of = parts["state"]["progress"]["epoch"], config["recipe"]["epochs"]
    if epochs < of:
        print(f"export: the run has finished {epochs} of its {of} epochs", file=sys.stderr)

    plain = export_plain(model)
    x = to_input(data.test_images[:256], data.mean, data.std)
    with torch.no_grad():
        expected, found = model.eval()(x), plain(x)
    difference = ((found - expected).norm() / expected.norm()).item()
    if not difference < TOLERANCE:
        raise ValueError(f"the exported network differs from the run's by {difference:.1e}")

    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(plain, (x[:2],), dynamic_shapes=dynamic)
    path = folder / ("plain.onnx" if onnx else "plain.pt2")
    if onnx:
        model_proto = torch.onnx.export(program, (x[:2],), dynamo=True, verbose=False).model_proto
        write_whole(path, model_proto.SerializeToString())
    else:
        write_whole(path, lambda file: torch.export.save(program, file))
    return (
        f"{path}: [B, {', '.join(map(str, x.shape[1:]))}] -> logits [B, {found.shape[1]}], "
        f"mean {format_statistic(data.mean)}, std {format_statistic(data.std)}, "
        f"relative difference {difference:.1e} on {len(x)} test images ({data.provenance})"
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 written, 1 refused, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--root", help="folder with data (default: $PDOE_DATA, else data/)")
    parser.add_argument("--source", help="the function of your own that builds the run's network")
    parser.add_argument("--onnx", action="store_true", help="write ONNX instead")
    options = parser.parse_args(arguments)
    try:
        print(export_run(options.run, options.root, options.onnx, options.source))
    except (ValueError, DataError, CheckpointMismatch, RuntimeError, OSError) as error:
        print(f"export: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"export: {error.name} is not installed: pip install '.[export]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
