"""One table, whatever kept the runs: their folders, W&B's folders, or a W&B project."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tables import Place, compare, record, snapshot
from test_tracking import StandInApi, nobody_is_logged_in, server, speaks  # noqa: F401

from pdoe.tables import runs
from pdoe.tracking import read as logged
from pdoe.tracking.read import Logged
from pdoe.tracking.write import Label, Tracker

ROWS = [
    {"epoch": 1, "learning_rate": 0.01, "train_loss": 2.0, "test_error": None, "seconds": 1.5},
    {"epoch": 2, "learning_rate": 0.0, "train_loss": 1 / 3, "test_error": 9.0, "seconds": 1.25},
]
DIAGNOSTICS = {"confusion": [[5, 1], [2, 7]], "turned": {"0": 2.0, "15": 7 / 3}, "layers": None}
MANIFEST = {
    "configuration": {"recipe": {"scale": "full"}, "offset": 0.1},
    "environments": [{"packages": {"torch": "2.14.1"}}],
    "parts": [{"environment": 0, "epochs": [0, 2]}],
}


def logged_run(place, one):
    """A run that leaves its own folder and tells W&B the same."""
    folder = place.outputs / f"run{one['run_id']}" / f"seed={one['seed']}"
    folder.mkdir(parents=True)
    begun = one | {"status": "interrupted", "test_error": None, "epochs": 0}
    run = Tracker(
        "online", folder, Label("pdoe", one["run_id"], "row", "row"),
        {"seed": one["seed"]}, begun,
    )  # fmt: skip
    for row in ROWS:
        run.log(row)
    run.finish(one, False, diagnostics=DIAGNOSTICS)
    (folder / "result.json").write_text(json.dumps(one))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "diagnostics.json").write_text(json.dumps(DIAGNOSTICS))


@speaks
def test_the_same_runs_give_the_same_table_from_each_source(
    tmp_path,
    server,  # noqa: F811
    monkeypatch,
    capsys,
):
    place = Place(tmp_path)
    for seed, error in enumerate((2.1, 2.0)):
        logged_run(place, record(error, seed, manifest=MANIFEST))
    mirrors = tmp_path / "copied"
    for number, folder in enumerate(sorted(place.outputs.rglob("wandb/run-2*"))):
        shutil.copytree(folder, mirrors / str(number) / folder.name)
    monkeypatch.setattr(logged, "_api", lambda: StandInApi(server))

    made = {}
    for name, source in {
        "folders": ["--runs", str(place.outputs)],
        "W&B's folders": ["--runs", str(mirrors)],
        "a project": ["--wandb", "pdoe"],
        "all": ["--runs", str(place.outputs), str(mirrors), "--wandb", "pdoe"],
    }.items():
        results = tmp_path / "results" / name
        arguments = ["mnist_rot", *source, "--results", str(results), "--publish"]
        assert compare.main(arguments) == 0
        made[name] = {path.relative_to(results): text for path, text in snapshot(results).items()}
    said = capsys.readouterr()
    assert "2.050 ± 0.071 (n = 2)" in said.out
    assert said.err.count("is the record of the same run") == 4  # of all: two runs, twice
    assert len(made["folders"]) == 8  # three CSV files, three pages, two files of details
    for name in made:
        assert made[name] == made["folders"], name


def test_a_run_that_was_killed_is_listed_and_averaged_into_nothing(tmp_path):
    """Nothing but W&B's folder of it is there, and nobody closed that."""
    place = Place(tmp_path)
    place.put(record(2.1, 0))
    begun = record(None, 1, status="interrupted", manifest=MANIFEST)
    run = Tracker(
        "offline", place.outputs, Label("pdoe", "id1", "row", "row"), {}, begun,
    )  # fmt: skip
    run.log(ROWS[0])
    run.finish(begun, failed=True)
    assert place.publish() == 0
    assert "1 finished, 1 interrupted" in place.page("machines.md")
    assert place.ours() == "2.100 (n = 1)"


def test_two_runs_under_one_id_are_named_whatever_kept_them(tmp_path, capsys):
    """Two machines, the same command, two errors: nothing says which is true."""
    place = Place(tmp_path)
    for machine, error in {"a": 2.0, "b": 3.0}.items():
        folder = place.outputs / machine
        folder.mkdir()
        one = record(error, 0)
        run = Tracker(
            "offline", folder, Label("pdoe", "id0", "row", "row"), {},
            one | {"status": "interrupted"},
        )  # fmt: skip
        run.finish(one, failed=False)
    assert place.publish() == 1
    assert "different runs named id0" in capsys.readouterr().err and "id0" not in place.csv


def test_what_wandb_has_of_the_end_goes_before_what_it_has_of_a_start(tmp_path, monkeypatch):
    place = Place(tmp_path)
    ones = [
        Logged("start", record(None, 0, status="interrupted", epochs=1), ROWS[:1], None),
        Logged("end", record(2.1, 0), ROWS, None),
    ]
    monkeypatch.setattr(logged, "read_project", lambda project: (ones, []))
    assert place.publish("--wandb", "pdoe") == 0 and place.ours() == "2.100 (n = 1)"


def test_a_smoke_run_in_a_project_is_not_in_the_full_table(tmp_path, monkeypatch):
    place = Place(tmp_path)
    smoke = {"configuration": {"recipe": {"scale": "smoke"}}}
    ones = [
        Logged("a", record(2.1, 0), ROWS, None),
        Logged("b", record(61.0, 1, manifest=smoke), ROWS, None),
    ]
    monkeypatch.setattr(logged, "read_project", lambda project: (ones, []))
    assert place.publish("--wandb", "pdoe") == 0
    assert place.ours() == "2.100 (n = 1)" and "id1" not in place.csv


def test_a_project_that_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    place = Place(tmp_path)
    monkeypatch.setattr(logged, "_api", lambda: Broken())
    assert place.publish("--wandb", "nobody/nothing") == 2
    said = capsys.readouterr().err
    assert said == (
        "compare: refused: W&B project nobody/nothing cannot be read: Could not find it\n"
    )
    assert not place.results.exists()


class Broken:
    def runs(self, *_, **__):
        raise ValueError("Could not find\nit")


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values |= st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=3), values, max_size=2)
names = st.sampled_from([*record(), "manifest"]) | st.text(max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(names, values, max_size=4),
    st.lists(st.dictionaries(st.sampled_from(["epoch", "train_loss", "x"]), values), max_size=3),
    values,
)
def test_mutated_runs_of_wandb_never_end_in_a_traceback(tmp_path_factory, changed, rows, found):
    place = Place(tmp_path_factory.mktemp("mutated"))
    place.put(record(2.1, 0))
    mutant = Logged("somewhere", record(2.2, 1) | changed, rows, found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logged, "read_project", lambda project: ([mutant], []))
        assert place.publish("--wandb", "pdoe") == 0
    (line,) = [line for line in place.csv.splitlines() if line.startswith("id0,")]
    assert ",finished,2.1,2.1," in line
    assert len(runs.read_csv(place.results / "runs.csv").runs) <= 2
