"""Weights & Biases behind one small object. No account and no network ever stop a run.

What W&B has of a run is read back by :mod:`pdoe.tracking.read`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .service import end_service

MODES = ("auto", "online", "offline", "disabled")
_MEANT = {  # what WANDB_MODE may hold
    **{"": "auto", "online": "online", "run": "online", "shared": "online"},
    **{"offline": "offline", "dryrun": "offline", "disabled": "disabled"},
}
# Seconds. A server that is out of reach when a run begins costs START, and up to 2 more to take
# W&B's service down; one that is lost during a run costs PROBE and END when the run ends.
START, PROBE, END = 7, 5, 20
UPLOAD = 120  # seconds for the weights, on a server that answers
_out_of_reach = ""  # why: no later run of this process waits for it again


class Tracker:
    """Mirrors a run to W&B; a failure of W&B is told in one line and the run goes on without it.

    Args:
        mode: ``auto`` obeys WANDB_MODE if it is set, else goes online if a login is stored and
            offline if not, without ever asking; ``online`` falls back to offline too if the
            server cannot be had; ``offline``; ``disabled``.
        folder: of the run. All that W&B keeps of it lies in ``<folder>/wandb``, so that a copy of
            the folder can be uploaded elsewhere: `wandb sync` in it.
        project, run_id, name, group, tags, config: of the W&B run.
        record: of the run as it begins; goes into the config as JSON text, exact to the digit.
    """

    def __init__(
        self,
        mode: str,
        folder: Path,
        *,
        project: str,
        run_id: str,
        name: str,
        group: str,
        tags: list[str],
        config: Mapping[str, Any],
        record: Mapping[str, Any] | None = None,
    ):
        if mode not in MODES:
            raise ValueError(f"tracking.mode is one of {', '.join(MODES)}, not {mode!r}")
        why = ""
        if mode == "auto":
            said = os.environ.get("WANDB_MODE", "")
            mode = _MEANT.get(said, "offline")
            why = "" if said in _MEANT else f" (WANDB_MODE={said} is no mode of W&B)"
        self._run, self._online = None, False
        if mode == "disabled":
            return
        arguments = {
            "project": project,
            "id": run_id,
            "name": name,
            "group": group,
            "job_type": "train",
            "tags": tags,
            "config": dict(config) | ({} if record is None else {"record": json.dumps(record)}),
            "dir": str(folder),
        }
        try:
            import wandb

            if wandb.run is not None:  # runs of one process must not flow into one another
                with suppress(Exception):
                    wandb.run.finish(exit_code=1)
            with _environment(WANDB_MODE=None):  # it has been heard
                if mode != "offline":
                    self._run, why = _online(wandb, arguments)
                    self._online = self._run is not None
                if self._run is None:
                    with _environment(WANDB_BASE_URL=None):  # none is asked, even one that is wrong
                        self._run = _begin(wandb, "offline", arguments)
            self._run.define_metric("*", step_metric="epoch")
            # Not in `folder` if that cannot be written to: W&B then takes another one.
            self._kept = Path(self._run.dir).parent
        except Exception as error:
            self._lose(error)
            return
        how = f"look with `make view` or `wandb leet {_typed(self._kept)}`"
        if self._online:
            print(f"tracking: online, {self._run.url}; {how}")
        else:
            upload = f"`cd {_typed(self._kept.parents[1])} && wandb sync`"
            print(f"tracking: offline{why}; {how}; upload with {upload}")

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of metrics; its ``epoch`` is the step."""
        if self._run is not None:
            try:
                known = {key: value for key, value in row.items() if value is not None}
                self._run.log(known, step=row["epoch"])
            except Exception as error:
                self._lose(error)

    def finish(
        self,
        record: Mapping[str, Any],
        failed: bool,
        *,
        diagnostics: Mapping[str, Any] | None = None,
        filters: np.ndarray | None = None,
        weights: Path | None = None,
    ) -> None:
        """The end of a run: its record in the summary, what it looked like, its weights.

        Every number of the record is a number of the summary (nested ones dotted), and the whole
        record is its text ``record``, as ``diagnostics`` is; the rest can be looked at.

        Args:
            diagnostics: ``confusion``, counts [true][predicted]; ``turned``, angle in degrees ->
                test error in per cent; ``layers``, name -> relative equivariance error. Each may
                be missing.
            filters: a picture, uint8 [H, W, 3].
            weights: a file, kept as the artifact ``model-<run id>``, alias ``last``.
        """
        if self._run is None:
            return
        import wandb

        numbers = _numbers({name: value for name, value in record.items() if name != "manifest"})
        told = {**numbers, "record": json.dumps(record)}
        if diagnostics is not None:
            told["diagnostics"] = json.dumps(diagnostics)
        try:
            if self._online and (lost := _lost_server(wandb)):
                # W&B asks the server before it takes a table or a file, and waits for each.
                diagnostics = weights = None
                upload = f"`wandb sync {_typed(self._kept)}`"
                print(f"tracking: tables and weights are left out{lost}; upload with {upload}")
            with _environment(WANDB_DATA_DIR=str(self._kept / "staging")):
                shown = _tables(wandb, diagnostics or {})
                if filters is not None:
                    shown["filters"] = wandb.Image(np.asarray(filters))
                # Even if empty: it closes the last row, whose numbers take the summary's places.
                self._run.log(shown)
                self._run.summary.update(told)
                if weights is not None:
                    self._keep(wandb, Path(weights))
        except Exception as error:
            print(f"tracking: not all of the end is told to W&B ({_line(error)})")
            with suppress(Exception):
                self._run.summary.update(told)
        try:
            self._run.finish(exit_code=1 if failed else 0)
        except Exception as error:
            self._lose(error)
        if self._online and _out_of_reach:
            end_service()  # or the process would wait for it at its end
        self._run = None

    def _keep(self, wandb: Any, weights: Path) -> None:
        """Copy a file to where W&B keeps this run, and log the copy as an artifact."""
        copy = self._kept / "artifacts" / weights.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(weights, copy)
        artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
        entry = artifact.add_file(str(copy), policy="immutable", skip_cache=True)
        if not self._online:
            # By an absolute name `wandb sync` would not find it in a copy of the folder, and would
            # not say so. A relative one counts from where `wandb sync` runs: the run's folder.
            entry.local_path = str(copy.relative_to(self._kept.parents[1]))
        logged = self._run.log_artifact(artifact, aliases=["last"])
        if self._online:
            logged.wait(timeout=UPLOAD)

    def _lose(self, error: Exception) -> None:
        run, self._run = self._run, None
        with suppress(Exception):
            run.finish(exit_code=1)
        print(f"tracking: W&B failed ({_line(error)}); the run goes on without it")


