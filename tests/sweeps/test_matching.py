"""Which record answers a point, and a sweep's file that cannot be read."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.records.store import PACKED, load_all
from experiments.sweeps.grid import GridError, holds, load, read
from experiments.sweeps.matching import as_shipped, fits, parsed

POINT = {"model": "tiny-opt", "task": "rte", "optimizer": "mezo", "optimizer.eps": "1e-4"}


def record(**model: Any) -> dict[str, Any]:
    config = compose([f"{key}={value}" for key, value in POINT.items()])
    config["model"] |= {"path": "tiny-opt@731717dc8914", **model}
    groups = ("model", "task", "optimizer", "precision", "protocol", "data", "fidelity")
    shipped = {"precision": "fp32", "protocol": "mini", "data": "mini", "fidelity": "corrected"}
    return {"config": config, "choices": {group: (POINT | shipped)[group] for group in groups}}


def answers(held: dict[str, Any]) -> bool:
    return fits(held, POINT) and as_shipped(held, POINT)


def test_a_record_answers_its_own_point():
    assert answers(record())
    assert answers(record(path="asset:tiny-opt"))


@pytest.mark.parametrize("other", ["other@731717dc8914", "/models/tiny", "tiny-opt-2@731717dc8914"])
def test_other_weights_under_a_model_s_name_answer_nothing(other: str):
    assert not answers(record(path=other))


def test_the_runs_of_the_real_study_answer_its_points():
    """Their model is in the cache by its origin, and in a record by its content; the rates are
    those of the seed that chooses, for the number of passes that begins with all of them."""
    held = [
        record
        for record in load_all([PACKED / "real" / "smollm2-135m.jsonl"])
        if record["choices"]["optimizer"] == "mezo" and record["config"]["seed"] == 0
    ]
    grid = load("real", "real")
    assert grid.first
    own = [point for point in grid.points if holds(point, {"optimizer": "mezo", **grid.first})]
    runs = [run for point in own for run in grid.candidates(point)]
    assert runs and len(held) > len({run["optimizer.lr"] for run in runs})
    for run in runs:  # of all that change one thing of the cell none answers for it
        (found,) = (r for r in held if fits(r, run) and as_shipped(r, run))
        assert found["config"]["optimizer"]["lr"] == float(run["optimizer.lr"])
        assert found["choices"]["tuning"] == "full"


def test_other_values_answer_nothing():
    held = record()
    held["config"]["protocol"]["num_steps"] = 10
    assert not answers(held)
    held = record()
    held["config"]["optimizer"]["eps"] = 1e-3
    assert not answers(held)


def test_a_key_that_came_later_counts_where_a_record_leaves_it_out():
    """The record leaves out the value that was meant before; the file may ask for another."""
    held = record()
    held["config"]["model"]["name"] = "smollm2-135m"
    held["choices"]["model"] = "smollm2-135m"
    point = {**POINT, "model": "smollm2-135m"}
    held["config"]["model"] = compose(["model=smollm2-135m"])["model"]
    assert held["config"]["model"].pop("packed") is True  # so it runs unpacked, as models did
    assert not as_shipped(held, point)
    held["config"]["model"]["packed"] = True
    assert as_shipped(held, point)
    held = record()
    del held["config"]["model"]["packed"]  # the tiny model's file says the same
    assert answers(held)


def test_a_key_that_no_file_has_answers_nothing():
    held = record()
    held["config"]["optimizer"]["target_modules"] = ["fc1"]
    assert not answers(held)
    named = {**POINT, "optimizer.target_modules": "fc1"}
    assert as_shipped(held, named)


def test_a_value_is_what_an_override_means():
    assert [parsed(text) for text in ("1e-4", "3", "true", "null", "rte")] == [
        1e-4,
        3,
        True,
        None,
        "rte",
    ]


def test_a_sweep_that_is_no_yaml_is_one_line(tmp_path: Path):
    file = tmp_path / "sweep" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("sweep:\n  name: a: b\n")
    with pytest.raises(GridError, match=r"mine.yaml:2: .*write name: 'a: b'"):
        read("mine", tmp_path)
    with pytest.raises(GridError, match=r"sweep=nine: no such artefact; mine are valid"):
        read("nine", tmp_path)


def test_a_switch_that_came_later_is_as_it_was_where_a_record_does_not_say(tmp_path: Path) -> None:
    """Its value is in the files, and in the optimizer's arguments where these have it."""
    for name, text in {
        "optimizer/conmezo.yaml": "lr: 1.0e-6\nwarmup: ${fidelity.conmezo_warmup}\n",
        "fidelity/corrected.yaml": "state_dtype: float32\nconmezo_warmup: none\n",
        "fidelity/official.yaml": "state_dtype: parameter\nconmezo_warmup: published\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def held(warmup: str, fidelity: dict[str, str]) -> dict[str, Any]:
        return {
            "choices": {"optimizer": "conmezo", "fidelity": "corrected"},
            "config": {"optimizer": {"lr": 0.1, "warmup": warmup}, "fidelity": fidelity},
        }

    point = {"optimizer": "conmezo", "fidelity": "corrected"}
    later = {"state_dtype": "float32"}  # as a record leaves the switch out
    assert as_shipped(held("none", later), point, tmp_path)
    assert as_shipped(held("none", {**later, "conmezo_warmup": "none"}), point, tmp_path)
    assert not as_shipped(held("published", later), point, tmp_path)
