"""Hydra's own part of a configuration, held to what this project uses of it.

Hydra calls what it finds there (callbacks, logging handlers) and sets environment variables before
a run begins, so that a shared YAML file could do through `hydra.*` what `check_targets` forbids
elsewhere.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from bszo.errors import ConfigError

MAIN: Any = hydra._internal.hydra  # where `hydra.main` finds its loader
PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
HANDLERS = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
UNUSED = ("hydra.callbacks", "hydra.job.env_set")
LOGGING = ("hydra.job_logging", "hydra.hydra_logging")


class CheckedLoader(ConfigLoaderImpl):
    """Composes as Hydra does, and refuses the result where it would run code; picklable, for
    launchers' workers."""

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        config = super().load_configuration(*args, **kwargs)
        for key in UNUSED:
            if OmegaConf.select(config, key):
                raise ConfigError(
                    f"{key}: must be empty; nothing but the run itself is called or set here"
                )
        for key in ("hydra.launcher._target_", "hydra.sweeper._target_"):
            if not str(OmegaConf.select(config, key)).startswith(PLUGINS):
                raise ConfigError(f"{key}: must be a plugin of Hydra's")
        if os.environ.get("WORLD_SIZE", "1") != "1" and not str(
            config.hydra.launcher._target_
        ).startswith(PLUGINS[1]):
            raise ConfigError(
                "hydra/launcher: torchrun's processes take the runs of a sweep together, one after"
                " another; leave the launcher out"
            )
        for key in LOGGING:
            node = OmegaConf.select(config, key)
            _check_logging(
                OmegaConf.to_container(node, resolve=True) if node is not None else {}, key
            )
        return config


def _check_logging(value: Any, key: str) -> None:
    """logging.config imports and calls what `class`, `()` and `ext://` name."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            at = f"{key}.{name}"
            if name == "()" or (name == "class" and item not in HANDLERS):
                raise ConfigError(f"{at}={item!r:.80}: must be one of {', '.join(HANDLERS)}")
            _check_logging(item, at)
    elif isinstance(value, list):
        for item in value:
            _check_logging(item, key)
    elif isinstance(value, str) and "://" in value and value not in STREAMS:
        raise ConfigError(f"{key}={value!r:.80}: must be one of {', '.join(STREAMS)}")


def literal(text: str) -> str:
    """A value of an override that reads back as the text, whatever stands in it: quoted as Hydra's
    grammar asks."""
    return (
        "'"
        + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
        + "'"
    )


@contextmanager
def checked_composition(arguments: Sequence[str]) -> Iterator[None]:
    """Whatever Hydra composes inside is checked before Hydra acts on it.

    Args:
        arguments: of the command line; Hydra would read a pickle for one of its flags.

    Raises:
        ConfigError: from inside, too: the first key or flag that could run code.
    """
    for argument in arguments:  # -protocol=smoke would be --package, and say nothing
        if re.match(r"-(?!cd=|cp=|cn=|sc=)[a-z]\w*[\w.]*=", argument):
            raise ConfigError(f"{argument}: an override has no dash: {argument[1:]}")
    if any(argument.startswith("--e") for argument in arguments):  # also argparse's abbreviations
        raise ConfigError(
            "--experimental-rerun: reads a pickle, which can run code; use python -m"
            " experiments.rerun"
        )
    plain, MAIN.ConfigLoaderImpl = MAIN.ConfigLoaderImpl, CheckedLoader
    try:
        yield
    finally:
        MAIN.ConfigLoaderImpl = plain
