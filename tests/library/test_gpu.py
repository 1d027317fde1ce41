"""What a run does on a GPU alone; skipped where there is none."""

from __future__ import annotations

import copy
import csv
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pdoe import GroupConv, LiftingConv, PointGroup, equivariance_error
from pdoe.data import SETS, DataSet
from pdoe.fast import BatchNorm, replay_as_graphs
from pdoe.models import Images, PlainCNN
from pdoe.run.compose import compose_config
from pdoe.run.config import build_model
from pdoe.run.cost import estimate_seconds
from pdoe.run.diagnostics import diagnose
from pdoe.run.hardware import SWITCHES, Settings, make_repeatable
from pdoe.run.stop import Stop
from pdoe.run.training import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROOT = Path(__file__).resolve().parents[2]
GPU = torch.device("cuda")
RECIPE = {"epochs": 3, "batch_size": 16, "learning_rate": [[0, 0.01]]}


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    make_repeatable(GPU)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def data(two_sides):
    return two_sides(80, 28).to(GPU)


def network(dropout=0.2):
    torch.manual_seed(0)
    return PlainCNN(PointGroup(8), [3] * 6, dropout=dropout, images=Images(classes=2)).to(GPU)


def trained(data, dropout=0.2, **settings):
    model = network(dropout)
    progress = fit(model, data, **{**RECIPE, **settings})
    return {name: value.clone() for name, value in model.state_dict().items()}, progress


def furthest(a, b):
    pairs = zip(a.values(), b.values(), strict=True)
    return max((x.double() - y.double()).abs().max().item() for x, y in pairs)


@pytest.mark.parametrize("average", [None, 0.9])
def test_replaying_a_step_trains_what_running_it_does(data, average, capsys):
    plain, _ = trained(data, 0.0, average=average)
    graph, _ = trained(data, 0.0, average=average, cuda_graph=True)
    assert "CUDA graph: no" not in capsys.readouterr().out
    start = network(0.0).state_dict()
    assert furthest(plain, start) > 0.01
    assert furthest(plain, graph) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_and_a_resumed_run_give_the_same_bits(data, tmp_path, precision):
    settings = {"cuda_graph": True, "precision": precision, "augment": "rotation"}
    whole, _ = trained(data, **settings)
    again, _ = trained(data, **settings)
    assert furthest(whole, again) == 0
    for epochs in (1, 2, 3):
        stop, model = Stop(), network()
        if epochs > 1:
            torch.cuda.manual_seed(epochs)  # that of the process that goes on is another

        def halt(row, progress, stop=stop, epochs=epochs):
            stop.requested = progress.epoch == epochs

        fit(model, data, **RECIPE, **settings, checkpoint=tmp_path / precision, stop=stop, log=halt)
    assert furthest(whole, model.state_dict()) == 0


def test_recording_changes_neither_statistics_nor_the_random_state():
    model, x = network(), torch.randn(16, 1, 28, 28, device=GPU)
    before, random = copy.deepcopy(model.state_dict()), torch.cuda.get_rng_state()
    assert replay_as_graphs(model, x, "fp32")
    assert furthest(before, model.state_dict()) == 0
    assert torch.equal(random, torch.cuda.get_rng_state())
    first, second = model(x).clone(), model(x).clone()
    assert not torch.equal(first, second)  # dropout draws anew
    assert torch.equal(model.eval()(x), model(x))


def test_a_trained_model_replays_no_more(data):
    model = network()
    fit(model, data, **RECIPE, cuda_graph=True)
    assert "forward" not in model.__dict__
    assert len(diagnose(model, data, "fp32", 80, None)["layers"]) > 6  # of a copy with hooks
    pickle.loads(pickle.dumps(model))


def test_a_model_that_waits_for_the_host_is_left_alone(capsys):
    class Waits(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * x.sum().item()

    model, x = Waits(4, 4).to(GPU), torch.randn(8, 4, device=GPU)
    assert not replay_as_graphs(model, x, "fp32")
    assert "CUDA graph: no (" in capsys.readouterr().out
    model(x).sum().backward()
    torch.nn.functional.dropout(x)  # the generator is none of a recording any more
    assert model.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "shape", [(16, 7, 8, 24, 24), (5, 3, 6, 9, 7), (4, 2, 1, 5, 5), (2, 3, 4, 1, 1)]
)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_norm_by_orientations_is_batch_norm(shape, dtype, bound):
    torch.manual_seed(0)
    x = (3 + 2 * torch.randn(shape, device=GPU)).to(dtype)
    gradient = torch.randn(shape, device=GPU).to(dtype)
    exact = torch.nn.BatchNorm3d(shape[1]).double().to(GPU)
    with torch.no_grad():
        exact.weight.uniform_(0.5, 2)
        exact.bias.uniform_(-1, 1)
    ours = BatchNorm(shape[1]).to(GPU)
    ours.load_state_dict(exact.state_dict())
    assert ours._by_orientation(x) == (shape[2] > 1)
    found = []
    for norm, input in ((ours, x), (exact, x.double())):
        input = input.detach().requires_grad_()
        y = norm(input)
        gradients = torch.autograd.grad(
            y, [input, norm.weight, norm.bias], gradient.to(y), create_graph=True
        )
        plain = torch.autograd.grad(norm(input), [input, norm.weight, norm.bias], gradient.to(y))
        (twice,) = torch.autograd.grad(gradients[0].double().square().sum(), norm.weight)
        found.append([y, *gradients, *plain, twice, *map(torch.clone, norm.buffers())])
    assert ours(x).dtype == dtype
    said = "y, dx, dweight, dbias, plain dx, plain dweight, plain dbias, twice, mean, variance, n"
    for name, a, b in zip(said.split(", "), *found, strict=True):
        error, scale = (a.double() - b.double()).abs().max(), b.double().abs().max()
        assert error <= bound * scale, f"{name}: {error:.2e} of {scale:.2e}"
    assert torch.equal(ours.eval()(x), torch.nn.BatchNorm3d.forward(ours, x))


