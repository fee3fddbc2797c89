"""MeZO-Adam: Adam on the zeroth-order estimate, with dense moments."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from bszo.optim.hyperparameter import Hyperparameter, is_rate, number, one_of
from bszo.optim.mezo import MeZO
from bszo.optim.options import (
    DifferenceOptions,
    Params,
    StateDtype,
    dtype_of_state,
    require,
    say_short_moments,
)
from bszo.optim.pieces import pieces
from bszo.perturb import LossOracle, Terms

Betas = tuple[float, float]
Second = Literal["gradient", "momentum"]


def pair(value: Any) -> Betas:
    first, second = value
    return float(number(first)), float(number(second))


class MeZOAdam(MeZO):
    """m <- b1 m + (1 - b1) g z,  v <- b2 v + (1 - b2) (g z)^2,
    theta <- theta - lr (m_hat / (sqrt(v_hat) + adam_eps) + weight_decay theta).

    g is MeZO's. m_hat and v_hat are corrected for the number of gradients that the parameter has
    had: steps that were skipped and steps before it trained gave it none. With second="momentum"
    (R-AdaZO) v takes m_hat^2 in place of (g z)^2: one direction's square is mostly noise, of which
    m_hat has averaged some away, so that steps are longer. The authors' code corrects neither
    moment, and its first step is 1 / sqrt(1 - b2) long instead of lr. Forward passes a step: 2 q.
    Extra memory: 2 n elements of `state_dtype`.

    Args:
        betas: b1, b2; a group may have its own.
        adam_eps: added to the root; a group may have its own.
        state_dtype: float32, or the parameter's own type (as run; in fp16 a second moment may
            become 0 where the first does not, and a step is then 10^5 times lr long).
        second: whose squares v averages: the gradient's or the momentum's.
        params, lr, eps, num_directions, ...: see MeZO.

    Raises:
        OptimError: an argument is out of range; second="momentum" is given to a subclass that has
            no such argument.

    Source: Malladi et al. 2023, arXiv 2305.17333, appendix; Kingma and Ba 2015, arXiv 1412.6980;
        R-AdaZO: arXiv 2502.01014 (2025).

    Example:
        >>> import torch
        >>> from bszo import MeZOAdam
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = MeZOAdam([theta], lr=0.05, eps=1e-3, betas=(0.9, 0.99))
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], sorted(optimizer.state[theta])
        (True, ['age', 'm', 'v'])
    """

    betas = Hyperparameter[Betas](
        pair,
        lambda b: all(0 <= x < 1 for x in b),
        "two numbers in [0, 1) are valid",
        scope="group",
    )
    adam_eps = Hyperparameter[float](
        number, lambda eps: eps > 0 and is_rate(eps), "a positive number is valid", scope="group"
    )
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )
    second: Hyperparameter[Second] = Hyperparameter(one_of(Second), unsaid="gradient")

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-5,
        num_directions: int = 1,
        betas: Betas = (0.9, 0.999),
        adam_eps: float = 1e-8,
        state_dtype: StateDtype = "float32",
        second: Second = "gradient",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.betas, self.adam_eps, self.state_dtype = betas, adam_eps, state_dtype
        self.second = second
        require(
            second == "gradient" or "second" in inspect.signature(type(self)).parameters,
            f"second={second!r}: {type(self).__name__} has the gradient's squares alone; MeZOAdam"
            " takes both",
        )
        super().__init__(params, lr=lr, num_directions=num_directions, **options)
        say_short_moments(self.trainable(), state_dtype)

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        oracle.home()
        for i, p, group in self.with_groups():
            state = self.state[p]
            if not state:
                dtype = dtype_of_state(p, self.state_dtype)
                state["m"], state["v"] = (
                    torch.zeros(p.shape, dtype=dtype, device=p.device) for _ in range(2)
                )
                state["age"] = 0
            state["age"] += 1
            delta = learn_and_change(
                state["m"], state["v"], oracle.dense(i, gradient), state["age"], group
            )
            oracle.add_(i, delta, decay=1 - group["lr"] * group["weight_decay"])

    def load_scalars(self, saved: dict[str, Any]) -> None:
        """An older state has one age for all parameters, as steps that were not skipped."""
        super().load_scalars(saved)
        for state in self.state.values():
            state.setdefault("age", self.num_steps - saved.get("_num_passed", 0))


def learn_and_change(m: Tensor, v: Tensor, g: Tensor, age: int, group: dict[str, Any]) -> Tensor:
    """`learn_`, then `change` in g's type and, on a CPU, in its memory: one pass instead of
    twenty."""
    lr, (b1, b2), adam_eps = group["lr"], group["betas"], group["adam_eps"]
    of_momentum = group.get("second") == "momentum"
    if not g.is_cuda:
        for m_, v_, g_ in pieces(m, v, g):
            learn_(m_, v_, g_, b1, b2, age if of_momentum else None)
            g_.copy_(change(m_.to(g.dtype), v_.to(g.dtype), age, lr, b1, b2, adam_eps))
        return g
    now = _on_device(age, lr, g.device)
    flat = m.view(-1), v.view(-1), g.reshape(-1)
    delta = _compiled()(*flat, now[0], now[1], b1, b2, adam_eps, of_momentum)
    return delta.view(g.shape)


def learn_(
    m: Tensor, v: Tensor, g: Tensor, b1: float, b2: float, t: int | Tensor | None = None
) -> None:
    """Both moments take in one more gradient of one parameter; with t, the count of gradients, v
    takes the square of m_hat instead."""
    m.mul_(b1).add_(g.to(m.dtype), alpha=1 - b1)
    seen = g if t is None else m.to(g.dtype) / (1 - b1**t)
    v.mul_(b2).add_((seen * seen).to(v.dtype), alpha=1 - b2)


def change(
    m: Tensor, v: Tensor, t: int | Tensor, lr: float | Tensor, b1: float, b2: float, adam_eps: float
) -> Tensor:
    """-lr m_hat / (sqrt(v_hat) + adam_eps) after t gradients."""
    # in place from here on: a parameter may be 10^8 elements
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    return m_hat.mul_(-lr).div_(v_hat.sqrt_().add_(adam_eps))


def _learn_and_change(
    m: Tensor,
    v: Tensor,
    g: Tensor,
    t: Tensor,
    lr: Tensor,
    b1: float,
    b2: float,
    adam_eps: float,
    of_momentum: bool,
) -> Tensor:
    learn_(m, v, g, b1, b2, t if of_momentum else None)
    return change(m.to(g.dtype), v.to(g.dtype), t, lr, b1, b2, adam_eps)


@functools.lru_cache(maxsize=8)
def _on_device(t: int, lr: float, device: torch.device) -> Tensor:
    """t and lr on the device. As numbers they would be compiled anew every step; copied for each
    parameter, every copy would wait."""
    return torch.tensor([t, lr], dtype=torch.float64, device=device)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_learn_and_change, dynamic=True)
