"""Configuration values against types and signatures: one line with the key and what would be
valid."""

from typing import Any

import pytest

from bszo.errors import ConfigError
from experiments.config.targets import buildable
from experiments.config.typed import check_arguments, check_targets, check_values, locate, typed

BSZO = {"_target_": "bszo.BSZO", "_partial_": True}
SUPPLIED = ("params", "module", "directions")


@pytest.mark.parametrize(
    "fits",
    [
        {"lr": 1},
        {"prior_var": "auto"},
        {"prior_var": 2.0},
        {"k": 3, "m": 4},
        {"perturbation": "two-leg"},
    ],
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


def test_an_argument_of_other_methods_names_them():
    with pytest.raises(
        ConfigError, match=r"optimizer\.momentum: no such key; choose one of"
    ) as caught:
        check_arguments(
            {"_target_": "bszo.MeZO", "_partial_": True, "momentum": 0.9}, "optimizer", SUPPLIED
        )
    takers = "bszo-each, conmezo, loren, lozo-m, mezo-each, subzero, zo-sgd-mmt"
    assert str(caught.value).endswith(f"; optimizer={takers} take it")


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigError, match=r"data.num_test: this key is missing"):
        check_arguments({"_target_": "bszo.tasks.MiniSource", "seed": 0, "num_train": 3}, "data")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "bszo",
        "bszoo.x",
        "builtins.eval",
        None,
        3,
        ["os.system"],
        "torch.load",
        "experiments.run.main",
        "bszo.BSZO",
        "torch.optim.Adam",
    ],
)
def test_nothing_is_built_where_no_group_of_ours_says_what(target: Any):
    with pytest.raises(ConfigError, match=r"a.0.b._target_"):
        check_targets({"a": [{"b": {"_target_": target}}]})


@pytest.mark.parametrize(
    ("group", "targets"),
    [
        ("model", {"bszo.models.load_model"}),
        ("task", {"bszo.tasks.Task"}),
        ("data", {"bszo.tasks.HubSource", "bszo.tasks.LocalSource", "bszo.tasks.MiniSource"}),
        ("optimizer", {"bszo.BSZO", "bszo.MeZO", "bszo.FirstOrder"}),
        ("optimizer.algorithm", {"torch.optim.AdamW", "torch.optim.SGD"}),
    ],
)
def test_each_role_has_its_own_targets(group: str, targets: set[str]):
    assert targets <= set(buildable(group))
    for target in targets:
        check_targets({group: {"_target_": target}})
    others = {
        name for key in ("model", "task", "data", "optimizer") for name in buildable(key)
    } - set(buildable(group))
    for target in others:
        with pytest.raises(ConfigError, match="_target_"):
            locate(target, group)


@pytest.mark.parametrize(
    "target",
    [
        "bszo.tasks.sources.Path",
        "bszo.nothing.here",
        "bszo.BSZZ",
        "bszo.tasks",
        "bszo.optim.saved.copy.deepcopy",
        "torch.optim.adamw.torch.load",
        "bszo.errors.__builtins__",
        "bszo.trajectory.TrajectoryWriter",
        "torch.optim.SGD",
        "bszo.models.random_model",
        "bszo.ZerothOrderOptimizer",
        "torch.optim.Optimizer",
        "bszo.tasks.read_jsonl",
    ],
)
def test_what_has_no_role_in_a_run_is_not_built(target: str):
    for group in ("optimizer", "model", "task", "data"):
        with pytest.raises(ConfigError, match=f"{group}._target_=") as caught:
            locate(target, group)
        assert "\n" not in str(caught.value)


def test_numbers_are_finite():
    with pytest.raises(ConfigError, match=r"optimizer.betas.1=nan"):
        check_values({"optimizer": {"lr": 1e-3, "betas": [0.9, float("nan")]}})


def test_lists_stand_for_tuples():
    assert typed(tuple[float, float], [0.9, 0.99], "betas") == (0.9, 0.99)
    with pytest.raises(ConfigError, match="betas"):
        typed(tuple[float, float], [0.9], "betas")


def test_a_message_has_the_types_in_the_order_of_their_union():
    for kind, wants in ((int | bool, "integer or .*boolean"), (bool | int, "boolean or .*integer")):
        with pytest.raises(ConfigError, match=wants):
            typed(kind, "x", "a")
