"""What `make demo` promises, at a sixth of its budget: BSZO learns the tiny task from loss
values alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_bszo_learns_the_demo_task(
    cli: Callable[..., Any], runs: Callable[[], list[dict[str, Any]]], tmp_path: Path
):
    """The best guess without the text is 51 %; the bounds are those of the demo."""
    budget = ("protocol=demo", "protocol.max_forwards=240", "protocol.eval_every=40")
    few = ("task.num_validation=200", "data.num_test=200")
    done = cli(*budget, *few, "optimizer=bszo", "tracker=none", f"paths.results={tmp_path}")
    assert done.code == 0, done.err
    (record,) = runs()
    assert record["test_accuracy"] >= 0.80
    assert record["test_accuracy"] >= record["zero_shot_accuracy"] + 0.15
    assert record["num_backwards"] == 0 and record["num_forwards"] == 240
