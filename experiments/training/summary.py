"""Summary of a run for its record, however far it came."""

import time
from collections.abc import Mapping
from typing import Any

from experiments.records import record as records
from experiments.records.privacy import anonymous
from experiments.training.build import Parts
from experiments.training.result import Result
from experiments.training.runner import Runner


class Stopwatch:
    """Measures when this process began its part of a run, and how long it takes, building included.

    The clock on the wall may be set back; the seconds are another clock's.
    """

    def __init__(self) -> None:
        self.started, self._began = time.time(), time.monotonic()

    def facts(self) -> dict[str, Any]:
        return {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.monotonic() - self._began, 3),
        }


def summary(
    status: str,
    reason: str | None,
    signed: Mapping[str, Any],
    parts: Parts | None,
    runner: Runner | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of the record.

    Args:
        status, reason: how it ended; the reason loses its line breaks and what would tell who ran
            it.
        signed: signature, choices and config.
        parts: None where the run ended before they were built.
        runner: None where it ended before training could begin.
    """
    result = runner.result if runner else Result()
    meters = runner.meters if runner else None
    optimizer: Any = parts.optimizer if parts else None
    return {
        "schema_version": records.SCHEMA_VERSION,
        **signed,
        "status": status,
        "reason": None if reason is None else anonymous(" ".join(reason.split()))[:500],
        "zero_shot_accuracy": result.zero_shot_accuracy,
        "validation_accuracy": result.validation_accuracy,
        "test_accuracy": result.test_accuracy,
        "num_forwards": optimizer.num_forwards if optimizer else 0,
        "num_backwards": optimizer.num_backwards if optimizer else 0,
        "num_steps": result.num_steps,
        "best_step": result.best_step,
        "peak_memory_bytes": meters.peak_memory_bytes if meters else None,
        "peak_memory_kind": meters.peak_memory_kind if meters else None,
        "train_seconds": meters.train_seconds if meters else 0.0,
        "evaluation_seconds": meters.evaluation_seconds if meters else 0.0,
        "step_ms": meters.median_step_ms if meters else None,
        "curve": result.curve,
        "warnings": runner.guards.warnings if runner else {},
        "num_parts": result.num_parts,
        "data": parts.data if parts else {},
        "model": parts.model_facts if parts else {},
        "provenance": dict(provenance),
    }
