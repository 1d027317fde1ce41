"""What later versions must do as this one did: hashes, names, weights, tables, a run to go on with.

`goldens/` holds what commit c7db27a gave. A test that fails here says that committed runs, run
folders or weights would be read differently. Where that is meant,

    python tests/run/test_goldens.py hashes networks folders statistics logits interrupted

writes the named ones anew. How this file reaches the library is said in its first section alone.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = Path(__file__).resolve().parent / "goldens"

# ---- Access points ------------------------------------------------------------------------------

TRAIN, COMPARE = ([sys.executable, str(ROOT / name)] for name in ("train.py", "scripts/compare.py"))
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def within_hydra():
    """Commands are composed within it; entered once, as entering it takes time."""
    return hydra.initialize_config_dir(str(CONFIGS), version_base="1.3")


@cache
def configuration(command, *more):
    """What a command line composes to, as plain values, apart from seed and the like."""
    from pdoe.run.compose import resolve_config

    cfg = hydra.compose("config", [*command.split(), "device=cpu", *more])
    return resolve_config(cfg, experiment_of(command))


def config_hash(command):
    from pdoe.run.config import select_hashed
    from pdoe.run.record import digest

    return digest(select_hashed(configuration(command, "precision=fp32")))


def folder_name(command):
    from pdoe.run.compose import reduce_overrides
    from pdoe.run.folder import run_folder

    words, config = [*command.split(), "device=cpu"], configuration(command)
    overrides = reduce_overrides(config, words)
    seed = hydra.compose("config", words).seed
    name = experiment_of(command), overrides, seed, config["recipe"]["scale"]
    return run_folder("outputs", *name).as_posix()


def untrained_network(command):
    """Without numbers: names, shapes and dtypes alone."""
    from pdoe.run.config import build_model

    config = configuration(command, "precision=fp32")
    with torch.device("meta"):
        return build_model(config)


def pretrained_logits(name, images):
    from pdoe import load_pretrained

    net = load_pretrained(name)
    with torch.no_grad():
        return net(net.preprocess(images)).tolist()


# ---- What is frozen -----------------------------------------------------------------------------

VARIANTS = ("", "group=p4", "recipe.epochs=3 recipe.batch_size=32")
PACKAGED = READABLE = ("mnistrot_z2", "mnistrot_p4", "mnistrot_pdo_p8")  # with all entries
COMMANDS = (
    "experiment=mnistrot_pdo_p8",
    "experiment=mnistrot_pdo_p8 group=p8 recipe.epochs=200 data.source=auto",  # change nothing
    "experiment=mnistrot_pdo_p8 group=p6 seed=3",
    "experiment=mnistrot_pdo_p8 recipe.epochs=5 group=p6 max_time=01:00:00",
    "experiment=mnistrot_p4 recipe=smoke",
    "experiment=mnistrot_p4 recipe=smoke recipe.train_images=128 seed=1",
    "experiment=mnistrot_pdo_p8_large recipe=mnistrot_common seed=2",
    "experiment=mnistrot_sfcnn model.widths=[3,5,8,12] recipe.learning_rate=[[0,0.01]]",
    "experiment=cifar10_pdo_p6_26 recipe=cifar_short data.statistics=none data=cifar100",
    "experiment=cifar10_resnet_44 compile=true tracking=disabled data.root=elsewhere",
    "model=mnistrot_gcnn group=p4",
    "data=folder data.root=photos model=resnet_26 group=p8",
    "data=cifar10 model=converted model.source=torchvision.resnet50 group=p4 recipe=cifar_short",
    "experiment=mnistrot_p4 model.widths=[2,2,2,2,2,2] recipe.batch_size=32 recipe.average=0.9 "
    "recipe.learning_rate=[[0,0.01]] recipe.augment=rotation recipe.evaluate.select=train_best "
    "recipe.train_images=512 precision=fp64",  # a name that is cut
)
TABLES = ("mnist_rot", "mnist_rot/validation", "cifar")
FIGURES = ("n", "mean", "std", "t_half_width", "sampling_half_width", "tolerance", "verdict")
OF_PAIRS = ("n", "difference", "t_half_width", "p", "p_holm")
INTERRUPTED = (
    "experiment=mnistrot_p4 recipe=smoke model.widths=[2,2,2,2,2,2] recipe.epochs=3 "
    "recipe.batch_size=32 recipe.learning_rate=[[0,0.01]] recipe.augment=rotation "
    "recipe.average=0.98 recipe.evaluate.select=train_best data.source=embedded device=cpu "
    "precision=fp32 tracking=disabled"
)
AFTER = 22  # steps, of 16 in an epoch
WITH_A_SIGNAL = f"""
import os, runpy, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
steps = []
def stop(*_):
    steps.append(0)
    if len(steps) == {AFTER}:
        os.kill(os.getpid(), signal.SIGTERM)
