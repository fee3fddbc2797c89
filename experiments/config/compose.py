"""Composition of a configuration: by `compose` in a program, by `hydra.main` on a command line.

Both read YAML through `hydra_plugins.yaml_source`, which holds a file of one's own to what a run
computes. What a command line says of Hydra itself is checked here (docs/threats.md, "A command line
that would have Hydra run code").
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bszo.errors import ConfigError
from experiments import CONF
from experiments.config.messages import explain, is_group
from experiments.config.yaml_files import exists, read_mapping

VERSION_BASE = "1.3"  # of Hydra's behaviour
COMPOSING = ("rates", "sweep")  # keys that other keys are made of, no part of a run
HANDLERS = ("logging.StreamHandler", "logging.NullHandler")  # nothing here writes a log file
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
UNUSED = ("hydra.callbacks", "hydra.job.env_set", "hydra.job.env_copy")
LOGGING = ("hydra.job_logging", "hydra.hydra_logging")
# folders, which a record names by what they hold, and what no record has
FROM_ENVIRONMENT = ("model.path", "data.root", "paths", "tracker")
_FLAG_WITH_VALUE = re.compile(r"(--config-dir|-cd)(?:=(.*))?", re.DOTALL)


def compose(overrides: Sequence[str] = (), *, folders: Sequence[str | Path] = ()) -> dict[str, Any]:
    """The configuration that a run with these overrides would have, plain and resolved.

    Args:
        overrides: as on the command line, without flags.
        folders: searched for choices of groups beside conf/, as --config-dir is.

    Raises:
        ConfigError: in one line, what cannot be composed.

    Example:
        >>> compose(["optimizer=bszo", "optimizer.k=4"])["optimizer"]["k"]
        4
    """
    _check_choices(overrides)
    try:
        return resolve(composition([*overrides, *_search_path(folders)]))
    except (HydraException, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        raise ConfigError(explain(error, overrides, folders)) from error


def composition(overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration as Hydra composes it, interpolations left as they are written.

    Raises:
        HydraException, OmegaConfBaseException, ValueError: it cannot be composed; `explain` says it
            in one line.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        return hydra.compose("config", list(overrides), return_hydra_config=with_hydra)


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as a plain dictionary, interpolations resolved.

    Raises:
        ConfigError: a key that needs a value has none, refers to one that does not exist, or would
            have a record named after another model.
    """
    _check_environment(OmegaConf.to_container(config, resolve=False))
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigError(f"{missing[0]}: needs a value ({missing[0]}=...)")
        plain = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(plain, dict)
    _check_model_name(plain.get("model"))
    return {str(key): value for key, value in plain.items() if key not in COMPOSING}


