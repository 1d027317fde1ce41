"""Published results: records, merging, the pages of a table, and the command that writes them."""

import csv
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdoe.files import write_whole
from pdoe.tables import cells, runs
from pdoe.tables.paper import read_paper

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("compare", ROOT / "scripts" / "compare.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)

PAPER = read_paper(ROOT / "experiments" / "mnist_rot" / "paper.csv")
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
        write_whole(self.results / "runs.csv", runs.format_runs_csv(lines) + extra)
        return self

    def arguments(self, *more):
        return ["mnist_rot", "--runs", str(self.outputs), "--results", str(self.results), *more]

    def publish(self, *more):
        return compare.main(self.arguments("--publish", *more))

    @property
    def csv(self):
        return (self.results / "runs.csv").read_text("utf-8")

    def page(self, name="table.md"):
        return (self.results / name).read_text("utf-8")

    def line(self, page="table.md", start="| PDO-eConv "):
        """The cells of a line of a page."""
        line = next(line for line in self.page(page).splitlines() if line.startswith(start))
        return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]

    def ours(self):
        return self.line()[4]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- Records and runs.csv -----------------------------------------------------------------------


def test_a_record_comes_back_from_the_csv_with_every_digit(place):
    one = record(2.1 + 1e-15, seconds=1 / 3, overrides="group=p4,model.x=10", reason='a "b"\nc')
    place.commit(one)
    run = runs.from_record(one)
    place.publish()
    assert run["test_error"] == one["test_error"] and run["seconds"] == 1 / 3
    place.put(one)
    place.publish()
    (back,) = runs.read_csv(place.results / "runs.csv").runs
    assert back.values == run.values and back.cells["reason"] == 'a "b" c'


def test_the_columns_are_the_fields_of_a_record_and_extra_ones_follow(place):
    place.put(record(seed=0), record(seed=1, reason="why", data=record()["data"] | {"draw": 3}))
    place.publish()
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
    place.publish()
    after = place.csv.splitlines()
    assert [after[0], after[1], after[3]] == [before[0], before[1], before[3]]
    assert ",2.5," in after[2] and ",2.6," in after[4] and len(after) == 5


def test_a_finished_line_does_not_give_way_to_an_unfinished_run(place, capsys):
    place.commit(record(2.1, 0)).put(record(None, 0, status="interrupted"))
    assert place.publish("--rows", "mnistrot_pdo_p8") == 0
    assert "2.100 (n = 1)" in place.ours() and "the finished line" in capsys.readouterr().err


@pytest.mark.parametrize("elsewhere", [{"device": "another CPU"}, {"commit": "fedcba9876543210"}])
def test_a_run_on_another_machine_or_commit_has_a_line_of_its_own(place, elsewhere):
    """The committed line stays and counts; the repetition is listed, and averaged into nothing."""
    again = {"started": "2026-02-02T03:04:05+00:00"} | elsewhere
    place.commit(record(2.1, 0)).put(record(2.5, 0, **again))
    before = place.csv.splitlines()
    assert place.publish() == 0
    assert place.csv.splitlines()[:2] == before and len(place.csv.splitlines()) == 3
    assert place.ours() == "2.100 (n = 1)" and "2 finished" in place.page("machines.md")
    place.put(record(2.6, 0, **again)).publish()  # the same machine and commit once more
    assert place.csv.splitlines()[:2] == before and len(place.csv.splitlines()) == 3
    assert ",2.6," in place.csv and ",2.5," not in place.csv


def test_a_run_that_went_on_elsewhere_replaces_what_was_published_of_its_start(place):
    place.commit(record(None, 0, status="interrupted")).put(
        record(2.1, 0, device="a CPU+a GPU", commit="0123456789abcdef+fedcba9876543210")
    )
    assert place.publish() == 0 and len(place.csv.splitlines()) == 2
    assert place.ours() == "2.100 (n = 1)"


