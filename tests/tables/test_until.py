"""Forward passes until a loss, from curves made by hand."""

from math import inf
from typing import Any

import pytest

from experiments.tables.until import losses, passes_until, until_section


def run(*losses: float | None, status: str = "ok") -> dict[str, Any]:
    """A record that is evaluated every 100 passes."""
    curve = [{"num_forwards": 100 * i, "validation_loss": loss} for i, loss in enumerate(losses)]
    return {"status": status, "curve": curve}


@pytest.mark.parametrize(
    ("level", "passes"),
    [
        (3.0, 0),  # it begins there
        (2.0, 0),
        (1.5, 50),  # half of the way from 2 to 1
        (1.0, 100),
        (0.9, 250),  # after a rise to 1.8, half of the way from there to 0
        (0.0, 300),
        (-0.1, inf),
    ],
)
def test_between_two_evaluations_it_is_a_straight_line(level: float, passes: float):
    assert passes_until(losses(run(2.0, 1.0, 1.8, 0.0)), level) == pytest.approx(passes)


def test_an_evaluation_without_a_loss_says_nothing():
    assert passes_until(losses(run(None, 2.0, None, 1.0)), 1.5) == pytest.approx(200)
    without = {"status": "ok", "curve": [{"num_forwards": 0}]}
    assert passes_until(losses(without), 1.5) == inf


def test_the_median_counts_those_that_never_get_there():
    runs = [("sst2", str(seed)) for seed in range(3)]
    rows = {
        "MeZO": dict.fromkeys(runs, run(2.0, 1.5, 1.0)),
        "fast": dict(zip(runs, (run(2.0, 1.0), run(2.0, 0.0), run(2.0, 1.2)), strict=True)),
        "failed": {runs[0]: run(2.0, 0.5, status="diverged"), runs[1]: run(2.0, 1.0)},
        "waiting": dict.fromkeys(runs),
    }
    section = until_section("t", "MeZO", list(rows.items()))
    assert section is not None and "that of MeZO at its end" in section.notes[0]
    assert section.rows == (
        ("MeZO", "3", "3", "200"),
        ("fast", "3", "2", "100"),
        ("failed", "2", "1", "-"),
        ("waiting", "0", "0", "-"),
    )


def test_runs_older_than_the_loss_are_left_out_and_said():
    """Nothing is known of when they got there: they are no runs that never did."""
    runs = [("sst2", str(seed)) for seed in range(3)]
    rows = {
        "MeZO": dict(zip(runs, [run(2.0, 1.0), run(2.0, 1.0), run(None, None)], strict=True)),
        "fast": dict(zip(runs, [run(2.0, 1.0), run(None, None), run(2.0, 1.0)], strict=True)),
    }
    section = until_section("t", "MeZO", list(rows.items()))
    assert section is not None
    assert section.rows == (("MeZO", "2", "2", "100"), ("fast", "1", "1", "100"))
    assert section.notes[1].startswith("Left out: 2 runs")


def test_a_baseline_without_losses_has_no_section():
    assert until_section("t", "MeZO", [("MeZO", {("sst2", "0"): run(None, None)})]) is None
