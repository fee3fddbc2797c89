"""`--multirun sweep=table1`: Hydra's sweeper for the runs of an artefact that have no record yet.

First the runs that choose the learning rates, then, with the rates that validation chose, the
cells. Whatever launcher is configured runs them. Beside it, an override of an axis
(`optimizer=bszo,mezo`) picks among the points, any other is passed on to every run.
"""

import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bszo.errors import ConfigError
from experiments.config.compose import quoted
from experiments.config.yaml_files import exists
from experiments.records.store import gather, left_out
from experiments.sweeps.grid import Grid, GridError, Point, parse
from experiments.sweeps.matching import PLACES, picked, says_where
from experiments.sweeps.progress import Progress, clock, log, speak
from experiments.sweeps.selection import Shelf, missing_runs
from experiments.training.outcome import RunFailed

ACCEPTED = (3, 4)  # diverged and out of memory are results, which a table shows
# of a run, in what is passed on: Hydra knows its own only after it has set up the logging
NUMBER = "{number}"
NUMBERED = f"#{NUMBER} %(message)s"
SHORT = ("mini",)  # profiles whose runs take seconds: that they end is all that is worth a line


def count(runs: Sequence[Any]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


class GridSweeper(Sweeper):
    """Launches the runs of a grid that have no record yet."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.composed = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.parser = OverridesParser.create()

    def missing(self, grid: Grid, runs: Path) -> tuple[list[Point], list[Point]]:
        """The runs of a grid that have no record now, as `missing_runs` sorts them."""
        found = gather(runs)[0]
        if any("local" in (point["model"], point.get("data")) for point in grid.points):
            from experiments.training.build import made_there  # loads torch

            nodes: Any = (OmegaConf.to_container(self.composed[name]) for name in ("model", "data"))
            found = made_there(found, *nodes)
        return missing_runs(grid, Shelf(found, grid.conf))

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the choosing runs, again where the rates grow, and then the cells.

        Raises:
            ConfigError: the grid or an override cannot be used.
            RunFailed: after the last run, where some could not be run.
        """
        node: Any = OmegaConf.to_container(self.composed.sweep, resolve=True)
        try:
            grid = parse(node, node["profile"])
        except GridError as error:
            raise ConfigError(str(error)) from error
        wanted, passed = self._split(grid, arguments)
        self._check_places(wanted, passed)
        foreign = [text for text in passed if not (says_where(_key(text)) or _key(text) in PLACES)]
        runs = Path(self.composed.paths.runs) / grid.profile
        passed = [
            f"paths.runs={quoted(str(runs))}",
            *self._verbosity(grid.profile, passed),
            *passed,
        ]
        speak()
        for line in left_out(gather(runs)[1]):
            log.info(line)
        name, started = f"{grid.name} {grid.profile}", time.monotonic()
        failed: list[str] = []
        launched = 0
        for phase, what in enumerate(("to choose learning rates", "for the cells")):
            begun: list[Point] = []
            while True:  # a grid that grows asks for more once it knows the first
                missing = self.missing(wanted, runs)[phase]
                chosen = [run for run in missing if run not in begun]
                if chosen or not begun:
                    log.info("%s: %s to do %s", name, count(chosen), what)
                if not chosen:
                    break
                begun += chosen
                with Progress(name, chosen, runs):
                    failed += self._launch(chosen, passed, launched)
                launched += len(chosen)
                if not wanted.grows:
                    break
        if failed:
            line = (
                f"{grid.name}: {len(failed)} of {launched} runs could not be run, the first"
                f" because: {failed[0]}; the same command tries again"
            )
            log.info(line)
            raise RunFailed(line, 1)
        # others do them, or an override made them another's cells
        left = sum(map(len, self.missing(wanted, runs)))
        why = f"; its cells do not have {', '.join(foreign)}" if left and foreign else ""
        log.info(
            "%s: %s in %s, %s missing%s",
            name,
            count(range(launched)),
            clock(time.monotonic() - started),
            f"{left} still" if left else "nothing is",
            why,
        )
        return None

    def _check_places(self, grid: Grid, passed: Sequence[str]) -> None:
        """Refuse a folder that is missing once, before each of the runs would.

        Raises:
            ConfigError: naming the key.
        """
        given = set(map(_key, passed))
        for key, group in PLACES.items():
            if key not in given and any(point.get(group) == "local" for point in grid.points):
                raise ConfigError(
                    f"{key}: needs a value ({group}=local {key}=DIR) in the profile {grid.profile}"
                )
            folder = OmegaConf.select(self.composed, key)
            if key in given and not exists(Path(str(folder)).expanduser().is_dir):
                raise ConfigError(f"{key}={folder}: there is no such folder")

    def _verbosity(self, profile: str, passed: Sequence[str]) -> list[str]:
        """Overrides that keep the runs from talking over each other: no progress bars, and the
        run's number before each line."""
        said = (*passed, *(OmegaConf.select(self.composed, "hydra.overrides.hydra") or ()))
        found = (
            [] if any("tracker.progress=" in text for text in said) else ["tracker.progress=never"]
        )
        if any("hydra.job_logging" in text for text in said):
            return found
        if profile in SHORT:
            return [*found, "hydra.job_logging.root.level=WARNING"]
        return [*found, f"hydra.job_logging.formatters.simple.format='{NUMBERED}'"]

    def _split(self, grid: Grid, arguments: Sequence[str]) -> tuple[Grid, list[str]]:
        """The grid of the points that the arguments pick, and the arguments for every run."""
        wanted, passed = grid, []
        for argument in arguments:
            override = self.parser.parse_override(argument)
            key = override.get_key_element()
            if key == "sweep" or key.startswith("sweep."):
                continue
            if says_where(key) or not any(key in point for point in wanted.points):
                if override.is_sweep_override():
                    raise ConfigError(
                        f"{argument}: {key} is no axis of sweep={grid.name}, whose runs have one"
                        " value of it; one is valid"
                    )
                passed.append(argument)
                continue
            values = (
                [str(v) for v in override.sweep_string_iterator()]
                if override.is_sweep_override()
                else [override.get_value_element_as_str()]
            )
            valid = sorted({point[key] for point in wanted.points if key in point})
            wanted = picked(wanted, key, values)
            if not wanted.points:
                raise ConfigError(
                    f"{argument}: no run of {grid.name} has it; valid: {', '.join(valid)}"
                )
        return wanted, passed

    def _launch(self, runs: Sequence[Point], passed: Sequence[str], first: int) -> list[str]:
        """Launch the runs; the reasons why some could not be run."""
        given = set(map(_key, passed))
        jobs = [
            [
                *(f"{key}={value}" for key, value in run.items() if key not in given),
                *(text.replace(NUMBER, str(i)) for text in passed),
            ]
            for i, run in enumerate(runs, start=first)
        ]
        failures = []
        for result in self.launcher.launch(jobs, initial_job_idx=first):
            try:
                with redirect_stderr(StringIO()):  # Hydra would print the run's overrides, too
                    _ = result.return_value
            except RunFailed as failure:
                failures += [failure.line] if failure.code not in ACCEPTED else []
        return failures
