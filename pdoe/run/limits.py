"""When a run stops early: a request, such as a signal, or the end of its time."""

from __future__ import annotations

import time

import torch

from .ranks import Ranks
from .stop import Stop


class Limits:
    """The time of a call and a request to stop, on which all ranks agree.

    Args:
        max_seconds: of the call, from now on; None for no limit. One step is done in any case.
        stop: the request.
        ranks, device: the processes that agree, and where their numbers lie.

    Attributes:
        worked: whether a step or an evaluation has been done.
    """

    def __init__(self, max_seconds: float | None, stop: Stop, ranks: Ranks, device: torch.device):
        self.max_seconds, self.stop, self.ranks, self.device = max_seconds, stop, ranks, device
        self.began, self.worked = time.perf_counter(), False

    def reason_to_stop(self, ahead: float = 0.0) -> str | None:
        """Why the next ``ahead`` seconds of work should not begin: "signal" or "time"; or None."""
        late = self.max_seconds is not None and self.worked
        late = late and time.perf_counter() - self.began + ahead > self.max_seconds
        reason = 2 if self.stop.requested else int(late)
        return (None, "time", "signal")[self.ranks.largest(reason, self.device)]
