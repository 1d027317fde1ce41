"""Records, merging, statistics and verdicts of the comparison with a published table.

Expected numbers are worked out by hand in the tests or come from scipy.
"""

import copy
import csv
import importlib.util
import json
import math
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from pdoe.files import write_whole
from pdoe.tables import markdown, runs, statistics
from pdoe.tables import table as tables

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("compare", ROOT / "scripts" / "compare.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)

PAPER = tables.read_paper(ROOT / "experiments" / "mnist_rot" / "paper.csv")
P8 = next(line for line in PAPER if line.row == "mnistrot_pdo_p8")


def record(error=2.0, seed=0, provenance="regenerated", **fields):
    """A result.json of the p8 row, with any field changed."""
    result = {
        "run_id": f"id{seed}", "experiment": "mnistrot_pdo_p8", "overrides": "", "seed": seed,
        "status": "finished", "test_error": error, "test_error_best": error,
        "parameters": 26747, "epochs": 200, "seconds": 2400.25, "seconds_per_epoch": 12.00125,
        "device": "a CPU", "precision": "bf16", "threads": 2, "torch": "2.14.1",
        "commit": "0123456789abcdef", "dirty": False,
        "data": {"name": "mnist_rot", "provenance": provenance, "sha256": "5a"},
        "config_hash": "c0ffee", "equivariance_error": {"trunk": 3e-07, "logits": 0.4},
        "started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T04:04:05+00:00",
    }  # fmt: skip
    return result | fields


class Place:
    """A folder with run folders and results, and the command on it."""

    def __init__(self, folder):
        self.outputs, self.results = folder / "outputs", folder / "results"
        self.outputs.mkdir()

    def put(self, *records, under=""):
        for number, one in enumerate(records):
            text = one if isinstance(one, str) else json.dumps(one)
            seed = number if isinstance(one, str) else one["seed"]
            folder = self.outputs / under / f"run{number}" / f"seed={seed}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text(text)
        return self

    def commit(self, *records, extra=""):
        """A runs.csv as an earlier comparison left it."""
        lines = runs.RunsFile(runs=tuple(map(runs.from_record, records)))
        write_whole(self.results / "runs.csv", runs.csv_text(lines) + extra)
        return self

    def arguments(self, *more, scale="full"):
        results = () if scale == "smoke" else ("--results", str(self.results))
        return ["mnist_rot", "--runs", str(self.outputs), *results, "--scale", scale, *more]

    def compare(self, *more, scale="full"):
        return compare.main(self.arguments(*more, scale=scale))

    @property
    def csv(self):
        return (self.results / "runs.csv").read_text("utf-8")

    @property
    def table(self):
        return (self.results / "table.md").read_text("utf-8")

    def line(self, start="| `mnistrot_pdo_p8` "):
        return next(line for line in self.table.splitlines() if line.startswith(start))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def line_of(*errors, **fields):
    members = [runs.from_record(record(e, seed, **fields)) for seed, e in enumerate(errors)]
    return tables.Line(P8, members[0]["overrides"] or "", members[0]["data.provenance"],
                       tuple(members))  # fmt: skip


# ---- Statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees, t", [(1, 12.706205), (2, 4.302653), (9, 2.262157)])
def test_the_t_quantile_is_that_of_the_printed_tables(degrees, t):
    assert statistics.t_quantile(degrees) == pytest.approx(t, abs=1e-6)
    assert statistics.t_quantile(degrees, 0.0) == 0


def test_welch_is_that_of_scipy():
    first, second = [1.9, 2.1, 2.4, 2.0], [2.5, 2.2, 2.9]
    welch = statistics.Welch.of(statistics.Summary.of(first), statistics.Summary.of(second))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert welch.t == pytest.approx(expected.statistic, rel=1e-12)
    assert welch.degrees == pytest.approx(expected.df, rel=1e-12)
    assert welch.p == pytest.approx(expected.pvalue, rel=1e-10)


def test_without_a_spread_there_is_no_test():
    one, same, some = ([2.0], [2.0, 2.0], [2.0, 2.5])
    for first, second in ((one, some), (some, one), (same, same)):
        assert (
            statistics.Welch.of(statistics.Summary.of(first), statistics.Summary.of(second)) is None
        )
    assert statistics.Welch.of(statistics.Summary.of(same), statistics.Summary.of(some)) is not None


def test_holm_by_hand():
    """0.01 * 4, then 0.02 * 3, then 0.03 * 2 = 0.06 again, and 0.9 * 1."""
    assert statistics.holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert statistics.holm([0.8, 0.7]) == [1.0, 1.0] and statistics.holm([]) == []


def test_a_summary_is_mean_sample_deviation_and_t_interval():
    summary = statistics.Summary.of([1.0, 2.0, 3.0])
    low, high = stats.t.interval(0.95, 2, loc=2, scale=1 / math.sqrt(3))
    assert (summary.n, summary.mean, summary.std) == (3, 2.0, 1.0)
    assert summary.half_width == pytest.approx((high - low) / 2, rel=1e-12)
    assert str(summary) == "2.000 ± 1.000 (n = 3; 1.000 to 3.000)"


def test_one_seed_has_no_spread():
    summary = statistics.Summary.of([1.5])
    assert summary.std is None and summary.half_width is None
    assert str(summary) == "1.500 (n = 1)"


# ---- The verdict --------------------------------------------------------------------------------
# One seed: h = 1.959964 sqrt((1.87 * 98.13 + m (100 - m)) / 50000). On the upper boundary
# m - 1.87 = h at m = 2.041651, on the lower one 1.87 - m = h at m = 1.705744 (fixed points).


@pytest.mark.parametrize(
    "error, word",
    [
        (1.87, "reproduced"), (2.0414, "reproduced"), (2.0419, "worse"),
        (1.7060, "reproduced"), (1.7055, "better"), (0.0, "better"), (100.0, "worse"),
    ],
)  # fmt: skip
def test_one_seed_is_judged_by_the_sampling_error_of_both_figures(error, word):
    assert line_of(error, provenance="original").verdict == f"{word} (provisional: n = 1)"


# Three seeds m - 0.1, m, m + 0.1: a = 4.302653 * 0.1 / sqrt(3) = 0.248414. The boundaries are the
# fixed points m = 2.173552 and m = 1.573843 of |m - 1.87| = sqrt(a^2 + b(m)^2).


@pytest.mark.parametrize(
    "middle, word",
    [(2.1733, "reproduced"), (2.1738, "worse"), (1.5741, "reproduced"), (1.5736, "better")],
)
def test_the_seed_interval_widens_the_judgement(middle, word):
    errors = [middle - 0.1, middle, middle + 0.1]
    assert line_of(*errors, provenance="original").verdict == word


def test_a_verdict_on_regenerated_data_says_so():
    assert line_of(1.9, 1.8, 1.85).verdict == "reproduced (regenerated data)"
    assert line_of(1.9, 1.8).verdict == "reproduced (regenerated data; provisional: n = 2)"


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"provenance": "embedded"}, "embedded data"),
        ({"provenance": "homemade"}, "homemade data"),
        ({"overrides": "group=p4"}, "overrides"),
    ],
)
def test_other_data_and_overrides_are_not_comparable(fields, reason):
    assert line_of(1.87, **fields).verdict == f"not comparable ({reason})"


