"""W&B never stops a run; what a run told it arrives whole, and reads back equal from everywhere."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from wandb_server import ENTITY, KEY, SEEN, FakeServer

from pdoe.tracking import service as wandb_service
from pdoe.tracking import start
from pdoe.tracking.names import TO_WANDB, rename_from_wandb
from pdoe.tracking.read import LoggedError, read_offline, read_offline_all, read_project
from pdoe.tracking.service import end_service, services
from pdoe.tracking.write import Label, Mistake, Tracker

speaks = pytest.mark.skipif(
    not version("wandb").startswith(f"{SEEN}."),
    reason=f"the fake server speaks the protocol of wandb {SEEN}, not {version('wandb')}",
)

BEGUN = {
    "run_id": "abc123",
    "seed": 0,
    "status": "interrupted",
    "test_error": None,
    "test_error_best": None,
    "epochs": 0,
    "seconds": 0.0,
    "dirty": False,
    "data": {"name": "mnist_rot", "class_names": ["no", "yes"]},
}
ROWS = [
    {"epoch": 1, "train_loss": 2.5, "test_error": None, "seconds": 1.25},
    {"epoch": 2, "train_loss": 1 / 3, "test_error": 9.000000000000002, "seconds": 1.5},
    {"epoch": 3, "train_loss": 0.1 + 0.2, "test_error": 8.0, "seconds": 1.0},
]
RECORD = BEGUN | {
    "status": "finished",
    "test_error": 8.0,
    "test_error_best": 8.0,
    "epochs": 3,
    "seconds": 3.9,
    "equivariance_error": {"trunk": 1 / 3, "logits": None},
}
DIAGNOSTICS = {
    "confusion": [[5, 1], [2, 7]],
    "turned": {str(angle): 8.0 + angle / 7 for angle in range(0, 360, 15)},
    "layers": {"lifting": 1e-7, "trunk.0": 0.25},
}


def tracker(mode, folder, run_id="abc123", record=BEGUN):
    folder.mkdir(parents=True, exist_ok=True)
    return Tracker(
        mode,
        folder,
        Label("pdoe", run_id, "row, seed 0", "row", ["smoke"]),
        config={"seed": 0, "recipe": {"epochs": 3}, "data": {"name": "mnist_rot"}},
        record=record,
    )


def whole_run(mode, folder, **changes):
    """A run with everything; its folder in W&B's terms."""
    weights = folder / "weights.pt"
    run = tracker(mode, folder, **changes)
    weights.write_bytes(b"the weights")
    for row in ROWS:
        run.log(row)
    filters = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    mistakes = [Mistake(np.full((1, 9, 9), 7 * n, np.uint8), n, n + 1) for n in range(3)]
    shown = {"diagnostics": DIAGNOSTICS, "filters": filters, "mistakes": mistakes}
    run.finish(RECORD, False, **shown, weights=weights)
    return kept(folder)[-1]


def kept(folder):
    return sorted(folder.glob("wandb/*run-2*"))


def python(script):
    return [sys.executable, "-c", textwrap.dedent(script)]


def importing():
    """The environment in which a script can import what this file does."""
    here = Path(__file__).parent
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}


