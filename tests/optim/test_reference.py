"""Every optimizer against a dense float64 reference written from its formula: no seed, no engine,
no recursion."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import BSZO, LOZO, HiZOO, MeZO, MeZOAdam, MeZOAdamHistory
from bszo.errors import OptimError
from bszo.optim.mezo_adam import learn_
from bszo.perturb import LowRank, mix64

SHAPES = [(3, 4), (5,), (), (2, 3, 2)]
SIZES = [math.prod(shape) for shape in SHAPES]
N, STEPS = sum(SIZES), 6
Loss = Callable[[Tensor], float]


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in SHAPES
    ]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().reshape(-1) for t in tensors])


def make_loss() -> Loss:
    """Neither linear nor quadratic, with a term that differs from call to call: the order of calls
    is part of it."""
    calls = [0]
    weight = torch.linspace(-1, 1, N, dtype=torch.float64)

    def loss(theta: Tensor) -> float:
        calls[0] += 1
        smooth = (torch.sin(2 * theta) + 0.3 * theta.square()).sum() + (weight @ theta) ** 2
        return float(smooth) + 2e-4 * math.sin(3.0 * calls[0])

    return loss


class Recorded:
    """directions= that draws dense float64 tensors, and remembers what it drew, in order."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def __call__(self, params: Sequence[Tensor], seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed % 2**63)
        z = [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in params]
        self.drawn.append(flat(z))
        return z

    def take(self, count: int) -> list[Tensor]:
        taken, self.drawn = self.drawn[:count], self.drawn[count:]
        assert len(taken) == count and not self.drawn, "each direction of a step is drawn once"
        return taken


def follow(optimizer_class: Any, count: int, reference: Any, **kwargs: Any) -> tuple[Any, Any]:
    """STEPS of both; after each step parameters agree. `reference(theta, loss, directions) ->
    theta`."""
    params, directions = parameters(), Recorded()
    optimizer = optimizer_class(params, directions=directions, **kwargs)
    theta, loss, reference_loss = flat(params), make_loss(), make_loss()
    for _ in range(STEPS):
        optimizer.step(lambda: loss(flat(params)))
        theta = reference(theta, reference_loss, directions.take(count))
        torch.testing.assert_close(flat(params), theta, rtol=1e-9, atol=1e-10)
    return optimizer, params


