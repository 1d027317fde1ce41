"""What a run leaves behind: whole files, honest identity, nothing lost."""

import itertools
import json
import math
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from commands import git

from pdoe import files
from pdoe.run import repository as git_state
from pdoe.run.folder import RunFolder, run_folder
from pdoe.run.provenance import extend_manifest, update_last_part
from pdoe.run.record import RecordError, begin_record, continue_record, digest, run_id
from pdoe.run.repository import repository_state

DATA = {"name": "mnist_rot", "provenance": "regenerated", "sha256": "ab"}
HARDWARE = {"device": "CPU", "precision": "fp32", "threads": 2, "torch": "2.14.1"}
CONFIG = {"model": {"width": 7}, "decay": 0.0, "recipe": {"epochs": 9}}


def record(tmp_path, before=None, config=CONFIG, config_before=CONFIG, **changed):
    settings = {"experiment": "row", "overrides": [], "seed": 0, "data": DATA, "code": tmp_path}
    new = begin_record(**{**settings, "config": config, "hardware": HARDWARE, **changed})
    return continue_record(new, before, tmp_path, config, config_before)


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


@pytest.fixture
def fresh_reports():
    git_state._report_once.cache_clear()
    yield
    git_state._report_once.cache_clear()


def test_outside_a_repository_the_commit_is_unknown_and_a_line_says_why(
    tmp_path, monkeypatch, capsys, fresh_reports
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert repository_state(tmp_path) == repository_state(tmp_path) == ("unknown", True)
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert "the commit is recorded as unknown" in line and "not a git repository" in line


def test_without_git_and_in_a_checkout_of_another_owner_the_commit_is_unknown(
    repository, monkeypatch, capsys, fresh_reports
):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert repository_state(repository) == ("unknown", True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "dubious ownership" in line and "safe.directory" in line
    monkeypatch.setenv("PATH", "")
    assert repository_state(repository) == ("unknown", True)
    assert "git cannot be run" in capsys.readouterr().err


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
    other = {**CONFIG, "model": {"width": 8}, "decay": 0}
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
    with folder.lock(), pytest.raises(RecordError, match="in use by another process"):
        with RunFolder(folder.path).lock():
            raise AssertionError("taken twice")
    with folder.lock():
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


@pytest.mark.parametrize("epochs", [None, "", [], 1e308, 3e8, 300_000_000, 10, -1, True])
def test_a_record_of_impossible_epochs_is_refused(tmp_path, epochs):
    """Three hundred million of them would take 12 GB to list."""
    with pytest.raises(RecordError, match="damaged at epochs"):
        record(tmp_path, {**record(tmp_path), "epochs": epochs})


def test_a_record_of_a_newer_version_is_refused_and_one_without_a_version_is_read(tmp_path):
    folder, written = RunFolder(tmp_path), record(tmp_path)
    folder.write_result({**written, "schema": 2})
    with pytest.raises(RecordError, match="schema 2.*update the package"):
        folder.read_result()
    folder.write_result({**written, "schema": None})
    with pytest.raises(RecordError, match="its schema is None"):
        folder.read_result()
    old = {k: v for k, v in written.items() if k not in ("schema", "numbers")}
    folder.write_result(old)
    again = record(tmp_path, folder.read_result())
    assert (again["schema"], again["numbers"]) == (1, 1)


def test_a_record_names_each_version_of_its_numbers(tmp_path):
    before = {**record(tmp_path), "numbers": 3}
    assert record(tmp_path, before)["numbers"] == "3+1"


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "config.yaml"])
def test_a_pipe_in_the_place_of_a_file_is_named(tmp_path, name):
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / name)
    folder = RunFolder(tmp_path)
    reads = {"result.json": folder.read_result, "metrics.jsonl": folder.metrics}
    with pytest.raises((RecordError, OSError), match=f"no ordinary file.*{name}"):
        reads.get(name, lambda: files.read_yaml(tmp_path / name))()
    folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_yaml_that_would_grow_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    bomb = "a: &a [1, 1]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnopqrstuvw")
    )
    for text, said in {
        bomb: "has an alias",
        "a: " + "[" * 10_000: "levels deep",
        "a: 1\n" * 100_000: "larger than",
        "a: [1": "no YAML of a configuration",
        "a: ${b": "no YAML of a configuration",
    }.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises((ValueError, OSError), match=said):
            files.read_yaml(path)
    path.write_text("a: 1e-3\nb: ${c}\n", encoding="utf-8")
    assert files.read_yaml(path) == {"a": 1e-3, "b": "${c}"}  # nothing is looked up


