"""MeZO-Adam: Adam on the zeroth-order estimate, with dense moments."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bszo.optim.base import Params, Perturbation, Rounding, require
from bszo.optim.mezo import MeZO
from bszo.perturb import DirectionFunction, LossOracle, Terms

StateDtype = Literal["float32", "parameter"]


class MeZOAdam(MeZO):
    """m <- b1 m + (1 - b1) g z,  v <- b2 v + (1 - b2) (g z)^2, theta <- theta - lr (m_hat /
    (sqrt(v_hat) + adam_eps) + weight_decay theta), with m_hat, v_hat bias-corrected for the
    gradients so far; a skipped step gave none.

    g as in MeZO. Forward passes a step: 2 q. Extra memory: 2 n elements of `state_dtype`.

    Args:
        betas: b1, b2.
        adam_eps: added to the root.
        state_dtype: float32, or the parameter's own type (as run; in 16 bits small moments
            underflow).
        params, lr, eps, num_directions, ...: see MeZO.

    Source: Malladi et al. 2023, arXiv 2305.17333, appendix; Kingma and Ba 2015, arXiv 1412.6980.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-5,
        eps: float = 1e-4,
        num_directions: int = 1,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        state_dtype: StateDtype = "float32",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        betas = (float(betas[0]), float(betas[1]))
        require(all(0 <= b < 1 for b in betas), f"betas={betas}: two numbers in [0, 1) are valid")
        require(adam_eps > 0, f"adam_eps={adam_eps}: a positive number is valid")
        require(
            state_dtype in ("float32", "parameter"),
            f"state_dtype={state_dtype!r}: float32 or parameter is valid",
        )
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            num_directions=num_directions,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.betas, self.adam_eps, self.state_dtype = betas, adam_eps, state_dtype
        self._num_passed = 0  # steps that gave no gradient: the moments know nothing of them

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        oracle.home()
        t = self.num_steps + 1 - self._num_passed
        rates = zip(
            oracle.params, self.per_parameter("lr"), self.per_parameter("weight_decay"), strict=True
        )
        for i, (p, lr, weight_decay) in enumerate(rates):
            state = self.state[p]
            if not state:
                dtype = torch.float32 if self.state_dtype == "float32" else p.dtype
                state["m"], state["v"] = (
                    torch.zeros(p.shape, dtype=dtype, device=p.device) for _ in range(2)
                )
            m, v = state["m"], state["v"]
            delta = self.learn_and_change(m, v, oracle.dense(i, gradient), t, lr)
            oracle.add_(i, delta, decay=1 - lr * weight_decay)

    def pass_by(self) -> None:
        super().pass_by()
        self._num_passed += 1

    def scalar_state(self) -> dict[str, Any]:
        return {"_num_passed": self._num_passed}

    def learn_and_change(self, m: Tensor, v: Tensor, g: Tensor, t: int, lr: float) -> Tensor:
        """`learn_`, then `change` in g's type; on a GPU one pass instead of twenty."""
        if not g.is_cuda:
            learn_(m, v, g, *self.betas)
            return change(m.to(g.dtype), v.to(g.dtype), t, lr, *self.betas, self.adam_eps)
        now = _on_device(t, lr, g.device)
        delta = _compiled()(
            m.view(-1), v.view(-1), g.reshape(-1), now[0], now[1], *self.betas, self.adam_eps
        )
        return delta.view(g.shape)


def learn_(m: Tensor, v: Tensor, g: Tensor, b1: float, b2: float) -> None:
    """Both moments take in one more gradient of one parameter."""
    m.mul_(b1).add_(g.to(m.dtype), alpha=1 - b1)
    v.mul_(b2).add_((g * g).to(v.dtype), alpha=1 - b2)


def change(
    m: Tensor, v: Tensor, t: int | Tensor, lr: float | Tensor, b1: float, b2: float, adam_eps: float
) -> Tensor:
    """-lr m_hat / (sqrt(v_hat) + adam_eps) after t gradients."""
    # in place from here on: a parameter may be 10^8 elements
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    return m_hat.mul_(-lr).div_(v_hat.sqrt_().add_(adam_eps))


def _learn_and_change(
    m: Tensor, v: Tensor, g: Tensor, t: Tensor, lr: Tensor, b1: float, b2: float, adam_eps: float
) -> Tensor:
    learn_(m, v, g, b1, b2)
    return change(m.to(g.dtype), v.to(g.dtype), t, lr, b1, b2, adam_eps)


@functools.lru_cache(maxsize=8)
def _on_device(t: int, lr: float, device: torch.device) -> Tensor:
    """t and lr: numbers would be compiled anew every step, and a copy for each parameter would wait
    each time."""
    return torch.tensor([t, lr], dtype=torch.float64, device=device)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_learn_and_change, dynamic=True)
