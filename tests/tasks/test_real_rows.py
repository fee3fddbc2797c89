"""Every real row that we have, through every template."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bszo.tasks import LocalSource, Task, make_splits

# official sizes, but sst2 and boolq train, of which the folder holds a part
ROWS = {
    "sst2": (20_000, 872),
    "rte": (2_490, 277),
    "boolq": (2_000, 3_270),
    "copa": (400, 100),
    "wic": (5_428, 638),
    "wsc": (554, 104),
    "cb": (250, 56),
    "trec": (5_452, 500),
    "winogrande": (2_558, 1_267),
}
on_real_rows = pytest.mark.parametrize("task_name", sorted(ROWS))


@on_real_rows
def test_every_row_becomes_an_example(
    task_name: str, load_task: Callable[..., Task], shared: Path
) -> None:
    task, source = load_task(task_name), LocalSource(str(shared / "data"))
    for split, count in zip(("train", "test"), ROWS[task_name], strict=True):
        rows = source.rows(task, split)
        assert len(rows) == count
        names, labels = set(), set()
        for row in rows:
            causal = task.example(row.values, "causal", where=row.where)
            masked = task.example(row.values, "masked", where=row.where)
            assert len(causal.options) == len(masked.options) == task.num_labels
            assert all(causal.options) and causal.prompt == causal.prompt.strip(" ")
            assert masked.prompt.count("<mask>") == 1
            names.add(causal.id)
            labels.add(causal.label)
        assert len(names) == count
        assert labels == set(range(task.num_labels))


@on_real_rows
def test_splits_have_the_papers_sizes(
    task_name: str, load_task: Callable[..., Task], shared: Path
) -> None:
    task, source = load_task(task_name), LocalSource(str(shared / "data"))
    splits = make_splits(task, source, order="permuted", seed=0)
    assert len(splits.train) == task.num_train and len(splits.validation) == task.num_validation
    assert len(splits.test) == ROWS[task_name][1]
    places = {row.where for part in (splits.train, splits.validation, splits.test) for row in part}
    assert len(places) == task.num_train + task.num_validation + len(splits.test)


@pytest.mark.parametrize(
    ("task_name", "split", "number", "label_word"),
    [
        ("sst2", "train", 0, " terrible"),
        ("rte", "train", 0, "No"),
        ("rte", "train", 1, "Yes"),
        ("cb", "train", 0, "Yes"),
        ("trec", "train", 0, " Description"),
        ("trec", "test", 0, " Number"),
        ("boolq", "train", 0, "Yes"),
        ("winogrande", "train", 0, " Dennis despised eating intestine."),
        ("winogrande", "test", 0, " Maria always got the easier cases."),
    ],
)
def test_known_answers(
    task_name: str,
    split: str,
    number: int,
    label_word: str,
    load_task: Callable[..., Task],
    shared: Path,
) -> None:
    """The first rows' answers, read by eye: the order of options is the order of labels."""
    task = load_task(task_name)
    row = LocalSource(str(shared / "data")).rows(task, split)[number]  # pyright: ignore[reportArgumentType]
    example = task.example(row.values, "causal", where=row.where)
    assert example.options[example.label] == label_word
