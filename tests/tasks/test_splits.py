"""Splits: sizes, disjointness, stability. Batches: what the order must be, whatever the numbers."""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bszo.errors import ConfigError, DataError
from bszo.tasks import (
    Hub,
    MiniSource,
    Row,
    Splits,
    Task,
    Template,
    batches,
    fingerprint,
    make_splits,
)


def numbered(count: int) -> list[dict[str, Any]]:
    return [
        {"sentence": f"row {number}", "label": number % 2, "idx": number} for number in range(count)
    ]


def ids(rows: tuple[Row, ...]) -> list[int]:
    return [row.values["idx"] for row in rows]


@pytest.fixture
def split(load_task: Callable[..., Task], list_source: Any) -> Callable[..., Splits]:
    def make(
        order: Any = "permuted",
        seed: int = 0,
        count: int = 40,
        num_train: int = 6,
        num_validation: int = 4,
    ) -> Splits:
        task = load_task("sst2", num_train=num_train, num_validation=num_validation)
        return make_splits(task, list_source(numbered(count), numbered(7)), order=order, seed=seed)

    return make


def test_golden_rows_of_seed_zero(split: Callable[..., Splits]) -> None:
    """These rows are what records were made from: a change here makes every record's data
    another's."""
    splits = split()
    assert ids(splits.train) == [4, 16, 21, 5, 11, 14]
    assert ids(splits.validation) == [39, 29, 17, 26]
    assert ids(splits.test) == list(range(7))


def test_first_takes_the_rows_as_they_lie(split: Callable[..., Splits]) -> None:
    for seed in (0, 1):
        splits = split("first", seed)
        assert ids(splits.train) == list(range(6)) and ids(splits.validation) == list(range(6, 10))


@settings(max_examples=30)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 30),
    st.integers(0, 2**40),
    st.sampled_from(["permuted", "first"]),
)
def test_sizes_and_disjointness(
    num_train: int, num_validation: int, spare: int, seed: int, order: Any
) -> None:
    rows = numbered(num_train + num_validation + spare)
    splits = make_splits(_task(num_train, num_validation), _Rows(rows), order=order, seed=seed)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (
        num_train,
        num_validation,
        len(rows),
    )
    taken = ids(splits.train) + ids(splits.validation)
    assert len(set(taken)) == len(taken) and set(taken) <= set(range(len(rows)))


class _Rows:
    seed = 0

    def __init__(self, values: list[dict[str, Any]]) -> None:
        self.values = values

    def rows(self, task: Task, split: str) -> list[Row]:
        return [Row(row, f"{split}:{number}") for number, row in enumerate(self.values, start=1)]


def _task(num_train: int, num_validation: int) -> Task:
    return Task(
        "t",
        1,
        Hub("x/y"),
        {"train": "train", "test": "test"},
        ("sentence",),
        "label",
        ("no", "yes"),
        num_train,
        num_validation,
        Template("{sentence}", ("a", "b")),
        Template("{sentence} <mask>", ("a", "b")),
    )


def test_seed_and_size(split: Callable[..., Splits]) -> None:
    assert split() == split()
    assert ids(split(seed=1).train) != ids(split().train)
    # one permutation: a larger validation set leaves the training rows where they are
    assert ids(split(num_validation=9).train) == ids(split().train)
    assert ids(split(num_train=10, num_validation=1).train) == ids(split().train) + ids(
        split().validation
    )


def test_global_generator_is_left_alone(split: Callable[..., Splits]) -> None:
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    split()
    next(batches(10, 3, 0))
    assert torch.rand(1) == want


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (9, "set them to 9 or less together, e.g. task.num_train=5"),
        (4, "set them to 4 or less together, e.g. task.num_train=2 task.num_validation=2"),
    ],
)
def test_too_few_rows(count: int, says: str, split: Callable[..., Splits]) -> None:
    with pytest.raises(DataError) as caught:
        split(count=count)
    assert (
        str(caught.value) == f"task sst2: the train split (list/train) has {count} rows; "
        f"task.num_train=6 and task.num_validation=4 take 10; {says}"
    )


def test_just_enough_rows(split: Callable[..., Splits]) -> None:
    splits = split(count=10)
    assert sorted(ids(splits.train) + ids(splits.validation)) == list(range(10))