def _online(wandb: Any, arguments: Mapping[str, Any]) -> tuple[Any, str]:
    """An online run, or None and why there is none."""
    if _out_of_reach:
        return None, _out_of_reach
    try:
        wandb.setup(settings=wandb.Settings(silent=True))  # or `login` has its say
        if not wandb.login(prompt=False, verify=False):  # `wandb.init` would ask for one
            return None, " (no W&B login is stored: `wandb login`)"
    except Exception as error:  # a key of a wrong length
        return None, f" ({_line(error)})"
    before = {*Path(arguments["dir"]).glob("wandb/run-*")}
    try:
        return _begin(wandb, "online", arguments), ""
    except Exception as error:
        end_service()  # the id is taken otherwise
        for left in {*Path(arguments["dir"]).glob("wandb/run-*")} - before:
            shutil.rmtree(left)  # or it would pass for a run
        return None, _remember(error)


def _begin(wandb: Any, mode: str, arguments: Mapping[str, Any]) -> Any:
    return wandb.init(
        mode=mode,
        resume="allow" if mode == "online" else None,  # offline runs cannot be resumed
        settings=wandb.Settings(console="off", silent=True, init_timeout=START, finish_timeout=END),
        **arguments,
    )


def _lost_server(wandb: Any) -> str:
    """Why the server of a run that began online is out of reach now, or nothing."""
    try:
        wandb.Api(timeout=PROBE)  # verifies the login
        return ""
    except Exception as error:
        return _remember(error)


def _remember(error: Exception) -> str:
    global _out_of_reach
    _out_of_reach = f" (W&B is out of reach: {_line(error)})"
    return _out_of_reach


def _tables(wandb: Any, diagnostics: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B draws. `wandb.plot.confusion_matrix` would want every image: this is its chart."""
    shown = {}
    if confusion := diagnostics.get("confusion"):
        columns = ["Actual", "Predicted", "nPredictions"]
        counts = [
            [str(true), str(predicted), count]
            for true, row in enumerate(confusion)
            for predicted, count in enumerate(row)
        ]
        shown["confusion"] = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=columns, data=counts),
            fields={name: name for name in columns},
            string_fields={"title": "test images"},
        )
    if turned := diagnostics.get("turned"):
        columns = ["angle", "test error"]
        points = [[int(angle), error] for angle, error in turned.items()]
        title = "test error (%) against the angle that the test images are turned by"
        shown["turned"] = wandb.plot.line(
            wandb.Table(columns=columns, data=points), *columns, title=title
        )
    if layers := diagnostics.get("layers"):
        errors = [[name, error] for name, error in layers.items()]
        shown["layers"] = wandb.Table(columns=["layer", "equivariance error"], data=errors)
    return shown


def _numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, int | float]:
    """The numbers of a nested mapping under dotted names."""
    found = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    """Environment variables for a while; None stands for unset."""
    before = {name: os.environ.get(name) for name in variables}

    def put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(variables)
    try:
        yield
    finally:
        put(before)


def _typed(path: Path) -> str:
    """A path as it is typed in the current folder."""
    path, here = path.resolve(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
