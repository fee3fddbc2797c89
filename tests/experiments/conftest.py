"""The command line in process, and a record and parts made of next to nothing."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor, nn

from experiments.config.schema import Protocol
from experiments.records import record as records
from experiments.records import signing, store
from experiments.run import main
from experiments.training.build import Parts
from experiments.training.runner import Runner
from experiments.training.signals import Signals
from experiments.training.tracking import NoTracker
from tests.forked import no_mode


@dataclass
class Outcome:
    """What a command left: its exit code and what it said."""

    code: int
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Call `python -m experiments.run` in this process."""

    def call(*arguments: str) -> Outcome:
        for name in ("HYDRA_FULL_ERROR", "BSZO_FULL_ERROR"):
            monkeypatch.setenv(name, "0")
        monkeypatch.setattr(Hydra, "get_mode", no_mode)
        monkeypatch.setattr(sys, "argv", ["experiments/run.py", *arguments])
        GlobalHydra.instance().clear()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            GlobalHydra.instance().clear()
        return Outcome(code, capfd.readouterr().err)

    return call


@pytest.fixture
def some_record() -> dict[str, Any]:
    """A record as a run writes it."""
    config = {
        "seed": 0,
        "model": {"name": "tiny-roberta"},
        "optimizer": {"lr": 1e-4},
        "protocol": {},
        "fidelity": {},
    }
    filled: dict[str, Any] = {
        "schema_version": records.SCHEMA_VERSION,
        "signature": signing.signature(config),
        "status": "ok",
        "choices": {"task": "sst2", "model": "tiny-roberta", "optimizer": "bszo"},
        "config": config,
        "zero_shot_accuracy": 0.5,
        "validation_accuracy": 0.75,
        "test_accuracy": 0.7,
        "best_step": 20,
        "peak_memory_kind": "resident_set",
        "warnings": {},
        "curve": [
            {
                "step": 0,
                "num_forwards": 0,
                "train_loss": None,
                "validation_accuracy": 0.5,
                "train_seconds": 0,
                "gain": None,
                "noise_var": None,
            },
            {
                "step": 20,
                "num_forwards": 60,
                "train_loss": 0.6,
                "validation_accuracy": 0.75,
                "train_seconds": 1,
                "validation_loss": 0.625,
                "gain": 0.9,
                "noise_var": 0.25,
            },
        ],
        "data": {},
        "model": {},
        "provenance": {"started": "2026-01-01T00:00:00Z"},
        "train_seconds": 1.5,
        "evaluation_seconds": 0.5,
        "step_ms": 12.5,
        "reason": None,
        "num_backwards": 0,
    }
    return {key: filled.get(key, 60) for key in records.FIELDS}


class Lines:
    """A model in name only: it separates points of the plane by a line, and says at what steps it
    saw what batches."""

    style = "masked"

    def __init__(self, poison_at: int | None = None) -> None:
        self.module = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.module.weight.copy_(0.05 * torch.eye(2))  # every answer wrong
        self.device = torch.device("cpu")
        self.seen: list[tuple[int, ...]] = []
        self.poison_at = poison_at

    def collate(self, encoded: list[Any], *, step: int) -> Any:
        self.seen.append((step, *(e.number for e in encoded)))
        return SimpleNamespace(
            x=torch.stack([e.point for e in encoded]),
            labels=torch.tensor([e.label for e in encoded]),
        )

    def loss(self, batch: Any) -> Tensor:
        if self.poison_at is not None and len(self.seen) > self.poison_at:
            return torch.tensor(float("nan"))
        return nn.functional.cross_entropy(self.module(batch.x), batch.labels)

    @torch.no_grad()
    def logits(self, encoded: list[Any], *, max_tokens: int) -> Tensor:
        del max_tokens
        return self.module(torch.stack([e.point for e in encoded]))


def points(count: int, seed: int) -> list[Any]:
    xs = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return [SimpleNamespace(number=i, point=x, label=int(x[0] > x[1])) for i, x in enumerate(xs)]


@dataclass
class Bench:
    """Builds runners on `Lines`."""

    model: Lines = field(default_factory=Lines)

    def runner(
        self, make_optimizer: Callable[..., Any], *, seed: int = 0, **protocol: Any
    ) -> Runner:
        plain: dict[str, Any] = {
            "label_bias": "none",
            "num_steps": 40,
            "max_forwards": None,
            "batch_size": 8,
            "eval_every": 10,
            "patience": None,
            "lr_schedule": "constant",
            "max_eval_examples": None,
            "eval_max_tokens": 64,
            "checkpoint_every": None,
            "on_nonfinite": "stop",
        }
        optimizer = make_optimizer(list(self.model.module.parameters()))
        model: Any = self.model
        parts = Parts(model, optimizer, points(64, 0), points(32, 1), points(32, 2), {}, {})
        return Runner(
            parts,
            Protocol(**(plain | protocol)),
            seed=seed,
            tracker=NoTracker(),
            signals=Signals(),
            log_every=10,
            progress="never",
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """The records under `tmp_path`, where tests send `paths.results`."""
    return lambda: store.load_all([tmp_path / "runs"]) if (tmp_path / "runs").is_dir() else []
