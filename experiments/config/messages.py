"""Messages about a configuration: Hydra's errors of many lines as one, with the key, its value and
the valid choices."""

import difflib
import re
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments import CONF
from experiments.config.yaml_files import exists, read_yaml

FOLDER = {"model": "path", "data": "root"}  # group -> the key of its choice `local`
_NOT_A_KEY = re.compile(r"Could not override '([^']+)'")
_NOT_A_CHOICE = re.compile(r"(?:Could not find|Could not load) '([^']+)'")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; choose one of a, b (did you mean a?)`, or the empty string without choices."""
    names = sorted(map(str, choices))
    close = difflib.get_close_matches(word, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"; choose one of {', '.join(names)}{hint}" if names else ""


def who_has(key: str, conf: Path = CONF) -> str:
    """`; optimizer=lozo-m, subzero take it` for optimizer.momentum: the group's choices that have
    such a key."""
    group, _, name = key.partition(".")
    files = sorted((conf / group).glob("*.yaml")) if name and exists((conf / group).is_dir) else ()
    having = [
        file.stem for file in files if name in (read_yaml(file.read_text(encoding="utf-8")) or {})
    ]
    takes = "take" if len(having) > 1 else "takes"
    return f"; {group}={', '.join(having)} {takes} it" if having else ""


def explain(
    error: Exception, arguments: Sequence[str] = (), folders: Sequence[str | Path] = ()
) -> str:
    """One line about an error of composing the configuration.

    Args:
        error: from Hydra or OmegaConf, a ValueError of theirs among them.
        arguments: of the command line.
        folders: that are searched for choices beside conf/.
    """
    if isinstance(error, RecursionError):
        return "the configuration refers to itself: a file in its own defaults, or keys in a ring"
    text = str(error)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    searched = (CONF, *map(Path, folders))
    if found := _NOT_A_CHOICE.search(text):
        group, option = _group_and_option(found[1], arguments)
        if is_group(group):
            return _no_choice(group, option, searched)
    if text.startswith("Ambiguous value for argument"):
        return f"{_first_line(text)}: several values are a sweep, which needs --multirun"
    if text.startswith("Config group override must be"):  # optimizer=null, optimizer=3
        for group, _, option in (argument.partition("=") for argument in arguments):
            if is_group(group) and option not in _choices(group, searched):
                return _no_choice(group, option, searched)
    if found := _NOT_A_KEY.search(text):
        return _no_key(found[1], cause)
    if isinstance(error, OverrideParseException):
        why = " ".join(text.splitlines()[1:2]) or "cannot be read"
        return f"{error.override}: not of the form key=value ({why})"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {_first_line(str(cause))}"
    return _first_line(text)


def explain_hydra(
    error: Exception, arguments: Sequence[str] = (), folders: Sequence[str | Path] = ()
) -> str | None:
    """One line about what Hydra or a launcher raised by itself; None for a run's own error, or a
    fault of this program."""
    names = [
        str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    # there is no Slurm, or sbatch refuses a job
    if names[-1].split(".")[0] in ("submitit", "joblib"):
        return f"hydra/launcher: {explain(error, arguments, folders)}"
    if names[-1] == "logging.config":
        why = f" ({error.__cause__})" if error.__cause__ else ""
        return f"hydra.job_logging, hydra.hydra_logging: {_first_line(str(error))}{why}"
    if "hydra._internal.config_loader_impl" in names:  # while it composes
        return explain(error, arguments, folders)
    caller = next((name for name in reversed(names) if not name.startswith("pathlib")), "")
    if (
        isinstance(error, OSError)
        and names[-1].startswith("pathlib")
        and caller.startswith("hydra")
    ):
        # the folder of a sweep's own files
        return f"{error.filename}: cannot be written ({error.strerror})"
    return None


def _group_and_option(named: str, arguments: Sequence[str]) -> tuple[str, str]:
    """`task/a/b` as the group and the option that an argument gives; else by its last slash."""
    for argument in arguments:
        group, _, option = argument.partition("=")
        if f"{group}/{option}" == named:
            return group, option
    group, _, option = named.rpartition("/")
    return group, option


def is_group(name: str) -> bool:
    """True where conf/ has a folder of that name."""
    return name != "" and exists((CONF / name).is_dir)


def _choices(group: str, folders: Sequence[Path]) -> set[str]:
    return {file.stem for folder in folders for file in (folder / group).glob("*.yaml")}


def _no_choice(group: str, option: str, folders: Sequence[Path]) -> str:
    choices = _choices(group, folders)
    if "/" in option and "local" in choices:
        return (
            f"{group}={option}: no such choice; a folder: {group}=local"
            f" {group}.{FOLDER[group]}={option}"
        )
    return f"{group}={option}: no such choice{did_you_mean(option, choices)}"


def _no_key(key: str, cause: BaseException | None) -> str:
    """A key that the configuration lacks, with those beside it."""
    parent = getattr(cause, "parent_node", None)
    beside = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
    valid = [name for name in beside if name not in ("hydra", "tuned")]
    return f"{key}: no such key{did_you_mean(key.rpartition('.')[2], valid)}{who_has(key)}"


def _first_line(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next(filter(None, lines), "the configuration cannot be composed")
