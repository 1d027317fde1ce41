"""Every experiment composes, builds and steps; a misspelt key stops."""

import csv
import time
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import train
from pdoe import PointGroup
from pdoe.data import DataSet
from pdoe.run.command_line import list_names
from pdoe.run.compose import reduce_overrides, resolve_config
from pdoe.run.config import build_model, fill_neutral, find_images, select_hashed
from pdoe.run.record import digest
from pdoe.run.training import fit
from pdoe.run.values import parse_duration

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(train.__file__).parent
CONFIGS = ROOT / "configs"
EXPERIMENTS, MODELS, RECIPES = (
    list_names(folder, CONFIGS) for folder in ("experiment", "model", "recipe")
)
GROUPS = ("p1", "p2", "p3", "p4", "p5", "p6", "p8", "p17", "p1m", "p4m", "p6m")
COMMITTED = ("mnistrot_z2", "mnistrot_p4", "mnistrot_pdo_p8")  # with runs in results/


@cache
def compose_config(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        experiment = next((o.split("=")[1] for o in overrides if "experiment=" in o), "custom")
        return resolve_config(compose("config", list(overrides)), experiment)


def config(*overrides):
    return deepcopy(compose_config(*overrides))


def made_up(name, size):
    """Four square images with the channels and classes of a data set."""
    channels, mean = (3, (0.5, 0.4, 0.3)) if name.startswith("cifar") else (1, 0.5)
    images = torch.randint(0, 256, (4, channels, size, size), dtype=torch.uint8)
    labels, classes = torch.arange(4), 100 if name == "cifar100" else 10
    return DataSet(name, "made up", "0", images, labels, images, labels, mean, mean, classes)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_takes_a_step(name):
    chosen = config(f"experiment={name}")
    named, recipe = chosen["data"]["name"], chosen["recipe"]
    assert name.startswith(named.replace("_", ""))
    data = made_up(named, 28 if named == "mnist_rot" else 8)  # residual networks take many sizes
    model = build_model(chosen, data)
    before = [p.detach().clone() for p in model.parameters()]
    fit(
        model,
        data,
        # The weights that a predicted origin depends on begin at 0: the first step moves those
        # alone, and what lies below them comes second.
        epochs=2 if chosen["model"]["name"] == "ptn" else 1,
        batch_size=4,
        learning_rate=recipe["learning_rate"],
        optimizer=recipe["optimizer"],
        weight_decay=recipe["weight_decay"],
        augment=recipe["augment"],
    )
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_only_chooses_so_that_the_command_line_can_choose_again(name):
    """Another key set in an experiment file would survive `recipe=smoke` or `model=...`."""
    chosen = OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml")
    assert set(chosen) == {"defaults", "group"}
    smoke = config(f"experiment={name}", "recipe=smoke")
    assert smoke["recipe"] == config("recipe=smoke")["recipe"]
    assert smoke["model"] == config(f"experiment={name}")["model"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_has_the_common_recipe(name):
    """It differs from its row's own command in the recipe alone, and is the same for a table."""
    table = next(table for table in ("mnistrot", "cifar", "elpv") if name.startswith(table))
    common = config(f"experiment={name}", f"recipe={table}_common")
    own = config(f"experiment={name}")
    assert common["recipe"] == config(f"recipe={table}_common")["recipe"]
    assert {**common, "recipe": own["recipe"]} == own


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_of_before_a_key_came_is_a_run_of_its_network(name):
    """What fills in a configuration adds no argument that a model does not take."""
    chosen = config(f"experiment={name}")
    assert fill_neutral(chosen)["model"] == chosen["model"]
    assert select_hashed(fill_neutral(chosen)) == select_hashed(chosen)


def refused(model, group):
    """Whether a network cannot be made for a group: one of those that permute filters, say."""
    if model["name"] in ("roteqnet", "hnet"):
        return group.reflections or (model["name"] == "roteqnet" and group.n < 3)
    bank = {"hexaconv": "hexagon"}.get(model["name"], model.get("bank"))
    turns = {"pixels": 4, "ring": 8, "hexagon": 6}.get(bank)
    return bool(turns and turns % group.n)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_builds_and_runs_on_every_group_and_on_digits_and_colour_images(model):
    """Shapes alone: on the meta device nothing is computed. One block per stage has them all."""
    chosen = config(f"model={model}")
    if chosen["model"]["name"] in ("resnet", "hexaconv"):
        deep = chosen["model"].get("block") == "bottleneck"
        chosen["model"]["depth"] = 11 if deep else 8
    if model == "converted":
        chosen["model"]["source"] = "small_networks:plain"
    for group in GROUPS:
        chosen["group"] = group
        for data in (made_up("mnist_rot", 28), made_up("cifar100", 32)):
            with torch.device("meta"):
                images = torch.empty(2, *data.train_images.shape[1:])
                if refused(chosen["model"], PointGroup.named(group)):
                    with pytest.raises(ValueError, match=rf"\b{group}\b"):
                        build_model(chosen, data)
                else:
                    net = build_model(chosen, data).eval()
                    assert net(images).shape == (2, data.classes)


def test_a_thousand_layers_build_on_a_group_of_sixteen_in_seconds():
    chosen = config("data=cifar100", "model=resnet_1001", "group=p8m", "recipe=cifar_paper")
    began = time.process_time()
    net = build_model(chosen, made_up("cifar100", 8))
    assert time.process_time() - began < 5
    assert len(net.blocks) == 333


def test_the_recipes_hold_what_their_sources_say():
    z2, p4, paper = (config(f"experiment={name}")["recipe"] for name in COMMITTED)
    assert (paper["epochs"], paper["weight_decay"], paper["dropout"]) == (200, 0.01, 0.2)
    assert paper["norm"] == {"eps": 1e-3, "momentum": 1e-3}
    assert (p4["epochs"], p4["weight_decay"], p4["dropout"]) == (100, 0.0, 0.0)
    assert (z2["epochs"], z2["weight_decay"], z2["dropout"]) == (300, 0.0, 0.3)
    assert p4["learning_rate"] == z2["learning_rate"] == [[0, 0.001]]
    assert {r["batch_size"] for r in (paper, p4, z2)} == {128}
    fast = config("experiment=mnistrot_pdo_p8", "recipe=mnistrot_fast")["recipe"]
    assert fast.keys() == paper.keys() and fast["epochs"] < 50
    # Whatever becomes of the fast one: rows are compared by runs of this one.
    common = config("experiment=mnistrot_pdo_p8", "recipe=mnistrot_common")["recipe"]
    assert common["learning_rate"] == [[0, 0.0005], [4, 0.01], [40, 0.0]]
    assert (common["epochs"], common["weight_decay"], common["dropout"]) == (40, 0.0001, 0.0)
    assert (common["augment"], common["label_smoothing"]) == ("rotation", 0.0)
    assert {r["augment"] for r in (paper, p4, z2)} == {"none"}


def test_every_cifar_row_but_hexaconv_is_trained_as_the_authors_code_trains():
    rows = [n for n in EXPERIMENTS if n.startswith("cifar") and "hexaconv" not in n]
    recipes = [config(f"experiment={name}")["recipe"] for name in rows]
    assert len(rows) == 20 and all(recipe == recipes[0] for recipe in recipes)
    paper = recipes[0]
    assert (paper["optimizer"], paper["schedule"], paper["average"]) == ("sgd", "step", None)
    assert paper["learning_rate"] == [[0, 0.1], [150, 0.01], [225, 0.001]]
    assert (paper["epochs"], paper["batch_size"], paper["weight_decay"]) == (300, 128, 0.001)
    assert (paper["augment"], paper["dropout"], paper["label_smoothing"]) == ("crop_flip", 0, 0)
    assert paper["norm"] == {"eps": 1e-3, "momentum": 1e-3}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_same_keys(name):
    recipe, paper = (config(f"recipe={n}")["recipe"] for n in (name, "mnistrot_paper"))
    assert recipe.keys() == paper.keys()
    assert recipe["norm"].keys() == paper["norm"].keys()
    assert recipe["learning_rate"][-1][0] <= recipe["epochs"]


@pytest.mark.parametrize(
    "word, name", [("p5", "p5"), ("C8", "p8"), ("D4", "p4m"), ("C1", "p1"), ("p12m", "p12m")]
)
def test_a_group_is_any_group_in_our_notation_or_in_that_of_escnn(word, name):
    assert config(f"group={word}")["group"] == name


@pytest.mark.parametrize("word", ["p", "8", "p0", "P8", "C0", "D", "p8n", "SO2", "null"])
def test_another_word_is_no_group(word):
    with pytest.raises(ValueError, match="unknown group .*A group is pN"):
        config(f"group={word}")


def test_a_configuration_of_an_older_run_has_the_same_hash_and_network():
    chosen = config("experiment=mnistrot_p4", "data=mnist_rot")
    older = {**chosen, "group": {"name": "p4"}}
    assert (
        digest(select_hashed(older)) == digest(select_hashed(chosen))
        and select_hashed(chosen)["group"] == older["group"]
    )
    with torch.device("meta"):
        assert build_model(older).group == build_model(chosen).group == PointGroup(4)


def test_what_does_not_determine_the_result_is_not_in_the_hashed_configuration():
    plain = config("experiment=mnistrot_p4")
    beside = ["seed=3", "max_time=00:01:00", "data.root=x", "tracking=disabled", "outputs=y"]
    assert config("experiment=mnistrot_p4", *beside) == plain
    assert config("experiment=mnistrot_p4", "data.source=embedded") != plain
    assert config("experiment=mnistrot_p4", "recipe.epochs=1") != plain


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_runs_are_runs_of_the_configuration_as_it_is(name):
    """A key that came later changes no hash, or the measured rows would be another network's."""
    with open(ROOT / "results/mnist_rot/runs.csv", newline="") as file:
        committed = {line["config_hash"] for line in csv.DictReader(file) if not line["overrides"]}
    plain = config(f"experiment={name}", "precision=fp32")
    assert digest(select_hashed(plain)) in committed
    for key in (
        "data.validation=5",
        "data.fold=0",
        "recipe.random_frame=true",
        "recipe.average=0.9",
        "recipe.schedule=linear",
    ):
        other = config(f"experiment={name}", "precision=fp32", key)
        assert digest(select_hashed(other)) != digest(select_hashed(plain))


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
        (["group=C6"], ["group=p6"]),
        (["group=C8"], []),
        (["data.draw=0", "data.replacement=false"], []),
        (["data.replacement=true"], ["data.replacement=true"]),
        (["data.replacement=True"], ["data.replacement=true"]),  # as a sweep writes it
        (["model=resnet_26", "model.depth=8"], ["model.depth=8", "model=resnet_26"]),
    ],
)
def test_only_overrides_that_change_the_row_name_a_run(task, kept):
    task = ["experiment=mnistrot_pdo_p8", *task]
    chosen = config(*task)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert reduce_overrides(chosen, task) == kept


def test_a_wall_clock_budget_is_hours_minutes_seconds():
    assert parse_duration(None) is None
    assert parse_duration("01:02:03") == 3723
    for wrong in ("10", "1:2", "00:61:00", "soon"):
        with pytest.raises(ValueError, match="HH:MM:SS"):
            parse_duration(wrong)


def test_a_network_for_solar_cells_is_built_for_the_size_of_the_images():
    for size in (32, 64):
        chosen = config("experiment=elpv", f"data.size={size}")
        assert find_images(chosen)[::2] == (1, size)
    assert find_images(config("experiment=cifar10_resnet_26")) == (3, 10, 32)
