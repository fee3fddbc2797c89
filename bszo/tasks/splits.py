"""Splits: which rows train, select and test, and in what order training sees them."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from bszo.errors import ConfigError, DataError
from bszo.tasks.rows import Row
from bszo.tasks.sources import Source
from bszo.tasks.task import Task, example_id


@dataclass(frozen=True)
class Splits:
    """Rows of three kinds, none of two: `train` moves the parameters, `validation` selects among
    them, and `test` scores the selected ones."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


def make_splits(
    task: Task, source: Source, *, order: Literal["permuted", "first"], seed: int
) -> Splits:
    """Take n_1 + n_2 rows of the official train split, the last n_2 of them for validation, and the
    whole official test split.

    Every row of both official splits is checked, whether it is taken or not.

    Args:
        order: says which rows are taken. "permuted": the first ones of a permutation of the train
            split, as in the authors' code. "first": the first ones of the split as it is stored, as
            the paper says.
        seed: of the permutation. It is the data's seed, not the run's.

    Raises:
        DataError: the task cannot use a row, two rows of a split have the same id, a split is
            empty, or the train split has fewer than n_1 + n_2 rows.
    """
    if order not in ("permuted", "first"):
        raise ConfigError(f"row order {order!r}: not one of permuted, first")
    rows, test = source.rows(task, "train"), source.rows(task, "test")
    for split, found in (("train", rows), ("test", test)):
        if not found:
            raise DataError(f"task {task.name}: the {split} split is empty")
        _check_rows(task, found)
    taken = task.num_train + task.num_validation
    if len(rows) < taken:
        raise DataError(
            f"task {task.name}: the train split ({rows[0].where.rpartition(':')[0]}) has"
            f" {len(rows)} rows; task.num_train={task.num_train} and"
            f" task.num_validation={task.num_validation} take {taken}; set them to {len(rows)} or"
            f" less together, e.g. {_that_fits(task, len(rows))}"
        )
    indices = list(range(taken)) if order == "first" else permutation(len(rows), seed)[:taken]
    chosen = tuple(rows[index] for index in indices)
    return Splits(chosen[: task.num_train], chosen[task.num_train :], tuple(test))


def overlaps(task: Task, splits: Splits) -> dict[str, int]:
    """Count the validation and test rows that have the same text as a training row, whatever their
    labels are."""

    def texts(rows: Iterable[Row]) -> list[tuple[str, ...]]:
        return [tuple(task.check(row.values, row.where)[0].values()) for row in rows]

    known = set(texts(splits.train))
    parts = {"validation": splits.validation, "test": splits.test}
    return {name: sum(text in known for text in texts(rows)) for name, rows in parts.items()}


def _check_rows(task: Task, rows: Iterable[Row]) -> None:
    """Raise DataError at the first row that the task cannot use, or that has the id of an earlier
    one."""
    places: dict[str, str] = {}
    for row in rows:
        task.check(row.values, row.where)
        name = example_id(row.values, row.where)
        if (first := places.setdefault(name, row.where)) != row.where:
            raise DataError(
                f"{row.where}: has the id {name}, as {first} has; ids (idx) must differ within a"
                " split"
            )


def batches(
    num_examples: int, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[list[int]]:
    """Yield batches of example indices without end. The batch of step t depends on (seed, t) alone.

    Each epoch e is a permutation of all examples, drawn by a generator of its own that is seeded
    from (seed, e). A batch may reach over the border of two epochs, so that each one is full.

    Args:
        start_step: the step of the first batch. A run that starts at t sees the batches that a run
            from 0 sees from t on.

    Raises:
        DataError: batch_size is below 1 or above num_examples; start_step is negative.
    """
    if not 1 <= batch_size <= num_examples:
        raise DataError(
            f"batch size {batch_size}: must be 1 to {num_examples}, the number of training rows"
        )
    if start_step < 0:
        raise DataError(f"start step {start_step}: must be 0 or more")
    return _batches(num_examples, batch_size, seed, start_step)


def _batches(num_examples: int, batch_size: int, seed: int, step: int) -> Iterator[list[int]]:
    epoch, offset = divmod(step * batch_size, num_examples)
    order = permutation(num_examples, _epoch_seed(seed, epoch))
    while True:
        batch = order[offset : offset + batch_size]
        offset += batch_size
        if offset >= num_examples:
            epoch, offset = epoch + 1, offset - num_examples
            order = permutation(num_examples, _epoch_seed(seed, epoch))
            batch += order[: batch_size - len(batch)]
        yield batch


def _epoch_seed(seed: int, epoch: int) -> int:
    # a hash, not a sum: (seed 0, epoch 1) and (seed 1, epoch 0) must not share an order
    digest = hashlib.sha256(f"batches:{seed}:{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def permutation(length: int, seed: int) -> list[int]:
    """The numbers 0 to length - 1 in an order that the seed draws."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()


def _that_fits(task: Task, num_rows: int) -> str:
    if num_rows > task.num_validation:
        return f"task.num_train={num_rows - task.num_validation}"
    return (
        f"task.num_train={max(1, num_rows // 2)}"
        f" task.num_validation={max(1, num_rows - num_rows // 2)}"
    )