def test_a_run_with_uncommitted_changes_does_not_replace_a_clean_one(place, capsys):
    place.commit(record(2.1, 0)).put(record(2.5, 0, dirty=True))
    assert place.publish() == 0 and place.ours() == "2.100 (n = 1)"
    assert "uncommitted changes; the finished line stays" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["epochs=3", "train_images=100", "test_images=100"])
def test_a_trial_is_not_published(place, capsys, name):
    overrides = f"recipe.{name},recipe=mnistrot_common"
    place.put(record(2.1, 0), record(9.0, 1, overrides=overrides))
    assert place.publish() == 0 and "id1" not in place.csv
    assert f"not published: a trial with recipe.{name}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run_id", "experiment"])
@pytest.mark.parametrize("text", ["../x", "./mnistrot_z2", "a/b", "..", "/x", "a\\\\b"])
def test_a_name_that_is_a_path_is_refused(place, capsys, name, text):
    place.put(record(2.1, 0), record(2.2, 1, **{name: text}))
    assert place.publish() == 0 and len(place.csv.splitlines()) == 2
    assert f"{name} is {text!r}, expected a file name" in capsys.readouterr().err


@given(st.text(alphabet="=+-@'\t 1e.ab,\"\n|", max_size=6))
def test_no_cell_is_a_formula_and_each_is_read_back(text):
    escaped = cells.escape_formula(text)
    assert cells.unescape_formula(escaped) == text
    assert escaped[:1] not in ("=", "+", "@", "-", "\t") or cells.is_number(escaped)


def test_a_formula_in_a_record_is_text_in_every_csv(place):
    formula = {"overrides": "+model.x=1", "device": "=1+1", "=key": "@x"}
    place.put(*(record(2.0 + seed / 10, seed, **formula) for seed in (0, 1)))
    assert place.publish() == 0
    for path in place.results.glob("*.csv"):
        for line in csv.reader(path.read_text("utf-8").splitlines()):
            assert not any(cell.startswith(("=", "@", "+")) for cell in line), path
    run = runs.read_csv(place.results / "runs.csv").runs[0]
    assert run.cells["=key"] == "@x" and run["overrides"] == "+model.x=1"


@pytest.mark.parametrize("status", ["failed", "interrupted", "diverged"])
def test_runs_that_did_not_finish_stay_lines(place, status):
    broken = record(None, 0, status=status, equivariance_error=None, seconds_per_epoch=None)
    place.put(broken, record(2.0, 1)).publish()
    assert f",{status}," in place.csv and f"1 {status}" in place.page("machines.md")


def test_lines_are_sorted_whatever_the_order_of_arrival(place, tmp_path):
    members = [record(seed=s) for s in (10, 9, 2)] + [record(seed=3, overrides="group=p4")]
    place.put(*members).publish()
    (other := tmp_path / "other").mkdir()
    again = Place(other).put(*reversed(members))
    again.publish()
    assert place.csv == again.csv
    assert re.findall(r"^id(\d+)", place.csv, re.M) == ["2", "9", "10", "3"]


