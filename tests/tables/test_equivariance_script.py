"""`scripts/equivariance.py` as a person uses it, and the page whose tables it writes."""

import csv
import re
import shutil
from pathlib import Path

import equivariance as script
import equivariance_measure as measure
import equivariance_page as page
import pytest
import torch
from omegaconf import OmegaConf

from pdoe import PointGroup
from pdoe.equivariance.error import equivariance_report
from pdoe.run.checkpoints import Position, Progress, save
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "equivariance"
MARKS = "before\n<!-- table:equivariance -->\n<!-- /table -->\nafter\n"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path):
    """The folder of a run of seed 3 whose weights are not its initial ones."""
    config = compose_config(
        "experiment=mnistrot_pdo_p8", "model.widths=[2,2,2,2,2,2]", "recipe=smoke"
    )
    folder = tmp_path / "outputs" / "smoke" / "mnistrot_pdo_p8" / "seed=3"
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({**config, "seed": 3}), folder / "config.yaml")
    torch.manual_seed(3)
    model = build_model(config)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    optimizer, state = torch.optim.Adam(model.parameters()), torch.get_rng_state()
    place = folder / "checkpoint", model, None, optimizer, Position(state, state), {}, Progress(1)
    save(*place)
    return folder


def weights_of(run):
    return run / "checkpoint" / "epoch=0001,step=000000" / "model.pt"


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- A network and a run ------------------------------------------------------------------------


