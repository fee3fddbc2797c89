"""The examples in the docstrings of bszo.optim are run, and every public optimizer has one."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import bszo.optim

MODULES = [f"bszo.optim.{found.name}" for found in pkgutil.iter_modules(bszo.optim.__path__)]
OPTIMIZERS = [
    made
    for made in map(bszo.optim.__dict__.get, bszo.optim.__all__)
    if isinstance(made, type) and issubclass(made, torch.optim.Optimizer)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_say_the_truth(name: str) -> None:
    torch.manual_seed(0)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("made", OPTIMIZERS, ids=lambda made: made.__name__)
def test_every_optimizer_shows_how_it_is_used(made: type) -> None:
    text = " ".join((made.__doc__ or "").split())
    words = ["Args:", "Example: >>> "]
    if made is not bszo.optim.ZerothOrderOptimizer:
        words += ["Forward passes", "xtra memory:", "Source:"]
    assert [word for word in words if word not in text] == []