def test_rendering_what_is_committed_gives_the_same_bytes(place):
    place.put(record(2.1, 0), record(2.3, 1, dirty=True), record(2.2, 2, "embedded"),
              record(2.5, 3, overrides="group=p4"), record(None, 4, status="diverged"))  # fmt: skip
    place.publish()
    first = snapshot(place.results)
    for path in sorted(place.outputs.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    place.publish()
    assert snapshot(place.results) == first


def test_the_table_in_the_readme_is_that_of_the_committed_runs(place, tmp_path):
    shutil.copytree(ROOT / "results" / "mnist_rot", place.results)
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    assert place.publish("--readme", str(readme)) == 0
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes()


def test_runs_of_other_tables_are_left_out(place, capsys):
    place.put(record(seed=0), record(seed=1, experiment="cifar10_x")).publish()
    assert "cifar10_x" not in place.csv + capsys.readouterr().err


# ---- The pages ----------------------------------------------------------------------------------


def test_the_table_has_every_published_row_and_at_most_eight_columns(place):
    assert place.publish() == 0
    rows = [line for line in place.page().splitlines() if "`mnistrot_" in line]
    assert len(rows) == len(PAPER) == 10 and all("| not run " in row for row in rows)
    assert len(place.line()) <= 8 and not (place.results / "machines.md").exists()


def test_a_line_shows_what_was_measured_and_how(place):
    place.put(record(2.1, 0), record(2.3, 1, precision="fp32", test_error_best=2.2)).publish()
    assert place.line() == [
        "PDO-eConv", "p8", "26,000 / 26,747", "1.87", "2.200 ± 0.141 (n = 2)",
        "reproduced (provisional: n = 2)", "–", "`mnistrot_pdo_p8`",
    ]  # fmt: skip
    assert "1 of the 10 published rows" in place.page() and "1 reproduced" in place.page()
    assert place.line("verdicts.md", "| `mnistrot_pdo_p8`") == [
        "`mnistrot_pdo_p8`", "1.87", "2.200 ± 0.141 (n = 2; 2.100 to 2.300)",
        "0.929 to 3.471",  # 12.7062 * 0.1 = 1.27062
        "± 0.129",  # 1.959964 sqrt(2.2 * 97.8 / 50000)
        "–",  # no other draw
        "+0.330 ± 1.283",  # sqrt(1.27062^2 + 1.959964^2 (2.2 * 97.8 + 1.87 * 98.13) / 50000)
        "reproduced (regenerated data; provisional: n = 2)",
        "2.150 ± 0.071 (n = 2; 2.100 to 2.200)",
    ]  # fmt: skip
    assert place.line("machines.md", "| `mnistrot_pdo_p8`") == [
        "`mnistrot_pdo_p8`", "regenerated", "2 finished", "0, 1", "200", "bf16, fp32", "a CPU",
        "2,400", "3.0e-07 / 4.0e-01", "`0123456`", "–",
    ]  # fmt: skip


def test_other_settings_and_other_data_have_pages_of_their_own(place):
    place.put(record(2.1, 0), record(3.1, 1, "embedded"), record(4.1, 2, overrides="group=p4"))
    place.publish()
    assert place.ours() == "2.100 (n = 1)"
    other = place.line("configurations.md", "| `mnistrot_pdo_p8`")
    assert other[2:5] == ["embedded", "3.100 (n = 1)", "not comparable (embedded data)"]
    assert place.line("overrides.md", "| `mnistrot_pdo_p8`")[2] == "4.100 (n = 1)"
    assert not any(error in place.page() for error in ("3.100", "4.100"))
    (place.outputs / "run1" / "seed=1" / "result.json").unlink()
    (place.results / "runs.csv").unlink()
    place.publish()
    assert not (place.results / "configurations.md").exists()  # a page without content goes


def test_each_draw_of_the_data_has_a_verdict_of_its_own(place):
    names = {"1": "regenerated, draw 1", "2": "regenerated, draw 2"}
    draws = [
        record(3.0 + seed, seed, names[draw], run_id=f"d{draw}{seed}",
               overrides=f"data.draw={draw}")
        for draw in names for seed in (0, 1)
    ]  # fmt: skip
    mixed = record(9.0, 0, names["1"], run_id="mixed", overrides="data.draw=1,group=p4")
    place.put(record(2.1, 0), *draws[:2]).publish()
    place.put(record(2.1, 0), *draws, mixed).publish()
    assert place.ours() == "2.100 (n = 1)"
    for draw in names:
        line = place.line("verdicts.md", f"| `mnistrot_pdo_p8` `data.draw={draw}`")
        assert line[2].startswith("3.500 ± 0.707 (n = 2")
        assert line[6].startswith("+1.630 ± ")
        assert line[7].endswith(f"(regenerated data, draw {draw}; provisional: n = 2)")
    assert place.line("overrides.md", "| `mnistrot_pdo_p8`")[2] == "9.000 (n = 1)"
    assert "`data.draw=1`" not in place.page("overrides.md")
    assert not (place.results / "configurations.md").exists()


def test_runs_with_the_recipe_of_all_rows_stand_together(place):
    common = {"overrides": "recipe=mnistrot_common"}
    p8 = [record(e, s, run_id=f"a{s}", **common) for s, e in enumerate((1.9, 2.0))]
    z2 = {"experiment": "mnistrot_z2", **common}
    z2 = [record(e, s, run_id=f"b{s}", **z2) for s, e in enumerate((4.5, 4.6))]
    place.put(record(2.1, 0), *p8, *z2).publish()
    ours, _, common, _ = place.line()[4:]
    assert (ours, common) == ("2.100 (n = 1)", "1.950 ± 0.071 (n = 2)")
    ours, verdict, common, _ = place.line(start="| Z2CNN ")[4:]
    assert (ours, verdict, common) == ("–", "own recipe not run", "4.550 ± 0.071 (n = 2)")
    names, difference, *_ = place.line("differences.md", "| `")
    assert names == (
        "`mnistrot_z2` `recipe=mnistrot_common` − `mnistrot_pdo_p8` `recipe=mnistrot_common`"
    )
    assert difference == "+2.600 ± 0.000 (n = 2)"


def test_marks_tell_of_selected_epochs_machines_and_uncommitted_changes(place):
    plain = record(2.1, 0)
    for fields, mark in (
        ({}, ""), ({"device": "another CPU"}, "†"), ({"ranks": 4}, "†"), ({"dirty": True}, "\\*"),
        ({"select": "test_best"}, "‡"), ({"select": "train_best"}, "‡"),
    ):  # fmt: skip
        shutil.rmtree(place.results, ignore_errors=True)
        place.put(plain, record(2.3, 1, **fields)).publish()
        assert place.ours() == f"2.200 ± 0.141 (n = 2){mark}"
        assert ("selected on the test set" in place.line()[5]) == ("test_best" in fields.values())


def test_a_difference_across_machines_precisions_or_dirty_trees_is_marked(place):
    p8 = [record(2.0 + s / 10, s, run_id=f"a{s}") for s in (0, 1)]
    z2 = {"experiment": "mnistrot_z2"}
    for changed, mark in (
        ({}, ""), ({"device": "a GPU"}, " †"), ({"precision": "fp32"}, " †"),
        ({"dirty": True}, " \\*"), ({"ranks": 2, "dirty": True}, " \\*†"),
    ):  # fmt: skip
        shutil.rmtree(place.results, ignore_errors=True)
        others = [record(5.0 + s / 10, s, run_id=f"b{s}", **z2, **changed) for s in (0, 1)]
        place.put(*p8, *others).publish()
        (names, *_) = place.line("differences.md", "| `")
        assert names == f"`mnistrot_z2` − `mnistrot_pdo_p8`{mark}"


def test_runs_on_held_out_images_have_a_table_of_their_own(place, capsys):
    held_out = "regenerated, 2000 held out"
    tuned = [record(2.5, 1, held_out), record(3.0, 2, held_out, overrides="model.x=5")]
    assert place.put(record(2.1, 0), *tuned).publish() == 0
    assert "id0" in place.csv and "id1" not in place.csv
    before = snapshot(place.results)
    assert place.publish("--validation") == 0
    assert before.items() <= snapshot(place.results).items()  # and more
    assert "id0" not in (place.results / "validation" / "runs.csv").read_text("utf-8")
    line = place.line("validation/table.md", "| `mnistrot_pdo_p8`")
    sampling = 1.96 * (2.5 * 97.5 / 2000) ** 0.5
    assert line[1:] == ["2.500 (n = 1)", f"± {sampling:.3f}", "–"]
    assert "`model.x=5`" in place.page("validation/table.md")
    assert "mnistrot_z2" not in place.page("validation/table.md")
    assert place.publish("--validation", "--rows", "mnistrot_pdo_p8") == 2
    assert "held-out images are no published test set" in capsys.readouterr().err


@pytest.mark.parametrize("field", [{"config_hash": "decaf"}, {"data": {"sha256": "5b"}}])
def test_only_seeds_are_averaged(place, tmp_path, field):
    """Neither two configurations nor two data sets, even under one seed; the newest comes first."""
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:mnist_rot -->\n<!-- /table -->\n")
    data = record()["data"] | field.get("data", {})
    old = [record(11.5, 0, run_id="old", started="2026-01-01T23:59:59+00:00")]
    new = [record(e, s, **{**field, "data": data}) for s, e in enumerate((2.1, 2.3))]
    place.put(*old, *new).publish("--readme", str(readme))
    assert place.ours() == "2.200 ± 0.141 (n = 2)"
    other = place.line("configurations.md", "| `mnistrot_pdo_p8`")
    assert other[1:2] + other[3:4] == ["`c0ffee`", "11.500 (n = 1)"]
    assert "2.200" in readme.read_text("utf-8") and "11.500" not in readme.read_text("utf-8")


def test_a_configuration_that_never_finished_does_not_hide_the_one_that_did(place):
    failed = record(None, 1, status="failed", config_hash="decaf", started="2027-01-01T00:00:00")
    place.put(record(2.1, 0), failed).publish()
    assert place.ours() == "2.100 (n = 1)"
    other = place.line("configurations.md", "| `mnistrot_pdo_p8`")
    assert other[1] == "`decaf`" and other[4] == "not run (1 failed)"


HOSTILE = "a|b <!-- /table --> [x](http://y) `c <script> *d* &amp;"


@pytest.mark.parametrize("name", ["device", "precision", "commit", "overrides", "config_hash"])
def test_text_from_a_record_cannot_break_a_page(place, tmp_path, name):
    readme = tmp_path / "README.md"
    around = "# A\n<!-- table:mnist_rot -->\n<!-- /table -->\nend\n"
    readme.write_text(around)
    older = {"started": "2026-01-01T00:00:00+00:00", "run_id": "old"}
    fields = {name: HOSTILE, "provenance": HOSTILE}
    place.put(record(2.1, 0, **fields), record(2.2, 1, **fields), record(2.2, 2, **older, **fields))
    assert place.publish("--readme", str(readme)) == 0
    first = readme.read_text("utf-8")
    for path in place.results.glob("*.md"):
        page = path.read_text("utf-8")
        assert "<!--" not in page and "<script" not in page
        text = re.sub("`[^`]*`", "", page.replace("\\`", ""))  # without code
        assert not re.search(r"(?<!\\)\]\(http", text)
        for line in (x for x in page.splitlines() if x.startswith("| `mnistrot_pdo_p8`")):
            header = page[: page.index(line)].rpartition("\n| experiment")[2].partition("\n")[0]
            assert len(re.findall(r"(?<!\\)\|", line)) == header.count("|") + 1
    place.publish("--readme", str(readme))
    assert readme.read_text("utf-8") == first and first.count("<!-- /table -->") == 1


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
    assert place.publish() == 0
    assert "manifest" not in place.csv
    (path,) = (place.results / "details").iterdir()  # the other run left nothing
    assert json.loads(path.read_text()) == {
        "run_id": "id0",
        "metrics": {"epoch": [1, 2], "test_error": [None, 3.0], "train_loss": [1.0, 0.5]},
        "diagnostics": {"confusion": [[1, 0], [0, 1]]},
        "manifest": manifest,
    }
    before = snapshot(place.results)
    place.publish()
    assert snapshot(place.results) == before


def test_details_that_a_folder_has_lost_stay(place):
    place.put(record(2.1, 0))
    folder = with_details(place)
    place.publish()
    before = snapshot(place.results)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 1.0, "test_error": null}\n')
    (folder / "diagnostics.json").unlink()
    place.publish()
    assert snapshot(place.results) == before
    for damaged in (b"{", b"\xff"):  # it is made anew
        (place.results / "details" / "id0.json").write_bytes(damaged)
        assert place.publish() == 0
        held = json.loads((place.results / "details" / "id0.json").read_text())
        assert held["metrics"]["epoch"] == [1] and held["diagnostics"] is None


