"""Ctrl-C and SIGTERM that wait for the step in progress, so that a run always stops at a step's border."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Signals:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt; inside `held()` only once it ends.

    A second signal does not wait. Outside the main thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self._holding = False
        self._pending: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _receive(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._holding and self._pending is None:
            self._pending = name
            return
        raise KeyboardInterrupt(name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What stands inside ends before a signal takes effect."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending is not None:
            raise KeyboardInterrupt(self._pending)
