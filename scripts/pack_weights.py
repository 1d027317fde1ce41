"""Make weights that `pdoe.load_pretrained` loads, and their card, of a finished run.

    python scripts/pack_weights.py outputs/mnistrot_pdo_p8/recipe=mnistrot_fast/seed=0
    python scripts/pack_weights.py outputs/mnistrot_pdo_p8_large/seed=0 --to results/weights

Writes `<name>.pt`, `<name>.md` and the entry of `index.json` into `pdoe/weights`, or into another
folder, from where `load_pretrained("results/weights/<name>.pt")` takes them. The same run gives the
same bytes. The data that the run was trained on have to be at hand: their mean and standard
deviation normalise the input. Refused are runs that are not finished, not at full scale, or made by
code that differs from its commit.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from pdoe.data import DataError, DataSet
from pdoe.data.dataset import written
from pdoe.files import write_whole
from pdoe.pretrained import INDEX, WEIGHTS, entries, network_of
from pdoe.run.checkpoints import CheckpointMismatch, newest_whole
from pdoe.run.config import build_model, configured_data, group_name, hashed
from pdoe.run.folder import RunFolder
from pdoe.run.hardware import SWITCHES, worded
from pdoe.run.record import RecordError, digest
from pdoe.run.trained import configuration_in, load_weights
from pdoe.tables.statistics import NORMAL, sampling_variance
from pdoe.tables.table import SETTING

ROOT = Path(__file__).resolve().parents[1]


# What the images of a data set are, and what a network that was trained on them is not for.
IMAGES = {
    "mnist_rot": (
        "single handwritten digits, bright on black, centred, of 28x28 pixels, at any angle",
        "A 6 and a 9 differ by a turn: where the angle is unknown, so is which of them it is. "
        "Anything but a digit gets a digit, too.",
    ),
    "cifar10": (
        "colour images of 32x32 pixels of the ten classes of CIFAR-10",
        "Anything else gets one of the ten classes, too.",
    ),
    "cifar100": (
        "colour images of 32x32 pixels of the hundred classes of CIFAR-100",
        "Anything else gets one of the hundred classes, too.",
    ),
}


def pack(folder: Path, name: str | None, to: Path, root: str | None) -> str:
    """Write weights, card and entry; a line that says so. ValueError for a run that is refused."""
    record, config = checked(folder)
    name = name or record["experiment"]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a name is lower-case letters, digits and underscores, not {name!r}")
    data = configured_data(config, root)
    if data.sha256 != record["data"]["sha256"]:
        raise ValueError(
            f"the run was trained on {record['data']['provenance']} {data.name} of SHA-256 "
            f"{record['data']['sha256'][:12]}..., and here are {data.provenance} ones of "
            f"{data.sha256[:12]}...: give --root, or PDOE_DATA"
        )
    found = newest_whole(folder / "checkpoint", older=False)
    if found and found[1]["state"]["progress"]["epoch"] != record["epochs"]:
        raise ValueError(f"{found[0]} is not of epoch {record['epochs']}, whose error was recorded")
    model = load_weights(build_model(config, data), folder).eval()
    count = sum(p.numel() for p in model.parameters())
    if count != record["parameters"]:
        raise ValueError(
            f"the network of {folder} has {count:,} parameters, its record says "
            f"{record['parameters']:,}: the code has changed since"
        )

    there = entries(to) if (to / INDEX).exists() else {}
    before = there.get(name, {}).get("run_id", record["run_id"])
    instead = f", instead of that of run {before}" if before != record["run_id"] else ""
    content = packed_weights(model)
    entry = described(name, content, record, config, data)
    copy = network_of(entry)
    copy.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    images = copy.eval().preprocess(data.test_images[:100], as_stored=True)
    with torch.no_grad():
        if not torch.equal(copy(images), model.to(images)(images)):
            raise ValueError(f"what is packed does not compute what the network of {folder} does")
    write_whole(to / f"{name}.pt", content)
    write_whole(to / f"{name}.md", card(name, called(name, to), entry, record))
    index = dict(sorted((there | {name: entry}).items()))
    write_whole(to / INDEX, json.dumps(index, indent=2) + "\n")

    return f"{to / name}.pt: {len(content):,} bytes, run {record['run_id']}{instead}"


def checked(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Record and configuration of a run that weights may be made of."""
    record, config = RunFolder(folder).read_result(), configuration_in(folder)
    if record is None or config is None:
        lacks = "result.json" if record is None else "config.yaml"
        raise ValueError(f"{folder} is no run folder: it lacks {lacks}, or it cannot be read")
    for name, needed, found in (
        ("result.json", {"status", "dirty", "config_hash", "parameters", "data"}, record),
        ("config.yaml", {"data", "group", "model", "recipe"}, config),
    ):
        if not needed <= set(found):
            raise ValueError(
                f"{folder / name} is damaged: it lacks {', '.join(needed - set(found))}"
            )
    config.pop("seed", None)
    scale = config["recipe"].get("scale")
    if scale != "full":
        raise ValueError(f"{folder} is a run at scale {scale!r}, which measures nothing")
    if record["status"] != "finished":
        raise ValueError(f"{folder} is {record['status']}, not finished ({record.get('reason')})")
    if record["dirty"]:
        raise ValueError(
            f"{folder} was made by code that differs from its commit {record['commit'][:12]}: "
            "nobody could make it again"
        )
    if config["data"].get("statistics") == "whitened":
        raise ValueError(f"{folder} was trained on whitened images, which `preprocess` cannot make")
    if digest(hashed(config)) != record["config_hash"]:
        raise ValueError(f"{folder}/config.yaml is not the configuration of its record")
    return record, config


