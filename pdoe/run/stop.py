"""The request to stop a run. Imports nothing: signals are handled before torch is loaded."""


class Stop:
    """A request to stop, as from a signal. It is made once and never withdrawn.

    Attributes:
        requested: whether a stop was requested.
        running: whether a run has begun and not yet ended.
        listening: whether a training loop is running, which will stop after its current step.
    """

    def __init__(self) -> None:
        self.requested = self.running = self.listening = False
