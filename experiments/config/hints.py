"""What a misspelt or misplaced word may have meant."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from omegaconf import OmegaConf

from experiments import CONF


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
    files = sorted((conf / group).glob("*.yaml")) if name else ()
    having = [file.stem for file in files if name in OmegaConf.load(file)]
    return (
        f"; {group}={', '.join(having)} {'take' if len(having) > 1 else 'takes'} it"
        if having
        else ""
    )
