"""scripts/study/agreement.py against gradients by hand, and against one backward pass of a
batch."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bszo.optim.per_example import PerExampleOptimizer
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.tables.agreement import agreement_section
from experiments.tables.sources import MEASURED, MeasurementError
from experiments.training.build import build
from scripts.study import agreement

E = torch.eye(4)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([E[0], E[0], E[0], E[0]], 4),  # all agree: as many as there are examples
        ([E[0], E[1], E[2], E[3]], 1),  # nothing in common
        ([E[0], -E[0], E[1], -E[1]], 0),  # they cancel
        ([3 * E[0], E[0]], 2 * 4 / 5),  # 2 |2 e|^2 / ((9 + 1) / 2)
    ],
)
def test_of_gradients_by_hand(gradients: list[Tensor], expected: float) -> None:
    assert agreement.agreement([[g[:1], g[1:]] for g in gradients]) == pytest.approx(expected)


def test_a_batch_s_is_what_its_whole_loss_says() -> None:
    """The mean of the examples' gradients is the gradient of the batch's loss."""
    parts = build(
        parse(compose([*agreement.TINY, "task=rte", "optimizer=mezo-each", "tracker=none"]))
    )
    model, examples = parts.model, parts.train[:6]
    assert isinstance(parts.optimizer, PerExampleOptimizer)
    weights = agreement.weights_of(parts.optimizer)
    names = {id(p): name for name, p in model.module.named_parameters()}
    assert len(weights) == 18 and not any("embed" in names[id(w)] for w in weights)
    shared = torch.autograd.grad(model.loss(model.collate(examples)), weights)
    own = [
        torch.autograd.grad(model.loss(model.collate([example])), weights) for example in examples
    ]

    def square(gradient: tuple[Tensor, ...]) -> float:
        return sum(float(g.double().square().sum()) for g in gradient)

    expected = len(examples) * square(shared) / statistics.fmean(map(square, own))
    assert agreement.of_batch(model, weights, examples) == pytest.approx(expected, rel=1e-3)


def test_the_committed_numbers_are_of_all_tasks_and_lie_where_they_can() -> None:
    facts: dict[str, Any] = json.loads((MEASURED / "agreement.json").read_text())
    assert [run["task"] for run in facts["runs"] if run["model"] == "tiny-opt"] == list(
        agreement.TASKS
    )
    for run in facts["runs"]:
        for at in run["along"]:
            assert len(at["agreement"]) == facts["batches"]
            assert all(0 < value < facts["batch"] for value in at["agreement"])


def test_the_table_has_a_line_a_task(tmp_path: Path) -> None:
    along = [{"step": 0, "agreement": [1.0, 3.0]}, {"step": 50, "agreement": [1.0, 1.0]}]
    runs = [
        {"model": "tiny-opt", "task": "sst2", "along": along},
        {"model": "other", "task": "cb", "along": along[:1]},
    ]
    file = tmp_path / "agreement.json"
    file.write_text(json.dumps({"batch": 16, "batches": 2, "runs": runs}))
    section = agreement_section(file)
    assert section.columns == ("model and task", "after 0 steps", "after 50 steps")
    assert section.rows == (
        ("tiny-opt, SST-2", "2.00 (1.41)", "1.00 (0.00)"),
        ("other, CB", "2.00 (1.41)", "-"),
    )
    assert "2 batches of B = 16" in section.notes[0]
    for damaged in ("{", "[]", '{"runs": []}', '{"batch": 1, "batches": 2, "runs": [{}]}'):
        file.write_text(damaged)
        with pytest.raises(MeasurementError, match=r"^agreement.json: not a report of"):
            agreement_section(file)