register_optimizer_step_post_hook(stop)
sys.path.insert(0, os.path.dirname(sys.argv[1]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def experiment_of(command):
    return next((w.split("=")[1] for w in command.split() if "experiment=" in w), "custom")


def hashes():
    return {
        n: {v: config_hash(f"experiment={n} {v}".strip()) for v in VARIANTS} for n in EXPERIMENTS
    }


def networks():
    found = {}
    for name in EXPERIMENTS:
        net = untrained_network(f"experiment={name}")
        # In their order, by which the state of an optimiser knows its parameters.
        entries = [
            f"{key} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
            for key, value in net.state_dict().items()
        ]
        found[name] = {
            "parameters": sum(p.numel() for p in net.parameters()),
            "entries": len(entries),
            "sha256": hashlib.sha256("\n".join(entries).encode()).hexdigest(),
        }
        if name in READABLE:
            found[name]["all"] = entries
    return found


def folders():
    return {command: folder_name(command) for command in COMMANDS}


def compared(table, runs, folder):
    """The folder that compare.py fills from a runs.csv alone."""
    name, _, held_out = table.partition("/")
    target = folder / table
    target.mkdir(parents=True)
    (folder / "none").mkdir(exist_ok=True)
    shutil.copyfile(runs, target / "runs.csv")
    words = [name, "--runs", str(folder / "none"), "--results", str(folder / name), "--publish"]
    words += ["--validation"] if held_out else []
    subprocess.run([*COMPARE, *words], check=True, capture_output=True, env=environment())
    return target


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def frozen_runs(table):
    return GOLDENS / "runs" / f"{table.replace('/', '_')}.csv"


def lines(path, *keys):
    """The lines of a table of figures, by what they are figures of."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {" | ".join(row.pop(key) for key in keys): row for row in rows}


def statistics():
    """Of runs that stay as they are, whatever is measured later."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for table in TABLES:
            target = compared(table, frozen_runs(table), Path(folder))
            of_rows = lines(target / "statistics.csv", "row", "overrides", "configuration", "data")
            pairs = ("first", "first_overrides", "second", "second_overrides")
            found[table] = {
                "rows": {row: {key: line[key] for key in FIGURES} for row, line in of_rows.items()},
                "differences": {
                    pair: {key: line[key] for key in OF_PAIRS}
                    for pair, line in lines(target / "differences.csv", *pairs).items()
                },
            }
    return found


def logits():
    y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    ring, bar = (y - 14) ** 2 + (x - 14) ** 2, 255 * (x // 3 == 4) * (y > 4) * (y < 24)
    images = [bar, 255 * (ring // 30 == 1), bar.T, (7 * x * y + 3 * ring) % 256]
    stacked = torch.stack(images)[:, None].to(torch.uint8)
    return {name: pretrained_logits(name, stacked) for name in PACKAGED}


def launched(start, folder, *words):
    """The finished process of a training command in a folder of its own."""
    command = [*start, *INTERRUPTED.split(), *words]
    variables = {**environment(), "PDOE_DATA": str(folder)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    """Norms of the weights that a run ends with; its biases do not count before a batch norm."""
    last = max((folder / "checkpoint").glob("epoch=*"))
    return {
        f"{name} {key}": value.norm().item()
        for name in ("model.pt", "averaged.pt", "selected.pt")
        for key, value in torch.load(last / name, weights_only=True).items()
        if value.ndim > 1
    }


def keep_interrupted():
    """The folder of a run stopped in its second epoch, and what it comes to without that."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        assert launched(TRAIN, Path(first)).returncode == 0
        (whole,) = (path.parent for path in Path(first).rglob("result.json"))
        start = [sys.executable, "-c", WITH_A_SIGNAL, TRAIN[1]]
        assert launched(start, Path(second)).returncode == 75
        (half,) = (path.parent for path in Path(second).rglob("result.json"))
        shutil.rmtree(GOLDENS / "interrupted", ignore_errors=True)
        shutil.copytree(half, GOLDENS / "interrupted")
        end = json.loads((whole / "result.json").read_text())
        keep = {
            "metrics": rows(whole),
            "weights": weights(whole),
            "record": {key: end[key] for key in ("run_id", "test_error", "selected_epoch")},
        }
        write("uninterrupted", keep)


def write(name, value):
    (GOLDENS / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@cache
def golden(name):
    return json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))


# ---- Tests --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composing():
    with within_hydra():
        yield


def test_every_experiment_has_the_hash_it_had(composing):
    now = hashes()
    for name, expected in golden("hashes").items():
        assert now[name] == expected, name


def test_every_network_has_the_weights_it_had_in_the_same_order(composing):
    now = networks()
    for name, expected in golden("networks").items():
        assert now[name] == expected, name


def test_a_command_line_names_the_run_folder_it_named(composing):
    now = folders()
    for command, expected in golden("folders").items():
        assert now[command] == expected, command


@pytest.mark.parametrize("table", [*TABLES, "mnist_rot/repeated"])
def test_the_committed_runs_give_the_committed_tables_byte_for_byte(table, tmp_path):
    committed = ROOT / "results" / table
    kind = table.replace("/repeated", "")  # a results folder of the same table
    made = compared(kind, committed / "runs.csv", tmp_path)
    names = {path.name for path in committed.iterdir() if path.suffix in (".csv", ".md")}
    others = {"draw.csv", "gap.csv", "interpolation.csv", "seconds.csv", "equal_cost.csv"}
    assert {path.name for path in made.iterdir() if path.is_file()} == names - others
    for path in made.glob("*.*"):
        assert path.read_bytes() == (committed / path.name).read_bytes(), path.name


def test_the_statistics_and_verdicts_of_the_same_runs_are_the_same():
    now = statistics()
    for table, parts in golden("statistics").items():
        for part, expected in parts.items():
            assert now[table][part].keys() == expected.keys(), table
            for line, figures in expected.items():
                for key, value in figures.items():
                    found = now[table][part][line][key]
                    assert number(found) == number(value), (table, line, key)


def number(text):
    """Of twelve digits the last few may be those of another machine."""
    try:
        return pytest.approx(float(text), rel=1e-8)
    except ValueError:
        return text


def test_the_networks_that_come_trained_give_the_logits_they_gave(one_thread):
    now = logits()
    for name, expected in golden("logits").items():
        difference = (torch.tensor(now[name]) - torch.tensor(expected)).abs().max()
        assert difference < 1e-4, name


def test_a_run_that_was_stopped_within_an_epoch_goes_on_from_that_step(tmp_path, composing):
    """On any machine, so up to rounding: begun anew, the epoch would have other losses."""
    whole = golden("uninterrupted")
    # precision=fp32 is in its name where the machine would choose another precision.
    folder = tmp_path / folder_name(INTERRUPTED)
    shutil.copytree(GOLDENS / "interrupted", folder)
    before = json.loads((folder / "result.json").read_text())
    first = rows(folder)
    assert (before["status"], before["epochs"], len(first)) == ("interrupted", 1, 1)
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == [
        "epoch=0001,step=000000",
        "epoch=0001,step=000006",
    ]
    done = launched(TRAIN, tmp_path, "resume=any")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs").rglob("result.json")  # it found the run
    assert path.parent == folder
    after, metrics = json.loads(path.read_text()), rows(folder)
    assert (after["status"], after["epochs"], after["reason"]) == ("finished", 3, None)
    assert [after[key] for key in ("run_id", "started")] == [before["run_id"], before["started"]]
    assert [part["epochs"] for part in after["manifest"]["parts"]] == [[0, 1], [1, 3]]
    assert metrics[:1] == first and len(metrics) == 3
    for found, expected in zip(metrics, whole["metrics"], strict=True):
        assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
        assert found["train_error"] == pytest.approx(expected["train_error"], abs=0.5)
    assert weights(folder) == pytest.approx(whole["weights"], rel=1e-2)
    expected = whole["record"]
    assert [after[key] for key in ("run_id", "selected_epoch")] == [
        expected[key] for key in ("run_id", "selected_epoch")
    ]
    assert after["test_error"] == pytest.approx(expected["test_error"], abs=1)


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        if chosen == "interrupted":
            keep_interrupted()
            continue
        with within_hydra():
            write(chosen, globals()[chosen]())
