"""What a run leaves behind: whole files, honest identity, nothing lost."""

import json
import math
import shutil
from pathlib import Path

import pytest
from commands import git

from pdoe.run import record as records
from pdoe.run.record import (
    RecordError,
    RunFolder,
    digest,
    new_record,
    repository_state,
    run_folder,
    run_id,
)

DATA = {"name": "mnist_rot", "provenance": "regenerated", "sha256": "ab"}
HARDWARE = {"device": "CPU", "precision": "fp32", "threads": 2, "torch": "2.14.1"}


def record(tmp_path, before=None, **changed):
    return new_record(
        **{
            "experiment": "row",
            "overrides": [],
            "seed": 0,
            "config": {"model": {"width": 7}, "decay": 0.0},
            "data": DATA,
            "hardware": HARDWARE,
            "code": tmp_path,
            "before": before,
            "config_before": {"model": {"width": 7}, "decay": 0.0},
            "folder": tmp_path,
            **changed,
        }
    )


def test_a_hash_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})


def test_configuration_seed_and_data_make_the_run():
    runs = {run_id(*it) for it in (("c", 0, "d"), ("e", 0, "d"), ("c", 1, "d"), ("c", 0, "f"))}
    assert len(runs) == 4
    assert run_id("c", 0, "d") in runs


def test_folders_carry_no_time_stamp_and_are_apart_by_scale_and_overrides():
    assert str(run_folder("outputs", "row", [], 3)) == "outputs/row/seed=3"
    assert str(run_folder("o", "row", ["group=p4"], 3)) == "o/row/group=p4/seed=3"
    assert str(run_folder("o", "row", [], 3, "smoke")) == "o/smoke/row/seed=3"
    odd = run_folder("o", "row", ["a=[1, 2]", "b=../x"], 0)
    assert odd.parent.parent == run_folder("o", "row", [], 0).parent
    assert ".." not in odd.parts
    long = [run_folder("o", "row", [f"a={'x' * 300}{i}"], 0) for i in (0, 1)]
    assert long[0] != long[1] and len(long[0].parent.name) < 200


def test_results_do_not_make_a_tree_dirty_and_anything_else_does(repository):
    commit, dirty = repository_state(repository)
    assert len(commit) == 40 and not dirty
    (repository / "results" / "runs.csv").write_text("2")
    (repository / "results" / "new.csv").write_text("2")
    assert repository_state(repository / "results") == (commit, False)
    (repository / "code.py").write_text("2")
    assert repository_state(repository) == (commit, True)
    assert repository_state(repository / "results") == (commit, True)


def test_a_new_file_makes_a_tree_dirty(repository):
    (repository / "new.py").write_text("1")
    assert repository_state(repository)[1]


def test_outside_a_repository_nothing_is_claimed(tmp_path):
    assert repository_state(tmp_path) == ("unknown", True)


def test_a_run_that_goes_on_under_another_commit_records_both(repository):
    first = record(repository)
    assert first["status"] == "interrupted" and not first["dirty"]
    again = record(repository, {**first, "epochs": 7})
    assert again["commit"] == first["commit"] and again["epochs"] == 7
    (repository / "code.py").write_text("2")
    dirty = record(repository, first)
    assert dirty["dirty"]
    git(repository, "commit", "-qam", "second")
    second = record(repository, dirty)
    assert second["commit"] == f"{first['commit']}+{repository_state(repository)[0]}"
    assert second["dirty"]  # part of it was
    assert record(repository, second)["commit"] == second["commit"]
    assert second["started"] == first["started"]


def test_another_configuration_or_other_data_are_refused_and_named(tmp_path):
    before = record(tmp_path)
    other = {"model": {"width": 8}, "decay": 0}
    said = "interrupted.*: model.width 7, now 8; decay 0.0, now 0; .*restart=true"
    with pytest.raises(RecordError, match=said):
        record(tmp_path, before, config=other)
    with pytest.raises(RecordError, match=f"config_hash .*, now {digest(other)}"):
        record(tmp_path, before, config=other, config_before=None)
    with pytest.raises(RecordError, match="data.provenance regenerated, now embedded"):
        record(tmp_path, before, data={**DATA, "provenance": "embedded", "sha256": "cd"})


def test_the_record_of_another_seed_is_refused(tmp_path):
    """A copied folder, say: seed=5 would stay untrained, or be written down as seed 0."""
    before = record(tmp_path)
    for one in (before, {**before, "status": "finished", "test_error": 1.87}):
        with pytest.raises(RecordError, match="seed 0, now 5; .*restart=true"):
            record(tmp_path, one, seed=5)


