"""Descent of BSZO on a quadratic as k grows: measured losses, their exact expectation, and the
bound of the descent lemma.

For L = theta^T A theta / 2 with m = k and fixed noise the step is delta = -lr gamma B B^T g (eps ->
0), and Gaussian moments give E[B B^T g g^T B B^T] = k ((k + 1) g g^T + |g|^2 I), whose trace is Eq.
55. Hence

- exactly, with s_i = E[theta_i^2] along A's eigenvectors (eigenvalues a_i): s_i <- s_i - 2 lr gamma
    k a_i s_i + lr^2 gamma^2 k ((k + 1) a_i^2 s_i + sum_j a_j^2 s_j);
- for any L with L-Lipschitz gradient (our derivation, from Theorem 3.7 and Eq. 55): E[L(theta +
    delta)] <= L(theta) - lr gamma k (1 - lr gamma L (n + k + 1) / 2) |grad L|^2, least at lr = 1 /
    (gamma L (n + k + 1)): a decrease of k |grad L|^2 / (2 L (n + k + 1)), free of gamma; where
    |grad L|^2 >= 2 mu (L - min L), the gap shrinks by 1 - k mu / (L (n + k + 1)) a step.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bszo import BSZO

PRIOR_VAR, NOISE_VAR = 1.0, 1.0  # gamma = 1/2, as at the start of a run with the default variances
GAMMA = PRIOR_VAR / (PRIOR_VAR + NOISE_VAR)
EIGENVALUES = (0.2, 1.0)  # least and greatest: mu and L
RATES = tuple(0.01 * 2 ** (j / 2) for j in range(9))  # 0.01 to 0.16
MOST_STEPS, SEEDS = 1200, 5
# of the first loss, where a run ends: far above the floor that the one-sided difference leaves
GOAL = 1e-4


def spectrum(n: int) -> Tensor:
    """Return (n,) eigenvalues, evenly spaced."""
    return torch.linspace(*EIGENVALUES, n, dtype=torch.float64)


def descend(n: int, k: int, lr: float, seed: int) -> list[float]:
    """Return L(theta_0), L(theta_1), ... of one run from theta = 1; it ends at the goal, or at a
    thousandfold loss."""
    a = spectrum(n)
    p = nn.Parameter(torch.ones(n, dtype=torch.float64))

    def loss() -> float:
        with torch.no_grad():
            return float(a @ p.square()) / 2

    optimizer = BSZO(
        [p],
        lr=lr,
        k=k,
        m=k,
        eps=1e-6,
        prior_var=PRIOR_VAR,
        noise_var=NOISE_VAR,
        adapt_noise="never",
        seed=seed,
    )
    losses = [loss()]
    while len(losses) <= MOST_STEPS and GOAL * losses[0] < losses[-1] < 1e3 * losses[0]:
        optimizer.step(loss)
        losses.append(loss())
    return losses


def expected(n: int, k: int, lr: float, steps: int) -> list[float]:
    """Return E[L(theta_t)], which is exact."""
    a, rate = spectrum(n), lr * GAMMA
    s, losses = torch.ones(n, dtype=torch.float64), []
    for _ in range(steps + 1):
        losses.append(float(a @ s) / 2)
        s = s - 2 * rate * k * a * s + rate**2 * k * ((k + 1) * a**2 * s + (a**2 * s).sum())
    return losses


def bound(n: int, k: int, lr: float, steps: int) -> list[float]:
    """Return what the descent lemma promises at this lr. Where it grows it promises nothing."""
    mu, smooth = EIGENVALUES
    factor = 1 - 2 * mu * lr * GAMMA * k * (1 - lr * GAMMA * smooth * (n + k + 1) / 2)
    start = float(spectrum(n).sum()) / 2
    return [start * factor**t for t in range(steps + 1)]


def promised_speedup(n: int, k: int) -> float:
    """Return k (n + 2) / (n + k + 1): by the bound above, the decrease of a step at its own best lr
    over that of k = 1."""
    return k * (n + 2) / (n + k + 1)


def speed(losses: Sequence[float]) -> float:
    """Return the mean decrease of log L a step, over the whole run."""
    first, last = torch.tensor([losses[0], losses[-1]], dtype=torch.float64).log().tolist()
    return (first - last) / (len(losses) - 1)


def short(losses: Sequence[float]) -> list[float]:
    """Round to six digits, which are enough for a curve."""
    return [float(f"{loss:.6g}") for loss in losses]


def of_k(n: int, k: int) -> dict[str, Any]:
    """Find the best rate of the grid by seed 0, and run other seeds at it."""
    grid = {lr: speed(descend(n, k, lr, 0)) for lr in RATES}
    best = max(RATES, key=lambda lr: grid[lr])
    runs = [descend(n, k, best, seed) for seed in range(1, SEEDS + 1)]
    reached = max(len(run) for run in runs) - 1
    safe = 1 / (GAMMA * EIGENVALUES[1] * (n + k + 1))  # where the bound is least
    speeds = [speed(run) for run in runs]
    return {
        "k": k,
        "lr": best,
        "num_forwards_a_step": k + 1,
        "grid": {f"{lr:.4g}": grid[lr] for lr in RATES},
        "losses": [short(run) for run in runs],
        "expected": short(expected(n, k, best, reached)),
        "bound_lr": safe,
        "bound": short(bound(n, k, safe, reached)),
        "speed": statistics.fmean(speeds),
        "speed_error": statistics.stdev(speeds) / len(speeds) ** 0.5,
        "promised_speedup": promised_speedup(n, k),
    }


def descent(n: int, ks: Sequence[int]) -> dict[str, Any]:
    """Run every k on the same quadratic."""
    return {
        "n": n,
        "gamma": GAMMA,
        "eigenvalues": EIGENVALUES,
        "seeds": SEEDS,
        "rates": RATES,
        "goal": GOAL,
        "curves": [of_k(n, k) for k in ks],
    }
