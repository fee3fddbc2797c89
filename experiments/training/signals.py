"""Signals that wait for the step in progress, so that a run always stops at a step's border."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

# Ctrl-C; the end that a system announces; Slurm's pre-emption, which Windows does not know
STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class Signals:
    """While entered, SIGINT, SIGTERM and SIGUSR1 raise KeyboardInterrupt; inside `held()` only once
    it ends.

    A second Ctrl-C does not wait. Any other second signal changes nothing: a pre-emption comes as
    SIGUSR1 and then SIGTERM, and what is saved in between must be saved whole. Outside the main
    thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self._holding = False
        self._stopping = False
        self._pending: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                self._before[number] = signal.signal(number, self._receive)
            self._pending = (
                listener.signal_name
            )  # before the run came here: it ends at its first border
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._stopping and number != signal.SIGINT:
            return
        name, waits = signal.Signals(number).name, self._holding and not self._stopping
        self._stopping = True
        if waits:
            self._pending = name
            return
        raise KeyboardInterrupt(name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that a signal does not interrupt; the signal takes effect when the block ends."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending is not None:
            name, self._pending = self._pending, None
            raise KeyboardInterrupt(name)


class SignalListener:
    """Remembers a signal that comes between the runs of one process, or before the first begins.

    Attributes:
        signal_name: of the first such signal; None before one.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def begin(self) -> None:
        """Listen from now on, in the main thread, as long as the process lives."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                signal.signal(number, self.receive)

    def receive(self, number: int, _: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name


listener = SignalListener()