def test_a_smoke_run_that_was_copied_elsewhere_is_not_the_row(place, capsys):
    smoke = {"configuration": {"recipe": {"scale": "smoke"}}}
    place.put(record(2.1, 0), record(89.5, 1, manifest=smoke), under="copied")
    assert place.publish() == 0
    assert "2.100 (n = 1)" in place.ours() and "id1" not in place.csv
    assert "1 run of another scale: left out" in capsys.readouterr().err


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
    assert place.publish() == 0 and "2.100" in place.ours()
    lines = [line for line in capsys.readouterr().err.splitlines() if name in line]
    assert len(lines) == bool(said) and all(said in line for line in lines)
    held = json.loads((place.results / "details" / "id0.json").read_text())
    if name == "diagnostics.json":
        assert held["diagnostics"] is None and held["metrics"]["epoch"] == [1, 2]
    else:
        assert held["diagnostics"] and len(held["metrics"].get("epoch", ())) <= 1


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
    assert place.publish("--rows", "mnistrot_pdo_p8") == 0
    (problem,) = [x for x in capsys.readouterr().err.splitlines() if "skipped" in x]
    assert str(folder / "result.json") in problem and len(place.csv.splitlines()) == 2


def test_if_only_damaged_records_are_there_the_exit_status_says_so(place):
    assert place.put(WHOLE[:100]).publish() == 1
    assert place.publish("--rows", "mnistrot_pdo_p8") == 1


