"""Weights & Biases behind one small object. No account and no network ever stop a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODES = ("auto", "online", "offline", "disabled")


class Tracker:
    """Mirrors a run to W&B; a failure of W&B is told once and the run goes on without it.

    Args:
        mode: ``auto`` obeys WANDB_MODE if it is set, else goes online if a login is stored and
            offline if not, without ever asking; ``online`` falls back to offline too if the
            server cannot be had; ``offline``; ``disabled``.
        folder: where offline files go (``<folder>/wandb``).
        run_id, name, group, tags, config: of the W&B run.
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
        self._run = None
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE", "auto")
        if mode == "disabled":
            return
        try:
            import wandb

            if mode in ("auto", "online"):  # `wandb.init` would ask for a login on a terminal
                stored = wandb.login(prompt=False, verify=False)
                if mode == "online" and not stored:
                    print("tracking: no W&B login is stored (`wandb login`), going on offline")
                mode = "online" if stored else "offline"
            arguments = {
                "project": project,
                "id": run_id,
                "name": name,
                "group": group,
                "job_type": "train",
                "tags": tags,
                "config": dict(config),
                "dir": str(folder),
                # Several runs of one process must not flow into one another.
                "reinit": "finish_previous",
                "settings": wandb.Settings(init_timeout=10, console="off", silent=True),
            }
            resume = "allow" if mode == "online" else None  # offline runs cannot be resumed
            try:
                self._run = wandb.init(mode=mode, resume=resume, **arguments)
            except Exception as error:
                if mode == "offline":
                    raise
                print(f"tracking: W&B is out of reach ({_line(error)}), going on offline")
                wandb.teardown()  # the id is taken otherwise
                mode = "offline"
                self._run = wandb.init(mode=mode, **arguments)
            self._run.define_metric("*", step_metric="epoch")
        except Exception as error:
            self._lose(error)
            return
        if mode == "online":
            print(f"tracking: online, {self._run.url}")
        else:
            where = Path(self._run.dir).parent
            print(f"tracking: {mode}; look with `wandb leet {where}`, upload with `wandb sync`")

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of metrics; its ``epoch`` is the step."""
        if self._run is not None:
            try:
                known = {key: value for key, value in row.items() if value is not None}
                self._run.log(known, step=row["epoch"])
            except Exception as error:
                self._lose(error)

    def finish(self, result: Mapping[str, Any], failed: bool, **more: Any) -> None:
        """The final numbers, as plain ones in the summary."""
        if self._run is not None:
            try:
                self._run.summary.update(dict(result))
                self._run.finish(exit_code=1 if failed else 0)
            except Exception as error:
                self._lose(error)
            self._run = None

    def _lose(self, error: Exception) -> None:
        self._run = None
        print(f"tracking: W&B failed ({_line(error)}); the run goes on without it")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
