"""Write the weights of a finished run, and a card, for `pdoe.load_pretrained`.

    python scripts/pack_weights.py outputs/mnistrot_pdo_p8/recipe=mnistrot_fast/seed=0
    python scripts/pack_weights.py outputs/mnistrot_pdo_p8_large/seed=0 --to results/weights

Writes `<name>.pt`, `<name>.md` and the entry of `index.json` into `pdoe/weights`, or into another
folder, which `load_pretrained("results/weights/<name>.pt")` reads. The same run gives the same
bytes. The training data are needed for their mean and standard deviation. Refused are runs that are
unfinished, of a reduced scale, or made by code that differs from its commit.
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

from pdoe.data import SETS, DataError, DataSet
from pdoe.data.dataset import format_statistic
from pdoe.files import write_whole
from pdoe.models.sources import is_own
from pdoe.pretrained import INDEX, WEIGHTS, build_network, read_index
from pdoe.run.checkpoints import CheckpointMismatch, newest_whole
from pdoe.run.config import build_model, group_name, load_configured_data, select_hashed
from pdoe.run.folder import RunFolder
from pdoe.run.hardware import SWITCHES, format_setting
from pdoe.run.overrides import split_overrides
from pdoe.run.record import RecordError, digest
from pdoe.run.trained import load_weights, read_configuration_in
from pdoe.tables.statistics import NORMAL, sampling_variance

ROOT = Path(__file__).resolve().parents[1]


def pack(folder: Path, name: str | None, to: Path, root: str | None) -> str:
    """Write weights, card and entry of a run.

    Args:
        folder: of the run.
        name: of the network; None: that of the experiment.
        to: folder of weights.
        root: folder with data, None: the default one.

    Returns:
        A line for the user.

    Raises:
        ValueError: the run is refused.
    """
    record, config = read_run(folder)
    name = name or record["experiment"]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a name is lower-case letters, digits and underscores, not {name!r}")
    data = load_configured_data(config, root)
    if data.sha256 != record["data"]["sha256"]:
        raise ValueError(
            f"the run was trained on {record['data']['provenance']} {data.name} of SHA-256 "
            f"{record['data']['sha256'][:12]}..., and here are {data.provenance} ones of "
            f"{data.sha256[:12]}...: give --root, or PDOE_DATA"
        )
    model = load_network(folder, record, config, data)
    content = pack_state(model)
    entry = describe(name, content, record, config, data)
    check_packed(content, entry, model, data, folder)

    index = read_index(to) if (to / INDEX).exists() else {}
    before = index.get(name, {}).get("run_id", record["run_id"])
    instead = f", instead of that of run {before}" if before != record["run_id"] else ""
    write_whole(to / f"{name}.pt", content)
    write_whole(to / f"{name}.md", format_card(name, call_argument(name, to), entry, record))
    index = dict(sorted((index | {name: entry}).items()))
    write_whole(to / INDEX, json.dumps(index, indent=2) + "\n")
    return f"{to / name}.pt: {len(content):,} bytes, run {record['run_id']}{instead}"


def load_network(
    folder: Path, record: dict[str, Any], config: dict[str, Any], data: DataSet
) -> torch.nn.Module:
    """The trained network of a run; ValueError if it is not the one whose error is recorded."""
    newest = newest_whole(folder / "checkpoint", older=False)
    if newest and newest[1]["state"]["progress"]["epoch"] != record["epochs"]:
        raise ValueError(f"{newest[0]} is not of epoch {record['epochs']}, whose error is recorded")
    model = load_weights(build_model(config, data), folder).eval()
    count = sum(p.numel() for p in model.parameters())
    if count != record["parameters"]:
        raise ValueError(
            f"the network of {folder} has {count:,} parameters, its record says "
            f"{record['parameters']:,}: the code has changed since"
        )
    return model


def check_packed(
    content: bytes, entry: dict[str, Any], model: torch.nn.Module, data: DataSet, folder: Path
) -> None:
    """Refuse packed weights whose outputs on test images differ from those of the network."""
    copy = build_network(entry)
    copy.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    images = copy.eval().preprocess(data.test_images[:100], as_stored=True)
    with torch.no_grad():
        if not torch.equal(copy(images), model.to(images)(images)):
            raise ValueError(f"the packed weights do not give the outputs of the run in {folder}")


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Record and configuration of a run whose weights may be packed; ValueError for others."""
    record, config = RunFolder(folder).read_result(), read_configuration_in(folder)
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
        raise ValueError(f"{folder} is a run at scale {scale!r}: only scale 'full' is packed")
    if record["status"] != "finished":
        raise ValueError(f"{folder} is {record['status']}, not finished ({record.get('reason')})")
    if record["dirty"]:
        raise ValueError(
            f"{folder} was made by code that differs from its commit {record['commit'][:12]}: it "
            "cannot be reproduced"
        )
    if config["data"].get("statistics") == "whitened":
        raise ValueError(
            f"{folder} was trained on whitened images, which `preprocess` does not compute"
        )
    if is_own(source := config["model"].get("source")):
        raise ValueError(
            f"{folder} was trained with {source}, which `load_pretrained` would have to call: keep "
            "the run's own weights"
        )
    if digest(select_hashed(config)) != record["config_hash"]:
        raise ValueError(f"{folder}/config.yaml is not the configuration of its record")
    return record, config