def test_a_run_folder_without_a_record_is_named(place, capsys):
    (place.outputs / "mnistrot_z2" / "seed=4").mkdir(parents=True)
    place.put(record()).publish()
    assert "seed=4: no result.json" in capsys.readouterr().err


def test_of_a_copied_run_one_is_used_and_the_copy_named(place, capsys):
    place.put(record(2.1, 0)).put(record(2.1, 0), under="copy")
    assert place.publish("--rows", "mnistrot_pdo_p8") == 0
    assert "same run id0" in capsys.readouterr().err and "2.100 (n = 1)" in place.ours()


def test_of_different_runs_with_one_id_none_is_used(place, capsys):
    place.put(record(2.1, 0)).put(record(2.2, 0), under="other")
    assert place.publish("--rows", "mnistrot_pdo_p8") == 1
    assert "different runs named id0" in capsys.readouterr().err and "id0" not in place.csv


@pytest.mark.parametrize("damage", [
    "id9,mnistrot_pdo_p8,,1", 'id9,"mnistrot', "<<<<<<< HEAD",
    "id9" + ",x" * 24, ",mnistrot_pdo_p8,,0,failed" + "," * 20,
])  # fmt: skip
def test_a_damaged_line_is_named_not_counted_and_kept_as_it_is(place, capsys, damage):
    place.commit(record(2.1, 0), extra=damage + "\n").put(record(2.3, 1))
    assert place.publish() == 0
    assert "runs.csv:3: kept but not counted" in capsys.readouterr().err
    assert place.csv.splitlines()[-1] == damage and "n = 2" in place.ours()
    before = snapshot(place.results)
    place.publish()
    assert snapshot(place.results) == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a,b\n1,2\n", b"run_id,run_id\n"])
