"""One configuration from signature to record, however the run ends."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bszo.errors import BszoError, ConfigError, NonFiniteLoss
from experiments import record as records
from experiments.build import Parts, build, by_content, resolve_device
from experiments.provenance import provenance, scrub, scrub_all
from experiments.runner import Diverged, Result, Runner
from experiments.schema import parse
from experiments.signals import Signals
from experiments.tracking import NoTracker, RunTracker, make_tracker

log = logging.getLogger("experiments")


class Session:
    """Runs one configuration and writes its record.

    Args:
        config: resolved, plain.
        choices: Hydra's group choices.
        overrides: the command line's, for provenance.

    Raises:
        BszoError: the configuration is wrong.
    """

    def __init__(self, config: dict[str, Any], choices: dict[str, str], overrides: Sequence[str]) -> None:
        self.config = parse(config)
        self.overrides = overrides
        self.folder = Path(self.config.paths.runs)
        self.public = scrub_all(records.scientific(by_content(self.config)))
        self.signature = records.signature(self.public)
        self.choices = choices | self._names(choices)
        self.signals = Signals()
        self.runner: Runner | None = None
        self.parts: Parts | None = None
        self.tracker: RunTracker = NoTracker()
        self.started = time.time()

    def _names(self, choices: dict[str, str]) -> dict[str, str]:
        """`model=local` says nothing: the folder's name does."""
        if choices.get("model") != "local":
            return {}
        return {"model": Path(str(self.config.model["path"])).expanduser().resolve().name}

    def run(self) -> dict[str, Any]:
        """The record of this configuration: an earlier one that is ok, or a new one.

        Raises:
            BszoError: rows or model cannot be used; nothing is written.
            Exception: a fault of the program, after a record with status `crashed`.
        """
        if earlier := self._earlier():
            return earlier
        status, reason = "crashed", None
        with self.signals:
            try:
                status, reason = self._attempt()
            finally:
                error = sys.exception()
                if not isinstance(error, BszoError) or self.runner is not None:  # else bad input: nothing ran
                    record = self._finish(status, reason or (error and f"{type(error).__name__}: {error}"))
        return record

    def _earlier(self) -> dict[str, Any] | None:
        """The ok record with this signature; another status will be replaced, damage is an error."""
        path = records.find(self.signature, self.folder)
        if path is None:
            return None
        try:
            earlier = records.load(path)
        except records.RecordError as error:
            raise ConfigError(f"{error}; move it away to run this again") from error
        if earlier["status"] != "ok":
            return None
        log.info("already run: %s (test accuracy %s)", path.name, earlier["test_accuracy"])
        return earlier

    def _finish(self, status: str, reason: str | None) -> dict[str, Any]:
        record = self._record(status, reason)
        path = records.write(record, self.folder)
        self._finish_tracker(record)
        log.info("%s: %s", status, path)
        return record

    def _attempt(self) -> tuple[str, str | None]:
        """Build and run; the ways a run may end early, as status and reason."""
        try:
            self.parts = build(self.config)
            self.tracker = make_tracker(self.config.tracker, self.config.paths, self._title(), self.public)
            self.runner = Runner(
                self.parts,
                self.config.protocol,
                seed=self.config.seed,
                tracker=self.tracker,
                signals=self.signals,
                log_every=self.config.tracker.log_every,
                progress=self.config.tracker.progress,
            )
            self.runner.run()
        except (NonFiniteLoss, Diverged) as error:
            return "diverged", str(error)
        except (torch.OutOfMemoryError, MemoryError) as error:
            return "out_of_memory", str(error) or "no memory left"
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # how torch says it on a CPU
                raise
            return "out_of_memory", str(error)
        except KeyboardInterrupt as signal:
            return "interrupted", f"stopped by {signal or 'SIGINT'}"
        return "ok", None

    def _title(self) -> str:
        names = [self.choices.get(group, "none") for group in ("task", "model", "optimizer")]
        return "-".join([*names, f"seed{self.config.seed}", self.signature[:6]])

    def _record(self, status: str, reason: str | None) -> dict[str, Any]:
        result = self.runner.result if self.runner else Result()
        meters = self.runner.meters if self.runner else None
        optimizer: Any = self.parts.optimizer if self.parts else None
        return {
            "schema_version": records.SCHEMA_VERSION,
            "signature": self.signature,
            "status": status,
            "reason": None if reason is None else scrub(" ".join(reason.split()))[:500],
            "choices": self.choices,
            "config": self.public,
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
            "data": self.parts.data if self.parts else {},
            "model": self.parts.model_facts if self.parts else {},
            "provenance": provenance(self.overrides, resolve_device(self.config.device))
            | {
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            },
        }

    def _finish_tracker(self, record: dict[str, Any]) -> None:
        keys = (
            "status",
            "zero_shot_accuracy",
            "validation_accuracy",
            "test_accuracy",
            "num_forwards",
            "best_step",
            "peak_memory_bytes",
            "train_seconds",
            "signature",
        )
        self.tracker.finish({key: record[key] for key in keys}, ok=record["status"] == "ok")
