"""Session: one configuration, from its signature to its record, however the run ends."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch

from bszo.errors import BszoError, Collapsed, ConfigError, NonFiniteLoss
from bszo.models import resolve_device, weights_fingerprint
from experiments.config.schema import parse
from experiments.records import record as records
from experiments.records import signing
from experiments.records.locks import Busy
from experiments.records.privacy import folder_name, scrub_all
from experiments.records.provenance import code_now, provenance
from experiments.training.artifacts import Artifacts
from experiments.training.build import Parts, build, by_content
from experiments.training.checkpoints.trajectory import TrajectoryCheckpoints
from experiments.training.checkpoints.weights import Checkpoints
from experiments.training.folders import Folders, with_home
from experiments.training.guards import Diverged
from experiments.training.parallel import join
from experiments.training.runner import Runner
from experiments.training.signals import Signals
from experiments.training.summary import Stopwatch, summary
from experiments.training.tracking import NoTracker, RunTracker, make_tracker

log = logging.getLogger("experiments")


def _require_said(whole: Any, public: Any, key: str) -> None:
    """ConfigError where a record would not say a task's text as it is: two tasks that differ there
    would have one signature, and the second would be answered by the first one's record."""
    if isinstance(whole, Mapping):
        for name, value in whole.items():
            _require_said(value, public[name], f"{key}.{name}")
    elif isinstance(whole, (list, tuple)):
        for i, (value, said) in enumerate(zip(whole, public, strict=True)):
            _require_said(value, said, f"{key}[{i}]")
    elif whole != public:
        raise ConfigError(
            f"{key}: a record leaves out absolute paths and secrets, and {public!r:.120} would not"
            " say what was run; a text without them is valid"
        )