def test_a_runs_csv_that_cannot_be_read_is_left_as_it_is(place, capsys, content):
    place.results.mkdir()
    (place.results / "runs.csv").write_bytes(content)
    place.put(record())
    before = snapshot(place.results)
    assert place.publish() == 2
    assert "left as it is" in capsys.readouterr().err and snapshot(place.results) == before


def test_two_committed_lines_with_one_id_are_refused(place, capsys):
    place.commit(record(2.1, 0), record(2.2, 0))
    before = snapshot(place.results)
    assert place.publish() == 2 and snapshot(place.results) == before
    assert "2 lines are named id0 on one device" in capsys.readouterr().err


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
    assert place.publish() == 0
    content = runs.read_csv(place.results / "runs.csv")
    assert content.runs and not content.damaged
    first = snapshot(place.results)
    assert place.publish() == 0 and snapshot(place.results) == first


# ---- Rows, tables, README, the command ----------------------------------------------------------


def test_a_requested_row_without_a_finished_run_exits_1_and_the_table_is_written(place, capsys):
    place.put(record(2.1, 0), record(2.2, 1, overrides="group=p4", experiment="mnistrot_z2"))
    assert place.publish("--rows", "mnistrot_pdo_p8,mnistrot_z2") == 1
    assert "no finished run at full scale of: mnistrot_z2" in capsys.readouterr().err
    assert "2.100" in place.page()


