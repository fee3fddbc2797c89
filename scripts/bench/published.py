"""Published procedures: the methods with the walks of their authors' code, as a baseline of the
benchmark.

They are simple on purpose. For one tensor after another they reset the generator, draw z with
`torch.normal` and add c z in place. Every leg of a walk, and every direction of an update, is such
a pass over all parameters in their own precision. The code is written from the rules in the papers.
Only its time and memory are compared, so that finer points of LOZO and HiZOO are left out.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from bszo.core import condition, prior

Loss = Callable[[], float]


class Published:
    """The shared part of the procedures: theta += c z is a pass over all parameters from one
    seed."""

    num_forwards = 2

    def __init__(self, params: Sequence[Tensor], lr: float = 1e-7, eps: float = 1e-4) -> None:
        self.params, self.lr, self.eps = params, lr, eps
        self.seed = 0

    def noise(self, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        torch.manual_seed(seed)
        for i, p in enumerate(self.params):
            yield i, p, torch.normal(0.0, 1.0, size=p.shape, dtype=p.dtype, device=p.device)

    def add_(self, seed: int, c: float) -> None:
        for _, p, z in self.noise(seed):
            p.data.add_(z * c)

    def projected(self, loss: Loss) -> float:
        """Return g, measured by the three-leg walk."""
        self.add_(self.seed, self.eps)
        f_plus = loss()
        self.add_(self.seed, -2 * self.eps)
        f_minus = loss()
        self.add_(self.seed, self.eps)
        return (f_plus - f_minus) / (2 * self.eps)

    @torch.no_grad()
    def step(self, loss: Loss) -> None:
        self.seed += 1
        self.move_(loss)

    def move_(self, loss: Loss) -> None:
        """Make one estimate and one update."""
        self.add_(self.seed, -self.lr * self.projected(loss))


class MeZO(Published):
    """MeZO takes three legs, and one pass for the update."""


class MeZOAdam(Published):
    """MeZO-Adam takes MeZO's legs and keeps dense moments in the parameters' type."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__(params)
        self.m = [torch.zeros_like(p) for p in params]
        self.v = [torch.zeros_like(p) for p in params]

    def move_(self, loss: Loss) -> None:
        g = self.projected(loss)
        for i, p, z in self.noise(self.seed):
            grad = g * z
            self.m[i] = 0.9 * self.m[i] + 0.1 * grad
            self.v[i] = 0.999 * self.v[i] + 0.001 * grad**2
            m_hat, v_hat = self.m[i] / (1 - 0.9**self.seed), self.v[i] / (1 - 0.999**self.seed)
            p.data = p.data - self.lr * m_hat / (v_hat.sqrt() + 1e-8)


class HiZOO(Published):
    """HiZOO takes MeZO's legs along z / sqrt(H) and one more loss, and keeps a dense H in the
    parameters' type."""

    num_forwards = 3

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__(params)
        self.h = [torch.ones_like(p) for p in params]

    def add_(self, seed: int, c: float) -> None:
        for i, p, z in self.noise(seed):
            p.data.add_(z / self.h[i].sqrt() * c)

    def move_(self, loss: Loss) -> None:
        f_0 = loss()
        self.add_(self.seed, self.eps)
        f_plus = loss()
        self.add_(self.seed, -2 * self.eps)
        f_minus = loss()
        self.add_(self.seed, self.eps)
        g, second = (f_plus - f_minus) / (2 * self.eps), abs(f_plus + f_minus - 2 * f_0)
        for i, p, z in self.noise(self.seed):
            self.h[i] = (1 - 1e-8) * self.h[i] + 1e-8 * second * self.h[i] * z * z / (
                2 * self.eps**2
            )
            p.data.add_(g * z / self.h[i].sqrt() * -self.lr)


class LOZO(Published):
    """LOZO takes MeZO's legs along U V^T and keeps V for 50 steps."""

    def __init__(self, params: Sequence[Tensor], rank: int = 2) -> None:
        super().__init__(params)
        self.rank = rank
        self.v: list[Tensor | None] = []

    def noise(self, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        torch.manual_seed(seed)
        if seed % 50 == 1:
            self.v = [
                (
                    torch.randn(p.shape[1], self.rank, dtype=p.dtype, device=p.device)
                    if p.ndim == 2
                    else None
                )
                for p in self.params
            ]
        for i, p in enumerate(self.params):
            v = self.v[i]
            if v is None:
                yield i, p, torch.normal(0.0, 1.0, size=p.shape, dtype=p.dtype, device=p.device)
            else:
                yield i, p, torch.randn(p.shape[0], self.rank, dtype=p.dtype, device=p.device) @ v.T


class BSZO(Published):
    """BSZO takes two legs for each direction, then one pass for each direction of the update."""

    num_forwards = 3
    again = False  # BSZO-B measures the observation beyond k anew

    def move_(self, loss: Loss) -> None:
        k, n = 2, sum(p.numel() for p in self.params)
        belief, f_0, ys = prior(k, n / 1e6), loss(), []
        for tau in range(k + 1):
            i = tau % k
            if tau < k or self.again:
                self.add_(1000 * self.seed + i, self.eps)
                ys.append((loss() - f_0) / self.eps)
                self.add_(1000 * self.seed + i, -self.eps)
            belief = condition(belief, torch.eye(k, dtype=torch.float64)[i], ys[i], n / 1e6)
        for i in range(k):
            self.add_(1000 * self.seed + i, -self.lr * float(belief.mean[i]))


class BSZOB(BSZO):
    """BSZO-B takes one more pair of legs and one more loss than BSZO."""

    num_forwards = 4
    again = True


PUBLISHED: dict[str, type[Published]] = {
    "BSZO": BSZO,
    "BSZO-B": BSZOB,
    "MeZO": MeZO,
    "MeZO-Adam": MeZOAdam,
    "HiZOO": HiZOO,
    "LOZO": LOZO,
}
