"""LOREN against a dense reference; what its curvature does as run and with an unscaled score."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bszo import LOREN
from bszo.errors import OptimError
from bszo.perturb import mix64, noise
from tests.optim.test_reference import SHAPES, SIZES, Loss, flat, follow

ROWS = [shape[0] if len(shape) > 1 else 1 for shape in SHAPES]
EPS, RHO, RATE = 1e-2, 0.3, 0.02


def test_an_autocast_around_a_step_changes_no_direction() -> None:
    """The factors are multiplied in their own type, in the closure and outside."""

    def trained(autocast: bool) -> list[Tensor]:
        torch.manual_seed(0)
        module = torch.nn.Linear(64, 48)
        x = torch.randn(4, 64)
        optimizer = LOREN(module.parameters(), lr=1e-2, eps=1e-2, module=module, seed=1)

        def closure() -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return (x @ module.weight.T + module.bias).square().mean()

        for _ in range(3):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                optimizer.step(closure)
        return [p.detach().clone() for p in module.parameters()]

    assert all(map(torch.equal, trained(False), trained(True)))


def starting_rows(seed: int) -> list[Tensor]:
    return [
        noise.values(torch.Size((size // rows,)), i, mix64(seed, 0, -5)).double()
        for i, (size, rows) in enumerate(zip(SIZES, ROWS, strict=True))
    ]


def precision_of(a: Tensor, rows: int) -> Tensor:
    """I + A A^T / rho, with A the flattened matrix that has a in every row."""
    whole = a.repeat(rows)
    return torch.eye(len(whole), dtype=torch.float64) + torch.outer(whole, whole) / RHO


def root_of(a: Tensor, rows: int) -> Tensor:
    """The symmetric root of the covariance whose eigenvalue along A is negative."""
    along = a.repeat(rows) / a.repeat(rows).norm()
    shrunk = math.sqrt(RHO / (RHO + float(rows * a @ a)))
    across = torch.eye(len(along), dtype=torch.float64) - torch.outer(along, along)
    return across - shrunk * torch.outer(along, along)


def score(a: Tensor, rows: int, v: Tensor) -> Tensor:
    """d log p(v) / da by differentiation of the density itself."""
    a = a.clone().requires_grad_()
    precision = precision_of(a, rows)
    log_p = 0.5 * torch.logdet(precision) - 0.5 * v @ precision @ v
    return torch.autograd.grad(log_p, a)[0]


@pytest.mark.parametrize(("updates", "scored"), [("once", "unscaled"), ("each-probe", "as-run")])
def test_loren(updates: Any, scored: Any) -> None:
    lr, beta, decay = 1e-3, 0.8, 0.4
    # as run a stands still, so that here its rate is large enough for a wrong term to be seen
    rate = RATE if scored == "unscaled" else RATE / (EPS**2 * math.sqrt(RHO))
    a, m = starting_rows(3), torch.zeros(sum(SIZES), dtype=torch.float64)

    def shaped(z: Tensor) -> list[Tensor]:
        return [
            root_of(row, rows) @ part
            for row, rows, part in zip(a, ROWS, z.split(SIZES), strict=True)
        ]

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal a, m
        y = [loss(theta + EPS * torch.cat(shaped(z_k))) for z_k in z]
        w = [(y_k - (sum(y) - y_k) / (len(y) - 1)) / len(y) for y_k in y]
        for group in [range(len(z))] if updates == "once" else [[k] for k in range(len(z))]:
            v = {k: shaped(z[k]) for k in group}
            m = beta * m + sum(w[k] * torch.cat(v[k]) for k in group) / EPS
            theta = theta - lr * (m + decay * theta)
            a = [
                row - RATE * sum((w[k] * score(row, rows, v[k][i]) for k in group), torch.zeros(()))
                for i, (row, rows) in enumerate(zip(a, ROWS, strict=True))
            ]
        return theta

    optimizer, params = follow(
        LOREN,
        4,
        reference,
        lr=lr,
        eps=EPS,
        seed=3,
        num_directions=4,
        momentum=beta,
        damping=RHO,
        curvature_lr=rate,
        score=scored,
        updates=updates,
        weight_decay=decay,
        state_dtype="parameter",
    )
    found = flat([optimizer.state[p]["curvature"] for p in params])
    torch.testing.assert_close(found, torch.cat(a), rtol=1e-8, atol=1e-9)
    assert float((found - torch.cat(starting_rows(3))).abs().max()) > 1e-2, "a must have moved"


def test_the_curvature_stands_still_as_run_and_moves_with_an_unscaled_score() -> None:
    """With the published rate, eps and rho, and a loss that spreads by 0.01 over the probes."""
    still: dict[str, float] = {}
    moved: dict[str, float] = {}
    for scored in ("as-run", "unscaled"):
        theta = torch.nn.Parameter(torch.zeros(96, 64))
        slope = torch.randn(96, 64, generator=torch.Generator().manual_seed(0)) * 0.1
        optimizer = LOREN([theta], lr=0.0, eps=1e-3, score=scored)  # type: ignore[arg-type]
        optimizer.step(lambda theta=theta, slope=slope: (theta * slope).sum())
        a = optimizer.state[theta]["curvature"]
        start = noise.values(a.shape, 0, mix64(0, 0, -5))
        for _ in range(50):
            optimizer.step(lambda theta=theta, slope=slope: (theta * slope).sum())
        still[scored] = float((a == start).double().mean())
        moved[scored] = float((a - start).norm() / start.norm())
    assert still["as-run"] > 0.95 and moved["as-run"] < 1e-8
    assert still["unscaled"] == 0 and moved["unscaled"] > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_curvature_is_refused(dtype: torch.dtype) -> None:
    params = [torch.zeros(3, dtype=dtype, requires_grad=True)]
    with pytest.raises(OptimError, match=r"^state_dtype='parameter': torch.* float32 is valid$"):
        LOREN(params, state_dtype="parameter")
    optimizer = LOREN(params)
    optimizer.step(lambda: params[0].float().sum())
    assert {v.dtype for v in optimizer.state[params[0]].values()} == {torch.float32}