def test_a_network_is_shown_layer_by_layer(capsys):
    assert script.main(["experiment=mnistrot_p4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| trunk.0 ") and lines[-1].endswith("nothing is lost")


def test_a_run_is_measured_before_and_after_training_and_written(
    run, tmp_path, capsys, monkeypatch
):
    whole = measure.equivariance_curve

    def measure_two_angles(model, group, field):
        return whole(model, group, field, [0, 90])

    monkeypatch.setattr(script, "repository_state", lambda _: ("c0ffee", True))
    monkeypatch.setattr(
        measure,
        "equivariance_curve",
        lambda model, group, field: whole(model, group, field, [0, 90]),
    )
    results = tmp_path / "results"
    assert script.main([str(run), "--results", str(results)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\| layer +\| initialised \| trained +\|", shown)

    layers = read(results / "layers.csv")
    errors = {(line["state"], line["layer"]): float(line["error"]) for line in layers}
    for state in ("initialised", "trained"):
        assert f"mnistrot_pdo_p8, {state}: first lost at head.0: " in shown
        assert errors[state, "trunk"] < 1e-12 < 1e-2 < errors[state, "logits"]
    assert errors["initialised", "logits"] != errors["trained", "logits"]
    assert [line["layer"] for line in layers if line["reason"]] == ["head.0", "head.0"]

    # The numbers are those of the library for the same network.
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    trained = build_model(config).double().eval()
    trained.load_state_dict(torch.load(weights_of(run)))
    torch.manual_seed(0)
    x = torch.randn(1, 1, 28, 28, dtype=torch.float64)
    found = equivariance_report(trained, PointGroup(8), x).errors
    assert errors["trained", "logits"] == pytest.approx(found[""], rel=1e-6)

    angles, order = read(results / "angles.csv"), read(results / "order.csv")
    pooled = [line for line in angles if line["network"] == "mnistrot_pdo_p8, pooled trunk"]
    assert pooled and max(float(line["error"]) for line in pooled) < 1e-12
    assert {line["group"] for line in order} == {"p8"}
    assert all(1.9 < float(line["order"]) < 2.1 for line in order)
    assert {line["commit"] for line in layers + angles + order} == {"c0ffee*"}


def test_the_initialised_network_is_the_one_with_which_the_run_began(run):
    for path in (run, weights_of(run).parent, weights_of(run)):
        config, seed, _, trained = measure.load_run(path)
        assert seed == 3
    torch.manual_seed(3)
    expected = build_model(config).double().state_dict()
    initial = measure.build_network(config, seed).state_dict()
    assert all(map(torch.equal, initial.values(), expected.values()))
    saved = torch.load(weights_of(run))
    assert all(torch.equal(v.float(), saved[k].float()) for k, v in trained.state_dict().items())


def test_an_initialised_network_uses_the_statistics_of_its_input():
    model = measure.build_network(compose_config("experiment=mnistrot_p4"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = 3 + 2 * torch.randn(4, 1, 28, 28, dtype=torch.float64)
    copied = measure.set_statistics(model, x)
    lifted = model.trunk[0](x)
    torch.testing.assert_close(copied.trunk[1].running_mean, lifted.mean((0, 2, 3, 4)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_table_of_experiments_names_the_first_layer_that_loses_equivariance(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(MARKS, "utf-8")
    assert script.main(["--rows", "cifar10_pdo_p6_26", "--insert", str(path)]) == 0
    text = path.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("after\n")
    published, pooled, invariant = (
        [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()[4:7]
    )
    assert published[0] == "as published" and published[3] == "`trunk.blocks.4.shortcut`"
    assert float(published[1]) > 1e-2
    assert float(pooled[1]) < 1e-12 < float(pooled[2])  # the head is not invariant
    assert invariant[3] == "none" and float(invariant[2]) < 1e-12


# ---- What is refused ----------------------------------------------------------------------------


def refuse(capsys, *arguments):
    assert script.main(list(map(str, arguments))) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("equivariance: ")
    return lines[0]


def test_what_cannot_be_measured_is_refused_in_one_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert "nothing" in refuse(capsys, "experiment=nothing")
    assert "no experiment with a group matches" in refuse(capsys, "--rows", "nothing*")
    said = refuse(capsys, "--rows", "mnistrot_p4", "--insert", "LICENSE")
    assert "expected one <!-- table:equivariance" in said
    assert "neither a run on disk nor an override" in refuse(capsys, tmp_path / "none")
    assert "neither a run on disk nor an override" in refuse(capsys, "out/seed=7")
    assert "stands alone" in refuse(capsys, run, "group=p4")
    torch.save({"conv.weight": torch.zeros(3)}, run / "other.pt")
    assert "holds the weights of another network" in refuse(capsys, run / "other.pt")
    text = (run / "config.yaml").read_text("utf-8")
    (run / "config.yaml").write_text(text.replace("seed: 3", "seed: three"), "utf-8")
    assert "has no seed: 'three'" in refuse(capsys, run)


@pytest.mark.parametrize(
    "text, said",
    [
        ("network,angle\n", "has the columns 'network,angle', expected network,state,angle"),
        ("", "has the columns '', expected network,state,angle"),
        ("network,state,angle,error,commit\na,b,15,much,c\n", "line 2: error is 'much', expected"),
        ("network,state,angle,error,commit\na,b,15\n", "line 2: error is None, expected"),
    ],
)
def test_other_files_in_the_folder_are_refused_before_anything_is_measured(
    tmp_path, capsys, text, said
):
    (tmp_path / "angles.csv").write_text(text, "utf-8")
    for arguments in (["experiment=mnistrot_p4", "--results"], ["--page"]):
        assert said in refuse(capsys, *arguments, tmp_path)
    assert (tmp_path / "angles.csv").read_text("utf-8") == text


@pytest.mark.parametrize(
    "arguments",
    [[], ["experiment=mnistrot_p4", "--page", "x"], ["--angles"], ["--page", "x", "--results", "y"],
     ["experiment=mnistrot_p4", "--insert", "x"]],
)  # fmt: skip
def test_a_wrong_command_line_exits_with_two(arguments):
    with pytest.raises(SystemExit) as error:
        script.main(arguments)
    assert error.value.code == 2


# ---- The page -----------------------------------------------------------------------------------


def test_new_lines_replace_those_of_the_same_network_and_state(tmp_path):
    def line(network, state, error):
        return {"network": network, "state": state, "angle": 15, "error": error}

    page.merge_lines(tmp_path, "one", angles=[line("a", "initialised", 0.1), line("b", "x", 1 / 3)])
    page.merge_lines(tmp_path, "two*", angles=[line("a", "initialised", 0.2), line("c", "x", 0.4)])
    assert (tmp_path / "angles.csv").read_text("utf-8").splitlines() == [
        "network,state,angle,error,commit",
        "a,initialised,15,0.2,two*",
        "b,x,15,0.3333333333333333,one",
        "c,x,15,0.4,two*",
    ]


def test_the_page_has_the_committed_numbers_and_its_tests_and_figures_exist(tmp_path):
    copied = tmp_path / "README.md"
    shutil.copy(page.README, copied)
    page.fill_tables(RESULTS, copied)
    text = page.README.read_text("utf-8")
    assert copied.read_text("utf-8") == text
    named = set(re.findall(r"`(test_\w+)`", text))
    tests = (path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    source = "".join(tests)
    assert [name for name in named if f"def {name}(" not in source] == []
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert shown and all((page.README.parent / path).is_file() for path in shown)


def test_the_committed_numbers_support_what_the_page_says():
    layers, angles, order = (page.read_lines(RESULTS, n) for n in ("layers", "angles", "order"))
    largest = {}
    for line in angles:
        kind = "quarter" if float(line["angle"]) % 90 == 0 else "other"
        key = line["network"].removeprefix("mnistrot_"), line["state"], kind
        largest[key] = max(largest.get(key, 0.0), float(line["error"]))
    trunk, began = "pooled trunk", "initialised"
    assert largest[f"pdo_p8, {trunk}", began, "quarter"] < 1e-12
    assert largest[f"pdo_p8, {trunk}", "trained", "quarter"] < 1e-12
    assert largest[f"p4, {trunk}", began, "quarter"] < 1e-12
    assert largest[f"z2, {trunk}", began, "quarter"] > 0.1
    p8, p4, p1 = (largest[f"{n}, {trunk}", began, "other"] for n in ("pdo_p8", "p4", "z2"))
    assert p8 < p4 < p1
    assert largest["p4", began, "quarter"] < 1e-12
    assert largest["pdo_p8", "trained", "quarter"] > 0.01
    assert largest["pdo_p8", "trained", "other"] < largest["pdo_p8", began, "other"]
    reasons = {(line["network"], line["state"]): line["layer"] for line in layers if line["reason"]}
    assert reasons == {
        ("mnistrot_pdo_p8", "initialised"): "head.0",
        ("mnistrot_pdo_p8", "trained"): "head.0",
        ("mnistrot_z2", "initialised"): "trunk.0",
    }
    for line in order:
        low, high = (-0.1, 0.1) if line["group"] == "p1" else (1.9, 2.1)
        assert low < float(line["order"]) < high
