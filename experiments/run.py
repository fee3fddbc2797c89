"""`python -m experiments.run`: compose, sign, build, run, record.

Exit codes: 0 ok (or an ok record with this signature is there), 1 a wrong configuration, input or a
crash, 3 diverged, 4 out of memory, 5 another process is running it, 130 interrupted. A sweep goes
on past a failed run, and ends with its code, and past one that another process is running.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bszo.errors import BszoError, ConfigError, ParallelError
from experiments import CONF
from experiments.config.compose import checked_composition
from experiments.config.messages import explain, of_hydra
from experiments.records.locks import Busy
from experiments.training.outcome import EXIT_CODES, RunFailed

COMPOSING = ("rates", "sweep")  # keys that other keys are made of

log = logging.getLogger("experiments")


def execute(
    config: dict[str, Any], choices: dict[str, str], overrides: Sequence[str]
) -> dict[str, Any]:
    """Check, run and record one resolved configuration; return its record.

    An ok record with the same signature is returned as it is and nothing runs.

    Args:
        config: the resolved configuration as a plain dictionary.
        choices: the Hydra group choices.
        overrides: as typed, for the record's command.

    Raises:
        BszoError: what is wrong with the configuration, a data file or the model; no record is
            written.
    """
    # imported here: torch and transformers load only for a configuration that composes
    from experiments.training.session import Session

    return Session(config, choices, overrides).run()


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as a plain dictionary, interpolations resolved.

    Raises:
        ConfigError: a key that needs a value has none, or refers to one that does not exist.
    """
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigError(f"{missing[0]}: needs a value ({missing[0]}=...)")
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, CONF, ())) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in COMPOSING}


def job(config: DictConfig) -> None:
    """One Hydra job. A single run ends the process with its exit code, a run of a sweep raises
    RunFailed."""
    settings = HydraConfig.get()
    made = settings.runtime.choices.items()
    choices = {key: str(value) for key, value in made if not key.startswith(("hydra", "sweep"))}
    local_failure = False  # under torchrun: did this happen in this process alone, perhaps?
    try:
        sweep = OmegaConf.select(config, "sweep.name")
        if sweep and settings.mode == RunMode.RUN:  # it would be one run of the defaults
            raise ConfigError(f"sweep={sweep}: its runs need --multirun")
        record = execute(resolve(config), choices, list(settings.overrides.task))
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
    if local_failure or speaker():
        say(line)
    if settings.mode == RunMode.MULTIRUN and code != EXIT_CODES["interrupted"]:
        raise RunFailed(line, code, already_printed="submitit" not in settings.launcher._target_)
    sys.exit(code)


def say(line: object) -> None:
    """To whoever still listens: a Ctrl-C ends what stderr is piped into, too."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def speaker() -> bool:
    """False in all but the first of torchrun's processes: what all would say is said once."""
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
    wants_traceback = full_errors()
    try:
        with hydra_errors(), checked_composition(sys.argv[1:]):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except RunFailed as failed:
        if not failed.already_printed:
            say(failed.line)
        sys.exit(failed.code)
    except (BszoError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        if speaker():
            say(error if isinstance(error, BszoError) else explain(error, CONF, sys.argv[1:]))
        sys.exit(1)
    except KeyboardInterrupt as stop:  # between runs, or once the record is written
        if speaker():
            say(f"stopped by {str(stop) or 'SIGINT'}")
        sys.exit(EXIT_CODES["interrupted"])
    except Exception as error:
        if wants_traceback or (line := of_hydra(error, CONF, sys.argv[1:])) is None:
            raise
        if speaker():
            say(line)
        sys.exit(1)


if __name__ == "__main__":
    main()
