"""The part of a matrix that `make test` runs is a Latin square of it."""

from tests.squares import square


def test_rows_and_columns_take_turns_and_no_pair_is_lost():
    cases = square(["a", "b", "c"], [(1, "x"), (2, "y")])
    assert [case.values for case in cases[:2]] == [("a", 1, "x"), ("a", 2, "y")]
    assert len({case.values for case in cases}) == 6
    run = [case.values[:2] for case in cases if not case.marks]
    assert run == [("a", 1), ("b", 2), ("c", 1)]
    assert {mark.name for case in cases for mark in case.marks} == {"exhaustive"}


def test_a_row_meets_as_many_columns_as_asked():
    run = [case.values for case in square("abcd", range(7), each=3) if not case.marks]
    assert [row for row, _ in run] == [*"aaabbbcccddd"]
    assert {column for _, column in run} == set(range(7))


def test_pairs_that_are_named_meet_beside_those_whose_turn_it_is():
    cases = square("ab", "xyz", also=[("a", "z"), ("b", "y")])
    assert len(cases) == 6
    assert [case.values for case in cases if not case.marks] == [*map(tuple, ("ax", "az", "by"))]
