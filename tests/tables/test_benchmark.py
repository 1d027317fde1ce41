"""The benchmark measures what it says, keeps what it did not measure, and names what it cannot."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
benchmark = runpy.run_path(str(ROOT / "scripts" / "benchmark.py"))
pytestmark = pytest.mark.usefixtures("one_thread")


def case_named(start):
    return next(case for case in benchmark["cases"]() if case.name.startswith(start))


@pytest.mark.parametrize("start", ["block p8, 7", "layer p6m", "residual", "network mnistrot_p4"])
def test_the_plain_rival_does_the_same_arithmetic(start):
    """Equal outputs with the same weights, and no module of ours in it."""
    case = case_named(start)
    torch.manual_seed(0)
    ours = case.build().eval()
    torch.manual_seed(0)
    plain = case.makers()["plain"]().eval()
    assert not any(type(module).__module__.startswith("pdoe") for module in plain.modules())
    assert any(isinstance(module, nn.Conv2d) for module in plain.modules())
    x = torch.randn(2, *case.shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(plain(x), ours(x), rtol=1e-4, atol=1e-5)


def test_contestants_take_turns_in_both_orders():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = benchmark["race"](works, 4, torch.device("cpu"))
    assert "".join(calls) == "abba" * 3 and all(len(seconds) == 4 for seconds in times.values())


def test_training_reaches_the_weights_and_the_input_and_evaluation_reaches_nothing():
    case = case_named("scaling p4, 2 ")
    for phase in ("train", "eval"):
        model = case.build()
        seen = []
        model.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append((inputs[0], output))
        )
        benchmark["prepared"](case, "ours", model, phase, "fp32", torch.device("cpu"))()
        x, y = seen[-1]
        assert y.requires_grad == model.training == (phase == "train")
        assert (x.grad is not None) == (phase == "train")
        assert all((p.grad is not None) == (phase == "train") for p in model.parameters())


def main_on(folder, select):
    common = ["--rounds", "3", "--device", "cpu", "--results", str(folder)]
    return benchmark["main"](["--select", select, *common])


def test_figures_are_written_and_those_of_other_cases_stay(tmp_path, capsys):
    assert main_on(tmp_path, "scaling p4, 2 *") == 0
    (path,) = tmp_path.glob("*.csv")
    first = path.read_text().splitlines()
    assert len(first) == 2 and first[0] == ",".join(benchmark["COLUMNS"])
    assert main_on(tmp_path, "scaling p8, 2 *") == 0
    second = path.read_text().splitlines()
    assert second[:2] == first and len(second) == 3
    assert path.with_suffix(".svg").exists()
    units = torch.backends.cpu.get_cpu_capability()  # as one name stands for several generations
    assert units in benchmark["read_lines"](path)[0]["device"]
    assert units.lower().replace(" ", "-") in path.name
    assert "scaling p8, 2 fields" in path.with_suffix(".md").read_text()


def test_an_import_is_measured_beside_what_it_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(
        benchmark["measure_imports"].__globals__,
        "race",
        lambda works, rounds, device: {
            n: [w() or 2.0 + (n == "ours")] * 3 for n, w in works.items()
        },
    )
    assert main_on(tmp_path, "import pdoe") == 0
    (path,) = tmp_path.glob("*.csv")
    line = benchmark["read_lines"](path)[0]
    assert (line["rival"], line["ours_ms"], line["ratio"]) == ("torch, numpy", "3000", "1.5")
    assert "| import pdoe " in path.with_suffix(".md").read_text()


def test_a_peak_is_measured_in_a_process_of_its_own():
    case = case_named("block p4,")
    peak = benchmark["peak_mib"](case, "ours", "fp32", torch.device("cpu"))
    one_map = 4 * case.shape[0] * case.shape[1] * case.shape[2] * case.shape[3] / 2**20
    assert one_map < peak < 40 * one_map


def test_the_exported_network_is_raced_against_the_same_one_by_hand():
    case = case_named("exported network mnistrot_pdo_p8")
    exported, by_hand = case.build(), case.plain().eval()
    kinds = [type(m).__name__ for m in by_hand.modules()]
    assert [kinds.count(k) for k in ("Conv2d", "BatchNorm2d", "MaxPool2d")] == [7, 6, 1]
    weights = [v for k, v in exported.state_dict().items() if "num_batches" not in k]
    names = [k for k in by_hand.state_dict() if "num_batches" not in k]
    by_hand.load_state_dict(dict(zip(names, weights, strict=True)), strict=False)
    eps = next(m.eps for m in exported.modules() if isinstance(m, nn.BatchNorm2d))
    for module in by_hand.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(exported(x), by_hand(x), rtol=1e-4, atol=1e-5)


def test_a_target_is_judged_by_its_worst_line():
    line = {"case": "layer p8, 16 fields, 16x16, batch 64", "phase": "train", "mode": "eager",
            "precision": "fp32", "rival": "plain", "ratio": "1.01"}  # fmt: skip
    worse = line | {"case": "layer p8, 16 fields, 28x28, batch 64", "ratio": "1.09"}
    others = [worse | {"rival": "e2cnn"}, worse | {"phase": "eval"}, worse | {"mode": "compiled"}]

    def row(*lines):
        text = benchmark["targets"]([*lines, *(other | {"ratio": "9"} for other in others)])
        return next(row for row in text.splitlines() if "layer p8, 16 fields, training" in row)

    assert "| 1.010 " in row(line) and "| met " in row(line)
    assert "| 1.090 " in row(line, worse) and "| missed " in row(line, worse)
    assert "| not measured " in row()


def test_an_exponent_is_the_slope_of_the_logarithms():
    lines = [
        {
            "case": case.name,
            "precision": precision,
            "mode": "eager",
            "ours_ms": str(3 * case.size**power),
            "rival_ms": str(case.size**2),
        }
        for precision, power in (("fp32", 1.5), ("bf16", 1.0))
        for case in benchmark["cases"]()
        if case.name.startswith("scaling")
    ]
    fits = benchmark["exponents"](lines)
    assert fits["ours"][0] == pytest.approx(1.5) and fits["plain"][0] == pytest.approx(2.0)


def test_an_unknown_case_is_refused_and_the_known_ones_are_named(capsys):
    with pytest.raises(SystemExit):
        benchmark["main"](["--select", "layer p99*"])
    assert "block p8, 7 fields, 24x24, batch 128" in capsys.readouterr().err


def test_graphs_are_refused_without_a_gpu(capsys):
    with pytest.raises(SystemExit):
        benchmark["main"](["--mode", "graphs", "--device", "cpu"])
    assert "CUDA graphs need a GPU" in capsys.readouterr().err


def test_on_a_gpu_targets_are_judged_as_training_runs_there():
    eager = {"case": "layer p8, 16 fields, 16x16, batch 64", "phase": "train", "mode": "eager",
             "precision": "bf16", "rival": "plain", "ratio": "3"}  # fmt: skip
    text = benchmark["targets"]([eager, eager | {"mode": "graphs", "ratio": "1.02"}])
    assert "| 1.020 " in text and "| 3.000 " not in text
