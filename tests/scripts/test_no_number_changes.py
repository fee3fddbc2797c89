"""The check that no number has changed finds what is different or gone, and nothing else."""

from scripts.maintain.no_number_changes import differences

BEFORE = {"records": {"tiny-opt": {"records": 2}, "tiny-roberta": "b"}}


def test_what_is_different_or_gone_is_named():
    now = {"records": {"tiny-opt": {"records": 3}}}
    assert differences(BEFORE, now) == [
        "records: tiny-opt: {'records': 2} before, {'records': 3} now",
        "records: tiny-roberta: b before, nothing now",
    ]


def test_what_was_added_is_no_difference():
    assert differences(BEFORE, {"records": {**BEFORE["records"], "opt-mini": "d"}}) == []


def test_a_part_that_was_not_asked_for_is_not_compared():
    assert differences(BEFORE, {}) == []
