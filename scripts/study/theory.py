"""Theory measured: BSZO's step at a fixed theta against Theorem 3.7, Eq. 55 and Corollary 3.6, and
its descent as k grows.

    python -m scripts.study.theory    # about a minute on one core; results/measured/theory.json

The optimizer is `bszo.BSZO` with its own directions, in float64. Every mean has its standard error.
The formulas are evaluated here too, so that the figure has nothing to compute. For m = k, a fixed
noise variance, g = grad L and a true noise variance v they are:

- E[delta] = -lr gamma k g                                       (Theorem 3.7)
- E|delta|^2 = lr^2 gamma^2 k ((n + k + 1) |g|^2 + n v)             (Eq. 55; the term in v is ours)
- mu = gamma y, Sigma = prior_var (1 - gamma) I       (Corollary 3.6, which prints Sigma = gamma I)
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bszo import BSZO
from bszo.perturb import mix64
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from scripts.study.descent import descent

KS, NS = (1, 2, 4, 8, 16), (10, 100, 1000)
LR, EPS, PRIOR_VAR = 0.1, 1e-6, 1.0
RATIOS = tuple(10.0 ** (j / 2) for j in range(-6, 7))  # noise_var / prior_var
SLOPES = tuple(10.0 ** (j / 2) for j in range(-4, 7))  # |g| / sigma_p, for the optimizer as shipped
EVALUATIONS = 5000  # losses for a point: draws = EVALUATIONS / (k + 1)


class Problem:
    """A loss with its gradient at theta; `noise_std` is the deviation of an error that is drawn
    afresh for every loss."""

    def __init__(
        self, params: list[nn.Parameter], loss: Callable[[], Tensor], noise_std: float = 0.0
    ) -> None:
        self.params, self.exact, self.noise_std = params, loss, noise_std
        self.home = [p.detach().clone() for p in params]
        # (n,)
        self.gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), params)])
        self.generator = torch.Generator().manual_seed(7)

    @torch.no_grad()
    def loss(self) -> float:
        error = (
            float(torch.randn((), generator=self.generator, dtype=torch.float64))
            if self.noise_std
            else 0.0
        )
        return float(self.exact()) + self.noise_std * error

    @torch.no_grad()
    def deltas(self, optimizer: Any, draws: int) -> Tensor:
        """Return (draws, n) steps, each from the same theta."""
        found = []
        for _ in range(draws):
            optimizer.step(self.loss)
            found.append(
                torch.cat(
                    [(p - home).reshape(-1) for p, home in zip(self.params, self.home, strict=True)]
                )
            )
            for p, home in zip(self.params, self.home, strict=True):
                p.copy_(home)
        return torch.stack(found)


def quadratic(n: int, size: float = 1.0, noise_std: float = 0.0) -> Problem:
    """Build theta^T A theta / 2 with eigenvalues from 1/2 to 3, at a point where |grad L| =
    size."""
    a = torch.linspace(0.5, 3.0, n, dtype=torch.float64)
    start = torch.linspace(-1, 1, n, dtype=torch.float64) + 0.25
    p = nn.Parameter(start * (size / (a * start).norm()))
    return Problem([p], lambda: a @ p.square() / 2, noise_std)


def network() -> Problem:
    """Build a small classifier with a tanh layer, whose loss is not quadratic."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = [nn.Parameter(draw(8, 6) / 3), nn.Parameter(draw(8) / 3), nn.Parameter(draw(3, 8) / 3)]
    inputs, labels = draw(16, 6), torch.randint(3, (16,), generator=generator)
    return Problem(
        params,
        lambda: nn.functional.cross_entropy(
            torch.tanh(inputs @ params[0].T + params[1]) @ params[2].T, labels
        ),
    )


def estimate(samples: Tensor) -> dict[str, float]:
    """Return the mean and its standard error."""
    return {"mean": float(samples.mean()), "error": float(samples.std() / samples.numel() ** 0.5)}