def test_unknown_rows_and_tables_are_refused_before_anything_is_written(place, capsys):
    place.put(record())
    assert place.publish("--rows", "mnistrot_pdo_p8,mnistrot_q9") == 2
    assert "no row mnistrot_q9" in (said := capsys.readouterr().err) and "mnistrot_z2" in said
    assert compare.main(["../mnist_rot", "--results", str(place.results)]) == 2
    assert "there are: " in (said := capsys.readouterr().err) and "mnist_rot" in said
    assert compare.main(["mnist_rot", "--runs", "nowhere", "--results", str(place.results)]) == 2
    assert not place.results.exists()


def test_the_readme_gets_the_table_between_its_marks_and_nothing_else(place, tmp_path):
    readme = tmp_path / "README.md"
    around = "# A\n<!-- table:mnist_rot -->\n{}<!-- /table -->\n<!-- table:b -->\n<!-- /table -->\n"
    readme.write_text(around.format("old\n"), "utf-8")
    place.put(record(2.1, 0), record(2.2, 1, overrides="group=p4")).publish("--readme", str(readme))
    text = readme.read_text("utf-8")
    start, end = (text.index(mark) for mark in ("| method", "<!-- /table -->"))
    assert text == around.format(text[start:end])
    assert "| PDO-eConv " in text and "2.100 (n = 1)" in text and "group=p4" not in text
    place.publish("--readme", str(readme))
    assert readme.read_text("utf-8") == text


@pytest.mark.parametrize("text", [
    "", "<!-- table:mnist_rot -->", "<!-- /table --><!-- table:mnist_rot -->",
    "<!-- table:mnist_rot --><!-- table:b --><!-- /table -->",
    "<!-- table:mnist_rot --><!-- /table --><!-- table:mnist_rot --><!-- /table -->",
])  # fmt: skip
def test_a_readme_without_its_marks_is_refused_and_nothing_is_written(place, tmp_path, text):
    (readme := tmp_path / "README.md").write_text(text)
    assert place.put(record()).publish("--readme", str(readme)) == 2
    assert readme.read_text() == text and not place.results.exists()


def run_command(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)


def test_the_command_prints_short_lines_and_its_exit_status_tells(place):
    place.put(record(2.1, 0), record(2.2, 1, overrides="model.x=" + "9" * 200))
    done = run_command(*place.arguments("--publish", "--rows", "mnistrot_pdo_p8"))
    assert done.returncode == 0 and "2.100 (n = 1)" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 120
    assert run_command(*place.arguments("--publish", "--rows", "mnistrot_z2")).returncode == 1
    unknown = run_command("cifar11")
    assert unknown.returncode == 2 and "Traceback" not in unknown.stderr + done.stderr


def test_tables_need_no_torch():
    code = (
        "import pkgutil, importlib, sys, runpy, pdoe.tables\n"
        "for m in pkgutil.iter_modules(pdoe.tables.__path__):\n"
        "    importlib.import_module(f'pdoe.tables.{m.name}')\n"
        "sys.argv = ['compare.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'compare.py')!r}, run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