def test_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "a", "b")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_killed_writes_left_is_deleted_when_the_run_starts_again(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patched:
        for module, name in ((os, "replace"), (Path, "unlink")):
            patched.setattr(module, name, killed)
        for write in (folder.write_result, folder.append_metrics, folder.write_diagnostics):
            with pytest.raises(KeyboardInterrupt):
                write({"epoch": 1})
    (tmp_path / ".of-somebody-else.part").touch()
    assert len(list(tmp_path.iterdir())) == 4
    with folder.lock():
        assert [path.name for path in tmp_path.iterdir()] == [".of-somebody-else.part"]


def killed(*_, **__):
    raise KeyboardInterrupt


VALUES = [None, "", "x", [], {}, [[]], True, -1, 0, 1.5, 1e308, 3e8, 10**400, math.nan, "1" * 99]


def mutate(value, luck):
    """A JSON value in which one entry, at whatever depth, is another or missing."""
    if isinstance(value, dict) and value and luck.random() < 0.8:
        key = luck.choice(list(value))
        if luck.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutate(value[key], luck)}
    if isinstance(value, list) and value and luck.random() < 0.8:
        place = luck.randrange(len(value))
        return [*value[:place], mutate(value[place], luck), *value[place + 1 :]]
    return luck.choice(VALUES)


def read_damaged(tmp_path, seed):
    """A damaged record and damaged metrics are refused, or they can be used."""
    luck, folder = random.Random(seed), RunFolder(tmp_path / str(seed))
    manifest = extend_manifest(None, {"cores": 2}, CONFIG, "2026-01-01", 0)
    whole = {**record(tmp_path), "manifest": manifest, "epochs": 2, "test_error": 1.5}
    if luck.random() < 0.3:
        whole["status"] = "finished"
    text = json.dumps(mutate(whole, luck))
    if luck.random() < 0.2:
        place = luck.randrange(len(text))
        text = text[:place] + luck.choice(["", "\x00", "}", "9" * 5000]) + text[place + 1 :]
    rows = [{"epoch": epoch, "train_loss": 0.5, "test_error": None} for epoch in (1, 2, 3)]
    lines = [json.dumps(mutate(row, luck) if luck.random() < 0.3 else row) for row in rows]
    folder.path.mkdir()
    (folder.path / "result.json").write_text(text, encoding="utf-8")
    (folder.path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with suppress(RecordError):
        again = record(tmp_path, folder.read_result())
        folder.find_missing_epochs(again["epochs"])
        here = {"cores": 3}
        manifest = extend_manifest(again.get("manifest"), here, CONFIG, "2026-01-02", 2)
        update_last_part(manifest, "2026-01-03", 3)
        folder.append_metrics({"epoch": again["epochs"] + 1})
        folder.write_result({**again, "manifest": manifest})
        assert folder.read_result()["test_error"] in (None, 1.5) or again["test_error"] < 1e15


@pytest.mark.parametrize("seeds", [range(200)])
def test_damaged_records_are_refused_or_used(tmp_path, seeds):
    for seed in seeds:
        read_damaged(tmp_path, seed)


@pytest.mark.hard
def test_many_damaged_records_are_refused_or_used(tmp_path):
    for seed in range(200, 4_000):
        read_damaged(tmp_path, seed)


@pytest.mark.parametrize(
    "line",
    [f'{{"epoch": 2, "x": {10**400}}}', '{"epo', "5", "null", "{}", '{"epoch": "2"}', "nothing"],
)
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
        patched.setattr(files.shutil, "rmtree", limited(shutil.rmtree))

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