def moments(problem: Problem, k: int, noise_var: float, draws: int) -> dict[str, Any]:
    """Measured over predicted: the mean step along -g, the mean step across g, and the mean square.

    `across` is |mean of the part orthogonal to g|^2 over what chance alone would leave there; its
    expectation is 1, and `across_error` is the deviation of that ratio were the coordinates
    independent.
    """
    gamma, g = PRIOR_VAR / (PRIOR_VAR + noise_var), problem.gradient
    n, slope = g.numel(), float(g.norm())
    optimizer = BSZO(
        problem.params,
        lr=LR,
        k=k,
        m=k,
        eps=EPS,
        prior_var=PRIOR_VAR,
        noise_var=noise_var,
        # points that share no draws
        adapt_noise="never",
        seed=mix64(n, k, problem.noise_std > 0),
    )
    delta = problem.deltas(optimizer, draws)  # (draws, n)
    along = delta @ g / slope  # (draws,)
    across = delta - torch.outer(along, g / slope)
    observed_var = 2 * problem.noise_std**2 / EPS**2  # two losses in a difference
    second = LR**2 * gamma**2 * k * ((n + k + 1) * slope**2 + n * observed_var)
    chance = float(across.square().sum(dim=1).mean()) / draws
    return {
        "n": n,
        "k": k,
        "draws": draws,
        "gamma": gamma,
        "observed_var": observed_var,
        "first": estimate(along / (-LR * gamma * k * slope)),
        "across": float(across.mean(dim=0).square().sum()) / chance,
        "across_error": (2 / (n - 1)) ** 0.5,
        "second": {**estimate(delta.square().sum(dim=1) / second), "formula": second},
    }


def shrinkage(ratio: float, k: int = 4) -> dict[str, float]:
    """Return mu / y and Sigma / prior_var of one step, with their formulas."""
    problem = quadratic(50)
    optimizer = BSZO(
        problem.params,
        lr=LR,
        k=k,
        m=k,
        eps=EPS,
        prior_var=PRIOR_VAR,
        noise_var=ratio * PRIOR_VAR,
        adapt_noise="never",
    )
    optimizer.step(problem.loss)
    last = optimizer.last
    assert last is not None and last.gain is not None and last.cov is not None
    spread = last.cov / PRIOR_VAR
    off = float((spread - torch.diag(torch.diagonal(spread))).abs().max())
    return {
        "ratio": ratio,
        "gamma": 1 / (1 + ratio),
        "gain": last.gain,
        "cov": float(torch.diagonal(spread).mean()),
        "cov_off_diagonal": off,
    }


def shipped(size: float, k: int = 2, draws: int = 600, warm: int = 100) -> dict[str, Any]:
    """Return E[delta] over -lr k g of the optimizer as it runs by default: m = k + 1, and the noise
    variance adapts at every observation."""
    problem = quadratic(50, size=size)
    optimizer = BSZO(
        problem.params,
        lr=LR,
        k=k,
        m=k + 1,
        eps=EPS,
        prior_var=PRIOR_VAR,
        noise_var=PRIOR_VAR,
        seed=5,
    )
    problem.deltas(optimizer, warm)
    along = problem.deltas(optimizer, draws) @ problem.gradient / size
    return {"slope": size, **estimate(along / (-LR * k * size)), "gamma": 0.5}


def measure(ks: Sequence[int], ns: Sequence[int], evaluations: int) -> dict[str, Any]:
    """Measure every part but the descent."""
    quiet = [
        {"problem": "quadratic", **moments(quadratic(n), k, 1.0, evaluations // (k + 1))}
        for n in ns
        for k in ks
    ]
    net = [{"problem": "network", **moments(network(), k, 1.0, evaluations // (k + 1))} for k in ks]
    noisy = [
        {
            "problem": "noisy quadratic",
            **moments(quadratic(ns[-2], noise_std=EPS * 2**-0.5), k, 1.0, evaluations // (k + 1)),
        }
        for k in ks
    ]
    return {
        "moments": quiet + net + noisy,
        "shrinkage": [shrinkage(ratio) for ratio in RATIOS],
        "shipped": [shipped(size) for size in SLOPES],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "theory.json")
    parser.add_argument(
        "--evaluations", type=int, default=EVALUATIONS, help="losses for a point of the moments"
    )
    options = parser.parse_args(arguments)
    made = of_script("scripts.study.theory", arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    facts: dict[str, Any] = measure(KS, NS, options.evaluations)
    z = [
        (row[name]["mean"] - 1) / row[name]["error"]
        for row in facts["moments"]
        for name in ("first", "second")
    ]
    print(
        f"{len(z)} means, in standard errors from their formulas: largest {max(map(abs, z)):.1f}, "
        f"root mean square {statistics.fmean(value**2 for value in z) ** 0.5:.2f}",
        flush=True,
    )
    facts["descent"] = descent(50, KS)
    for curve in facts["descent"]["curves"]:
        print(
            f"k {curve['k']:2d}: lr {curve['lr']:.3f}, log loss lost a step {curve['speed']:.4f} "
            f"+- {curve['speed_error']:.4f}, over k = 1 promised {curve['promised_speedup']:.2f}"
        )
    facts["provenance"] = made
    facts["seconds"] = round(time.perf_counter() - start, 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
