"""Meters of what a run costs: seconds, milliseconds a step, peak memory.

Training and evaluation have a clock each.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from experiments.training.resident import reset_resident_peak, resident_peak


class Meters:
    """Clocks and peak memory of one run.

    Peak memory is that of training alone. On a GPU: the most bytes that CUDA's allocator had handed
    out, summed over GPUs. On a CPU: the highest resident set of the whole process, libraries
    included (on Linux reset whenever training begins or goes on, so that earlier runs in the
    process do not count; elsewhere since the process began).

    Attributes:
        train_seconds, evaluation_seconds: summed over all parts; a resumed run starts from its old
            values.
        step_ms: milliseconds of every training step.
        peak_memory_bytes: None before training has run.
    """

    def __init__(self, device: torch.device, *others: torch.device) -> None:
        self.device, self.others = device, others
        self.train_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.step_ms: list[float] = []
        self.peak_memory_bytes: int | None = None

    @property
    def peak_memory_kind(self) -> str:
        return "cuda_allocated" if self.device.type == "cuda" else "resident_set"

    @property
    def median_step_ms(self) -> float | None:
        """Median over all steps, which leaves the slow first one out; None before the first
        step."""
        return statistics.median(self.step_ms) if self.step_ms else None

    def state(self) -> dict[str, Any]:
        """The sums so far, to which a resumed run adds its own."""
        return {
            "train_seconds": self.train_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "step_ms": torch.tensor(self.step_ms, dtype=torch.float64),  # (steps,)
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.train_seconds = state["train_seconds"]
        self.evaluation_seconds = state["evaluation_seconds"]
        self.step_ms, self.peak_memory_bytes = state["step_ms"].tolist(), state["peak_memory_bytes"]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Time and memory inside count as training; also when an error ends it."""
        self._reset_peak()
        start = self._now()
        try:
            yield
        finally:
            self.train_seconds += self._now() - start
            self.peak_memory_bytes = max(self.peak_memory_bytes or 0, self._peak())

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Time inside counts as evaluation; also when an error ends it."""
        start = self._now()
        try:
            yield
        finally:
            self.evaluation_seconds += self._now() - start

    @contextmanager
    def step(self) -> Iterator[None]:
        """One training step; the loss that it returns as a float has waited for the device."""
        start = time.perf_counter()
        yield
        self.step_ms.append(1000 * (time.perf_counter() - start))

    def _now(self) -> float:
        if self.device.type == "cuda":
            # kernels still in flight belong to the part that began them
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            for device in (self.device, *self.others):
                torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_resident_peak()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return sum(
                torch.cuda.max_memory_allocated(device) for device in (self.device, *self.others)
            )
        return resident_peak()
