"""Run of a configuration: it is composed, signed, built, run and recorded.

    python -m experiments.run [key=value ...]

Exit codes: 0 ok (or an ok record with this signature is there), 1 a wrong configuration, input or a
crash, 3 diverged, 4 out of memory, 5 another process is running it, 130 interrupted. A sweep goes
on when a run fails, and ends with its code; it passes over a run that another process has begun.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bszo.errors import BszoError, ConfigError, ParallelError, printable
from experiments import CONF
from experiments.config.compose import VERSION_BASE, hydra_arguments, own_folders, resolve
from experiments.config.messages import explain, explain_hydra
from experiments.config.unread import unread_of
from experiments.records.locks import Busy
from experiments.training.outcome import EXIT_CODES, RunFailed

log = logging.getLogger("experiments")


def execute(
    config: dict[str, Any],
    choices: dict[str, str],
    overrides: Sequence[str],
    unread: Sequence[str] = (),
) -> dict[str, Any]:
    """Check, run and record one resolved configuration; return its record.

    An ok record with the same signature is returned as it is and nothing runs.

    Args:
        config: the resolved configuration as a plain dictionary.
        choices: the Hydra group choices.
        overrides: as typed, for the record's command.
        unread: keys among them that nothing in the run reads, which is said.

    Raises:
        BszoError: what is wrong with the configuration, a data file or the model; no record is
            written.
    """
    # imported here: torch and transformers load only for a configuration that composes
    from experiments.training.session import Session

    session = Session(config, choices, overrides)
    for key in unread:
        log.warning("%s: nothing in this run reads it", key)
    return session.run()


def job(config: DictConfig) -> None:
    """One Hydra job. A single run ends the process with its exit code, a run of a sweep raises
    RunFailed."""
    settings = HydraConfig.get()
    local_failure = False  # under torchrun: it may have happened in this process alone
    try:
        sweep = OmegaConf.select(config, "sweep.name")
        if sweep and settings.mode == RunMode.RUN:  # it would be one run of the defaults
            raise ConfigError(f"sweep={sweep}: its runs need --multirun")
        resolved = resolve(config)
        choices = _choices(settings.runtime.choices, resolved)
        typed = list(settings.overrides.task)
        record = execute(resolved, choices, typed, unread_of(config, typed))
        line, code = f"{record['status']}: {record['reason']}", EXIT_CODES[record["status"]]
        local_failure = record["status"] == "out_of_memory"
    except Busy as busy:  # a sweep goes on to what nobody runs
        line, code = str(busy), EXIT_CODES["busy"]
        if settings.mode == RunMode.MULTIRUN:
            log.info(line)
            return
    except BszoError as error:
        if full_errors():
            raise
        line, code = str(error), 1
        local_failure = not isinstance(error, (ConfigError, ParallelError))
    if code == 0:
        return
    if local_failure or is_first_process():
        say(line)
    if settings.mode == RunMode.MULTIRUN and code != EXIT_CODES["interrupted"]:
        raise RunFailed(line, code, already_printed="submitit" not in settings.launcher._target_)
    sys.exit(code)


def _choices(made: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """The choice of each group of the run, under the name that a command line gives its model."""
    choices = {key: str(value) for key, value in made.items()}
    shipped = (CONF / "model" / f"{choices['model']}.yaml").is_file()
    if shipped and (name := config["model"].get("name")):
        choices["model"] = str(name)
    return {k: value for k, value in choices.items() if not k.startswith(("hydra", "sweep"))}


def say(line: object) -> None:
    """Print a line to stderr, which a Ctrl-C may have closed."""
    with suppress(OSError):
        print(printable(str(line)), file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """True in the process of torchrun's that says what all would say."""
    return os.environ.get("RANK", "0") == "0"


def full_errors() -> bool:
    """True where the user asked for tracebacks."""
    return os.environ.get("BSZO_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "0")) not in (
        "",
        "0",
    )


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Have Hydra let its errors pass, to be said in one line here; the environment is as it was
    afterwards."""
    before = dict(os.environ)
    os.environ.update(BSZO_FULL_ERROR="1" if full_errors() else "0", HYDRA_FULL_ERROR="1")
    try:
        yield
    finally:
        for name in ("BSZO_FULL_ERROR", "HYDRA_FULL_ERROR"):
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})


def main() -> None:
    """The command line; every error that a user can cause is one line."""
    wants_traceback, arguments = full_errors(), sys.argv[1:]
    try:
        with hydra_errors():
            sys.argv[1:] = hydra_arguments(arguments)  # where hydra.main reads them
            hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name="config")(
                job
            )()
    except RunFailed as failed:
        if not failed.already_printed:
            say(failed.line)
        sys.exit(failed.code)
    except KeyboardInterrupt as stop:  # between runs, or once the record is written
        if is_first_process():
            say(f"stopped by {str(stop) or 'SIGINT'}")
        sys.exit(EXIT_CODES["interrupted"])
    except Exception as error:
        line = _line_of(error, arguments)
        if wants_traceback or line is None:
            raise
        if is_first_process():
            say(line)
        sys.exit(1)


def _line_of(error: Exception, arguments: Sequence[str]) -> str | None:
    """What is said of an error; None for a fault of this program, which leaves its traceback."""
    if isinstance(error, BszoError):
        return str(error)
    folders = own_folders(arguments)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return explain(error, arguments, folders)
    return explain_hydra(error, arguments, folders)


if __name__ == "__main__":
    main()
