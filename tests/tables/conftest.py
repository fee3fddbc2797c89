"""A toy artefact of two methods, two tasks and two seeds, and records made by hand to answer its
points."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.records import record as records
from experiments.records import signing
from experiments.sweeps.grid import Grid, Point, parse

SWEEP = {
    "name": "toy",
    "title": "A toy",
    "axes": {
        "settings": ["model=small precision=fp32"],
        "tasks": ["task=sst2", "task=rte"],
        "methods": ["optimizer=mezo", "optimizer=bszo"],
        "fidelities": ["fidelity=official", "fidelity=corrected"],
        "seeds": ["seed=0", "seed=1"],
    },
    "select": "seed=0 fidelity=corrected",
    "profiles": {
        "mini": {"fixed": "data=mini protocol=quick"},
        "paper": {"fixed": "data=hub protocol=quick"},
    },
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Configuration files as small as can be."""
    folder = tmp_path / "conf"
    files = {
        "rates/small.yaml": "mezo: [1.0e-3, 1.0e-4]\nbszo: [1.0e-2, 1.0e-3]\n",
        "optimizer/mezo.yaml": "lr: 1.0e-6\neps: 1.0e-4\n",
        "optimizer/bszo.yaml": (
            "lr: 1.0e-6\neps: 1.0e-4\nk: 2\nnoise_floor: ${fidelity.noise_floor}\n"
        ),
        "protocol/quick.yaml": "num_steps: 10\n",
        "fidelity/official.yaml": "noise_floor: 0.0\n",
        "fidelity/corrected.yaml": "noise_floor: 0.1\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def grid(conf: Path) -> Grid:
    return parse(SWEEP, "mini", conf)


Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make() -> Make:
    """A record that answers a point, with the given scores."""

    def build(
        point: Point,
        rate: float,
        *,
        test: float = 0.5,
        validation: float = 0.5,
        status: str = "ok",
        started: str = "2026-01-01T00:00:00Z",
        **more: Any,
    ) -> dict[str, Any]:
        floor = {"official": 0.0, "corrected": 0.1}[point["fidelity"]]
        optimizer: dict[str, Any] = {"lr": rate, "eps": 1e-4}
        if point["optimizer"] == "bszo":
            optimizer |= {"k": 2, "noise_floor": floor}
        # of two records that answer one point, the weights differ, which no point names
        weights = hashlib.sha256(f"{point} {rate} {started} {more}".encode()).hexdigest()[:12]
        config = {
            "seed": int(point["seed"]),
            "model": {"name": point["model"], "path": f"{point['model']}@{weights}"},
            "optimizer": optimizer,
            "protocol": {"num_steps": 10},
            "fidelity": {"noise_floor": floor},
        }
        groups = ("model", "precision", "task", "optimizer", "fidelity", "data", "protocol")
        whole: dict[str, Any] = {
            "schema_version": records.SCHEMA_VERSION,
            "signature": signing.signature(config),
            "status": status,
            "reason": None if status == "ok" else "it did not end well",
            "choices": {group: point[group] for group in groups},
            "config": config,
            "test_accuracy": test if status == "ok" else None,
            "validation_accuracy": validation if status == "ok" else None,
            "zero_shot_accuracy": 0.5,
            "curve": [
                {"gain": None, "noise_var": None} | point
                for point in (
                    {
                        "step": 0,
                        "num_forwards": 0,
                        "train_loss": None,
                        "validation_accuracy": 0.5,
                        "train_seconds": 0.0,
                    },
                    {
                        "step": 5,
                        "num_forwards": 10,
                        "train_loss": 0.6,
                        "validation_accuracy": validation - 0.1,
                        "train_seconds": 1.0,
                    },
                    {
                        "step": 10,
                        "num_forwards": 20,
                        "train_loss": 0.5,
                        "validation_accuracy": validation,
                        "train_seconds": 2.0,
                    },
                )
            ],
            "best_step": 10,
            "num_forwards": 20,
            "num_steps": 10,
            "train_seconds": 2.0,
            "evaluation_seconds": 1.0,
            "step_ms": 1.0,
            "peak_memory_kind": "resident_set",
            "warnings": {},
            "data": {},
            "model": {},
            "provenance": {"started": started},
        }
        return {key: {**whole, **more}.get(key, 0) for key in records.FIELDS}

    return build


@pytest.fixture
def full(grid: Grid, make: Make) -> list[dict[str, Any]]:
    """Every run of the toy: BSZO 80 %, MeZO 70 %, one more with seed 1; the greater rate validates
    better."""
    found: dict[str, dict[str, Any]] = {}
    for point in grid.points:
        seed, score = int(point["seed"]), {"mezo": 0.7, "bszo": 0.8}[point["optimizer"]]
        greater, smaller = grid.rates["small", point["optimizer"]]
        runs = [make(point, greater, test=score + seed / 100, validation=0.9)]
        runs += (
            [make(point, smaller, test=0.99, validation=0.6)]
            if seed == 0 and point["fidelity"] == "corrected"
            else []
        )
        found |= {record["signature"]: record for record in runs}
    return list(found.values())
