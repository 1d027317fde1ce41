"""The benchmark: equal arithmetic, alternating contestants, and lines that are kept."""

import benchmark
import benchmark_measure as measure
import pytest
import torch
from benchmark_cases import list_cases
from torch import nn

from pdoe.report.cost import fit_exponents

CPU = measure.Setting("fp32", "eager", torch.device("cpu"))
pytestmark = pytest.mark.usefixtures("one_thread")


def case_named(start):
    return next(case for case in list_cases() if case.name.startswith(start))


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


def test_contestants_alternate_in_both_orders():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measure.time_rounds(works, 4, torch.device("cpu"))
    assert "".join(calls) == "abba" * 3 and all(len(seconds) == 4 for seconds in times.values())


def test_training_reaches_the_weights_and_the_input_and_evaluation_reaches_nothing():
    case = case_named("scaling p4, 2 ")
    for phase in ("train", "eval"):
        model = case.build()
        seen = []
        model.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append((inputs[0], output))
        )
        measure.prepare_work(case, "ours", model, phase, CPU)()
        x, y = seen[-1]
        assert y.requires_grad == model.training == (phase == "train")
        assert (x.grad is not None) == (phase == "train")
        assert all((p.grad is not None) == (phase == "train") for p in model.parameters())


def test_a_training_step_of_a_network_changes_its_weights():
    case = case_named("network mnistrot_p4")
    model = case.build()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    measure.prepare_work(case, "ours", model, "train", CPU)()
    assert not any(map(torch.equal, before, model.parameters()))


def run_main(folder, select):
    common = ["--rounds", "3", "--device", "cpu", "--results", str(folder)]
    return benchmark.main(["--select", select, *common])


def test_lines_are_written_and_those_of_other_cases_stay(tmp_path):
    assert run_main(tmp_path, "scaling p4, 2 *") == 0
    (path,) = tmp_path.glob("*.csv")
    first = path.read_text("utf-8").splitlines()
    assert len(first) == 2 and first[0] == ",".join(benchmark.COLUMNS)
    assert run_main(tmp_path, "scaling p8, 2 *") == 0
    second = path.read_text("utf-8").splitlines()
    assert second[:2] == first and len(second) == 3
    units = torch.backends.cpu.get_cpu_capability()
    assert units in benchmark.read_lines(path)[0]["device"]
    assert units.lower().replace(" ", "-") in path.name
    assert "scaling p8, 2 fields" in path.with_suffix(".md").read_text("utf-8")


def test_an_import_is_measured_beside_what_it_imports(tmp_path, monkeypatch):
    def call_once(works, rounds, device):
        return {name: [work() or 2.0 + (name == "ours")] * 3 for name, work in works.items()}

    monkeypatch.setattr(measure, "time_rounds", call_once)
    assert run_main(tmp_path, "import pdoe") == 0
    (path,) = tmp_path.glob("*.csv")
    line = benchmark.read_lines(path)[0]
    assert (line["rival"], line["ours_ms"], line["ratio"]) == ("torch, numpy", "3000", "1.5")


def test_a_peak_is_measured_in_a_process_of_its_own():
    case = case_named("block p4,")
    peak = measure.measure_peak(case, "ours", CPU)
    one_map = 4 * case.shape[0] * case.shape[1] * case.shape[2] * case.shape[3] / 2**20
    assert one_map < peak < 40 * one_map


def test_the_exported_network_is_measured_beside_the_same_one_by_hand():
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


def test_a_target_is_judged_by_its_worst_line_in_the_mode_of_training():
    line = {"case": "layer p8, 16 fields, 16x16, batch 64", "phase": "train", "mode": "eager",
            "precision": "fp32", "rival": "plain", "ratio": "1.01"}  # fmt: skip
    worse = line | {"case": "layer p8, 16 fields, 28x28, batch 64", "ratio": "1.09"}
    others = [worse | {"rival": "e2cnn"}, worse | {"phase": "eval"}, worse | {"mode": "compiled"}]

    def judge(*lines):
        text = benchmark.judge_targets([*lines, *(other | {"ratio": "9"} for other in others)])
        row = next(row for row in text.splitlines() if "layer p8, 16 fields, training" in row)
        return [cell.strip() for cell in row.split("|")[3:5]]

    assert judge(line) == ["1.010", "met"]
    assert judge(line, worse) == ["1.090", "missed"]
    assert judge() == ["–", "not measured"]
    assert judge(worse, line | {"mode": "graphs", "ratio": "1.02"}) == ["1.020", "met"]


def test_an_exponent_is_the_slope_of_the_logarithms():
    lines = [
        {
            "case": case.name, "precision": precision, "mode": "eager",
            "ours_ms": str(3 * case.size**power), "rival_ms": str(case.size**2),
        }
        for precision, power in (("fp32", 1.5), ("bf16", 1.0))
        for case in list_cases()
        if case.name.startswith("scaling")
    ]  # fmt: skip
    fits = fit_exponents(lines)
    assert fits["ours"][0] == pytest.approx(1.5) and fits["plain"][0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--select", "layer p99*"], "block p8, 7 fields, 24x24, batch 128"),
        (["--mode", "graphs"], "CUDA graphs need a GPU"),
        (["--precision", "fp8"], "precisions are fp32 and bf16"),
    ],
)
def test_a_wrong_command_line_names_what_is_possible(arguments, said, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, "--device", "cpu"])
    assert said in capsys.readouterr().err
