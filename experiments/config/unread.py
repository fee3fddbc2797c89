"""Switches that a command line sets and the run does not read."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

SWITCH = re.compile(r"\+*((?:fidelity\.\w+)|precision\.eps)=")
NAMED = re.compile(r"fidelity\.\w+|precision\.eps")
BY_CODE = {"fidelity.label_words", "fidelity.train_rows"}  # no key stands for these


def unread_of(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The switches among the overrides that no other key of the run refers to: those of another
    method, and those in whose place a value was typed.

    Args:
        config: as Hydra composes it, interpolations left as they are written.

    Example:
        >>> from experiments.config.compose import composition
        >>> typed = ["optimizer=mezo", "fidelity.hizoo_smoothing=1e-8"]
        >>> unread_of(composition(typed), typed)
        ['fidelity.hizoo_smoothing']
    """
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    switches = plain.get("fidelity", {})
    read = {*BY_CODE, *_named({key: node for key, node in plain.items() if key != "fidelity"})}
    read |= set(_named({k: v for k, v in switches.items() if f"fidelity.{k}" in read}))
    typed = [match[1] for text in overrides if (match := SWITCH.match(text))]
    return [key for key in typed if key not in read]


def _named(value: Any) -> Iterator[str]:
    """The switches that the interpolations of a node name."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif isinstance(value, str) and "${" in value:
        yield from NAMED.findall(value)