@dataclass
class DenseBSZO:
    """Algorithms 1 and 2 with the batch posterior (Eq. 9), an R of its own for each observation."""

    k: int
    m: int
    eps: float
    lr: float
    prior_var: float
    noise_var: float
    noise_ema: float
    noise_floor: float
    weight_decay: float
    reuse: bool
    adapt: str

    def __post_init__(self) -> None:
        self.noise, self.least = self.noise_var, (self.noise_floor * math.sqrt(self.noise_var)) ** 2

    def posterior(
        self, rows: list[Tensor], y: list[float], variances: list[float]
    ) -> tuple[Tensor, Tensor]:
        precision = torch.eye(self.k, dtype=torch.float64) / self.prior_var
        information = torch.zeros(self.k, dtype=torch.float64)
        for d, value, variance in zip(rows, y, variances, strict=True):
            precision += torch.outer(d, d) / (variance * d @ d)
            information += d * value / (variance * float(d @ d))
        cov = torch.linalg.inv(precision)
        return cov @ information, cov

    def __call__(self, theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        basis = torch.stack(z, dim=1)  # (n, k)
        f_0 = loss(theta)
        rows: list[Tensor] = []
        y: list[float] = []
        variances: list[float] = []
        for tau in range(self.m):
            mean, cov = self.posterior(rows, y, variances)
            axis = (
                tau
                if tau < self.k
                else int(torch.argmax(torch.diagonal(cov) * (1 - 1e-12 * torch.arange(self.k))))
            )
            d = torch.eye(self.k, dtype=torch.float64)[axis]
            cached = tau >= self.k and self.reuse
            value = y[axis] if cached else (loss(theta + self.eps * basis @ d) - f_0) / self.eps
            if self.adapt == "always" or (self.adapt == "beyond-k" and tau >= self.k):
                r = value - float(d @ mean)
                self.noise = max(
                    (1 - self.noise_ema) * self.noise + self.noise_ema * r * r, self.least
                )
            rows, y, variances = [*rows, d], [*y, value], [*variances, self.noise]
        self.mean, self.cov, self.y = *self.posterior(rows, y, variances), y
        return theta - self.lr * (basis @ self.mean + self.weight_decay * theta)


@pytest.mark.parametrize("adapt", ["always", "beyond-k", "never"])
@pytest.mark.parametrize("reuse", [True, False], ids=["BSZO", "BSZO-B"])
@pytest.mark.parametrize(
    ("k", "m", "noise_floor", "noise_var"),
    [(2, 3, 0.1, 4.0), (3, 8, 0.0, 0.5), (1, 1, 0.1, 1.0), (2, 5, 0.9, 60.0)],
)
def test_bszo(
    adapt: str, reuse: bool, k: int, m: int, noise_floor: float, noise_var: float
) -> None:
    same = {
        "k": k,
        "m": m,
        "eps": 1e-3,
        "lr": 3e-3,
        "prior_var": 30.0,
        "noise_var": noise_var,
        "noise_ema": 0.2,
        "noise_floor": noise_floor,
        "weight_decay": 0.3,
    }
    reference = DenseBSZO(**same, reuse=reuse, adapt=adapt)  # type: ignore[arg-type]
    optimizer, _ = follow(BSZO, k, reference, **same, reuse_observations=reuse, adapt_noise=adapt)
    torch.testing.assert_close(optimizer.last.mean, reference.mean, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(optimizer.last.cov, reference.cov, rtol=1e-7, atol=1e-9)
    assert optimizer.noise_var == pytest.approx(reference.noise, rel=1e-8)
    assert optimizer.last.observations == pytest.approx(tuple(reference.y), rel=1e-8)


def test_the_floor_is_a_share_of_the_standard_deviation() -> None:
    """A flat loss: noise_var falls by 1 - alpha an observation until sigma_e is a tenth of what it
    was."""
    optimizer = BSZO(parameters(), noise_var=5.0, noise_floor=0.1)
    optimizer.step(lambda: 1.0)
    assert optimizer.noise_var == pytest.approx(5.0 * 0.9**3)
    for _ in range(30):
        optimizer.step(lambda: 1.0)
    assert optimizer.noise_var == pytest.approx(5.0 * 0.1**2)


def test_bszo_auto_is_n_over_a_million() -> None:
    optimizer = BSZO(parameters())
    assert optimizer.prior_var == optimizer.noise_var == N / 1e6
    assert (optimizer.k, optimizer.m, optimizer.eps, optimizer.noise_ema) == (2, 3, 1e-4, 0.1)


def spsa(theta: Tensor, loss: Loss, z: Tensor, eps: float) -> float:
    return (loss(theta + eps * z) - loss(theta - eps * z)) / (2 * eps)


@pytest.mark.parametrize("q", [1, 3])
def test_mezo(q: int) -> None:
    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        gradient = (
            sum(
                (spsa(theta, loss, one, 1e-3) * one for one in z),
                torch.zeros(N, dtype=torch.float64),
            )
            / q
        )
        return theta - 2e-3 * (gradient + 0.4 * theta)

    follow(MeZO, q, reference, lr=2e-3, eps=1e-3, num_directions=q, weight_decay=0.4)


@pytest.mark.parametrize("q", [1, 2])
def test_mezo_adam(q: int) -> None:
    m, v, t = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64), 0

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal m, v, t
        g = (
            sum(
                (spsa(theta, loss, one, 1e-3) * one for one in z),
                torch.zeros(N, dtype=torch.float64),
            )
            / q
        )
        t += 1
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        step = (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-6)
        return theta - 0.02 * (step + 0.4 * theta)

    optimizer, params = follow(
        MeZOAdam,
        q,
        reference,
        lr=0.02,
        eps=1e-3,
        num_directions=q,
        betas=(0.8, 0.95),
        adam_eps=1e-6,
        weight_decay=0.4,
        state_dtype="parameter",
    )
    for name, dense in (("m", m), ("v", v)):
        torch.testing.assert_close(
            flat([optimizer.state[p][name] for p in params]), dense, rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_second_moment_of_16_bits_takes_squares_of_32(dtype: torch.dtype) -> None:
    g, m, v = torch.linspace(0.5, 200, 999), torch.zeros(999).to(dtype), torch.zeros(999).to(dtype)
    learn_(m, v, g, 0.9, 0.0)
    assert torch.equal(v, (g * g).to(dtype))


def test_r_adazo() -> None:
    """The second moment is the mean of the corrected first moment's squares; the first step is
    lr."""
    m, v, t = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64), 0
    moves: list[Tensor] = []

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal m, v, t
        t += 1
        m = 0.8 * m + 0.2 * spsa(theta, loss, z[0], 1e-3) * z[0]
        m_hat = m / (1 - 0.8**t)
        v = 0.95 * v + 0.05 * m_hat**2
        moves.append(0.02 * m_hat / ((v / (1 - 0.95**t)).sqrt() + 1e-12))
        return theta - moves[-1]

    follow(
        MeZOAdam,
        1,
        reference,
        lr=0.02,
        eps=1e-3,
        betas=(0.8, 0.95),
        adam_eps=1e-12,
        state_dtype="parameter",
        second="momentum",
    )
    torch.testing.assert_close(moves[0].abs(), torch.full_like(moves[0], 0.02), rtol=1e-6, atol=0)
    with pytest.raises(OptimError, match="MeZOAdamHistory has the gradient's squares alone"):
        MeZOAdamHistory(parameters(), second="momentum")  # type: ignore[call-arg]


def test_hizoo() -> None:
    curvature = torch.ones(N, dtype=torch.float64)
    eps, a, lr = 1e-2, 2e-5, 1e-3  # a / (2 eps^2) = 0.1: H moves a lot

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal curvature
        step = z[0] / curvature.sqrt()
        f_plus, f_minus = loss(theta + eps * step), loss(theta - eps * step)
        f_0 = loss(theta)
        g, second = (f_plus - f_minus) / (2 * eps), abs(f_plus + f_minus - 2 * f_0)
        curvature = (1 - a) * curvature + a * second * curvature * z[0] ** 2 / (2 * eps**2)
        return theta - lr * (g * z[0] / curvature.sqrt() + 0.4 * theta)

    optimizer, params = follow(
        HiZOO, 1, reference, lr=lr, eps=eps, smoothing=a, weight_decay=0.4, state_dtype="parameter"
    )
    torch.testing.assert_close(
        flat([optimizer.state[p]["curvature"] for p in params]), curvature, rtol=1e-8, atol=1e-9
    )
    assert float((curvature - 1).abs().max()) > 1e-3, "H must have moved for this to mean something"


@pytest.mark.parametrize("scale", ["1/r", "none"])
@pytest.mark.parametrize("redraw", ["same", "as-run"])
def test_lozo(scale: str, redraw: str) -> None:
    """U and V from the public family: V's seed changes every `interval` steps, U's at each."""
    params, interval, rank, seed, lr, eps = parameters(), 3, 2, 11, 1e-3, 1e-3
    optimizer = LOZO(
        params,
        lr=lr,
        eps=eps,
        rank=rank,
        interval=interval,
        scale=scale,  # type: ignore[arg-type]
        redraw_stream=redraw,  # type: ignore[arg-type]
        weight_decay=0.4,
        seed=seed,
    )
    theta, loss, reference_loss = flat(params), make_loss(), make_loss()
    factors = torch.cat(
        [
            torch.full((size,), 1 / rank if scale == "1/r" and len(shape) > 1 else 1.0)
            for size, shape in zip(SIZES, SHAPES, strict=True)
        ]
    ).double()
    for step in range(2 * STEPS):
        optimizer.step(lambda: loss(flat(params)))
        basis = mix64(seed, step // interval, -2)
        (direction_seed,) = [mix64(seed, step, 0)]
        p = flat(LowRank(params, rank, basis)(params, direction_seed))
        g = spsa(theta, reference_loss, p, eps)
        stream = int(redraw == "as-run" and step % interval == 0)
        along = flat(LowRank(params, rank, basis, stream)(params, direction_seed))
        theta = theta - lr * (factors * g * along + 0.4 * theta)
        torch.testing.assert_close(flat(params), theta, rtol=1e-9, atol=1e-10)
        assert torch.equal(along, p) == (stream == 0)
