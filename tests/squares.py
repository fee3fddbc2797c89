"""Matrices of cases of which `make test` runs a Latin square, and `make test-all` every pair."""

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def square(
    rows: Iterable[Any],
    columns: Iterable[Any],
    each: int = 1,
    also: Collection[tuple[Any, Any]] = (),
) -> list[Any]:
    """Every pair of a row and a column, for `parametrize`.

    Row by row the columns take turns: in `make test` a row meets the next `each` of them, so that
    every column meets rows of every kind. The other pairs are `exhaustive`.

    Args:
        rows, columns: values; a tuple is several arguments.
        each: how many columns a row meets.
        also: pairs that meet whosever turn it is.
    """
    columns = list(columns)
    turns = itertools.cycle(range(len(columns)))
    cases = []
    for row in rows:
        met = set(itertools.islice(turns, each))
        for number, column in enumerate(columns):
            marks = () if number in met or (row, column) in also else pytest.mark.exhaustive
            cases.append(pytest.param(*_several(row), *_several(column), marks=marks))
    return cases


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
