"""Path of a model: a folder, a GGUF file, a model of this package or of the cache, or a name on the
hub.

A folder is checked for its files before anything is read.
"""

import importlib.resources
import json
from pathlib import Path

from bszo.errors import ModelError
from bszo.models.cache import CACHED, cached
from bszo.models.gguf import ENDING, convert_gguf

ASSET = "asset:"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def locate(path: str) -> Path | None:
    """The model's folder, checked for its files; None for a hub name. Of a GGUF file it is the
    folder that it is converted to.

    Raises:
        ModelError: a path that is neither, a folder without configuration, safetensors or
            tokenizer, or a file that cannot be converted.
    """
    folder = named_folder(path)
    if folder.is_file() and folder.name.endswith(ENDING):
        folder = convert_gguf(folder)
    if path and folder.is_dir():
        check_folder(folder, path)
        return folder
    if folder.is_file():
        raise ModelError(
            f"model.path={path}: is a file; give the folder with its config.json and safetensors,"
            f" or a GGUF file, whose name ends in {ENDING}"
        )
    # no hub name looks like this
    if not path or path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith(ENDING):
        what = "file" if path.endswith(ENDING) else "folder"
        raise ModelError(f"model.path={path}: there is no such {what}")
    return None


def named_folder(path: str) -> Path:
    """The folder or file that a path would name if it is there: `asset:NAME` and `cache:NAME@HEX`
    as well.

    Raises:
        ModelError: no model of this package has that name, the cache does not hold the model, or
            the home of `~` is unknown.
    """
    if path.startswith(ASSET):
        return _asset(path.removeprefix(ASSET))
    if path.startswith(CACHED):
        return cached(path)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ModelError(f"model.path={path}: {error}") from error


def _asset(name: str) -> Path:
    assets = Path(str(importlib.resources.files("bszo.models"))) / "assets"
    names = (
        sorted(folder.name for folder in assets.iterdir() if folder.is_dir())
        if assets.is_dir()
        else []
    )
    if name not in names:
        raise ModelError(
            f"model.path={ASSET}{name}: not one of this package's: {', '.join(names) or 'none'}"
        )
    return assets / name


def check_folder(folder: Path, path: str) -> None:
    """Refuse a folder by the names of its files, before transformers would report it in many lines,
    or accept it.

    Raises:
        ModelError: the folder lacks a configuration, safetensors or a tokenizer, or holds an
            adapter, a distributed checkpoint or an index of other files.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"model {path}: the folder has no config.json")
    # transformers would load the model that it names instead
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model {path}: the folder holds an adapter (adapter_config.json), not a model"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(
            file.name for end in ("bin", "pt", "pth") for file in folder.glob(f"*.{end}")
        )
        found = (
            f"{', '.join(pickled)} only, and a pickle can run code when read"
            if pickled
            else "no weights"
        )
        raise ModelError(f"model {path}: the folder has {found}; *.safetensors is needed")
    if (folder / ".metadata").exists():  # a distributed checkpoint, whose index is a pickle
        raise ModelError(
            f"model {path}: the folder holds a distributed checkpoint (.metadata), which is read as"
            " a pickle; *.safetensors alone is needed"
        )
    _check_index(folder, path)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise ModelError(
            f"model {path}: the folder has no tokenizer (none of {', '.join(TOKENIZER_FILES)})"
        )


def _check_index(folder: Path, path: str) -> None:
    """Refuse an index that names anything but safetensors files of its own folder: transformers
    would read those too."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"model {path}: its {index.name} cannot be read ({type(error).__name__})"
        ) from error
    for shard in shards:
        if (
            not isinstance(shard, str)
            or Path(shard).name != shard
            or not shard.endswith(".safetensors")
        ):
            raise ModelError(
                f"model {path}: its {index.name} names {shard!r:.80}; *.safetensors in it is needed"
            )
