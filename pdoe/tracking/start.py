"""The start of a W&B run: which mode, and online only where a server answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .service import end_service

MODES = ("auto", "online", "offline", "disabled")
_MODE_OF_VARIABLE = {  # WANDB_MODE -> mode
    **{"": "auto", "online": "online", "run": "online", "shared": "online"},
    **{"offline": "offline", "dryrun": "offline", "disabled": "disabled"},
}
# Seconds. A server that is unreachable when a run begins costs START, and up to 2 more to end W&B's
# service; a server that is lost during a run costs PROBE and END when the run ends.
START, PROBE, END = 7, 5, 20
unreachable = ""  # the reason; no later run of this process waits for the server again


def choose_mode(mode: str) -> tuple[str, str]:
    """Return the mode that ``auto`` means here, or the given one, and a reason in brackets or "".

    Raises:
        ValueError: no mode of W&B.
    """
    if mode not in MODES:
        raise ValueError(f"tracking.mode is one of {', '.join(MODES)}, not {mode!r}")
    if mode != "auto":
        return mode, ""
    variable = os.environ.get("WANDB_MODE", "")
    why = "" if variable in _MODE_OF_VARIABLE else f" (WANDB_MODE={variable} is no mode of W&B)"
    return _MODE_OF_VARIABLE.get(variable, "offline"), why


def start_run(mode: str, arguments: Mapping[str, Any], why: str) -> tuple[Any, bool, str]:
    """Start a W&B run, offline if no server can be had.

    Returns:
        The run, whether it is online, and in brackets why it is not.
    """
    import wandb

    if wandb.run is not None:  # runs of one process must not flow into one another
        with suppress(Exception):
            wandb.run.finish(exit_code=1)
    with set_environment(WANDB_MODE=None):  # `choose_mode` has read it
        if mode != "offline":
            run, why = _start_online(wandb, arguments)
            if run is not None:
                return run, True, ""
        with set_environment(WANDB_BASE_URL=None):  # no server is asked, not even a wrong address
            return _begin(wandb, "offline", arguments), False, why


def find_lost_server(wandb: Any) -> str:
    """Return why the server of a run that began online is unreachable now, or ""."""
    try:
        wandb.Api(timeout=PROBE)  # verifies the login
        return ""
    except Exception as error:
        return _remember(error)


def format_error(error: Exception) -> str:
    """Format an error as one line of at most 200 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def set_environment(**variables: str | None) -> Iterator[None]:
    """Set environment variables for a while; None stands for unset."""
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


def _start_online(wandb: Any, arguments: Mapping[str, Any]) -> tuple[Any, str]:
    """Return an online run and "", or None and why there is none."""
    if unreachable:
        return None, unreachable
    try:
        wandb.setup(settings=wandb.Settings(silent=True))  # or `login` prints
        if not wandb.login(prompt=False, verify=False):  # `wandb.init` would ask for a login
            return None, " (no W&B login is stored: `wandb login`)"
    except Exception as error:  # a key of a wrong length
        return None, f" ({format_error(error)})"
    before = {*Path(arguments["dir"]).glob("wandb/run-*")}
    try:
        return _begin(wandb, "online", arguments), ""
    except Exception as error:
        end_service()  # or the id would still be in use
        for left in {*Path(arguments["dir"]).glob("wandb/run-*")} - before:
            shutil.rmtree(left)  # it would pass for a run
        return None, _remember(error)


def _begin(wandb: Any, mode: str, arguments: Mapping[str, Any]) -> Any:
    return wandb.init(
        mode=mode,
        resume="allow" if mode == "online" else None,  # offline runs cannot be resumed
        settings=wandb.Settings(console="off", silent=True, init_timeout=START, finish_timeout=END),
        **arguments,
    )


def _remember(error: Exception) -> str:
    global unreachable
    unreachable = f" (W&B is out of reach: {format_error(error)})"
    return unreachable
