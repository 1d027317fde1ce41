"""`scripts/equivariance.py` as a person uses it, and the page that it makes."""

import csv
import importlib.util
import re
import shutil
from pathlib import Path

import equivariance_figures as figures
import equivariance_page as page
import pytest
import torch
from omegaconf import OmegaConf

from pdoe import PointGroup
from pdoe.equivariance.error import equivariance_report
from pdoe.run.checkpoints import Position, Progress, save
from pdoe.run.config import build_model, composed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "equivariance"
pytestmark = pytest.mark.usefixtures("one_thread")
drawn = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs pip install '.[report]'"
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "equivariance_script", ROOT / "scripts" / "equivariance.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    """The folder of a run of seed 3, with weights that are not its initial ones."""
    config = composed("experiment=mnistrot_pdo_p8", "model.widths=[2,2,2,2,2,2]", "recipe=smoke")
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


# --- a run ---------------------------------------------------------------------------------------


@drawn
def test_a_run_is_shown_before_and_after_and_kept(script, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "repository_state", lambda _: ("c0ffee", True))
    monkeypatch.setattr(script, "equivariance_curve", quarter_turns_alone(script))
    results = tmp_path / "results"
    assert script.main([str(run), "--results", str(results)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\| layer +\| initialised \| trained +\|", shown)
    for state in ("initialised", "trained"):
        assert f"mnistrot_pdo_p8, {state}: first lost at head.0: it flattens orient" in shown

    layers = read(results / "layers.csv")
    assert tuple(layers[0]) == ("network", "state", "layer", "error", "reason", "commit")
    errors = {(line["state"], line["layer"]): float(line["error"]) for line in layers}
    for state in ("initialised", "trained"):
        assert errors[state, "trunk"] < 1e-12 < 1e-2 < errors[state, "logits"]
    assert errors["initialised", "logits"] != errors["trained", "logits"]
    assert [line["layer"] for line in layers if line["reason"]] == ["head.0", "head.0"]

    # Figures of the script are those of the library on the same networks.
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    trained = build_model(config).double().eval()
    trained.load_state_dict(torch.load(weights_of(run)))
    torch.manual_seed(0)
    x = torch.randn(1, 1, 28, 28, dtype=torch.float64)
    found = equivariance_report(trained, PointGroup(8), x).errors
    assert errors["trained", "logits"] == pytest.approx(found[""], rel=1e-6)

    angles = read(results / "angles.csv")
    assert tuple(angles[0]) == ("network", "state", "angle", "error", "commit")
    assert {line["network"] for line in angles} == {
        "mnistrot_pdo_p8",
        "mnistrot_pdo_p8, pooled trunk",
    }
    pooled = [line for line in angles if line["network"].endswith("trunk")]
    assert max(float(line["error"]) for line in pooled) < 1e-12
    order = read(results / "order.csv")
    assert tuple(order[0]) == ("group", "layer", "angle", "spacing", "error", "order", "commit")
    assert {line["group"] for line in order} == {"p8"}
    assert all(1.9 < float(line["order"]) < 2.1 for line in order)
    assert {line["commit"] for line in layers + angles + order} == {"c0ffee*"}
    for name in ("stencils", "turned", "angles", "order"):
        assert "<svg" in (results / f"{name}.svg").read_text()


def quarter_turns_alone(script):
    whole = script.equivariance_curve
    return lambda model, group, field: whole(model, group, field, [0, 90])


def test_the_initialised_network_is_the_one_that_the_run_began_with(script, run):
    for path in (run, weights_of(run).parent, weights_of(run)):
        config, seed, trained = script.run_at(path)
        assert seed == 3
    torch.manual_seed(3)
    expected = build_model(config).double().state_dict()
    assert all(map(torch.equal, script.network(config, seed).state_dict().values(),
                   expected.values()))  # fmt: skip
    saved = torch.load(weights_of(run))
    assert all(torch.equal(v.float(), saved[k].float()) for k, v in trained.state_dict().items())


def test_statistics_of_the_input_are_those_that_an_initialised_network_uses(script):
    model = script.network(composed("experiment=mnistrot_p4"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = 3 + 2 * torch.randn(4, 1, 28, 28, dtype=torch.float64)
    settled = script.settled(model, x)
    lifted = model.trunk[0](x)
    torch.testing.assert_close(settled.trunk[1].running_mean, lifted.mean((0, 2, 3, 4)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- what cannot be shown ------------------------------------------------------------------------


def refused(script, capsys, *arguments):
    assert script.main(list(map(str, arguments))) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("equivariance: ")
    return said[0]


def test_a_path_that_is_no_run_is_refused_in_one_line(script, run, tmp_path, capsys):
    assert "neither a run on disk nor a choice" in refused(script, capsys, tmp_path / "none")
    assert "neither a run on disk nor a choice" in refused(script, capsys, "out/seed=7")
    assert "lacks config.yaml" in refused(script, capsys, tmp_path)
    assert "stands alone" in refused(script, capsys, run, "group=p4")
    (run / "broken.pt").write_bytes(b"no weights")
    assert "broken.pt cannot be read" in refused(script, capsys, run / "broken.pt")
    torch.save({"conv.weight": torch.zeros(3)}, run / "other.pt")
    assert "holds the weights of another network" in refused(script, capsys, run / "other.pt")
    weights_of(run).unlink()
    assert "model.pt cannot be read" in refused(script, capsys, run)
    shutil.rmtree(run / "checkpoint")
    assert "holds no checkpoint" in refused(script, capsys, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("seed: 3", "seed: three"))
    assert "has no seed: 'three'" in refused(script, capsys, run)
    (run / "config.yaml").write_text("- nothing\n")
    assert "is not the configuration of a run" in refused(script, capsys, run)


@drawn
@pytest.mark.parametrize(
    "text, said",
    [
        ("network,angle\n", "has the columns 'network,angle', expected network,state,angle"),
        ("", "has the columns '', expected network,state,angle"),
        ("network,state,angle,error,commit\na,b,15,much,c\n", "line 2: error is a number, not 'mu"),
        ("network,state,angle,error,commit\na,b,15\n", "line 2: error is a number, not None"),
    ],
)
def test_results_of_another_form_are_refused_before_anything_is_measured(
    script, tmp_path, capsys, text, said
):
    (tmp_path / "angles.csv").write_text(text)
    for arguments in (["experiment=mnistrot_p4", "--results"], ["--page"]):
        assert said in refused(script, capsys, *arguments, tmp_path)
    assert (tmp_path / "angles.csv").read_text() == text


def test_missing_matplotlib_is_one_line_and_the_terminal_needs_none(
    script, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(page, "find_spec", lambda _: None)
    said = refused(script, capsys, "experiment=mnistrot_p4", "--results", tmp_path)
    assert "pip install '.[report]'" in said
    assert script.main(["experiment=mnistrot_p4"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [[], ["experiment=mnistrot_p4", "--page", "x"], ["--angles"], ["--page", "x", "--results", "y"],
     ["experiment=mnistrot_p4", "--insert", "x"]],
)  # fmt: skip
def test_a_wrong_command_line_is_told(script, arguments):
    with pytest.raises(SystemExit) as told:
        script.main(arguments)
    assert told.value.code == 2


# --- keeping results -----------------------------------------------------------------------------


def test_lines_take_the_place_of_those_of_the_same_network_and_state(tmp_path):
    def line(network, state, error):
        return {"network": network, "state": state, "angle": 15, "error": error}

    page.put(tmp_path, "one", False, angles=[line("a", "initialised", 0.1), line("b", "x", 1 / 3)])
    page.put(tmp_path, "two", True, angles=[line("a", "initialised", 0.2), line("c", "x", 0.4)])
    assert (tmp_path / "angles.csv").read_text().splitlines() == [
        "network,state,angle,error,commit",
        "a,initialised,15,0.2,two*",
        "b,x,15,0.3333333333333333,one",
        "c,x,15,0.4,two*",
    ]


@drawn
def test_the_same_numbers_draw_the_same_figures_on_white(tmp_path):
    angles = [
        {"network": n, "state": "trained", "angle": a, "error": e}
        for n in ("a", "a, pooled trunk")
        for a, e in ((0, 0.0), (45, 0.2), (90, 1e-16))
    ]
    order = [
        {"group": "p8", "layer": "lifting", "angle": 45.0, "spacing": h, "error": h * h, "order": 2}
        for h in (0.5, 0.25)
    ]
    page.put(tmp_path, "c", False, angles=angles, order=order)
    first = []
    for _ in range(2):
        page.draw(tmp_path)
        pictures = {p.name: p.read_text() for p in sorted(tmp_path.glob("*.svg"))}
        first = first or pictures
    assert list(pictures) == ["angles.svg", "order.svg", "stencils.svg", "turned.svg"]
    for name, text in pictures.items():
        assert text == first[name] and "<image" not in text and len(text) < 100_000
        assert "fill: #ffffff" in text[: text.index("axes_1")]
    assert "a, pooled trunk, trained" in pictures["angles.svg"]
    assert "p8, 45°, lifting: 2.00" in pictures["order.svg"]


@drawn
def test_the_drawn_filters_are_those_of_the_bank(tmp_path, monkeypatch):
    drawn_taps = {}
    monkeypatch.setattr(figures, "_save", lambda figure, path: None)
    monkeypatch.setattr(
        figures, "_kernel", lambda axis, taps, title, darkest: drawn_taps.update({title: taps})
    )
    figures.turned_filter(tmp_path / "turned.svg")
    kernels = torch.tensor(drawn_taps["0°"]), torch.tensor(drawn_taps["90°"])
    torch.testing.assert_close(kernels[0][1:4, 1:4], torch.tensor(figures.SOBEL))
    torch.testing.assert_close(kernels[0].rot90(), kernels[1])  # counter-clockwise
    assert len(drawn_taps) == 8
    figures.stencils(tmp_path / "stencils.svg")
    assert {r"$\partial_x$", r"$\partial_x^{2}\partial_y$", "$1$"} <= set(drawn_taps)


# --- the page ------------------------------------------------------------------------------------


def test_the_page_shows_the_committed_numbers(tmp_path):
    copied = tmp_path / "README.md"
    shutil.copy(page.README, copied)
    page.fill(RESULTS, copied)
    assert copied.read_text("utf-8") == page.README.read_text("utf-8")
    made = page.tables(RESULTS)
    assert all(len(table.splitlines()) > 4 for table in made.values())


def test_every_test_that_the_page_names_is_there_and_every_figure_too():
    text = page.README.read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    source = "".join(
        path.read_text("utf-8") for path in Path(__file__).parents[1].rglob("test_*.py")
    )
    assert len(named) > 12
    assert [name for name in named if f"def {name}(" not in source] == []
    figures_shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(figures_shown) == 4
    assert all((page.README.parent / path).is_file() for path in figures_shown)


def test_the_committed_results_are_of_clean_trees_and_say_what_the_page_says():
    """The claims under the last table, on the numbers that are committed."""
    layers, angles, order = (page.read(RESULTS, name) for name in ("layers", "angles", "order"))
    assert not any("*" in line["commit"] for line in layers + angles + order)

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
    own = max(
        float(line["error"])
        for line in angles
        if line["network"] == f"mnistrot_pdo_p8, {trunk}" and line["state"] == began
        if float(line["angle"]) % 90 == 45
    )
    assert own > p8 / 2  # 45 degrees are not clearly better than what p8 lacks
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
    assert {line["group"] for line in order} == {"p1", "p6m", "p8", "p12"}
