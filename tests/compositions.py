"""Configurations with one or another file of conf/, made of one composition: Hydra takes a third of
a second for each."""

from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import CONF
from experiments.config.compose import composition, resolve

OPTIMIZERS = sorted(file.stem for file in (CONF / "optimizer").glob("*.yaml"))


@cache
def _composed(*overrides: str) -> DictConfig:
    return composition(overrides)


def few_probes(node: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's node with four directions a step at most: SubZero+ takes ninety-nine."""
    few = min(4, node.get("num_directions", 0))
    return node | ({"num_directions": few} if few else {})


def with_files(*overrides: str, **choices: str) -> dict[str, Any]:
    """The configuration of some overrides, whose nodes `choices` are then those of other files.

    As Hydra composes it, but for the rate that conf/tuned has for a pair of model and optimizer
    (tests/test_conf.py).
    """
    config = _composed(*overrides).copy()
    for group, choice in choices.items():
        config[group] = OmegaConf.load(CONF / group / f"{choice}.yaml")
    return resolve(config)