def _check_environment(value: Any, key: str = "") -> None:
    """Refuse a value of an environment variable where a record would show it (docs/threats.md, "A
    record that tells who made it")."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_environment(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            _check_environment(item, key)
    elif isinstance(value, str) and re.search(r"\$\{\s*oc\.env\s*:", value):
        group = key.partition(".")[0]
        if key not in FROM_ENVIRONMENT and group not in FROM_ENVIRONMENT:
            raise ConfigError(
                f"{key}={value!r:.80}: a record would show the variable's value; from the"
                f" environment come {', '.join(FROM_ENVIRONMENT)} alone"
            )


def _check_model_name(model: Any) -> None:
    """Refuse a name of conf/model for weights other than its own (docs/threats.md, "A name for
    other weights")."""
    name, path = (model.get(key) if isinstance(model, dict) else None for key in ("name", "path"))
    file = CONF / "model" / f"{Path(str(name)).name}.yaml"
    if not exists(file.is_file):
        return
    shipped = read_mapping(file)
    if name == shipped.name and path != shipped.path:
        raise ConfigError(
            f"model.path={path}: the name {name} stands for {shipped.path}; take model=local"
            f" model.path={path}, or say model.name=NAME, too"
        )


def _check_choices(overrides: Sequence[str]) -> None:
    """Refuse several choices of one group, which Hydra would merge: a task of two tasks' keys."""
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("[") and is_group(key.lstrip("+~")):
            raise ConfigError(
                f"{override}: a run has one choice of {key}; {key}={value.strip('[]')} with"
                " --multirun is a run each"
            )


def own_folders(arguments: Sequence[str]) -> list[str]:
    """The folders that a command line gives by --config-dir."""
    return _split(arguments)[1]


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line for `hydra.main`, with folders of one's own read as `compose` reads them.

    Raises:
        ConfigError: a flag or an override of `hydra` that would run code or write files, or an
            override that Hydra would take for a flag.
    """
    rest, folders = _split(arguments)
    _check_choices(rest)
    for argument in rest:
        # -protocol=smoke would be --package, and say nothing
        if re.match(r"-(?!cn=|sc=)[a-z]\w*[\w.]*=", argument):
            raise ConfigError(f"{argument}: an override has no dash: {argument[1:]}")
        if argument.startswith("--e"):  # also argparse's abbreviations
            raise ConfigError(
                "--experimental-rerun: reads a pickle, which can run code; use python -m"
                " experiments.rerun"
            )
        if argument.startswith(("--config-p", "-cp", "--config-d")):
            raise ConfigError(
                f"{argument}: conf/ is the configuration; a folder of your own beside it is given"
                " by --config-dir"
            )
        if re.match(r"[+~]*(hydra\.searchpath\b|[^=]*@[^=]*\bhydra\b)", argument):
            raise ConfigError(f"{argument}: a folder of your own is given by --config-dir")
    of_hydra = [argument for argument in rest if re.match(r"[+~]*hydra[./@=]", argument)]
    if of_hydra:
        _check_hydra(composition(of_hydra, with_hydra=True))
    return [*map(_with_home, rest), *_search_path(folders)]


def _with_home(argument: str) -> str:
    """An override of `paths` with the user's home in place of ~, which no shell expands there."""
    key, _, value = argument.partition("=")
    if not (re.fullmatch(r"paths\.\w+", key) and re.match(r"['\"]?~", value)):
        return argument
    try:
        folder = Path(value.strip("'\"")).expanduser()
    except RuntimeError as error:  # ~ of nobody, or without a home
        raise ConfigError(f"{argument}: {error}") from error
    return f"{key}={quoted(str(folder))}"


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without --config-dir, and its folders."""
    rest, folders = [], []
    left = iter(arguments)
    for argument in left:
        found = _FLAG_WITH_VALUE.fullmatch(argument)
        if found is None:
            rest.append(argument)
        elif (folder := found[2] if found[2] is not None else next(left, None)) is not None:
            folders.append(folder)
        else:
            raise ConfigError(f"{argument}: a folder must follow")
    return rest, folders


def _search_path(folders: Sequence[str | Path]) -> list[str]:
    """The override that has Hydra search these folders after conf/; none without folders."""
    found = []
    for folder in folders:
        path = Path(os.path.expanduser(folder)).absolute()  # noqa: PTH111 (leaves ~nobody as it is)
        if not exists(path.is_dir):
            raise ConfigError(
                f"--config-dir {folder}: there is no such folder; one with task/<name>.yaml is"
                " needed"
            )
        for file in sorted(path.glob("*/*.yaml")):
            if (CONF / file.parent.name / file.name).is_file():
                raise ConfigError(
                    f"--config-dir {folder}: {file.parent.name}={file.stem} is a choice of this"
                    " project's, which would be taken in its place; another name is valid"
                )
        found.append(quoted(f"yaml://{path}"))
    return [f"hydra.searchpath=[{','.join(found)}]"] if found else []


def _check_hydra(config: DictConfig) -> None:
    """Refuse what Hydra would call, import or set before a run begins."""
    for key in UNUSED:
        if OmegaConf.select(config, key):
            raise ConfigError(
                f"{key}: must be empty; nothing but the run itself is called or set here"
            )
    for key in ("hydra.launcher._target_", "hydra.sweeper._target_"):
        if not Plugins.is_in_toplevel_plugins_module(str(OmegaConf.select(config, key))):
            raise ConfigError(f"{key}: must be a plugin of Hydra's")
    verbose = config.hydra.verbose
    names = [verbose] if isinstance(verbose, str) else verbose
    if not isinstance(verbose, bool) and not (
        isinstance(names, (list, ListConfig)) and all(isinstance(name, str) for name in names)
    ):
        raise ConfigError(
            f"hydra.verbose={verbose!r:.80}: true, false, a logger's name or a list of such is"
            " valid"
        )
    launcher = config.hydra.runtime.choices["hydra/launcher"]
    if os.environ.get("WORLD_SIZE", "1") != "1" and launcher != "basic":
        raise ConfigError(
            "hydra/launcher: torchrun's processes take the runs of a sweep together, one after"
            " another; leave the launcher out"
        )
    for key in LOGGING:
        node = OmegaConf.select(config, key)
        _check_logging(OmegaConf.to_container(node) if node is not None else {}, key)


def _check_logging(value: Any, key: str) -> None:
    """`logging.config` imports and calls what `class`, `()` and `ext://` name."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            at = f"{key}.{name}"
            if name == "()" or (name == "class" and item not in HANDLERS):
                raise ConfigError(f"{at}={item!r:.80}: must be one of {', '.join(HANDLERS)}")
            _check_logging(item, at)
    elif isinstance(value, list):
        for item in value:
            _check_logging(item, key)
    elif isinstance(value, str) and re.search(r"://|\$\{", value) and value not in STREAMS:
        raise ConfigError(f"{key}={value!r:.80}: must be one of {', '.join(STREAMS)}")


def quoted(text: str) -> str:
    """A text as the value of an override that reads back as the same text, whatever it holds:
    quoted as Hydra's grammar asks."""
    return (
        "'"
        + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
        + "'"
    )