def packed_weights(model: torch.nn.Module) -> bytes:
    """A file that ``torch.load(..., weights_only=True)`` reads: name -> tensor."""
    weights = {key: value.cpu().contiguous().clone() for key, value in model.state_dict().items()}
    file = io.BytesIO()  # the bytes of a file by name would depend on that name
    torch.save(weights, file)
    return file.getvalue()


def described(
    name: str, content: bytes, record: dict[str, Any], config: dict[str, Any], data: DataSet
) -> dict[str, Any]:
    """The entry of the index."""
    model, group = config["model"]["name"], group_name(config)
    count = len(data.test_images[: config["recipe"]["test_images"]])
    error, angles = record["test_error"], record.get("tta_angles")
    turned = f", mean over {angles} turns of each" if angles else ""
    return {
        "summary": f"{model} on {group} for {data.name}, {record['parameters']:,} parameters, "
        f"test error {error:.3f} % on {count:,} images ({data.provenance}{turned})",
        "file": f"{name}.pt",
        "sha256": hashlib.sha256(content).hexdigest(),
        "configuration": config,
        "overrides": record["overrides"],
        "seed": record["seed"],
        "run_id": record["run_id"],
        "parameters": record["parameters"],
        "image": list(data.train_images.shape[1:]),
        "mean": data.mean,
        "std": data.std,
        "transposed": data.name == "mnist_rot",  # as the data set stores its digits
        "classes": data.classes,
        "test_error": error,
        "test_images": count,
        "data": record["data"],
    }


def called(name: str, to: Path) -> str:
    """What ``load_pretrained`` takes; a folder outside of the checkout is not named in a card."""
    if to.resolve() == WEIGHTS.resolve():
        return name
    file = to.resolve() / f"{name}.pt"
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


def card(name: str, call: str, entry: dict[str, Any], record: dict[str, Any]) -> str:
    """What the network is, what was measured and what it is not for, as Markdown."""
    config, data = entry["configuration"], entry["data"]
    images, limit = IMAGES[data["name"]]
    count, error = entry["test_images"], entry["test_error"]
    sampling = NORMAL * math.sqrt(sampling_variance(error, count))
    words = [f"{key}={value}" for key, value in SETTING.findall(entry["overrides"])]
    words = [f"experiment={record['experiment']}", *words, f"seed={entry['seed']}"]
    command = " ".join(map(shlex.quote, words))
    network, recipe = (
        ", ".join(f"{key} {json.dumps(value)}" for key, value in config[part].items())
        for part in ("model", "recipe")
    )
    stored = (
        "The data set stores its digits transposed; `net.preprocess` transposes what it is given, "
        "`net.preprocess(images, as_stored=True)` takes the data set's own.\n"
        if entry["transposed"]
        else ""
    )
    regenerated = (
        " These images are not the published ones: other digits at other angles, each digit at "
        "most once, so that the error is that of another draw."
        if data["provenance"].startswith("regenerated")
        else ""
    )
    mean, std = written(entry["mean"]), written(entry["std"])
    minutes = round(record["seconds"] / 60)
    environments = (record.get("manifest") or {}).get("environments") or [{}]
    chosen = environments[-1].get("settings") or {}
    names = [name for name in map(worded, SWITCHES) if name in chosen]
    made = [record["device"], record["precision"], f"torch {record['torch']}", f"{minutes} min"]
    made += [f"{name}: {chosen[name]}" for name in names]
    select, epoch = record.get("select", "last"), record.get("selected_epoch")
    selection = "none: the last epoch" if select == "last" else f"epoch {epoch}, by `{select}`"
    return f"""# {name}

{entry["summary"]}.

```python
net = pdoe.load_pretrained("{call}")
x = net.preprocess(images)  # uint8 [B, {", ".join(map(str, entry["image"]))}], as one sees them
labels = net(x).argmax(1)
```

{stored}Input: (value / 256 - mean) / std, mean {mean}, std {std}.

| | |
|--|--|
| test error | {error:.3f} % ± {sampling:.3f} (95 %, sampling of {count:,} images); n = 1 run |
| selection | {selection}, of {record["epochs"]} epochs; seed {entry["seed"]} |
| parameters | {entry["parameters"]:,} |
| data | {data["name"]}, {data["provenance"]}, SHA-256 `{data["sha256"]}` |
| command | `python train.py {command}` |
| code | commit `{record["commit"]}` |
| run | `{entry["run_id"]}`, configuration `{record["config_hash"]}`, ended {record["ended"]} |
| made on | {", ".join(made)} |
| file | `{entry["file"]}`, SHA-256 `{entry["sha256"]}` |

**Network.** Group {group_name(config)}; {network}.

**Recipe.** {recipe}.

**Intended use.** To compare with, to measure equivariance on, to start from: {images}.

**Limits.** One run of one seed: the spread over seeds is not in the interval above.{regenerated}
{limit}

Made by `scripts/pack_weights.py` from the record of the run.
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 written, 1 refused, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--name", help="default: that of its experiment")
    parser.add_argument("--to", type=Path, default=WEIGHTS, help="folder of weights")
    parser.add_argument("--root", help="folder with data (default: $PDOE_DATA, else data/)")
    options = parser.parse_args(arguments)
    try:
        print(pack(options.run, options.name, options.to, options.root))
    except (ValueError, DataError, CheckpointMismatch, RecordError, OSError) as error:
        print(f"pack_weights: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
