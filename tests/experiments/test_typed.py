"""Configuration values against types and signatures: one line with the key and what would be valid."""

from typing import Any

import pytest

from bszo.errors import ConfigError
from experiments.typed import check_arguments, check_finite, check_targets, locate, typed

BSZO = {"_target_": "bszo.BSZO", "_partial_": True}
SUPPLIED = ("params", "module", "directions")


@pytest.mark.parametrize(
    "fits",
    [{"lr": 1}, {"prior_var": "auto"}, {"prior_var": 2.0}, {"k": 3, "m": 4}, {"perturbation": "two-leg"}],
)
def test_arguments_that_fit(fits: dict[str, Any]):
    check_arguments(BSZO | fits, "optimizer", SUPPLIED)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"k": 2.5}, "optimizer.k=2.5"),
        ({"k": "2"}, "optimizer.k='2'"),
        ({"k": True}, "optimizer.k=True"),
        ({"prior_var": "none"}, "optimizer.prior_var='none'.*number.*'auto'"),
        ({"adapt_noise": "often"}, "'always', 'beyond-k' or 'never'"),
        ({"epsilon": 1e-3}, r"optimizer.epsilon: no such key.*did you mean eps"),
        ({"module": None}, "optimizer.module: no such key"),
    ],
)
def test_arguments_that_do_not(wrong: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        check_arguments(BSZO | wrong, "optimizer", SUPPLIED)
    assert "\n" not in str(caught.value)


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigError, match=r"data.num_test: this key is missing"):
        check_arguments({"_target_": "bszo.tasks.MiniSource", "seed": 0, "num_train": 3}, "data")


@pytest.mark.parametrize(
    "target", ["os.system", "bszo", "bszoo.x", "builtins.eval", None, 3, "torch.load", "experiments.run.main"]
)
def test_targets_outside_the_two_packages_are_refused_however_deep(target: Any):
    with pytest.raises(ConfigError, match=r"a.0.b._target_"):
        check_targets({"a": [{"b": {"_target_": target}}]})


@pytest.mark.parametrize(
    "target",
    ["bszo.tasks.sources.Path", "bszo.nothing.here", "bszo.BSZZ", "bszo.tasks", "bszo.optim.base.copy.deepcopy",
     "torch.optim.adamw.torch.load", "bszo.errors.__builtins__"],
)  # fmt: skip
def test_modules_that_an_allowed_package_imports_are_no_way_out(target: str):
    with pytest.raises(ConfigError, match="_target_"):
        locate(target, "optimizer")


def test_numbers_are_finite():
    with pytest.raises(ConfigError, match=r"optimizer.betas.1=nan"):
        check_finite({"optimizer": {"lr": 1e-3, "betas": [0.9, float("nan")]}})


def test_lists_stand_for_tuples():
    assert typed(tuple[float, float], [0.9, 0.99], "betas") == (0.9, 0.99)
    with pytest.raises(ConfigError, match="betas"):
        typed(tuple[float, float], [0.9], "betas")
