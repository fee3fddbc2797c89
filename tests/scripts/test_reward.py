"""The example without a derivative: its rule, and that what is recorded of it is what it does."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from experiments.tables.sources import MEASURED
from scripts.study import sampled

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "reward.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reward", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_rule_counts_different_colours(example: ModuleType):
    texts = ["a black cat .", "Red, red and a blue. hat", "", "blacker"]
    assert example.colours(texts, []) == [1, 2, 0, 0]


def test_the_recorded_runs_are_the_example_s_and_every_seed_has_learnt(example: ModuleType):
    facts = json.loads((MEASURED / "reward.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in facts["runs"]] == list(example.SEEDS)
    assert (facts["steps"], facts["directions"]) == (example.STEPS, example.DIRECTIONS)
    for run in facts["runs"]:
        assert len(run["curve"]) == facts["steps"] and run["after"] > run["before"]
        for which, key in ((1, "before"), (2, "after")):
            counted = example.colours([text[which] for text in run["texts"]], [])
            assert sum(counted) / len(counted) == pytest.approx(run[key])
    again = example.trained(0, steps=1)
    assert again["before"] == pytest.approx(facts["runs"][0]["before"], abs=0.1)
    assert again["curve"][0] == pytest.approx(facts["runs"][0]["curve"][0], abs=0.1)


def test_the_recorded_differences_are_what_sampling_makes_of_them():
    """Common draws leave less noise than draws of each side's own, and more samples leave less."""
    facts = json.loads((MEASURED / "sampled.json").read_text(encoding="utf-8"))
    assert facts["samples"] == sampled.SAMPLES
    assert [(f["samples"], f["eps"]) for f in facts["differences"]] == [
        (samples, eps) for samples in sampled.NUMBERS for eps in sampled.LENGTHS
    ]
    again = sampled.differences(1, 1e-3, count=2)
    assert again["directions"] == 2 and again["std_common"] < 1
    short = [f for f in facts["differences"] if f["eps"] == 1e-3 and f["samples"]]
    assert all(f["std_common"] < f["std_apart"] for f in short)
    for run in facts["runs"]:
        assert len(run["curve"]) == facts["steps"] and run["after"] > run["before"]
