"""Every experiment composes, builds and steps; a misspelt key stops."""

import csv
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

import train
from pdoe import PointGroup
from pdoe.data import DataSet
from pdoe.records import digest
from pdoe.training import fit

ROOT = Path(train.__file__).parent
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
PARAMETERS = {
    "mnistrot_z2": 21_750,
    "mnistrot_p4": 24_680,
    "mnistrot_pdo_p8": 26_747,
    "mnistrot_pdo_p8_large": 650_714,
}


def config(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        experiment = next((o.split("=")[1] for o in overrides if "experiment=" in o), "custom")
        return train.resolved(compose("config", list(overrides)), experiment)


@pytest.fixture(scope="module")
def data():
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    labels = torch.arange(8)
    return DataSet("mnist_rot", "made up", "0", images, labels, images, labels, 0.5, 0.3, 10)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_its_parameters_and_takes_a_step(name, data):
    chosen = config(f"experiment={name}")
    model = train.build_model(chosen, data)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    recipe = chosen["recipe"]
    before = [p.detach().clone() for p in model.parameters()]
    fit(
        model,
        data,
        epochs=1,
        batch_size=4,
        learning_rate=recipe["learning_rate"],
        weight_decay=recipe["weight_decay"],
        augment=recipe["augment"],
    )
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_line_of_a_paper_table(name):
    rows = [
        line["row"]
        for path in (ROOT / "experiments").glob("*/paper.csv")
        for line in csv.DictReader(path.open(encoding="utf-8"))
    ]
    assert name in rows


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_only_chooses_so_that_the_command_line_can_choose_again(name):
    """A key set in an experiment file would survive `recipe=smoke` or `model=...`."""
    assert set(OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml")) == {"defaults"}
    smoke = config(f"experiment={name}", "recipe=smoke")
    assert smoke["recipe"] == config("recipe=smoke")["recipe"]
    assert smoke["model"] == config(f"experiment={name}")["model"]


@pytest.mark.parametrize("path", sorted((CONFIGS / "group").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_group_file_is_named_like_its_group(path):
    assert PointGroup.named(OmegaConf.load(path).name).name == path.stem


@pytest.mark.parametrize("group", ["p2", "p6", "p8", "p12", "p4m", "p6m"])
def test_the_paper_network_builds_on_every_group(group, data):
    model = train.build_model(config("experiment=mnistrot_pdo_p8", f"group={group}"), data)
    assert model.eval()(torch.randn(1, 1, 28, 28)).shape == (1, 10)


def test_the_recipes_hold_what_their_sources_say():
    paper, p4, z2 = (config(f"experiment={name}")["recipe"] for name in list(PARAMETERS)[2::-1])
    assert (paper["epochs"], paper["weight_decay"], paper["dropout"]) == (200, 0.01, 0.2)
    assert paper["norm"] == {"eps": 1e-3, "momentum": 1e-3}
    assert (p4["epochs"], p4["weight_decay"], p4["dropout"]) == (100, 0.0, 0.0)
    assert (z2["epochs"], z2["weight_decay"], z2["dropout"]) == (300, 0.0, 0.3)
    assert p4["learning_rate"] == z2["learning_rate"] == [[0, 0.001]]
    assert {r["batch_size"] for r in (paper, p4, z2)} == {128}
    fast = config("experiment=mnistrot_pdo_p8", "recipe=mnistrot_fast")["recipe"]
    assert fast.keys() == paper.keys() and fast["epochs"] < 50
    assert {r["augment"] for r in (paper, p4, z2)} == {"none"}


@pytest.mark.parametrize(
    "wrong", ["modle=mnistrot_pdo", "recipe.epoch=3", "model.width=[3]", "sed=1", "group=p5"]
)
def test_a_misspelt_key_or_choice_stops(wrong):
    with pytest.raises(HydraException):
        config("experiment=mnistrot_pdo_p8", wrong)


def test_what_does_not_determine_the_result_is_not_in_the_hashed_configuration():
    plain = config("experiment=mnistrot_p4")
    beside = ["seed=3", "max_time=00:01:00", "data.root=x", "tracking=disabled", "outputs=y"]
    assert config("experiment=mnistrot_p4", *beside) == plain
    assert config("experiment=mnistrot_p4", "data.source=embedded") != plain
    assert config("experiment=mnistrot_p4", "recipe.epochs=1") != plain


@pytest.mark.parametrize("name", list(PARAMETERS)[:3])
def test_committed_runs_are_runs_of_the_configuration_as_it_is(name):
    """A key that came later changes no hash, or the measured rows would be another network's."""
    with open(ROOT / "results/mnist_rot/runs.csv", newline="") as file:
        committed = {line["config_hash"] for line in csv.DictReader(file) if not line["overrides"]}
    plain = config(f"experiment={name}", "precision=fp32")
    assert digest(train.hashed(plain)) in committed
    for key in ("data.validation=5", "recipe.average=0.9", "recipe.schedule=linear"):
        other = config(f"experiment={name}", "precision=fp32", key)
        assert digest(train.hashed(other)) != digest(train.hashed(plain))


@pytest.mark.parametrize(
    "task, kept",
    [
        ([], []),
        (["group=p8"], []),  # the row itself
        (["recipe.epochs=200", "data.source=auto"], []),
        (["group=p6", "seed=3", "device=cpu", "max_time=01:00:00"], ["group=p6"]),
        (["recipe.epochs=5", "group=p6"], ["group=p6", "recipe.epochs=5"]),
        (["recipe=smoke"], []),  # has a folder of its own
        (["recipe=smoke", "group=p4m"], ["group=p4m"]),
        (["group=p4", "group.name=p8"], []),
    ],
)
def test_only_overrides_that_change_the_row_name_a_run(task, kept):
    task = ["experiment=mnistrot_pdo_p8", *task]
    chosen = config(*task)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert train.effective_overrides(chosen, task) == kept


def test_a_wall_clock_budget_is_hours_minutes_seconds():
    assert train.seconds(None) is None
    assert train.seconds("01:02:03") == 3723
    for wrong in ("10", "1:2", "00:61:00", "soon"):
        with pytest.raises(ValueError, match="HH:MM:SS"):
            train.seconds(wrong)