def test_a_run_belongs_to_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "seed=0")
    with folder.taken(), pytest.raises(RecordError, match="in use by another process"):
        with RunFolder(folder.path).taken():
            raise AssertionError("taken twice")
    with folder.taken():
        assert not list(folder.path.iterdir())


def test_a_finished_run_stays_as_it_is(tmp_path):
    before = {**record(tmp_path), "status": "finished", "test_error": 1.87, "device": "another"}
    assert record(tmp_path, before) == before


def test_a_record_without_its_fields_is_refused(tmp_path):
    with pytest.raises(RecordError, match="damaged at run_id, experiment.*restart=true"):
        record(tmp_path, {"status": "finished"})


@pytest.mark.parametrize(
    "field",
    [
        {"data": None},
        {"data": {}},
        {"commit": None},
        {"status": 3},
        {"config_hash": None},
        {"manifest": None},
        {"manifest": {"environments": None, "parts": []}},
    ],
)
def test_a_record_with_a_field_of_another_kind_is_refused(tmp_path, field):
    with pytest.raises(RecordError, match=f"damaged at {next(iter(field))};"):
        record(tmp_path, {**record(tmp_path), **field})


def test_a_finished_record_without_its_error_is_refused(tmp_path):
    with pytest.raises(RecordError, match="damaged at test_error"):
        record(tmp_path, {**record(tmp_path), "status": "finished"})
    with pytest.raises(RecordError, match="damaged at test_error"):
        record(tmp_path, {**record(tmp_path), "status": "finished", "test_error": math.nan})


def test_a_damaged_record_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_result() is None
    for damaged in ('{"run_id": "a', "[1]", "\x00", "[" * 100_000):
        (tmp_path / "result.json").write_text(damaged)
        with pytest.raises(RecordError, match="result.json.*restart=true"):
            folder.read_result()


def test_a_record_reads_back_as_it_was_written(tmp_path):
    folder, written = RunFolder(tmp_path / "new"), record(tmp_path)
    folder.write_result(written)
    assert folder.read_result() == written
    assert [path.name for path in folder.path.iterdir()] == ["result.json"]  # nothing beside


def test_metrics_have_a_line_per_epoch_and_a_repeated_epoch_replaces_its_line(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 1.0), (2, 2.5)):
        folder.append_metrics({"epoch": epoch, "train_loss": loss})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["train_loss"] for line in lines] == [3.0, 2.5]


def test_a_metrics_line_cut_short_is_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"epoch": 1})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "tr')
    folder.append_metrics({"epoch": 2})
    assert [row["epoch"] for row in folder.metrics()] == [1, 2]


@pytest.mark.parametrize("line", ['{"epo', "5", "null", "{}", '{"epoch": "2"}', "nothing"])
def test_a_damaged_line_among_the_metrics_is_named_and_nothing_is_lost(tmp_path, line):
    content = f'{{"epoch": 1}}\n{line}\n{{"epoch": 3}}\n'
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(RecordError, match="metrics.jsonl, line 2, is no row of an epoch"):
        RunFolder(tmp_path).append_metrics({"epoch": 4})
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_what_is_half_discarded_is_no_run_to_go_on_with(tmp_path, monkeypatch):
    """Killed at whatever step, it never has a checkpoint without its record."""

    def operations(stop_after):
        """Lets so many operations on files happen."""
        left = iter(range(stop_after))

        def limited(original):
            def act(*arguments, **options):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return original(*arguments, **options)

            return act

        for name in ("rename", "unlink"):
            patched.setattr(Path, name, limited(getattr(Path, name)))
        patched.setattr(records.shutil, "rmtree", limited(shutil.rmtree))

    for count in range(8):
        folder = RunFolder(tmp_path / str(count))
        folder.write_result({})
        folder.append_metrics({"epoch": 1})
        folder.checkpoint.mkdir()
        (folder.checkpoint / "state.pt").write_text("x")
        with monkeypatch.context() as patched:
            operations(count)
            try:
                folder.discard()
                break
            except KeyboardInterrupt:
                pass
        untouched = (folder.path / "result.json").exists() and folder.metrics()
        assert untouched or not folder.checkpoint.exists()
        folder.discard()
        assert list(folder.path.iterdir()) == []
    assert count > 4


def test_discarding_leaves_nothing_of_the_run(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_result({})
    folder.write_config("a: 1")
    folder.append_metrics({"epoch": 1})
    folder.checkpoint.mkdir()
    (folder.checkpoint / "state.pt").write_text("x")
    folder.discard()
    assert list(tmp_path.iterdir()) == []
    folder.discard()
