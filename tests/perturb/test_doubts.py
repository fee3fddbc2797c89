"""Steps that learn nothing are said: one line, at the first step that it can be seen in."""

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bszo import BSZO, ForwardGrad, MeZO
from bszo.errors import OptimError

X = torch.linspace(-1, 1, 24).view(4, 6)
Y = torch.arange(4) % 3
Build = Callable[[], tuple[nn.Module, Callable[[], Any]]]


def net(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), *more, nn.Linear(8, 3))


def loss_of(module: nn.Module) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(module(X), Y)


def another_copy() -> tuple[nn.Module, Callable[[], Any]]:
    return net(), loss_of(net())


def detached() -> tuple[nn.Module, Callable[[], Any]]:
    module, kept = net(), torch.tensor(0.7)
    return module, lambda: (module(X), kept)[1]


def dropout() -> tuple[nn.Module, Callable[[], Any]]:
    module = net(nn.Dropout(0.1))
    return module, loss_of(module)


def batch_norm() -> tuple[nn.Module, Callable[[], Any]]:
    module = net(nn.BatchNorm1d(8))
    return module, loss_of(module)


def functional_dropout() -> tuple[nn.Module, Callable[[], Any]]:
    module = net()
    return module, lambda: F.cross_entropy(F.dropout(module(X), 0.1, training=True), Y)


def drawn_batch() -> tuple[nn.Module, Callable[[], Any]]:
    module = net()

    def closure() -> Tensor:
        rows = torch.randint(0, 4, (2,))
        return F.cross_entropy(module(X[rows]), Y[rows])

    return module, closure


def next_batch() -> tuple[nn.Module, Callable[[], Any]]:
    """No generator moves; only two losses at one theta can tell."""
    module, batches = net(), iter(range(999))
    return module, lambda: F.cross_entropy(module(X + next(batches)), Y)


def well_done() -> tuple[nn.Module, Callable[[], Any]]:
    module = net(nn.Dropout(0.1), nn.BatchNorm1d(8)).eval()
    return module, loss_of(module)


def seeded_anew() -> tuple[nn.Module, Callable[[], Any]]:
    """A closure that seeds what it draws has the same loss each time."""
    module = net()

    def closure() -> Tensor:
        torch.manual_seed(3)
        return F.cross_entropy(module(X + torch.randn(4, 6)), Y)

    return module, closure


EXPECTED: list[tuple[Build, str | None]] = [
    (another_copy, "whatever the parameters are, so that nothing is learnt"),
    (detached, "whatever the parameters are, so that nothing is learnt"),
    (dropout, r"module is in training mode.*\(1: dropout of 0.1\)"),
    (batch_norm, r"module is in training mode.*\(1: running statistics of a BatchNorm1d\)"),
    (functional_dropout, "runs dropout in training mode"),
    (drawn_batch, "draws random numbers"),
    (well_done, None),
    (seeded_anew, None),
]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize(("build", "line"), EXPECTED, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("method", [MeZO, BSZO])
def test_one_warning_at_the_first_step(
    build: Build, line: str | None, method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    module, closure = build()
    optimizer = method(module.parameters(), lr=0.0, eps=1e-2, module=module)
    for step in range(3):
        optimizer.step(closure)
        said = warnings(caplog)
        assert len(said) == (line is not None), (step, said)
    if line is not None:
        assert re.search(line, warnings(caplog)[0])


@pytest.mark.parametrize("method", [MeZO, BSZO])
def test_train_mode_after_the_first_steps_is_said(
    method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    module = net(nn.Dropout(0.1), nn.BatchNorm1d(8)).eval()
    optimizer = method(module.parameters(), lr=0.0, eps=1e-2, module=module)
    for _ in range(3):
        optimizer.step(loss_of(module))
    assert not warnings(caplog)
    module.train()
    for _ in range(3):
        optimizer.step(loss_of(module))
    assert len(said := warnings(caplog)) == 1 and "module is in training mode" in said[0]


def test_random_numbers_after_the_first_steps_are_said(caplog: pytest.LogCaptureFixture) -> None:
    module = net(nn.Dropout(0.1)).eval()
    optimizer = MeZO(module.parameters(), lr=0.0, eps=1e-2)  # which is not told of the module
    for step in range(9):
        module.train(step >= 3)
        optimizer.step(loss_of(module))
        assert len(warnings(caplog)) == (step >= 4)
    assert "draws random numbers" in warnings(caplog)[0]


@pytest.mark.parametrize("method", [MeZO, BSZO])
def test_losses_of_one_step_that_are_far_apart_are_said(
    method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch at each call: its losses differ by more than a step of 1e-3 ever makes them."""
    torch.manual_seed(0)
    module = net()
    order = iter(torch.randperm(4000).tolist())

    def closure() -> Tensor:
        i = next(order) % 4
        return F.cross_entropy(10 * module(X[i : i + 1]), Y[i : i + 1])

    optimizer = method(module.parameters(), lr=0.0, eps=1e-3, module=module)
    for step in range(20):
        optimizer.step(closure)
        assert len(warnings(caplog)) == (step >= 15)
    assert (
        "does the closure take a new batch at each call, or is eps too large"
        in (warnings(caplog)[0])
    )


def test_two_losses_at_one_theta(caplog: pytest.LogCaptureFixture) -> None:
    """Where a method measures theta twice; no pass is taken for this alone."""
    module, closure = next_batch()
    optimizer = BSZO(module.parameters(), lr=0.0, eps=1e-2, module=module)
    optimizer.restrict(blocks="tensor")
    optimizer.step(closure)
    assert len(said := warnings(caplog)) == 1 and "at the same parameters" in said[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_loss_in_16_bits_is_said(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    """Its differences are multiples of 1/128 or so, of which most are 0."""
    module = net()
    optimizer = MeZO(module.parameters(), lr=1e-3, eps=1e-3, module=module)
    for _ in range(3):
        optimizer.step(lambda: module(X).square().mean().to(dtype))
    said = [line for line in warnings(caplog) if "logits.float()" in line]
    assert len(said) == (dtype != torch.float32)
    if said:
        spacing = {torch.bfloat16: "0.0078", torch.float16: "0.00098"}[dtype]
        assert (
            f"a loss in {str(dtype)[6:]}, whose numbers from 1 to 2 are {spacing} apart" in said[0]
        )


def test_a_slope_of_zero_is_said(caplog: pytest.LogCaptureFixture) -> None:
    module = net()
    other = torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        optimizer = ForwardGrad(module.parameters(), lr=0.0, module=module)
        optimizer.step(lambda: (module(X) * 0).sum() + other.sum())
    assert len(said := warnings(caplog)) == 1 and "step 0: the slope is 0" in said[0]


@pytest.mark.parametrize("perturbation", ["exact", "copy", "in-place"])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda net: net.to("meta"), "parameter 0 of shape .8, 6. is on the meta device"),
        (
            lambda net: net.to(torch.complex64),
            "parameter 0 .* is complex64, and directions are real",
        ),
        (lambda net: net.to(torch.float8_e4m3fn), "parameter 0 .* is float8_e4m3fn; float64"),
    ],
)
def test_what_cannot_be_moved_is_refused(change: Any, line: str, perturbation: Any) -> None:
    module = change(net())
    optimizer = MeZO(module.parameters(), lr=0.1, module=module, perturbation=perturbation)
    with pytest.raises(OptimError, match=line):
        optimizer.step(lambda: 1.0)
    assert optimizer.num_steps == 0