def test_unknown_order(split: Callable[..., Splits]) -> None:
    with pytest.raises(ConfigError, match="row order 'shuffled': not one of permuted, first"):
        split("shuffled")


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ([], numbered(1), "task sst2: the train split is empty"),
        (numbered(20), [], "task sst2: the test split is empty"),
        (
            [*numbered(20), {"sentence": "x", "label": 9}],
            numbered(1),
            "list/train:21: field 'label' is 9",
        ),
        (numbered(20), [{"label": 0}], "list/test:1: no field 'sentence'"),
    ],
)
def test_bad_rows_are_found_even_if_not_taken(
    train: list[Any], test: list[Any], says: str, list_source: Any, load_task: Callable[..., Task]
) -> None:
    task = load_task("sst2", num_train=2, num_validation=1)
    with pytest.raises(DataError, match=says):
        make_splits(task, list_source(train, test), order="first", seed=0)


def test_mini_rows_make_splits_of_every_task(
    task_name: str, load_task: Callable[..., Task]
) -> None:
    task = load_task(task_name, num_train=20, num_validation=10)
    splits = make_splits(task, MiniSource(0, 40, 15), order="permuted", seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 10, 15)
    texts = [
        fingerprint([Row({c: row.values[c] for c in task.columns}, "")])
        for part in (splits.train, splits.validation, splits.test)
        for row in part
    ]
    assert len(set(texts)) == len(texts)
    for row in splits.train:
        assert task.example(row.values, "masked", where=row.where).prompt.count("<mask>") == 1


SIZES = st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(SIZES, st.integers(0, 2**40), st.integers(0, 80))
def test_batches_resume(sizes: tuple[int, int], seed: int, start: int) -> None:
    n, b = sizes
    whole = list(itertools.islice(batches(n, b, seed), start + 5))
    assert list(itertools.islice(batches(n, b, seed, start_step=start), 5)) == whole[start:]


@given(SIZES, st.integers(0, 2**40))
def test_every_epoch_holds_every_example_once(sizes: tuple[int, int], seed: int) -> None:
    n, b = sizes
    drawn = list(itertools.islice(batches(n, b, seed), 3 * n))  # 3 b epochs
    assert all(len(batch) == b for batch in drawn)
    stream = list(itertools.chain.from_iterable(drawn))
    for begin in range(0, len(stream), n):
        assert sorted(stream[begin : begin + n]) == list(range(n))


def test_epochs_and_seeds_differ() -> None:
    def epochs(seed: int) -> list[list[int]]:
        return list(itertools.islice(batches(50, 50, seed), 3))  # a batch is an epoch

    orders = [tuple(order) for seed in (0, 1, 2) for order in epochs(seed)]
    assert len(set(orders)) == 9


def test_first_example_is_even_over_seeds() -> None:
    """Each of 5 examples comes first about as often: chi-square with 4 degrees of freedom, p >
    0.001."""
    counts = Counter(next(batches(5, 1, seed))[0] for seed in range(1000))
    assert sum((counts[example] - 200) ** 2 / 200 for example in range(5)) < 18.47


def test_golden_batches() -> None:
    assert list(itertools.islice(batches(8, 3, 0), 4)) == [
        [0, 3, 5],
        [6, 1, 7],
        [2, 4, 3],
        [2, 0, 7],
    ]


def test_callers_may_change_a_batch() -> None:
    stream = batches(6, 2, 0)
    next(stream).clear()
    assert list(itertools.islice(stream, 3)) == list(itertools.islice(batches(6, 2, 0, 1), 3))


@pytest.mark.parametrize(
    ("n", "b", "start", "says"),
    [
        (5, 6, 0, "batch size 6: must be 1 to 5"),
        (5, 0, 0, "batch size 0: must be 1 to 5"),
        (0, 1, 0, "batch size 1: must be 1 to 0"),
        (5, 5, -1, "start step -1: must be 0 or more"),
    ],
)
def test_bad_batches_stop_before_the_first(n: int, b: int, start: int, says: str) -> None:
    with pytest.raises(DataError, match=says):
        batches(n, b, 0, start)
