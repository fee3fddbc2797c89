"""MeZO's other estimators: dense float64 references, and steps that take as many passes as they
draw."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import LOZO, Hybrid, MeZO, ZOSGDConservative
from bszo.errors import OptimError
from bszo.perturb import mix64
from bszo.trajectory import TrajectoryWriter, describe, read, record, replay

N, EPS = 7, 0.05


def dense(params: Sequence[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed % 2**63)
    return [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in params]


def smooth(theta: Tensor) -> Tensor:
    return (torch.sin(2 * theta) + 0.3 * theta.square()).sum() + theta.sum() ** 2


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, N, dtype=torch.float64))


def printed(
    estimator: str, f: Any, lengths: list[float], p: list[float], u: float, v: float
) -> Any:
    """The estimate as the formula has it, with n and the part that u and v in [0, 1) choose."""
    n = next((i for i in range(len(p)) if u < sum(p[: i + 1])), len(p) - 1)

    def quotient(a: float) -> float:
        return (f(a) - f(0.0)) / a

    mu, now, then = lengths[0], lengths[n], lengths[n + 1]
    terms = {
        "forward": [quotient(mu)],
        "p4": [quotient(mu) + (quotient(then) - quotient(now)) / p[n]],
        "p3": [quotient(mu), (quotient(then) - quotient(now)) / p[n]],
        "p2": [quotient(mu), quotient(then) / p[n], -quotient(now) / p[n]],
        "p1": [
            f(0.0) * (-1 / mu - (1 / then - 1 / now) / p[n]),
            f(mu) / mu,
            -f(now) / now / p[n],
            f(then) / then / p[n],
        ],
    }[estimator]
    return len(terms) * terms[int(v * len(terms))]


@pytest.mark.parametrize("law", ["geometric", "zipf"])
@pytest.mark.parametrize("estimator", ["forward", "p1", "p2", "p3", "p4"])
@pytest.mark.parametrize("q", [1, 2])
def test_a_step_is_the_formulas(estimator: Any, law: Any, q: int) -> None:
    """Lengths and chances spelt out, the draws from the seeds by hand; every pass is counted."""
    if law == "geometric":
        lengths, chances = [EPS, EPS / 2, EPS / 4, EPS / 8], [4 / 7, 2 / 7, 1 / 7]
    else:
        zeta = math.pi**4 / 90
        tails = [zeta, zeta - 1, zeta - 17 / 16, zeta - 17 / 16 - 1 / 81]
        lengths = [EPS * tail / zeta for tail in tails]
        chances = [j**-4 / (1 + 1 / 16 + 1 / 81) for j in (1, 2, 3)]
    # P1 weighs a loss by 1 / mu
    theta, calls, lr = parameter(), [0], 1e-6 if estimator == "p1" else 1e-4
    drawn: dict[str, Any] = {} if estimator == "forward" else {"law": law, "law_terms": 3}
    optimizer = MeZO(
        [theta],
        lr=lr,
        eps=EPS,
        num_directions=q,
        estimator=estimator,
        **drawn,
        weight_decay=0.4,
        seed=3,
        directions=dense,
    )

    def closure() -> Tensor:
        calls[0] += 1
        return smooth(theta)

    wanted, costs = theta.detach().clone(), set()
    for step in range(12):
        estimate = torch.zeros(N, dtype=torch.float64)
        for seed in (mix64(3, step, i) for i in range(q)):
            (z,) = dense([theta], seed)
            u, v = (mix64(seed, -5, i) / 2**64 for i in (0, 1))
            start = wanted.clone()
            f = lambda a, start=start, z=z: float(smooth(start + a * z))  # noqa: E731
            estimate += printed(estimator, f, lengths, chances, u, v) * z / q
        wanted = wanted - lr * (estimate + 0.4 * wanted)
        before, ahead = calls[0], optimizer.next_forwards()
        optimizer.step(closure)
        torch.testing.assert_close(theta.detach(), wanted, rtol=1e-9, atol=1e-10)
        costs.add(calls[0] - before)
        assert calls[0] - before == ahead and optimizer.num_forwards == calls[0]
    most = {"forward": q + 1, "p1": q, "p2": q + 1, "p3": 2 * q + 1, "p4": 3 * q + 1}
    assert max(costs) <= most[estimator]
    assert len(costs) > 1 or estimator in ("forward", "p2") or (estimator == "p1" and q == 1)


class Net(nn.Module):
    """A layer, and a loss that is smooth in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self) -> Tensor:
        return torch.tanh(self.last(torch.tanh(self.first(torch.eye(3))))).square().mean()


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("estimator", ["p1", "p3", "p4"])
def test_resume_and_replay_are_bit_for_bit(estimator: Any, tmp_path: Path) -> None:
    """Steps of different lengths in one log; and half of them in another object."""

    def make(net: nn.Module) -> MeZO:
        return MeZO(net.parameters(), lr=1e-3, eps=0.01, estimator=estimator, module=net, seed=5)

    whole, half, again = Net(), Net(), Net()
    optimizer = make(whole)
    path = tmp_path / "run.bszo"
    writer = TrajectoryWriter(path, describe(optimizer, base="0" * 64))
    record(optimizer, writer)
    for _ in range(10):
        optimizer.step(whole)
    writer.finish()

    first = make(half)
    for _ in range(4):
        first.step(half)
    second = make(half)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(6):
        second.step(half)
    assert torch.equal(flat(half), flat(whole))
    assert second.num_forwards == optimizer.num_forwards

    other = make(again)
    replay(read(path), other, base="0" * 64)
    assert torch.equal(flat(again), flat(whole))
    assert other.num_forwards == optimizer.num_forwards