def test_unfinished_runs_count_for_nothing():
    line = line_of(None, None, status="failed")
    assert line.verdict == "not run (2 failed)" and line.ours is None


def test_every_published_row_is_in_the_table_even_if_nothing_has_run(place):
    assert place.compare() == 0
    rows = [line for line in place.table.splitlines() if line.startswith("| `mnistrot_")]
    assert len(rows) == len(PAPER) == 10 and all("| not run " in row for row in rows)
    assert "How these were measured" not in place.table


def test_the_paper_table_has_the_ten_published_figures():
    published = "5.03 2.28 1.87 1.69 1.54 1.09 0.89 0.716 0.714 0.709".split()
    assert [line.error for line in PAPER] == published


def test_a_line_of_the_paper_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "paper.csv"
    header = "row,method,group,error,parameters,test_images\n"
    for bad in ("a,A,p1,5.O,,10\n", "a,A,p1,5,x,10\n", "a,A,p1,5,,0\n", ",A,p1,5,,10\n", "a\n"):
        path.write_text(header + bad)
        with pytest.raises(tables.TableError, match="paper.csv:2"):
            tables.read_paper(path)
    path.write_text(header + "a,A,p1,5,,10\na,A,p1,5,,10\n")
    with pytest.raises(tables.TableError, match="paper.csv:3"):
        tables.read_paper(path)


# ---- Records and runs.csv -----------------------------------------------------------------------


def test_a_record_comes_back_from_the_csv_with_every_digit(place):
    one = record(
        2.1 + 1e-15, seconds=1 / 3, overrides="group=p4,recipe.epochs=10", reason='a "b"\nc'
    )
    place.commit(one)
    run = runs.from_record(one)
    place.compare()
    assert run["test_error"] == one["test_error"] and run["seconds"] == 1 / 3
    place.put(one)
    place.compare()
    (back,) = runs.read_csv(place.results / "runs.csv").runs
    assert back.values == run.values and back.cells["reason"] == 'a "b" c'


def test_the_columns_are_the_fields_of_a_record_and_extra_ones_follow(place):
    place.put(record(seed=0), record(seed=1, reason="why", data=record()["data"] | {"draw": 3}))
    place.compare()
    assert place.csv.splitlines()[0] == (
        "run_id,experiment,overrides,seed,status,test_error,test_error_best,parameters,epochs,"
        "seconds,seconds_per_epoch,device,precision,threads,torch,commit,dirty,data.name,"
        "data.provenance,data.sha256,config_hash,equivariance_error.trunk,"
        "equivariance_error.logits,started,ended,data.draw,reason"
    )


def test_a_run_replaces_the_line_of_its_own_id_and_no_other(place):
    place.commit(record(2.1, 0), record(2.2, 1), record(2.3, 2, status="failed"))
    place.put(record(2.5, 1), record(2.6, 3))
    before = place.csv.splitlines()
    place.compare()
    after = place.csv.splitlines()
    assert [after[0], after[1], after[3]] == [before[0], before[1], before[3]]
    assert ",2.5," in after[2] and ",2.6," in after[4] and len(after) == 5


