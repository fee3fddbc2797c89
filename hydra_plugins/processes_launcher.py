"""Launcher `hydra/launcher=processes`: runs of a sweep side by side, each in a process of its own.

A signal lets all of them save. A process that is killed takes its own run with it and no other:
each place for a run has a pool of one process, since a pool ends all its processes as soon as one
of them dies.
"""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psutil
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_joblib_launcher._core import execute_job
from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor
from omegaconf import DictConfig

from bszo.errors import one_line
from experiments.training.outcome import EXIT_CODES, RunFailed
from experiments.training.signals import STOPPING, listener
from experiments.training.threads import SHARING

STOPPED = EXIT_CODES["interrupted"]
# what libraries below torch read; joblib sets the same
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ProcessesLauncher(Launcher):
    """Once a signal asks it to stop, it starts no run, waits for those that run, and raises
    KeyboardInterrupt.

    Args:
        n_jobs: runs at a time; -1: as many as there are cores, -2: one less.
    """

    def __init__(self, n_jobs: int) -> None:
        cores = psutil.cpu_count() or 1
        self.num_runs = max(1, n_jobs if n_jobs >= 0 else cores + 1 + n_jobs)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.config = hydra_context, config
        self.task = StoppableTask(task_function, self.num_runs)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """The runs' ends, in the order of the jobs; a run that was killed has failed."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        state = Singleton.get_state()

        def run(number: int, overrides: Sequence[str]) -> JobReturn | None:
            if signals.signal_name:
                return None
            arguments = (number, overrides, self.context, self.config, self.task, state)
            return places.run(overrides, execute_job, *arguments)

        with SignalForwarding() as signals, Places(self.num_runs) as places:
            waiting = [
                places.threads.submit(run, number, overrides)
                for number, overrides in enumerate(job_overrides, start=initial_job_idx)
            ]
            done = [end for end in map(Future.result, waiting) if end is not None]
        if signals.signal_name or any(stopped(end) for end in done):
            raise KeyboardInterrupt(signals.signal_name or "a signal")
        return done


class Places:
    """Places for runs: threads of this process, each of which waits for a pool of one process.

    Args:
        count: of places.
    """

    def __init__(self, count: int) -> None:
        self.threads = ThreadPoolExecutor(count)
        self.pools: list[ProcessPoolExecutor] = []
        self._own = threading.local()  # the pool of this thread
        each = max(1, (psutil.cpu_count() or 1) // count)
        self._environment = {name: os.environ.get(name, str(each)) for name in THREADS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown()
        for pool in self.pools:
            pool.shutdown()

    def run(self, overrides: Sequence[str], job: Callable[..., JobReturn], *arguments: Any) -> Any:
        """The job's end in this thread's process; a failed run where the process was killed."""
        if (pool := getattr(self._own, "pool", None)) is None:
            pool = self._own.pool = ProcessPoolExecutor(1, env=self._environment)
            self.pools.append(pool)
        try:
            return pool.submit(job, *arguments).result()
        except BrokenProcessPool as error:
            self._own.pool = None  # the next run gets a process of its own
            return killed(overrides, str(error))


def killed(overrides: Sequence[str], why: str) -> JobReturn:
    """The end of a run whose process has died without a word."""
    run = " ".join(overrides)
    line = f"{run}: its process was killed, perhaps for want of memory ({one_line(why)})"
    end = JobReturn()
    end.overrides, end.status = overrides, JobStatus.FAILED
    end.return_value = RunFailed(line, EXIT_CODES["crashed"], already_printed=False)
    return end


def stopped(end: JobReturn) -> bool:
    """Whether a signal has ended the run."""
    failure = end._return_value  # the property would raise it
    return isinstance(failure, RunFailed) and failure.code == STOPPED


class StoppableTask:
    """A worker's task: after a run that was stopped, or a signal between two, no other begins.

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