@pytest.mark.parametrize("estimator", ["central", "forward"])
def test_a_clipped_slope_is_the_formula_s_and_so_is_what_a_log_gives(
    estimator: Any, tmp_path: Path
) -> None:
    """theta <- theta - lr mean_i max(-C, min(C, g_i)) z_i, C between the sizes of the slopes; the
    log holds the clipped ones, and a state says C."""
    theta, q, lr, C = parameter(), 4, 1e-3, 3.0

    def make(theta: nn.Parameter, clip: float | None = C) -> MeZO:
        return MeZO(
            [theta],
            lr=lr,
            eps=EPS,
            num_directions=q,
            clip=clip,
            estimator=estimator,
            directions=dense,
            seed=2,
        )

    optimizer, path = make(theta), tmp_path / "run.bszo"
    writer = TrajectoryWriter(path, describe(optimizer, base="0" * 64))
    record(optimizer, writer)
    wanted, slopes = theta.detach().clone(), []
    for step in range(5):
        estimate = torch.zeros_like(wanted)
        for i in range(q):
            (z,) = dense([wanted], mix64(2, step, i))
            behind, length = (-EPS, 2 * EPS) if estimator == "central" else (0.0, EPS)
            g = float(smooth(wanted + EPS * z) - smooth(wanted + behind * z)) / length
            slopes.append(g)
            estimate += max(-C, min(C, g)) * z / q
        wanted = wanted - lr * estimate
        optimizer.step(lambda: smooth(theta))
        assert optimizer.last is not None
        assert optimizer.last.observations == pytest.approx(slopes[-q:])
        torch.testing.assert_close(theta.detach(), wanted, rtol=1e-9, atol=1e-10)
    writer.finish()
    assert min(slopes) < -C and max(slopes) > C and min(map(abs, slopes)) < C
    log, again = read(path), parameter()
    assert log.header.settings["clip"] == C
    assert max(abs(g) for step in log.steps for g in step.coefficients) == C / q
    replay(log, make(again), base="0" * 64)
    assert torch.equal(again, theta)
    with pytest.raises(OptimError, match=r"saved with clip=3.0, here it is None"):
        make(parameter(), None).load_state_dict(optimizer.state_dict())
    make(parameter()).load_state_dict(optimizer.state_dict())


def test_blocks_and_the_hybrid_know_what_comes_next() -> None:
    net, calls = Net(), [0]

    def closure() -> Tensor:
        calls[0] += 1
        return net()

    optimizer = MeZO(net.parameters(), lr=1e-3, eps=0.01, estimator="p3", seed=1, module=net)
    optimizer.restrict(blocks="tensor")
    hybrid = Hybrid(
        net.parameters(),
        zeroth_order=lambda params, **more: MeZO(params, lr=1e-3, eps=0.01, estimator="p3", **more),
        algorithm=lambda params: torch.optim.SGD(params, lr=0.01),
        blocks="tensor",
        module=net,
    )
    for method in (optimizer, hybrid):
        method.step(closure)  # streaming may take its first pass twice
        for _ in range(4):
            before, ahead = calls[0], method.next_forwards()
            method.step(closure)
            assert calls[0] - before == ahead


def test_the_default_is_as_it_was() -> None:
    """Nothing of the estimators in what headers say, and no pass is looked ahead."""
    optimizer = MeZO([parameter()])
    assert not {"clip", "estimator", "law", "law_ratio", "law_exponent", "law_terms"} & {
        *optimizer.settings()
    }
    assert optimizer.next_forwards() is None
    assert MeZO([parameter()], estimator="p2").settings()["estimator"] == "p2"


def test_what_cannot_be_is_refused() -> None:
    matrix = nn.Parameter(torch.ones(4, 4))
    for other in (LOZO, ZOSGDConservative):
        with pytest.raises(OptimError, match=f"{other.__name__} has the estimator central alone"):
            other([matrix], estimator="p4")  # type: ignore[call-arg]
        with pytest.raises(OptimError, match=r"clip=1.0: .* a clip is MeZO's"):
            other([matrix], clip=1.0)  # type: ignore[call-arg]
    for name, value in (
        ("estimator", "p5"),
        ("law", "poisson"),
        ("law_ratio", 1.0),
        ("law_exponent", 1.0),
        ("law_terms", 0),
        ("clip", 0),
        ("clip", math.inf),
        ("clip", "1"),
    ):
        with pytest.raises(OptimError, match=name):
            MeZO([matrix], **{name: value})  # type: ignore[arg-type]
