"""`hydra/launcher=processes`: runs of a sweep in processes of their own, all of which a signal lets
save.

joblib by itself ends its workers as soon as one of them, or the process that waits for them, is
stopped.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

import psutil
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from omegaconf import DictConfig

from experiments.training.outcome import EXIT_CODES, RunFailed
from experiments.training.signals import STOPPING, listener
from experiments.training.threads import SHARING

STOPPED = EXIT_CODES["interrupted"]


class ProcessesLauncher(JoblibLauncher):
    """Once it is told to stop, it starts no run, waits for those that run, and raises
    KeyboardInterrupt."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        num_jobs = config.hydra.launcher.n_jobs
        if num_jobs < 0:  # -1: as many as there are cores, -2: one less
            num_jobs = max(1, (psutil.cpu_count() or 1) + 1 + num_jobs)
        task = StoppableTask(task_function, num_jobs)
        super().setup(hydra_context=hydra_context, task_function=task, config=config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        with SignalForwarding() as signals:
            done = super().launch(UnstartedJobs(job_overrides, signals), initial_job_idx)
        if signals.signal_name or any(stopped(run) for run in done):
            raise KeyboardInterrupt(signals.signal_name or "a signal")
        return done


def stopped(run: JobReturn) -> bool:
    failure = run._return_value  # the property would raise it
    return isinstance(failure, RunFailed) and failure.code == STOPPED


class StoppableTask:
    """A worker's runs: after one that was stopped, or a signal between two, no other begins.

    Args:
        task: what a run does.
        num_jobs: runs at a time, which share the machine's cores.
    """

    def __init__(self, task: TaskFunction, num_jobs: int) -> None:
        self.task, self.num_jobs = task, num_jobs

    def __call__(self, config: DictConfig) -> Any:
        os.environ[SHARING] = str(self.num_jobs)
        listener.begin()
        if listener.signal_name:
            raise RunFailed(f"stopped by {listener.signal_name}", STOPPED)
        try:
            return self.task(config)
        except SystemExit as end:
            if end.code != STOPPED:
                raise
            listener.signal_name = listener.signal_name or "a signal"
            raise RunFailed("interrupted", STOPPED) from end


class SignalForwarding:
    """While entered, the first stopping signal is passed on to all child processes, and does
    nothing else here.

    A second Ctrl-C does not wait for them. What is passed on is SIGTERM: a worker takes a second
    Ctrl-C, too, for impatience, and a terminal has sent it the first by itself.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.signal_name:
            if number == signal.SIGINT:
                raise KeyboardInterrupt(self.signal_name)
            return
        self.signal_name = signal.Signals(number).name
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                child.terminate()


class UnstartedJobs(Sequence[Any]):
    """The jobs, of which none is handed out any more once a signal has come."""

    def __init__(self, jobs: Sequence[Any], signals: SignalForwarding) -> None:
        self.jobs, self.signals = jobs, signals

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: Any) -> Any:
        return self.jobs[index]

    def __iter__(self) -> Iterator[Any]:
        for job in self.jobs:
            if self.signals.signal_name:
                return
            yield job
