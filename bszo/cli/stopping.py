"""Ctrl-C and SIGTERM that wait for the step in progress, so that what was learnt is kept."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Stopping:
    """Whether somebody has asked to stop.

    Attributes:
        asked: the signal's name; None before one.
    """

    def __init__(self) -> None:
        self.asked: str | None = None

    def receive(self, number: int, _: FrameType | None) -> None:
        """The first signal is remembered; a second Ctrl-C interrupts at once."""
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
        with suppress(OSError):
            print(
                f"\n{self.asked}: stops after this step; Ctrl-C leaves now and writes nothing",
                file=sys.stderr,
                flush=True,
            )

    @contextmanager
    def listening(self) -> Iterator["Stopping"]:
        """Inside, signals are remembered; outside the main thread Python allows no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {n: signal.signal(n, self.receive) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
