"""Hydra's many-line errors as one line: the key, its value and the valid choices."""

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.hints import did_you_mean, who_has

_NOT_A_KEY = re.compile(r"Could not override '([^']+)'")
FOLDER = {"model": "path", "data": "root"}
_NOT_AN_OPTION = re.compile(r"(?:Could not find|Could not load) '([^']+)'")


def explain(
    error: Exception, conf: Path, arguments: Sequence[str], beside: Sequence[Path] = ()
) -> str:
    """One line about an error of composing the configuration.

    Args:
        error: from Hydra or OmegaConf, a ValueError of theirs among them.
        conf: the folder of configuration groups.
        arguments: of the command line.
        beside: folders that are searched for choices, too, and that the arguments do not name by
            --config-dir.
    """
    text = str(error)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if found := _NOT_AN_OPTION.search(text):
        named = (argument.partition("=") for argument in arguments)
        group, option = next(
            ((g, o) for g, _, o in named if f"{g}/{o}" == found[1]), found[1].rpartition("/")[::2]
        )
        if (conf / group).is_dir() and group:
            return _no_choice(group, option, (conf, *beside, *_config_dirs(arguments)))
    if text.startswith("Ambiguous value for argument"):
        return f"{_first_line(text)}: several values are a sweep, which needs --multirun"
    if text.startswith("Config group override must be"):  # optimizer=null, optimizer=3
        folders = (conf, *beside, *_config_dirs(arguments))
        pairs = [argument.partition("=")[::2] for argument in arguments]
        wrong = [
            (group, option)
            for group, option in pairs
            if group
            and (conf / group).is_dir()
            and not any((folder / group / f"{option}.yaml").is_file() for folder in folders)
        ]
        return _no_choice(*wrong[0], folders) if wrong else _first_line(text)
    if found := _NOT_A_KEY.search(text):
        key = found[1]
        parent, _, name = key.rpartition(".")
        return (
            f"{key}: no such"
            f" key{did_you_mean(name, _siblings(parent, key, conf, arguments))}{who_has(key, conf)}"
        )
    if isinstance(error, OverrideParseException):
        why = " ".join(text.splitlines()[1:2]) or "cannot be read"
        return f"{error.override}: not of the form key=value ({why})"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {_first_line(str(cause))}"
    return _first_line(text)


def of_hydra(error: Exception, conf: Path, arguments: Sequence[str]) -> str | None:
    """One line about what Hydra or a launcher raised by itself; None: a run's own error, or a fault
    of this program."""
    names = [
        str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    # there is no Slurm, or sbatch refuses a job
    if names[-1].split(".")[0] in ("submitit", "joblib"):
        return f"hydra/launcher: {explain(error, conf, arguments)}"
    if names[-1] == "hydra._internal.defaults_list":
        return explain(error, conf, arguments)
    caller = next((name for name in reversed(names) if not name.startswith("pathlib")), "")
    if (
        isinstance(error, OSError)
        and names[-1].startswith("pathlib")
        and caller.startswith("hydra")
    ):
        # the folder of a sweep's own files
        return f"{error.filename}: cannot be written ({error.strerror})"
    return None


def _no_choice(group: str, option: str, folders: Sequence[Path]) -> str:
    choices = {file.stem for folder in folders for file in (folder / group).glob("*.yaml")}
    if "/" in option and "local" in choices:
        return (
            f"{group}={option}: no such choice; a folder: {group}=local"
            f" {group}.{FOLDER[group]}={option}"
        )
    return f"{group}={option}: no such choice{did_you_mean(option, choices)}"


def _config_dirs(arguments: Sequence[str]) -> list[Path]:
    pairs = [
        (*here.partition("=")[::2], after)
        for here, after in zip(arguments, [*arguments[1:], ""], strict=False)
    ]
    return [Path(value or after) for flag, value, after in pairs if flag in ("--config-dir", "-cd")]


def _first_line(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next(filter(None, lines), "the configuration cannot be composed")


def _siblings(parent: str, key: str, conf: Path, arguments: Sequence[str]) -> list[str]:
    """The keys beside a misspelt one, in the configuration without it; the groups where that fails
    too."""
    overrides = (
        argument for argument in arguments if "=" in argument and not argument.startswith("-")
    )
    rest = [override for override in overrides if override.lstrip("+~").split("=")[0] != key]
    groups = sorted(folder.name for folder in conf.iterdir() if folder.is_dir())
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            config: Any = compose("config", overrides=rest)
    except (HydraException, OmegaConfBaseException):
        return groups if not parent else []
    node = OmegaConf.select(config, parent) if parent else config
    return [str(name) for name in node if name != "tuned"] if isinstance(node, DictConfig) else []