def test_a_finished_line_does_not_give_way_to_an_unfinished_run(place, capsys):
    place.commit(record(2.1, 0)).put(record(None, 0, status="interrupted"))
    assert place.compare("--rows", "mnistrot_pdo_p8") == 0
    assert "2.100 (n = 1)" in place.line() and "the finished line" in capsys.readouterr().err


@pytest.mark.parametrize("status", ["failed", "interrupted", "diverged"])
def test_runs_that_did_not_finish_stay_lines(place, status):
    broken = record(None, 0, status=status, equivariance_error=None, seconds_per_epoch=None)
    place.put(broken, record(2.0, 1)).compare()
    assert f",{status}," in place.csv and f"1 {status}" in place.table


def test_lines_are_sorted_whatever_the_order_of_arrival(place, tmp_path):
    members = [record(seed=s) for s in (10, 9, 2)] + [record(seed=3, overrides="group=p4")]
    place.put(*members).compare()
    (other := tmp_path / "other").mkdir()
    again = Place(other).put(*reversed(members))
    again.compare()
    assert place.csv == again.csv
    assert re.findall(r"^id(\d+)", place.csv, re.M) == ["2", "9", "10", "3"]


def test_rendering_what_is_committed_gives_the_same_bytes(place):
    place.put(record(2.1, 0), record(2.3, 1, dirty=True), record(2.2, 2, "embedded"),
              record(2.5, 3, overrides="group=p4"), record(None, 4, status="diverged"))  # fmt: skip
    place.compare()
    first = snapshot(place.results)
    for path in sorted(place.outputs.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    place.compare()
    assert snapshot(place.results) == first


@pytest.mark.parametrize("table", sorted(p.parent.name for p in ROOT.glob("results/*/runs.csv")))
def test_the_committed_tables_are_what_the_committed_runs_render_to(place, table):
    committed = ROOT / "results" / table
    shutil.copytree(committed, place.results)
    (place.results / "table.md").unlink()
    arguments = [table, "--runs", str(place.outputs), "--results", str(place.results)]
    assert compare.main(arguments) == 0
    for name in ("runs.csv", "table.md", "statistics.csv", "differences.csv"):
        assert (place.results / name).read_bytes() == (committed / name).read_bytes(), name


def test_the_table_in_the_readme_is_that_of_the_committed_runs(place, tmp_path):
    shutil.copytree(ROOT / "results" / "mnist_rot", place.results)
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    assert place.compare("--readme", str(readme)) == 0
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes()


def test_runs_of_other_tables_are_left_out(place, capsys):
    place.put(record(seed=0), record(seed=1, experiment="cifar10_x")).compare()
    assert "cifar10_x" not in place.csv + capsys.readouterr().err


# ---- What the table shows -----------------------------------------------------------------------


def test_a_line_shows_what_was_measured_and_how(place):
    place.put(record(2.1, 0), record(2.3, 1, precision="fp32", test_error_best=2.2)).compare()
    assert [cell.strip() for cell in place.line().strip("|").split("|")] == [
        "`mnistrot_pdo_p8`", "PDO-eConv", "p8", "26,000 / 26,747", "1.87",
        "no turns; best test epoch printed", "2.200 ± 0.141 (n = 2; 2.100 to 2.300)", "–",
        "0.929 to 3.471",  # 12.7062 * 0.1 = 1.27062
        "± 0.129",  # 1.959964 sqrt(2.2 * 97.8 / 50000)
        "+0.330 ± 1.283",  # sqrt(1.27062^2 + 1.959964^2 (2.2 * 97.8 + 1.87 * 98.13) / 50000)
        "reproduced (regenerated data; provisional: n = 2)",
        "2.150 ± 0.071 (n = 2; 2.100 to 2.200)",
    ]  # fmt: skip
    measured = place.table.partition("## How these were measured")[2]
    for part in (
        "bf16, fp32",
        "2 finished",
        "| 0, 1 ",
        "2,400",
        "`0123456789`",
        "3.0e-07 / 4.0e-01",
    ):
        assert part in measured


def test_embedded_and_overridden_runs_have_lines_of_their_own(place):
    place.put(record(2.1, 0), record(3.1, 1, "embedded"), record(4.1, 2, overrides="group=p4"))
    place.compare()
    assert "2.100 (n = 1)" in place.line()
    assert "± 0.340" in next(x for x in place.table.splitlines() if "3.100 (n = 1)" in x)
    assert "not comparable (overrides)" in place.line("| ↳ `group=p4`")
    assert "+0.230 ± " in place.line()  # the others are not held against the paper:
    assert "+1.230" not in place.table and "+2.230" not in place.table


def test_an_epoch_selected_on_the_test_set_is_said_to_be(place):
    place.put(record(2.0, 0, select="test_best", selected_epoch=7)).compare()
    assert "2.000‡ (n = 1)" in place.line() or "2.000 (n = 1)‡" in place.line()
    assert "selected on the test set" in place.line()
    assert "`‡`: not the last epoch" in place.table
    place.put(record(2.0, 0, select="train_best")).compare()
    assert "‡" in place.line() and "selected on the test set" not in place.line()
    place.put(record(2.0, 0)).compare()
    assert "‡" not in place.table


def test_runs_with_the_recipe_of_all_rows_stand_beside_the_row_s_own(place):
    """And are held against each other."""

    def put(*pairs, **fields):
        return [record(e, s, run_id=f"{fields['experiment']}{s}", **fields) for e, s in pairs]

    common = {"overrides": "recipe=mnistrot_common"}
    ours = put((1.9, 0), (2.0, 1), experiment="mnistrot_pdo_p8", **common)
    z2 = put((4.5, 0), (4.6, 1), experiment="mnistrot_z2", **common)
    place.put(record(2.1, 0), *ours, *z2).compare()
    cells = [cell.strip() for cell in place.line().strip("|").split("|")]
    assert cells[6:8] == ["2.100 (n = 1)", "1.950 ± 0.071 (n = 2; 1.900 to 2.000)"]
    cells = [cell.strip() for cell in place.line("| `mnistrot_z2`").strip("|").split("|")]
    assert cells[6:8] == ["–", "4.550 ± 0.071 (n = 2; 4.500 to 4.600)"]
    differences = place.table.partition("## Differences between rows")[2]
    names = "| `mnistrot_z2` `recipe=mnistrot_common` − `mnistrot_pdo_p8` `recipe=mnistrot_common` "
    assert f"{names}| +2.600 ± 0.000 (n = 2)" in differences


def test_a_test_on_fewer_images_has_a_larger_sampling_error():
    def sampling(images):
        return line_of(5.0, overrides=f"recipe.test_images={images}").sampling

    assert sampling("500") == pytest.approx(10 * sampling("null"))
    assert sampling("900000") == sampling("null") == line_of(5.0).sampling


def test_a_recipe_that_tests_fewer_images_is_heard_of_through_the_manifest(place):
    """Nothing in the overrides says so: the number stands in the file of the recipe."""
    manifest = {"configuration": {"recipe": {"test_images": 500}}}
    place.put(record(5.0, 0, manifest=manifest))
    assert place.compare() == 0
    whole = line_of(5.0)
    with open(place.results / "statistics.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert float(line["sampling_half_width"]) == pytest.approx(10 * whole.sampling)


def test_runs_on_held_out_images_have_a_table_of_their_own(place, capsys):
    held_out = "regenerated, 2000 held out"
    tuned = [record(2.5, 1, held_out), record(3.0, 2, held_out, overrides="recipe.epochs=5")]
    assert place.put(record(2.1, 0), *tuned).compare() == 0
    assert "id0" in place.csv and "id1" not in place.csv and "held out" not in place.table
    before = snapshot(place.results)
    assert place.compare("--validation") == 0
    assert before.items() <= snapshot(place.results).items()  # and more
    table = (place.results / "validation" / "table.md").read_text("utf-8")
    assert "id0" not in (place.results / "validation" / "runs.csv").read_text("utf-8")
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    (line,) = [
        line for line in lines if line.startswith("| `mnistrot_pdo_p8` ") and "2.500" in line
    ]
    sampling = 1.96 * (2.5 * 97.5 / 2000) ** 0.5
    assert (
        f"± {sampling:.3f}" in line and "not comparable (regenerated, 2000 held out data)" in line
    )
    assert any("`recipe.epochs=5`" in line and "3.000" in line for line in lines)
    assert not any("mnistrot_z2" in line for line in lines)
    assert place.compare("--validation", "--rows", "mnistrot_pdo_p8") == 2
    assert "held-out images are no published test set" in capsys.readouterr().err


def test_rows_with_several_seeds_are_held_against_each_other(place):
    """Paired by the seeds 1 and 2 alone: -0.3 and -0.5, t(1) = 12.7062, 12.7062 * 0.1 = 1.271."""
    p8 = [record(2.0 + s / 10, s, run_id=f"a{s}") for s in (0, 1, 2)]
    z2 = [record(2.2 + s / 5, s, run_id=f"b{s}", experiment="mnistrot_z2") for s in (1, 2, 3)]
    p4 = [record(2.5, s, run_id=f"c{s}", experiment="mnistrot_p4") for s in (0,)]
    other = {"data": record()["data"] | {"sha256": "5b"}, "overrides": "group=p4"}
    fast = [record(2.5 + s, s, run_id=f"d{s}", **other) for s in (1, 2)]
    place.put(*p8, *z2, *p4, *fast).compare()
    text = place.table.partition("## Differences between rows")[2].partition("##")[0]
    (line,) = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    expected = stats.ttest_ind([2.4, 2.6, 2.8], [2.0, 2.1, 2.2], equal_var=False)
    assert cells == [
        "`mnistrot_z2` − `mnistrot_pdo_p8`",
        "+0.350 ± 0.635 (n = 2)",
        f"{expected.statistic:.2f} ({expected.df:.1f})",
        *[f"{expected.pvalue:.2g}"] * 2,  # one test: nothing to correct
    ]


def test_a_difference_across_machines_precisions_or_dirty_trees_is_marked(place):
    p8 = [record(2.0 + s / 10, s, run_id=f"a{s}") for s in (0, 1)]
    z2 = {"experiment": "mnistrot_z2"}
    for changed, mark in (
        ({}, ""), ({"device": "a GPU"}, " †"), ({"precision": "fp32"}, " †"),
        ({"dirty": True}, " \\*"), ({"ranks": 2, "dirty": True}, " \\*†"),
    ):  # fmt: skip
        others = [record(5.0 + s / 10, s, run_id=f"b{s}", **z2, **changed) for s in (0, 1)]
        place.put(*p8, *others).compare()
        text = place.table.partition("## Differences between rows")[2]
        assert f"| `mnistrot_z2` − `mnistrot_pdo_p8`{mark} " in text, (changed, text)


def test_networks_are_held_against_each_other_and_other_settings_are_not():
    def line(overrides):
        return line_of(2.0, 2.1, overrides=overrides)

    def pairs(*overrides):
        return len(tables.contrasts([line(one) for one in overrides]))

    assert pairs("group=p4,recipe=f", "recipe=f") == 1
    assert pairs("group=p4,model.stages=[[1,2],[3]],recipe=f", "+model.extra=1,recipe=f") == 1
    assert pairs("recipe=f", "recipe=g") == 0 and pairs("recipe.epochs=3", "") == 0


def test_the_figures_of_the_table_stand_in_csv(place):
    p8 = [record(2.0 + s / 10, s, run_id=f"a{s}") for s in (0, 1)]
    z2 = [record(5.0, s, run_id=f"b{s}", experiment="mnistrot_z2") for s in (0, 1)]
    place.put(*p8, *z2).compare()

    def read(name):
        with open(place.results / name, newline="") as file:
            return list(csv.DictReader(file))

    ones = {line["row"]: line for line in read("statistics.csv")}
    assert list(ones) == ["mnistrot_z2", "mnistrot_pdo_p8"]
    one, line = ones["mnistrot_pdo_p8"], line_of(2.0, 2.1)
    for name, value in {
        "mean": line.ours.mean, "std": line.ours.std, "t_half_width": line.ours.half_width,
        "difference": line.ours.mean - 1.87, "tolerance": line.tolerance, "n": 2,
    }.items():  # fmt: skip
        assert float(one[name]) == pytest.approx(value, rel=1e-11), name
    assert one["verdict"] == line.verdict
    (difference,) = read("differences.csv")
    assert difference["second"] == "mnistrot_pdo_p8" and float(difference["difference"]) > 2.9
    welch = statistics.Welch.of(statistics.Summary.of([5.0, 5.0]), line.ours)
    assert difference["p_holm"] == difference["p"] == f"{welch.p:.12g}"


def test_no_differences_are_shown_without_several_seeds(place):
    place.put(record(2.1, 0), record(2.2, 0, run_id="b", experiment="mnistrot_z2")).compare()
    assert "Differences" not in place.table


def test_the_correction_counts_all_tests_of_the_table():
    lines = [line_of(2.0, 2.1, 2.2), line_of(2.3, 2.5, 2.4), line_of(3.0, 3.3, 3.1)]
    found = tables.contrasts(lines)
    assert [pair.p_holm for pair in found] == statistics.holm([pair.welch.p for pair in found])
    smallest = min(found, key=lambda pair: pair.welch.p)
    assert len(found) == 3 and smallest.p_holm == 3 * smallest.welch.p


def test_several_machines_behind_one_line_are_marked(place):
    place.put(record(2.1, 0), record(2.3, 1)).compare()
    assert "†" not in place.table
    place.put(record(2.1, 0), record(2.3, 1, device="another CPU")).compare()
    assert "2.300)†" in place.line() and "several kinds of machine" in place.table
    place.put(record(2.1, 0), record(2.3, 1, ranks=4)).compare()
    assert "†" in place.line()


def test_dirty_runs_are_marked(place):
    place.put(record(2.1, 0)).compare()
    assert "uncommitted" not in place.table
    place.put(record(2.1, 0), record(2.3, 1, dirty=True)).compare()
    assert "2.300)\\*" in place.line() and "uncommitted" in place.table


@pytest.mark.parametrize("field", [{"config_hash": "decaf"}, {"data": {"sha256": "5b"}}])
def test_only_seeds_are_averaged(place, tmp_path, field):
    """Neither two configurations nor two data sets, even under one seed; the newest comes first."""
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:mnist_rot -->\n<!-- /table -->\n")
    data = record()["data"] | field.get("data", {})
    old = [record(11.5, 0, run_id="old", started="2026-01-01T23:59:59+00:00")]
    new = [record(2.1, 0, **{**field, "data": data}), record(2.3, 1, **{**field, "data": data})]
    place.put(*old, *new).compare("--readme", str(readme))
    hash = new[0]["config_hash"]
    assert "2.200 ± 0.141 (n = 2; 2.100 to 2.300)" in place.line()
    (other,) = [x for x in place.table.splitlines() if "11.500 (n = 1)" in x]
    assert other.startswith(f"| ↳ configuration `{old[0]['config_hash']}`") and "worse" in other
    assert "2.200" in readme.read_text() and "11.500" not in readme.read_text()
    assert f"`mnistrot_pdo_p8` `{old[0]['config_hash']}`" in place.table and hash in place.csv


def test_a_configuration_that_never_finished_does_not_hide_the_one_that_did(place):
    failed = record(None, 1, status="failed", config_hash="decaf", started="2027-01-01T00:00:00")
    place.put(record(2.1, 0), failed).compare()
    assert "2.100 (n = 1)" in place.line()
    assert "not run (1 failed)" in place.line("| ↳ configuration `decaf`")


def test_text_from_a_record_cannot_break_the_table(place):
    place.put(record(2.1, 0, device="a|b <!-- /table --> `c"), record(seed=1)).compare()
    assert "a\\|b &lt;!-- /table -->" in place.table


# ---- Details ------------------------------------------------------------------------------------


def with_details(place, number=0, seed=0):
    folder = place.outputs / f"run{number}" / f"seed={seed}"
    rows = [{"epoch": e, "train_loss": 1 / e, "test_error": None if e == 1 else 3} for e in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "diagnostics.json").write_text('{"confusion": [[1, 0], [0, 1]]}')
    return folder


def test_curves_diagnostics_and_manifest_are_kept_beside_the_table(place):
    manifest = {"environments": [{"cores": 2}], "parts": []}
    place.put(record(2.1, 0, manifest=manifest), record(2.2, 1))
    with_details(place)
    assert place.compare() == 0
    assert "manifest" not in place.csv
    (path,) = (place.results / "details").iterdir()  # the other run left nothing
    assert json.loads(path.read_text()) == {
        "run_id": "id0",
        "metrics": {"epoch": [1, 2], "test_error": [None, 3.0], "train_loss": [1.0, 0.5]},
        "diagnostics": {"confusion": [[1, 0], [0, 1]]},
        "manifest": manifest,
    }
    before = snapshot(place.results)
    place.compare()
    assert snapshot(place.results) == before


def test_details_that_a_folder_has_lost_stay(place):
    place.put(record(2.1, 0))
    folder = with_details(place)
    place.compare()
    before = snapshot(place.results)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 1.0, "test_error": null}\n')
    (folder / "diagnostics.json").unlink()
    place.compare()
    assert snapshot(place.results) == before
    for damaged in (b"{", b"\xff"):  # it is made anew
        (place.results / "details" / "id0.json").write_bytes(damaged)
        assert place.compare() == 0
        held = json.loads((place.results / "details" / "id0.json").read_text())
        assert held["metrics"]["epoch"] == [1] and held["diagnostics"] is None


def test_a_smoke_run_that_was_copied_elsewhere_is_not_the_row(place, capsys):
    smoke = {"configuration": {"recipe": {"scale": "smoke"}}}
    place.put(record(2.1, 0), record(89.5, 1, manifest=smoke), under="copied")
    assert place.compare() == 0
    assert "2.100 (n = 1)" in place.line() and "id1" not in place.csv
    assert "1 runs of another scale: left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("metrics.jsonl", '{"epoch": 1, "train_loss": 1.0}\n{"epoch": 2, "tr', ""),  # by a kill
        ("metrics.jsonl", '{"epoch": 1}\n{"ep\n{"epoch": "x"}\n[1]\n', "damaged lines 2"),
        ("metrics.jsonl", "\0\n", "damaged lines 1"),
        ("metrics.jsonl", '{"epoch": 1, "train_loss": NaN}\n', ""),
        ("metrics.jsonl", "\udcff\n", "UnicodeDecodeError"),
        ("diagnostics.json", '{"conf', "left out"),
        ("diagnostics.json", "[]", "no object"),
        ("diagnostics.json", "[" * 100_000, "left out"),
    ],
)
def test_damaged_details_are_named_and_never_keep_a_run_from_its_table(
    place, capsys, name, text, said
):
    place.put(record(2.1, 0))
    (with_details(place) / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert place.compare() == 0 and "2.100" in place.line()
    lines = [line for line in capsys.readouterr().err.splitlines() if name in line]
    assert len(lines) == bool(said) and all(said in line for line in lines)
    held = json.loads((place.results / "details" / "id0.json").read_text())
    if name == "diagnostics.json":
        assert held["diagnostics"] is None and held["metrics"]["epoch"] == [1, 2]
    else:
        assert held["diagnostics"] and len(held["metrics"].get("epoch", ())) <= 1


# ---- Scales -------------------------------------------------------------------------------------


def test_smoke_runs_are_read_and_written_below_outputs_smoke_alone(place, capsys):
    committed = snapshot(ROOT / "results")
    place.put(record(2.1, 0)).commit(record(2.2, 5)).put(record(61.0, 1), under="smoke")
    results = snapshot(place.results)
    assert place.compare("--rows", "mnistrot_pdo_p8", scale="smoke") == 0
    assert snapshot(place.results) == results and snapshot(ROOT / "results") == committed
    text = (place.outputs / "smoke" / "mnist_rot" / "table.md").read_text("utf-8")
    assert "smoke scale: not a reproduction" in text and "not comparable (smoke scale)" in text
    assert "61.000" in text and "2.100" not in text
    assert "smoke scale: not a reproduction" in capsys.readouterr().out


def test_the_full_table_never_sees_a_smoke_run(place):
    place.put(record(61.0, 1), under="smoke").put(record(2.1, 0))
    assert place.compare() == 0
    assert "61" not in place.line() and "id1" not in place.csv


def test_smoke_results_cannot_be_asked_into_other_places(place, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:mnist_rot -->\n<!-- /table -->\n")
    place.put(record(), under="smoke")
    assert place.compare("--results", str(place.results), scale="smoke") == 2
    assert place.compare("--readme", str(readme), scale="smoke") == 2
    inside = ["mnist_rot", "--runs", str(place.outputs / "smoke"), "--results", str(tmp_path / "r")]
    assert compare.main(inside) == 2
    assert "smoke" in capsys.readouterr().err and not place.results.exists()


# ---- Bad input ----------------------------------------------------------------------------------

WHOLE = json.dumps(record())
BAD = {
    "cut short": WHOLE[:200], "empty": "", "no object": "[1, 2]", "not UTF-8": "\udcff",
    "deep": "[" * 100_000, "a missing field": json.dumps({"run_id": "x"}),
    "text for a number": json.dumps(record(error="2.0")),
    "a truth value for a number": json.dumps(record(error=True)),
    "NaN": json.dumps(record(error=math.nan)), "infinity": json.dumps(record(seconds=math.inf)),
    "no error though finished": json.dumps(record(error=None)),
    "an error above 100": json.dumps(record(error=100.5)),
    "a negative error": json.dumps(record(error=-0.1)),
    "a fractional seed": json.dumps(record(seed=0.5)),
    "an unknown status": json.dumps(record(status="done")),
    "data that is no object": json.dumps(record(data=3)),
    "a number too long": WHOLE.replace("26747", "9" * 5000),
}  # fmt: skip


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_damaged_record_is_named_and_skipped(place, capsys, text):
    folder = place.put(record(2.1, 7)).outputs / "bad" / "seed=0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert place.compare("--rows", "mnistrot_pdo_p8") == 0
    (problem,) = [x for x in capsys.readouterr().err.splitlines() if "skipped" in x]
    assert str(folder / "result.json") in problem and len(place.csv.splitlines()) == 2


def test_if_only_damaged_records_are_there_the_exit_status_says_so(place):
    assert place.put(WHOLE[:100]).compare() == 1
    assert place.compare("--rows", "mnistrot_pdo_p8") == 1


def test_a_run_folder_without_a_record_is_named(place, capsys):
    (place.outputs / "mnistrot_z2" / "seed=4").mkdir(parents=True)
    place.put(record()).compare()
    assert "seed=4: no result.json" in capsys.readouterr().err


def test_of_a_copied_run_one_is_used_and_the_copy_named(place, capsys):
    place.put(record(2.1, 0)).put(record(2.1, 0), under="copy")
    assert place.compare("--rows", "mnistrot_pdo_p8") == 0
    assert "same run id0" in capsys.readouterr().err and "2.100 (n = 1)" in place.line()


def test_of_different_runs_with_one_id_none_is_used(place, capsys):
    place.put(record(2.1, 0)).put(record(2.2, 0), under="other")
    assert place.compare("--rows", "mnistrot_pdo_p8") == 1
    assert "different runs named id0" in capsys.readouterr().err and "id0" not in place.csv


@pytest.mark.parametrize("damage", [
    "id9,mnistrot_pdo_p8,,1", 'id9,"mnistrot', "<<<<<<< HEAD",
    "id9" + ",x" * 24, ",mnistrot_pdo_p8,,0,failed" + "," * 20,
])  # fmt: skip
def test_a_damaged_line_is_named_not_counted_and_kept_as_it_is(place, capsys, damage):
    place.commit(record(2.1, 0), extra=damage + "\n").put(record(2.3, 1))
    assert place.compare() == 0
    assert "runs.csv:3: kept but not counted" in capsys.readouterr().err
    assert place.csv.splitlines()[-1] == damage and "n = 2" in place.line()
    before = snapshot(place.results)
    place.compare()
    assert snapshot(place.results) == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a,b\n1,2\n", b"run_id,run_id\n"])
def test_a_runs_csv_that_cannot_be_read_is_left_as_it_is(place, capsys, content):
    place.results.mkdir()
    (place.results / "runs.csv").write_bytes(content)
    place.put(record())
    before = snapshot(place.results)
    assert place.compare() == 2
    assert "left as it is" in capsys.readouterr().err and snapshot(place.results) == before


def test_two_committed_lines_with_one_id_are_refused(place, capsys):
    place.commit(record(2.1, 0), record(2.2, 0))
    before = snapshot(place.results)
    assert place.compare() == 2 and snapshot(place.results) == before
    assert "2 lines are named id0" in capsys.readouterr().err


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
names = st.sampled_from([*record(), "data.name", "reason"]) | st.text(max_size=6)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(names, values, max_size=4), st.sets(names, max_size=2), st.integers(0, 1200))
def test_mutated_records_never_end_in_a_traceback_and_never_in_an_unreadable_csv(
    tmp_path_factory, changed, dropped, cut
):
    place = Place(tmp_path_factory.mktemp("mutated"))
    mutant = {k: v for k, v in (record(2.2, 1) | changed).items() if k not in dropped}
    place.put(record(2.1, 0)).put(json.dumps(mutant)[: cut if cut < 900 else None], under="other")
    assert place.compare() == 0
    content = runs.read_csv(place.results / "runs.csv")
    assert content.runs and not content.damaged
    first = snapshot(place.results)
    assert place.compare() == 0 and snapshot(place.results) == first


# ---- Rows, tables, README, the command ----------------------------------------------------------


def test_a_requested_row_without_a_finished_run_exits_1_and_the_table_is_written(place, capsys):
    place.put(record(2.1, 0), record(2.2, 1, overrides="group=p4", experiment="mnistrot_z2"))
    assert place.compare("--rows", "mnistrot_pdo_p8,mnistrot_z2") == 1
    assert "no finished run at full scale of: mnistrot_z2" in capsys.readouterr().err
    assert "2.100" in place.table


def test_unknown_rows_and_tables_are_refused_before_anything_is_written(place, capsys):
    place.put(record())
    assert place.compare("--rows", "mnistrot_pdo_p8,mnistrot_q9") == 2
    assert "no row mnistrot_q9" in (said := capsys.readouterr().err) and "mnistrot_z2" in said
    assert compare.main(["../mnist_rot", "--results", str(place.results)]) == 2
    assert "there are: " in (said := capsys.readouterr().err) and "mnist_rot" in said
    assert compare.main(["mnist_rot", "--runs", "nowhere", "--results", str(place.results)]) == 2
    assert not place.results.exists()


def test_the_readme_gets_the_table_between_its_marks_and_nothing_else(place, tmp_path):
    readme = tmp_path / "README.md"
    around = "# A\n<!-- table:mnist_rot -->\n{}<!-- /table -->\n<!-- table:b -->\n<!-- /table -->\n"
    readme.write_text(around.format("old\n"), "utf-8")
    place.put(record(2.1, 0), record(2.2, 1, overrides="group=p4")).compare("--readme", str(readme))
    text = readme.read_text("utf-8")
    start, end = (text.index(mark) for mark in ("| method", "<!-- /table -->"))
    assert text == around.format(text[start:end])
    assert "| PDO-eConv " in text and "2.100 (n = 1)" in text and "group=p4" not in text
    place.compare("--readme", str(readme))
    assert readme.read_text("utf-8") == text


@pytest.mark.parametrize("text", [
    "", "<!-- table:mnist_rot -->", "<!-- /table --><!-- table:mnist_rot -->",
    "<!-- table:mnist_rot --><!-- table:b --><!-- /table -->",
    "<!-- table:mnist_rot --><!-- /table --><!-- table:mnist_rot --><!-- /table -->",
])  # fmt: skip
def test_a_readme_without_its_marks_is_refused_and_nothing_is_written(place, tmp_path, text):
    (readme := tmp_path / "README.md").write_text(text)
    assert place.put(record()).compare("--readme", str(readme)) == 2
    assert readme.read_text() == text and not place.results.exists()


def test_the_markdown_tables_are_tables():
    text = markdown.render(
        "mnist_rot", tables.table_lines(PAPER, line_of(2.1, 2.2).runs, "full"), "full"
    )
    widths = {len(re.findall(r"(?<!\\)\|", x)) for x in text.splitlines() if x.startswith("| ")}
    assert widths == {len(markdown.RESULTS) + 1, len(markdown.RUNS) + 1}


def run_command(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)


def test_the_command_prints_the_table_and_its_exit_status_tells(place):
    done = run_command(*place.put(record(2.1, 0)).arguments("--rows", "mnistrot_pdo_p8"))
    assert done.returncode == 0 and done.stdout == place.table
    assert run_command(*place.arguments("--rows", "mnistrot_z2")).returncode == 1
    unknown = run_command("cifar11")
    assert unknown.returncode == 2 and "Traceback" not in unknown.stderr + done.stderr
    assert run_command("mnist_rot", "--scale", "big").returncode == 2


def test_a_thousand_runs_are_compared_in_three_seconds(place):
    rows = [line.row for line in PAPER]
    many = [
        record(2 + n / 1e4, n, experiment=rows[n % 10], overrides=f"x={n // 100}")
        for n in range(1000)
    ]
    place.put(*many)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_command(*place.arguments()).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of processors: the machine may be busy
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    assert len(place.csv.splitlines()) == 1001


def test_the_table_is_made_without_torch():
    code = (
        f"import sys, runpy; sys.argv = ['compare.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'compare.py')!r}, run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_records_are_not_changed_by_reading_them():
    one = record()
    before = copy.deepcopy(one)
    runs.from_record(one)
    assert one == before