def as_sent(rows):
    """Rows as they are sent to W&B: under its names, without None."""
    return [{TO_WANDB.get(k, k): v for k, v in row.items() if v is not None} for row in rows]


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch):
    """No login, no settings, nothing that another test has left in W&B's service."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(start, "unreachable", "")
    yield
    end_service()


@pytest.fixture
def server(monkeypatch):
    with FakeServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


@pytest.fixture
def nobody_listens(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)


# ---- Which mode ---------------------------------------------------------------------------------


def test_disabled_leaves_nothing_and_says_nothing(tmp_path, capsys):
    run = tracker("disabled", tmp_path)
    run.log(ROWS[0])
    run.finish(RECORD, failed=False, diagnostics=DIAGNOSTICS)
    assert not list(tmp_path.rglob("wandb*"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("said", "leaves"),
    [("disabled", []), ("dryrun", ["offline"]), ("online", ["offline"]), ("loud", ["offline"])],
)
def test_the_environment_decides_for_auto_alone(tmp_path, monkeypatch, capsys, said, leaves):
    monkeypatch.setenv("WANDB_MODE", said)
    tracker("auto", tmp_path / "auto").finish(RECORD, failed=False)
    assert [path.name.split("-")[0] for path in kept(tmp_path / "auto")] == leaves
    told = capsys.readouterr()
    assert told.out.count("\n") == len(leaves) and not told.err
    assert ("WANDB_MODE=loud is no mode of W&B" in told.out) == (said == "loud")
    tracker("disabled", tmp_path / "disabled").finish(RECORD, failed=False)
    assert not kept(tmp_path / "disabled")
    assert os.environ["WANDB_MODE"] == said


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_login_a_run_goes_offline_and_says_how_to_look_in_one_line(
    tmp_path, mode, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tracker(mode, tmp_path / "run").finish(RECORD, failed=False)
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and not told.err
    (folder,) = kept(tmp_path / "run")
    assert told.out.startswith("tracking: offline (no W&B login is stored: `wandb login`); ")
    assert f"`make view` or `wandb leet run/wandb/{folder.name}`" in told.out
    assert "upload with `cd run && wandb sync`" in told.out


def test_a_key_of_a_wrong_length_sends_a_run_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "123")
    tracker("auto", tmp_path).finish(RECORD, failed=False)
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and not told.err
    assert told.out.startswith("tracking: offline (AuthenticationError: ")


@speaks
@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_sends_a_run_offline_at_once(tmp_path, server, capsys, status):
    server.refuse = status
    tracker("auto", tmp_path).finish(RECORD, failed=False)
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and not told.err
    assert (
        told.out.startswith("tracking: offline (W&B is out of reach: ") and str(status) in told.out
    )


@pytest.mark.slow
@pytest.mark.usefixtures("nobody_listens")
def test_a_dead_server_costs_a_process_one_wait_and_ends_it_with_0(tmp_path):
    script = f"""
        from pathlib import Path
        from pdoe.tracking import start
        from test_tracking import RECORD, ROWS, tracker

        begin, modes = start._begin, []
        start._begin = lambda wandb, mode, how: modes.append(mode) or begin(wandb, mode, how)
        first = tracker("auto", Path({str(tmp_path / "first")!r}))
        for row in ROWS:
            first.log(row)
        first.finish(RECORD, failed=False)
        second = tracker("online", Path({str(tmp_path / "second")!r}), run_id="second")
        second.finish(RECORD, failed=False)
        print(*modes)
    """
    done = subprocess.run(python(script), env=importing(), capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, modes = done.stdout.splitlines()
    assert first.startswith("tracking: offline (W&B is out of reach: CommError: ")
    assert second.startswith("tracking: offline (W&B is out of reach: CommError: ")
    assert modes == "online offline offline"
    (folder,) = kept(tmp_path / "first")
    assert read_offline(folder).metrics == ROWS
    assert [path.name[:7] for path in kept(tmp_path / "second")] == ["offline"]


def test_a_tracker_that_cannot_write_is_left_behind(tmp_path, capsys, monkeypatch):
    import wandb

    def broken(**arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(wandb, "init", broken)
    run = tracker("offline", tmp_path)
    run.log(ROWS[0])
    run.finish(RECORD, failed=False)
    told = capsys.readouterr()
    assert told.out == (
        "tracking: W&B failed (OSError: no space left on device); the run goes on without it\n"
    )
    assert not told.err


def test_what_cannot_be_told_at_the_end_ends_the_tracking_alone(tmp_path, capsys):
    run = tracker("offline", tmp_path)
    run.log(ROWS[0])
    run.finish(RECORD, failed=False, weights=tmp_path / "nothing.pt")
    assert (
        "\ntracking: W&B did not take all of the end of the run (FileNotFoundError: "
        in capsys.readouterr().out
    )
    assert read_offline(*kept(tmp_path)).record == RECORD


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_view_looks_at_the_newest_run_below_a_folder(tmp_path):
    environment = tmp_path / "venv"  # whose Python says what it is asked for
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    (environment / "bin" / "python").chmod(0o755)
    runs = tmp_path / "out puts"
    newest = runs / "b" / "seed=0" / "wandb" / "offline-run-20260102_000000-b"
    for folder in (newest, runs / "c" / "seed=0" / "wandb" / "run-20260101_000000-c"):
        (folder / "files").mkdir(parents=True)
    (environment / ".made").touch()

    def view(folder):
        make = ["make", "view", f"VENV={environment}", f"RUN={folder}"]
        here = Path(__file__).parents[2]
        alone = {key: value for key, value in os.environ.items() if "MAKE" not in key}
        return subprocess.run(make, cwd=here, env=alone, capture_output=True, encoding="utf-8")

    assert view(runs).stdout == f"-m wandb leet {newest}\n"
    nothing = view(tmp_path / "venv")
    assert nothing.returncode and nothing.stdout == f"no W&B run lies below {environment}\n"


def test_an_address_that_is_none_sends_a_run_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "garbage")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    whole_run("online", tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("tracking: offline (") and "garbage" in said and said.count("\n") == 1
    assert read_offline(*kept(tmp_path)).record == RECORD


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the service of a process")
def test_the_log_is_whole_when_finish_returns_however_late_the_service_writes_it(
    tmp_path, monkeypatch
):
    from wandb.sdk.lib.service.service_connection import ServiceConnection

    tell = ServiceConnection.inform_finish

    def tell_a_busy_service(connection, run_id):
        (service,) = services()
        os.kill(service, signal.SIGSTOP)
        tell(connection, run_id)
        threading.Timer(0.5, os.kill, (service, signal.SIGCONT)).start()

    monkeypatch.setattr(ServiceConnection, "inform_finish", tell_a_busy_service)
    run = tracker("offline", tmp_path)
    run.log(ROWS[0])
    run.finish(RECORD, failed=False)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert read_offline(*kept(tmp_path / "copy")).record == RECORD


def test_steps_are_logged_now_and_then_and_are_no_metrics_of_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("pdoe.tracking.write.BETWEEN_STEPS", 0.0)
    run = tracker("offline", tmp_path)
    for step in range(1, 8):
        if step == 5:
            monkeypatch.setattr("pdoe.tracking.write.BETWEEN_STEPS", 60.0)
        run.log_step(step, 1.0 / step, 100.0)
        if step % 3 == 0:
            run.log(ROWS[step // 3 - 1])
    run.finish(RECORD, failed=False)
    (folder,) = kept(tmp_path)
    assert read_offline(folder).metrics == ROWS[:2]
    (log,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    lines = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=True
    ).stdout.splitlines()
    rows = [entry["history"]["item"] for entry in map(json.loads, lines) if "history" in entry]
    steps = {row["train/step"]: row["train/step_loss"] for row in rows if "train/step" in row}
    assert steps == {step: 1.0 / step for step in range(1, 5)}


def test_runs_logged_under_the_older_names_read_the_same():
    older = {"_step": 3, "confusion_table.ncols": 3, "filters": {"_type": "image"}} | ROWS[2]
    assert rename_from_wandb(older) == ROWS[2]
    assert rename_from_wandb(as_sent([ROWS[2]])[0]) == ROWS[2]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the service of a process")
def test_a_service_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_service, "PATIENCE", 1.0)
    tracker("offline", tmp_path)
    (service,) = services()
    os.kill(service, signal.SIGSTOP)
    end_service()
    assert not services()
    whole_run("offline", tmp_path / "next", run_id="next")  # and another one begins
    assert read_offline(*kept(tmp_path / "next")).record == RECORD


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(ValueError, match="auto, online, offline, disabled, not 'yes'"):
        tracker("yes", tmp_path)


# ---- Online -------------------------------------------------------------------------------------


def assert_all_of_it(arrived):
    assert arrived.project == "pdoe"
    told = arrived.told
    assert (told["displayName"], told["groupName"], told["jobType"], told["tags"]) == (
        *("row, seed 0", "row", "train"),
        ["smoke"],
    )
    assert arrived.config["recipe"]["value"] == {"epochs": 3}
    assert json.loads(arrived.config["record"]["value"]) == BEGUN
    logged = set().union(*as_sent(ROWS))
    metrics = [{key: row[key] for key in logged if key in row} for row in arrived.rows]
    assert metrics == as_sent(ROWS)
    shown = {"confusion_table", "rotated_table", "layers", "filters", "misclassified"}
    assert set(arrived.rows[-1]) - logged == {f"view/{name}" for name in shown}
    assert all(set(row) <= logged for row in arrived.rows[:-1])
    assert max(logged) < "view/"  # numbers are charted first
    captions = arrived.rows[-1]["view/misclassified"]["captions"]
    assert captions == [f"true {n}, predicted {n + 1}" for n in range(3)]
    assert arrived.summary["seconds"] == 3.9 and arrived.summary["test_error"] == 8.0
    assert arrived.summary["equivariance_error.trunk"] == 1 / 3
    assert json.loads(arrived.summary["record"]) == RECORD
    assert json.loads(arrived.summary["diagnostics"]) == DIAGNOSTICS
    assert arrived.exit_code == 0
    (picture,) = [name for name in arrived.files if name.startswith("media/images/view/filters")]
    assert arrived.files[picture][:4] == b"\x89PNG"
    tables = {
        name.split("/")[3].split("_")[0]: json.loads(content)["data"]
        for name, content in arrived.files.items()
        if name.startswith("media/table/")
    }
    assert tables["confusion"] == [
        ["no", "no", 5], ["no", "yes", 1], ["yes", "no", 2], ["yes", "yes", 7],
    ]  # fmt: skip
    assert tables["rotated"] == [[int(a), e] for a, e in DIAGNOSTICS["turned"].items()]
    assert tables["layers"] == [["lifting", 1e-7], ["trunk.0", 0.25]]
    (model,) = [each for each in arrived.artifacts if each["type"] == "model"]
    assert model["name"] == "model-abc123" and "last" in model["aliases"]
    assert model["state"] == "COMMITTED"
    assert model["files"]["weights.pt"] == b"the weights"


@speaks
def test_what_an_online_run_is_told_arrives(tmp_path, server, capsys):
    folder = whole_run("auto", tmp_path)
    assert_all_of_it(server.runs["abc123"])
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and not told.err
    assert told.out.startswith(f"tracking: online, {server.url}/{ENTITY}/pdoe/runs/abc123; look")
    assert folder.name.startswith("run-") and read_offline(folder).record == RECORD
    assert not list((tmp_path / "home").rglob("staging"))
    assert "WANDB_DATA_DIR" not in os.environ


@speaks
def test_an_offline_run_copied_elsewhere_uploads_the_same(tmp_path, server):
    whole_run("offline", tmp_path / "cluster" / "seed=0")
    assert not server.operations
    shutil.copytree(tmp_path / "cluster" / "seed=0", tmp_path / "laptop", symlinks=True)
    shutil.rmtree(tmp_path / "cluster")
    sync = [sys.executable, "-m", "wandb", "sync", "--yes"]
    # Elsewhere there is no service of this process, which runs in another folder.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        sync, cwd=tmp_path / "laptop", env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0 and "Finished syncing" in done.stderr, done.stderr
    assert_all_of_it(server.runs["abc123"])


@speaks
def test_two_jobs_of_one_process_are_two_runs(tmp_path, server):
    crashed = tracker("online", tmp_path / "first", run_id="first")
    crashed.log(ROWS[0])  # and never finished
    second = tracker("online", tmp_path / "second", run_id="second")
    second.log(ROWS[1])
    second.finish(RECORD, failed=True)
    assert {name: [row["epoch"] for row in run.rows] for name, run in server.runs.items()} == {
        "first": [1],
        "second": [2],
    }
    assert server.runs["second"].exit_code == 1


@speaks
def test_an_online_run_that_goes_on_keeps_its_rows(tmp_path, server):
    first = tracker("online", tmp_path)
    for row in ROWS[:2]:
        first.log(row)
    first.finish(BEGUN, failed=False)
    second = tracker("online", tmp_path, record=BEGUN | {"epochs": 2, "seconds": 2.8})
    second.log(ROWS[2])
    second.finish(RECORD, failed=False)
    assert server.runs["abc123"].rows == as_sent(ROWS)
    runs, problems = read_offline_all(tmp_path)
    assert [run.metrics for run in runs] == [ROWS] and not problems


@speaks
def test_a_server_that_dies_in_the_middle_neither_blocks_nor_hangs(
    tmp_path, server, monkeypatch, capsys
):
    monkeypatch.setattr(start, "PROBE", 1)
    monkeypatch.setattr(start, "END", 2)
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"the weights")
    run = tracker("online", tmp_path)
    run.log(ROWS[0])
    server.die()
    for row in ROWS[1:]:
        run.log(row)
    run.finish(RECORD, failed=False, diagnostics=DIAGNOSTICS, weights=weights)
    tracker("online", tmp_path / "next", run_id="next").finish(RECORD, failed=False)
    told = capsys.readouterr()
    assert [line.split(" (")[0].split(",")[0] for line in told.out.splitlines()] == [
        "tracking: online",
        "tracking: tables and weights are left out",
        "tracking: offline",
    ]
    assert not told.err
    logged = read_offline(*kept(tmp_path))
    assert (logged.record, logged.metrics, logged.diagnostics) == (RECORD, ROWS, DIAGNOSTICS)


# ---- Read back ----------------------------------------------------------------------------------


class StandInApi:
    """The documented face of ``wandb.Api``, with what has arrived at the fake server."""

    def __init__(self, server):
        self.server = server

    def runs(self, path, filters=None, order="+created_at", per_page=50, lazy=True):
        if path not in ("pdoe", f"{ENTITY}/pdoe"):
            raise ValueError(f"Could not find project {path}")
        return [StandInRun(name, run) for name, run in self.server.runs.items()]


class StandInRun:
    def __init__(self, name, arrived):
        self.id, self.name, self.url = name, "row, seed 0", f"https://localhost/runs/{name}"
        self.state = "finished"
        self.config = {
            key: content["value"] for key, content in arrived.config.items() if key[0] != "_"
        }
        self.summary = arrived.summary
        self._rows = [json.loads(line) for _, line in sorted(arrived.lines.items())]

    def scan_history(self, keys=None, page_size=1000, min_step=0, max_step=None):
        return iter([row for row in self._rows if not keys or set(keys) <= set(row)])


@speaks
def test_a_project_and_a_folder_give_the_same_run(tmp_path, server):
    folder = whole_run("online", tmp_path)
    tracker("online", tmp_path / "foreign", run_id="foreign", record=None).finish({}, False)
    runs, problems = read_project(f"{ENTITY}/pdoe", api=StandInApi(server))
    assert runs == [read_offline(folder)]
    assert (runs[0].record, runs[0].metrics, runs[0].diagnostics) == (RECORD, ROWS, DIAGNOSTICS)
    assert problems == [
        "https://localhost/runs/foreign: skipped: no record in its config, so it is no run of pdoe"
    ]
    with pytest.raises(LoggedError, match="^W&B project other cannot be read: Could not find"):
        read_project("other", api=StandInApi(server))


@speaks
def test_a_project_that_is_not_there_is_named(server):
    with pytest.raises(LoggedError, match="^W&B project nobody/nothing cannot be read: .*$"):
        read_project("nobody/nothing")


@pytest.mark.usefixtures("nobody_listens")
def test_a_project_without_a_network_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr("pdoe.tracking.read._TIMEOUT", 1)
    with pytest.raises(LoggedError, match="^W&B project pdoe cannot be read: [^\n]*$"):
        read_project("pdoe")


def test_a_project_without_a_login_asks_for_none():
    with pytest.raises(LoggedError, match="no W&B login is stored: `wandb login`"):
        read_project("pdoe")


def test_numbers_that_are_not_finite_read_back(tmp_path):
    run = tracker("offline", tmp_path)
    run.log({"epoch": 1, "train_loss": float("inf"), "test_error": float("nan")})
    run.finish(RECORD | {"test_error": float("nan")}, failed=True)
    logged = read_offline(*kept(tmp_path))
    assert repr(logged.metrics) == "[{'epoch': 1, 'test_error': nan, 'train_loss': inf}]"
    assert repr(logged.record["test_error"]) == "nan"


@pytest.mark.slow
def test_a_killed_run_reads_back_and_its_two_starts_are_one_run(tmp_path):
    script = f"""
        import time
        from pathlib import Path
        from test_tracking import ROWS, tracker

        run = tracker("offline", Path({str(tmp_path / "seed=0")!r}))
        run.log(ROWS[0])
        run.log(ROWS[1])
        for epoch in (3, 4):
            run.log({{"epoch": epoch, "train_loss": 9.0, "test_error": 99.0, "seconds": 49.125}})
        run.log({{"epoch": 5}})  # W&B takes a row for whole when the next one begins
        time.sleep(1)
        print("ready", flush=True)
        time.sleep(600)
    """
    # By default W&B's service holds back up to 15 s of rows, and such a kill loses them.
    often = {"WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "0.1"}
    child = subprocess.Popen(
        python(script), env=importing() | often, stdout=subprocess.PIPE, encoding="utf-8"
    )
    while child.stdout.readline() != "ready\n":
        pass
    child.kill()
    child.wait()
    (folder,) = kept(tmp_path / "seed=0")
    killed = read_offline(folder)
    assert killed.metrics[:2] == ROWS[:2] and [row["epoch"] for row in killed.metrics[2:]] == [3, 4]
    assert killed.record == BEGUN | {
        "epochs": 4,
        "test_error": 99.0,
        "test_error_best": 9.000000000000002,
        "seconds": 101.0,
    }
    time.sleep(1)  # the names of the folders have whole seconds
    run = tracker("offline", tmp_path / "seed=0", record=BEGUN | {"epochs": 2, "seconds": 2.8})
    run.log(ROWS[2])
    run.finish(RECORD, failed=False)
    runs, problems = read_offline_all(tmp_path)
    assert [(run.record, run.metrics) for run in runs] == [(RECORD, ROWS)] and not problems
    (tmp_path / "seed=0" / "result.json").write_text("{}", encoding="utf-8")
    assert read_offline_all(tmp_path) == ([], [])


def test_what_is_no_log_of_ours_is_named_in_a_line(tmp_path):
    folder = whole_run("offline", tmp_path / "good")
    tracker("offline", tmp_path / "foreign", run_id="foreign", record=None).finish({}, False)
    (log,) = folder.glob("*.wandb")
    raw = log.read_bytes()
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 0xFF
    bad = {"none": None, "empty": b"", "text": b"hello hello", "flipped": bytes(flipped)}
    for number, content in enumerate(bad.values()):
        place = tmp_path / "bad" / f"run-20260101_00000{number}-x"
        place.mkdir(parents=True)
        if content is not None:
            (place / "run-x.wandb").write_bytes(content)
    runs, problems = read_offline_all(tmp_path)
    assert [run.record for run in runs] == [RECORD]
    none, empty, text, flip, foreign = (line.split(": skipped: ")[1] for line in problems)
    assert none == "0 .wandb files in it, expected one"
    assert empty == "run-x.wandb ends before its run begins"
    assert text.startswith("run-x.wandb is damaged: Error: transactionlog: bad header")
    assert flip.startswith("run-x.wandb is damaged: wandb leet inspect: skipped corrupt data")
    assert foreign == "no record in its config, so it is no run of pdoe"


def test_a_wandb_that_cannot_read_its_own_logs_is_named(tmp_path, monkeypatch):
    folder = whole_run("offline", tmp_path)
    older = tmp_path / "older"
    older.write_text(
        '#!/bin/sh\necho "Error: No such option: --json" >&2\nexit 2\n', encoding="utf-8"
    )
    older.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(older))
    with pytest.raises(LoggedError, match="reading it needs wandb 0.31 or newer$"):
        read_offline(folder)
