"""The walk's table also shows the runs that no sweep started."""

from typing import Any

from experiments.tables.walk.beside import alike, beside_section


def record(seed: int, perturbation: str = "factored", **changes: Any) -> dict[str, Any]:
    node = {"lr": 3e-4, "eps": 1e-4, "perturbation": perturbation}
    choices = {"model": "tiny", "task": "sst2", "data": "mini", "tuning": "full"}
    return {
        "status": "ok",
        "choices": {**choices, "optimizer": "lozo", "precision": "bf16"},
        "config": {"seed": seed, "optimizer": node},
        "data": {"num_examples": {"train": 10, "test": 5}},
        "num_steps": 100,
        "curve": [{"train_loss": 0.9}, {"train_loss": 0.7 + seed / 100}],
        "test_accuracy": 0.5 + seed / 10,
        "warnings": {},
        **changes,
    }


def test_a_line_for_every_setting_seed_by_seed():
    swallowed = {"swallowed_perturbation": {"count": 1}}
    exact = record(0, "exact", warnings=swallowed)
    section = beside_section([record(2), exact, record(0)])
    assert section is not None and section.rows == (
        ("LOZO", "0.0003", "bf16", "0.0001", "exact", "0", "0.70", "50.0", "1 of 1"),
        (
            *("LOZO", "0.0003", "bf16", "0.0001", "factored"),
            *("0, 2", "0.70, 0.72", "50.0, 70.0", "0 of 2"),
        ),
    )
    assert beside_section([]) is None


def test_only_runs_of_the_same_rows_model_and_steps_are_beside():
    grid = [record(0, "as-published")]
    other_rows = record(0, data={"num_examples": {"train": 10, "test": 6}})
    longer, failed = record(0, num_steps=200), record(0, status="diverged")
    elsewhere = record(0)
    elsewhere["choices"]["data"] = "local"  # as many rows, but others
    assert alike([record(1), other_rows, longer, failed, elsewhere], grid) == [record(1)]
    assert alike([record(1)], []) == []
