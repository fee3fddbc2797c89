"""scripts/bench/state.py: known states are counted to the byte, and no tensor hides from the
walk."""

import functools
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bszo.perturb.directions import gaussian
from scripts.bench import state as bench_state

N = 10 * (6 * 6 + 6)


@pytest.mark.parametrize(
    ("method", "overrides", "owned"),
    [
        ("mezo", (), 0),
        ("lozo", (), 0),
        ("mezo-adam", (), 2 * 4 * N),
        ("hizoo", (), 4 * N),
        ("bszo", ("optimizer.k=3", "optimizer.m=4"), 8 * (3 + 9)),
        ("bszo-b", (), 8 * (2 + 4)),
    ],
)
def test_known_states(method: str, overrides: tuple[str, ...], owned: int):
    row = bench_state.measure(bench_state.node_of(method, *overrides), 6)
    assert row["n"] == N
    assert sum(size for name, size in row["kept"].items() if name in ("state", "last")) == owned
    assert row["elsewhere"] >= 0 and row["during_step"] > 0
    assert row["kept"].get("_engine", 0) == 4 * N / 10  # one layer


@pytest.mark.parametrize("method", ["mezo-adam", "zo-sgd-sign", "zo-sgd-mmt"])
def test_a_dense_update_makes_few_tensors_at_once(method: str, monkeypatch: pytest.MonkeyPatch):
    """Beyond its state, fewer than three of the largest parameter's size: what "2 n" leaves unsaid
    stays small."""
    monkeypatch.setattr(gaussian, "KEEP_BELOW", 0)  # z tensor by tensor, as in a large model
    width = 400
    row = bench_state.measure(bench_state.node_of(method), width)
    assert row["during_step"] < 3 * 4 * width**2


def test_the_walk_finds_what_holds_a_tensor():
    def hidden(size: int) -> torch.Tensor:
        return torch.zeros(size)

    inner = hidden(5)
    graph: Any = SimpleNamespace(
        a={"x": [hidden(1)]},
        b=deque([hidden(2)]),
        c=functools.partial(print, hidden(3)),
        d=(hidden(4),),
        e=lambda: inner,
        f=SimpleNamespace(g=hidden(6)),
        g=nn.Linear(50, 50),
        h=inner[2:],
    )
    graph.me = graph  # a cycle ends
    found = dict(bench_state.storages(graph, set()))
    assert sorted(found.values()) == [4 * size for size in (1, 2, 3, 4, 5, 6)]


def test_parameters_and_views_of_them_are_not_counted():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, lr=0.1)
    holder: Any = optimizer
    holder.seen = [model.weight.data[1:], torch.zeros(3)]
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert bench_state.held_bytes(optimizer, model) == {"state": 4 * 20, "seen": 12}