@pytest.mark.parametrize("group", ["p4", "p8", "p6m"])
def test_the_layers_commute_with_the_grid_elements(group):
    group = PointGroup.named(group)
    net = torch.nn.Sequential(LiftingConv(group, 1, 3), GroupConv(group, 3, 2)).to(GPU)
    errors = equivariance_error(net, group, torch.randn(2, 1, 16, 16, device=GPU))
    assert max(errors.values()) < 1e-5


@pytest.mark.parametrize("group, options", [("p8", {}), ("p6m", {"stride": 2, "offset": 0.2})])
def test_the_jet_form_is_the_dense_layer(group, options):
    pytest.importorskip("triton")
    layer = GroupConv(PointGroup.named(group), 5, 7, bias=True, **options).to(GPU)
    exact = copy.deepcopy(layer).double()
    exact.algorithm, layer.algorithm = "dense", "jet"
    x = torch.randn(3, 5, len(layer.group), 17, 13, device=GPU)
    gradient = torch.randn_like(layer(x))

    def results(model, x, dtype=None):
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            y = model(x := x.requires_grad_())
        return y, *torch.autograd.grad(y, [x, *model.parameters()], gradient.to(y.dtype))

    expected = results(exact, x.double())
    for dtype, bound in ((None, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        found, again = results(layer, x, dtype), results(layer, x, dtype)
        assert found[0].dtype == (dtype or torch.float32)
        for a, b, c in zip(found, expected, again, strict=True):
            assert (a.double() - b).norm() < bound * b.norm() and torch.equal(a, c)
    compiled = results(torch.compile(layer, fullgraph=True), x)
    for a, b in zip(compiled, expected, strict=True):
        assert (a.double() - b).norm() < 1e-5 * b.norm()


def test_a_network_in_the_jet_form_is_recorded_as_a_graph(data):
    pytest.importorskip("triton")
    model = network(0.0)
    for module in model.modules():
        if isinstance(module, GroupConv):
            module.algorithm = "jet"
    x = torch.randn(16, 1, 28, 28, device=GPU)
    expected = model(x).detach()
    assert replay_as_graphs(model, x, "fp32")
    torch.testing.assert_close(model(x).detach(), expected, rtol=1e-4, atol=1e-4)


ROWS = sorted(
    path.stem
    for path in (ROOT / "configs" / "experiment").glob("*.yaml")
    if "1001" not in path.stem and "wrn" not in path.stem and "cifar100" not in path.stem
)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_takes_steps_as_auto_has_it(row, capsys):
    config = compose_config(f"experiment={row}", "precision=bf16")
    shape, classes = SETS[config["data"]["name"]].shape, SETS[config["data"]["name"]].classes
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.arange(64) % classes
    mean, std = (0.5, 0.3) if shape[0] == 1 else ((0.5,) * 3, (0.3,) * 3)
    data = DataSet("toy", "made up", "0", images, labels, images, labels, mean, std, classes)
    data = data.to(GPU)
    torch.manual_seed(0)
    model = build_model(config).to(GPU)
    settings, _ = Settings.resolve(dict.fromkeys(SWITCHES, "auto"), GPU, model)
    assert settings.cuda_graph and not settings.compile
    settings.apply(model)
    recipe = config["recipe"]
    progress = fit(
        model,
        data,
        epochs=1,
        batch_size=32,
        learning_rate=[[0, 1e-4]],
        optimizer=recipe["optimizer"],
        augment=recipe["augment"],
        precision="bf16",
        cuda_graph=True,
    )
    assert progress.test_error is not None
    assert "CUDA graph: no" not in capsys.readouterr().out


def test_the_time_of_a_run_is_estimated():
    assert 0 < estimate_seconds(compose_config("experiment=mnistrot_z2"), GPU) < 3600


def test_a_run_of_the_command_line_finishes(tmp_path):
    command = ["experiment=mnistrot_pdo_p8", "recipe=smoke", "tracking=disabled"]
    done = subprocess.run(
        [sys.executable, "train.py", *command, f"outputs={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cuda graph: yes" in done.stdout and "CUDA graph: no" not in done.stdout


def test_the_benchmark_replays_all_contestants(tmp_path):
    benchmark = [sys.executable, "scripts/benchmark.py", "--results", str(tmp_path)]
    cases = ["--select", "scaling p4, 2 *;block p8, 7 *;network mnistrot_pdo_p8,*", "--rounds", "3"]
    done = subprocess.run(
        [*benchmark, *cases, "--precision", "bf16", "--mode", "graphs"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.csv")
    with open(path, newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["rival"].startswith("plain")]
    assert len(lines) == 5 and all(float(line["ours_ms"]) > 0 for line in lines)
    assert all(float(line["ours_mib"]) > 1 for line in lines if "block" in line["case"])
