"""YAML files of a configuration, read with one line for every slip: file, line, and what to write.

A file may come from anyone. It is measured before anything is built of it, so that aliases of
aliases cannot ask for more memory or depth than the file itself has (docs/threats.md, "A YAML file
that asks for too much").
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any, Never

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bszo.errors import ConfigError
from experiments.config.yaml_advice import advise, quoting

MOST_BYTES = 256 << 10  # the longest file of conf/ has 4 kB
MOST_DEPTH = 32
MOST_VALUES = 20_000  # with everything that an alias stands for written out
_PARSER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def exists(check: Callable[[], bool]) -> bool:
    """The answer of a path's `is_file` or `is_dir`; False for a name that no file can have."""
    try:
        return check()
    except (OSError, ValueError):
        return False


def read_mapping(file: Path) -> DictConfig:
    """The keys and values of a YAML file, as OmegaConf reads them.

    Raises:
        ConfigError: naming the file, the line where there is one, and what to write instead.
    """
    return copy.deepcopy(_mapping(read_text(file), file))


@lru_cache(maxsize=512)
def _mapping(text: str, file: Path) -> DictConfig:
    """What a text holds. A sweep composes a run after another of the same twenty files."""
    check(text, file)
    try:
        content = OmegaConf.load(StringIO(text))
    except yaml.MarkedYAMLError as error:
        _refuse(file, *advise(error, text))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        key = getattr(error, "full_key", None)
        _refuse(file, None, f"{key}: " * bool(key) + str(error).splitlines()[0])
    assert isinstance(content, DictConfig)
    return content


def read_yaml(text: str) -> Any:
    """What a text holds, as `yaml.safe_load` says; where libyaml is there it takes a tenth of the
    time."""
    return yaml.load(text, Loader=_PARSER)


def read_text(file: Path) -> str:
    """The text of a file; ConfigError where it is no short text in UTF-8."""
    try:
        if not file.is_file():
            _refuse(file, None, "is no file")
        if file.stat().st_size > MOST_BYTES:
            _refuse(file, None, f"has more than {MOST_BYTES >> 10} kB, which no configuration has")
        content = file.read_bytes()
    except OSError as error:
        _refuse(file, None, f"cannot be read ({error.strerror})")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(file, content.count(b"\n", 0, error.start) + 1, "not UTF-8; save it as UTF-8")
    if found := _NOT_YAML.search(text):
        line = text.count("\n", 0, found.start()) + 1
        _refuse(file, line, f"the character {found[0]!a}, which no YAML may hold")
    return text


def check(text: str, file: Path) -> None:
    """Refuse slips and excess in one pass over the text, before anything is built of it.

    Raises:
        ConfigError: see `read_mapping`.
    """
    survey = _Survey(text, file)
    try:
        for event in yaml.parse(text, Loader=_PARSER):
            survey.take(event)
    except yaml.MarkedYAMLError as error:
        _refuse(file, *advise(error, text))
    except yaml.YAMLError as error:
        _refuse(file, None, str(error).splitlines()[0])
    if not survey.has_content:
        _refuse(file, None, "is empty; lines of the form key: value are needed")


def _refuse(file: Path, line: int | None, what: str) -> Never:
    here = Path.cwd()
    path = file.relative_to(here) if file.is_relative_to(here) else file
    raise ConfigError(f"{path}: {what}" if line is None else f"{path}:{line}: {what}") from None


@dataclass
class _Collection:
    """A list or mapping whose end has not come yet.

    Attributes:
        flow: it is written in brackets or braces.
        anchor: the name by which an alias may stand for it.
        lines: key -> its line, of a mapping; None for a list.
        size: values so far, of all levels.
        height: levels so far.
        at_key: what comes next in a mapping is a key.
    """

    flow: bool
    anchor: str | None
    lines: dict[str, int] | None
    size: int = 1
    height: int = 1
    at_key: bool = True


@dataclass
class _Survey:
    """What a file's values come to, taken one parsing event at a time.

    Attributes:
        open: the collections around the next event, the innermost last.
        anchored: name of an anchor -> size and height of its value.
    """

    text: str
    file: Path
    open: list[_Collection] = field(default_factory=list)
    anchored: dict[str, tuple[int, int]] = field(default_factory=dict)
    has_content: bool = False

    def take(self, event: Any) -> None:
        """Count an event; ConfigError for a slip or an excess."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent) and self.has_content:
            _refuse(self.file, line, "a second document begins (---); keep one")
        if not isinstance(event, (yaml.NodeEvent, yaml.CollectionEndEvent)):
            return
        if not self.open and not isinstance(event, yaml.MappingStartEvent):
            _refuse(self.file, line, "not of the form key: value, which every line must have")
        self.has_content = True
        if (tag := getattr(event, "tag", None)) is not None:
            self._refuse_text(line, f"{tag} is a YAML tag, which is not taken")
        match event:
            case yaml.ScalarEvent():
                self._check_scalar(event, line)
                self._add(1, 0, event.anchor, line)
            case yaml.AliasEvent():
                if event.anchor not in self.anchored:
                    self._refuse_text(line, f"*{event.anchor} refers to no value above it")
                self._add(*self.anchored[event.anchor], None, line)
            case yaml.CollectionStartEvent():
                if self.open and self.open[-1].lines is not None and self.open[-1].at_key:
                    _refuse(self.file, line, "braces or brackets where a key must be; quote them")
                if len(self.open) == MOST_DEPTH:
                    _refuse(self.file, line, f"more than {MOST_DEPTH} levels")
                lines = {} if isinstance(event, yaml.MappingStartEvent) else None
                self.open.append(_Collection(bool(event.flow_style), event.anchor, lines))
            case _:
                done = self.open.pop()
                self._add(done.size, done.height, done.anchor, line)

    def _check_scalar(self, event: Any, line: int) -> None:
        inside = self.open[-1]
        if inside.lines is None:
            return
        if not inside.at_key:
            if inside.flow and event.value == "" and event.implicit[0]:  # {text} is {text: null}
                self._refuse_text(line, "braces without quotes are a mapping")
        elif event.value in inside.lines:
            first = inside.lines[event.value]
            _refuse(self.file, line, f"the key {event.value} stands in line {first} already")
        else:
            inside.lines[event.value] = line

    def _add(self, size: int, height: int, anchor: str | None, line: int) -> None:
        """Count a value, or all that an alias stands for, in the collection around it."""
        if anchor is not None:
            self.anchored[anchor] = (size, height)
        if len(self.open) + height > MOST_DEPTH:
            _refuse(self.file, line, f"more than {MOST_DEPTH} levels")
        if self.open:
            inside = self.open[-1]
            inside.size += size
            inside.height = max(inside.height, height + 1)
            inside.at_key = not inside.at_key
            if inside.size > MOST_VALUES:
                _refuse(self.file, line, f"more than {MOST_VALUES} values, aliases written out")

    def _refuse_text(self, line: int, what: str) -> Never:
        _refuse(self.file, line, f"{what}; {quoting(self.text, line) or 'quote the text'}")
