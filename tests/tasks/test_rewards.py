"""Rewards: their values, what a configuration may name, and what is refused."""

import math
from typing import Any

import pytest
import torch
import yaml

from bszo.errors import ConfigError, DataError
from bszo.tasks import REWARDS, GenerationTask, Task, scored
from experiments import CONF
from experiments.config.compose import compose
from experiments.records.signing import signature


def task(name: str, **changes: Any) -> Task:
    node = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    kind = {"bszo.tasks.Task": Task, "bszo.tasks.GenerationTask": GenerationTask}
    return kind[node.pop("_target_")](**(node | changes))


GOLD = (("the park",), ("the park", "a park"))


@pytest.mark.parametrize(
    ("objective", "answers", "expected"),
    [
        ("accuracy", ("the park", "The park"), [1.0, 0.0]),
        ("accuracy", ("a park", "a park"), [0.0, 1.0]),  # the second right answer
        ("exact_match", ("Park!", "a garden"), [1.0, 0.0]),
        ("f1", ("the green park", "a garden"), [2 / 3, 0.0]),  # articles do not count
        ("reward:brevity", ("", "two words"), [1.0, 1 / 3]),
    ],
)
def test_written_answers(objective: str, answers: tuple[str, ...], expected: list[float]):
    reward = task("squad", objective=objective).reward
    assert reward is not None
    assert scored(reward, answers, GOLD) == pytest.approx(expected)


def test_numbers_are_read_from_the_end():
    gold = (("7",), ("3 or 5", "-2"), ("1",), ("x",))
    answers = ("3 + 4 = 7", "so -3.5", "none", "4")
    assert scored(REWARDS["number"], answers, gold) == [1.0, 1 / 2.5, 0.0, 0.0]
    assert scored(REWARDS["number"], ["7"], [("3 + 4 = 7",)]) == [1.0]


def test_thousands_and_hyphens_are_read_as_they_are_meant():
    answers, gold = ("2,234", "1,000", "3-4", "it is -4", "1,2"), ("1,234", "1000", "4", "-4", "2")
    found = scored(REWARDS["number"], answers, [(text,) for text in gold])
    assert found == [1 / 1001, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [(".5", "0.5"), ("-.5", "-0.5"), ("\N{MINUS SIGN}3", "-3"), ("1e3", "1000"), ("5.", "5")],
)
def test_a_number_may_be_written_in_several_ways(answer: str, gold: str):
    assert scored(REWARDS["number"], [answer], [(gold,)]) == [1.0]


def test_an_objective_that_is_no_reward_is_the_likelihood():
    assert task("sst2").reward is None and task("squad").reward is None
    mine = task("sst2", objective=len).reward  # any function of a program's own
    assert mine is len


@pytest.mark.parametrize(
    ("name", "objective", "line"),
    [
        ("sst2", "f1", "'f1': not one of null, accuracy, reward:brevity, reward:number"),
        ("sst2", "reward:os.system", "'reward:os.system': not one of null, accuracy, "),
        ("squad", "brevity", "'brevity': not one of likelihood, f1, accuracy, exact_match, "),
        ("squad", ["f1"], "['f1']: not one of likelihood, "),
        ("squad", None, "None: not one of likelihood, "),
    ],
)
def test_a_configuration_may_name_what_is_listed_and_no_more(name: str, objective: Any, line: str):
    with pytest.raises(ConfigError) as raised:
        task(name, objective=objective)
    assert str(raised.value).startswith(f"task.objective={line}")


@pytest.mark.parametrize(
    ("returned", "line"),
    [
        ([1.0], "returned 1 numbers for 2 answers; one each is valid"),
        ([1.0, math.nan], "is nan of 'b'; a finite number is valid"),
        ([-math.inf, 1.0], "is -inf of 'a'; a finite number is valid"),
        (["1", 2.0], "returned ['1', 2.0]; a list of numbers is valid, one an answer"),
        (None, "returned None; a list of numbers is valid, one an answer"),
        (2.0, "returned 2.0; a list of numbers is valid, one an answer"),
    ],
)
def test_what_is_no_number_an_answer_is_one_line(returned: Any, line: str):
    def mine(answers: Any, gold: Any) -> Any:
        return returned

    with pytest.raises(DataError) as raised:
        scored(mine, ("a", "b"), GOLD)
    assert str(raised.value).partition("<locals>.mine: ")[2] == line


def test_numbers_of_other_libraries_are_numbers():
    assert scored(lambda answers, gold: torch.tensor([0.5, 2]), ("a", "b"), GOLD) == [0.5, 2.0]


def test_the_keys_are_in_the_signature_where_they_say_something():
    """What was run before the keys came keeps its signature, of options and of written answers."""
    plain = compose(["task=sst2"])
    for key in "objective", "prompt":
        assert plain["task"].pop(key, "missing") is None
    without = signature(plain)
    assert signature(compose(["task=sst2"])) == without
    assert signature(compose(["task=sst2", "task.objective=accuracy"])) != without
    assert signature(compose(["task=sst2", "task.prompt=none"])) != without
    written = compose(["task=squad", "model=tiny-opt"])
    before = signature(written)
    for key in ("num_samples", "temperature"):  # they came later than written answers
        del written["task"][key]
    assert signature(written) == before
    assert signature({**written, "task": {**written["task"], "num_samples": 1}}) != before
    assert written["task"].pop("objective") == "likelihood"
    assert signature(written) != before