class Session:
    """A session runs one configuration and writes its record.

    Args:
        config: the resolved configuration as plain mappings.
        choices: Hydra's groups, and the file that was chosen of each.
        overrides: as the command line has them, for the provenance.

    Raises:
        BszoError: the configuration is wrong.
    """

    def __init__(
        self, config: dict[str, Any], choices: dict[str, str], overrides: Sequence[str]
    ) -> None:
        self.config = parse(config)
        self.overrides = overrides
        self.code = code_now()  # whoever commits during the run changes nothing that runs
        whole = signing.scientific(by_content(self.config))
        self.public = scrub_all(whole)
        _require_said(whole["task"], self.public["task"], "task")
        self.signature = signing.signature(self.public)
        self.folders = Folders(self.config.paths, self.signature)
        self.choices = choices | self._names(choices)
        name = records.file_name({"choices": self.choices, "signature": self.signature})
        self.artifacts = Artifacts(
            self.config.checkpoint, self.folders.results, name, self.signature
        )
        self.signals = Signals()
        self.group = join(
            self.config.parallel,
            resolve_device(self.config.device),
            self.config.model.get("device_map"),
        )
        self.runner: Runner | None = None
        self.checkpoints: Checkpoints | None = None
        self.parts: Parts | None = None
        self.tracker: RunTracker = NoTracker()
        self.stopwatch = Stopwatch()

    def _names(self, choices: dict[str, str]) -> dict[str, str]:
        """Names of choices that say more than the choice: the folder's for `model=local`."""
        if choices.get("model") != "local":
            return {}
        return {"model": folder_name(with_home(str(self.config.model["path"]), "model.path"))}

    def run(self) -> dict[str, Any]:
        """The record of this configuration: an earlier one that is ok, or a new one.

        Raises:
            BszoError: rows, model or folders cannot be used; nothing is written.
            Busy: another process is running this configuration.
            Exception: a fault of the program, after a record with status `crashed`.
        """
        if earlier := self._earlier_everywhere():
            return earlier
        with ExitStack() as stack:
            busy = self.folders.claim(stack) if self.group.rank == 0 else None
            if self.group.first(busy is not None):
                raise busy or Busy(
                    f"{self.signature}: another process is running this configuration; skipped"
                )
            # another process may have finished the run while this one waited for the lock
            return self._earlier_everywhere() or self._run()

    def _run(self) -> dict[str, Any]:
        with self.signals:
            try:
                status, reason = self._attempt()
            except BaseException as error:
                self._record_crash(error)
                raise
            return self._finish(status, reason)

    def _record_crash(self, error: BaseException) -> None:
        """Write the record of a run that an error is about to end.

        If the input was bad, nothing has run and there is no record.
        """
        if isinstance(error, BszoError) and self.runner is None:
            return
        with suppress(KeyboardInterrupt):  # a signal came meanwhile, and the error says more
            self._finish("crashed", f"{type(error).__name__}: {error}")

    def _earlier_everywhere(self) -> dict[str, Any] | None:
        earlier = self.folders.earlier() if self.group.rank == 0 else None
        if earlier:
            self.artifacts.warn_of_missing()
        return (
            (earlier or self._record("ok", None)) if self.group.first(earlier is not None) else None
        )

    def _finish(self, status: str, reason: str | None) -> dict[str, Any]:
        with self.signals.held():  # torchrun stops the others as soon as one has failed
            record = self._record(status, reason)
            # stopped again before it has gone on: the numbers that it had are still the run's
            if self.runner is None and (begun := self.folders.begun()):
                record = {**begun, "status": status, "reason": reason}
            path = self.folders.write(record) if self.group.rank == 0 else None
            if path is not None and status == "ok" and self.checkpoints is not None:
                self.checkpoints.remove()
        if path is not None:
            self._finish_tracker(record)
            log.info("%s: %s", status, path)
        if status in ("ok", "diverged"):
            self.group.first(True)  # no process exits before the record is written
        return record

    def _say_eps(self) -> None:
        """Say that perturbations have not the paper's length, where nobody has asked for one."""
        precision, eps = self.config.precision, self.config.optimizer.get("eps")
        asked = any(text.lstrip("+").startswith("optimizer.eps=") for text in self.overrides)
        if precision.dtype != "float32" and not asked and eps == precision.eps:
            log.info(
                "optimizer.eps=%g: the default in %s; the paper's is optimizer.eps=1e-4",
                eps,
                precision.dtype,
            )

    def _attempt(self) -> tuple[str, str | None]:
        """Build and run; return the status with which the run has ended, and the reason if it is
        not ok."""
        self._say_eps()
        try:
            self.parts = build(self.config)
            self.group.attach(self.parts.optimizer)
            self.group.require_same(
                "rows or weights", f"{self.signature} {self.parts.data} {self.parts.model_facts}"
            )
            self.checkpoints = self._make_checkpoints(self.parts)
            found = self.checkpoints.load()
            if self.group.rank == 0:
                self.artifacts.prepare()
                self.tracker = make_tracker(
                    self.config.tracker,
                    self.config.paths,
                    self._title(),
                    self.public,
                    found[0]["tracker_id"] if found else None,
                )
            runner = Runner(
                self.parts,
                self.config.protocol,
                seed=self.config.seed,
                tracker=self.tracker,
                signals=self.signals,
                log_every=self.config.tracker.log_every,
                progress=self.config.tracker.progress if self.group.rank == 0 else "never",
                group=self.group,
                checkpoints=self.checkpoints if self.group.rank == 0 else None,
            )
            self._begin(runner, found)
            runner.run()
            if self.group.size > 1:
                self.group.require_same(
                    "trained weights", weights_fingerprint(self.parts.model.module)
                )
            if self.group.rank == 0:
                self.artifacts.write(self.parts.model, self.checkpoints, runner.result.best_step)
        except (NonFiniteLoss, Collapsed, Diverged) as error:
            return "diverged", str(error)
        except (torch.OutOfMemoryError, MemoryError) as error:
            return "out_of_memory", str(error) or "no memory left"
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # how torch says it on a CPU
                raise
            return "out_of_memory", str(error)
        except KeyboardInterrupt as signal:
            stopped = f"stopped by {str(signal) or 'SIGINT'}"
            if self.group.size > 1 and str(signal) == "SIGTERM":
                stopped += (
                    ", as torchrun does where another process has failed or it is stopped itself"
                )
            return "interrupted", stopped
        return "ok", None

    def _make_checkpoints(self, parts: Parts) -> Checkpoints:
        folder = self.folders.checkpoints
        if self.config.checkpoint.kind == "full":
            return Checkpoints(folder, self.signature, parts)
        node = signing.scientific({"optimizer": self.config.log_node})["optimizer"]
        return TrajectoryCheckpoints(
            folder, self.signature, parts, node, writes=self.group.rank == 0
        )

    def _begin(
        self, runner: Runner, found: tuple[dict[str, Any], list[torch.Tensor]] | None
    ) -> None:
        """Begin at the checkpoint that was found, or at step 0."""
        assert self.checkpoints is not None
        if found:
            runner.resume(*found)
        else:
            self.checkpoints.start()
        self.runner = runner
        if self.group.size > 1:
            self.group.require_same("the checkpoint they go on from", str(runner.result.num_steps))

    def _title(self) -> str:
        names = [self.choices.get(group, "none") for group in ("task", "model", "optimizer")]
        return "-".join([*names, f"seed{self.config.seed}", self.signature[:6]])

    def _record(self, status: str, reason: str | None) -> dict[str, Any]:
        signed = {"signature": self.signature, "choices": self.choices, "config": self.public}
        device = resolve_device(self.config.device)
        where = provenance(self.overrides, device, self.group.size, self.code)
        where |= {"parallel": self.group.facts(), **self.stopwatch.facts()}
        return summary(status, reason, signed, self.parts, self.runner, where)

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