def pack_state(model: torch.nn.Module) -> bytes:
    """A file that ``torch.load(..., weights_only=True)`` reads: name -> tensor."""
    weights = {key: value.cpu().contiguous().clone() for key, value in model.state_dict().items()}
    file = io.BytesIO()  # the bytes of a file by name would depend on that name
    torch.save(weights, file)
    return file.getvalue()


def describe(
    name: str, content: bytes, record: dict[str, Any], config: dict[str, Any], data: DataSet
) -> dict[str, Any]:
    """The entry of the index for a packed network."""
    model, group = config["model"]["name"], group_name(config)
    count = len(data.test_images[: config["recipe"]["test_images"]])
    error, angles = record["test_error"], record.get("tta_angles")
    copies = f", mean over {angles} rotations of each" if angles else ""
    return {
        "summary": f"{model} on {group} for {data.name}, {record['parameters']:,} parameters, "
        f"test error {error:.3f} % on {count:,} images ({data.provenance}{copies})",
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


def call_argument(name: str, to: Path) -> str:
    """The argument of ``load_pretrained``, without the path of a folder outside of the checkout."""
    if to.resolve() == WEIGHTS.resolve():
        return name
    file = to.resolve() / f"{name}.pt"
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


def format_card(name: str, call: str, entry: dict[str, Any], record: dict[str, Any]) -> str:
    """The card of a network as Markdown: what it is, its measured error, its limits."""
    config, data = entry["configuration"], entry["data"]
    images, limit = SETS[data["name"]].subject, SETS[data["name"]].limit
    if names := data.get("class_names"):
        images += f" of the classes {', '.join(names)}"
    mean, std = format_statistic(entry["mean"]), format_statistic(entry["std"])
    network, recipe = (
        ", ".join(f"{key} {json.dumps(value)}" for key, value in config[part].items())
        for part in ("model", "recipe")
    )
    stored = (
        "The data set stores its digits transposed. `net.preprocess` takes upright images and "
        "transposes them; give the data set's own images with `as_stored=True`.\n"
        if entry["transposed"]
        else ""
    )
    once = "" if "with replacement" in data["provenance"] else ", each digit at most once"
    regenerated = (
        " The test images are not the published ones but another draw: other digits at other "
        f"angles{once}."
        if data["provenance"].startswith("regenerated")
        else ""
    )
    return f"""# {name}

{entry["summary"]}.

```python
net = pdoe.load_pretrained("{call}")
x = net.preprocess(images)  # uint8 [B, {", ".join(map(str, entry["image"]))}], upright
labels = net(x).argmax(1)
```

{stored}Input: (value / 256 - mean) / std, mean {mean}, std {std}.

{format_measurement(entry, record)}

**Network.** Group {group_name(config)}; {network}.

**Recipe.** {recipe}.

**Intended use.** Comparison, measurements of equivariance, fine-tuning. Its images are
{images}.

**Limits.** One run of one seed; the interval above does not include the spread over seeds.\
{regenerated}
{limit}

Written by `scripts/pack_weights.py` from the record of the run.
"""


def format_measurement(entry: dict[str, Any], record: dict[str, Any]) -> str:
    """The table of a card: the error, and everything needed to repeat the run."""
    data, count, error = entry["data"], entry["test_images"], entry["test_error"]
    sampling = NORMAL * math.sqrt(sampling_variance(error, count))
    overrides = split_overrides(entry["overrides"])
    words = [f"experiment={record['experiment']}", *overrides, f"seed={entry['seed']}"]
    environments = (record.get("manifest") or {}).get("environments") or [{}]
    settings = environments[-1].get("settings") or {}
    minutes = round(record["seconds"] / 60)
    made_on = [record["device"], record["precision"], f"torch {record['torch']}", f"{minutes} min"]
    made_on += [
        f"{name}: {settings[name]}" for name in map(format_setting, SWITCHES) if name in settings
    ]
    select, epoch = record.get("select", "last"), record.get("selected_epoch")
    selection = "none: the last epoch" if select == "last" else f"epoch {epoch}, by `{select}`"
    return f"""| | |
|--|--|
| test error | {error:.3f} % ± {sampling:.3f} (95 %, sampling of {count:,} images); n = 1 run |
| selection | {selection}, of {record["epochs"]} epochs; seed {entry["seed"]} |
| parameters | {entry["parameters"]:,} |
| data | {data["name"]}, {data["provenance"]}, SHA-256 `{data["sha256"]}` |
| command | `python train.py {" ".join(map(shlex.quote, words))}` |
| code | commit `{record["commit"]}` |
| run | `{entry["run_id"]}`, configuration `{record["config_hash"]}`, ended {record["ended"]} |
| made on | {", ".join(made_on)} |
| file | `{entry["file"]}`, SHA-256 `{entry["sha256"]}` |"""


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
