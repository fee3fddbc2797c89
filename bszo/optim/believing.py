"""What the methods with a Kalman filter are told of prior and noise, and what they keep of them."""

import math
from typing import Any, Literal

from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, is_rate, number
from bszo.optim.options import require

Variance = float | Literal["auto"]


def _variance(value: Any) -> Any:
    """A positive, finite number, or "auto" until the parameters are counted."""
    if isinstance(value, str) and value == "auto":
        return value
    if not 0 < number(value) < math.inf:
        raise ValueError("not a variance")
    return number(value)


class Believing(ZerothOrderOptimizer):
    """A belief that starts from N(0, prior_var I) at every step, and a variance of the observations
    that is learnt from their residuals and lives on.

    Args:
        prior_var: variance of the prior; "auto" is n / 1e6 for the n elements that are trainable
            when the optimizer is built, as the authors of BSZO run it.
        noise_var: variance of an observation at the start; "auto" likewise.
        noise_ema: weight of a new squared residual in noise_var; the paper's alpha.
        noise_floor: least noise standard deviation, as a share of the initial one.

    Source: Feng and Huang 2026, arXiv 2601.01452, section 3.
    """

    prior_var: Hyperparameter[float] = Hyperparameter(
        _variance, valid="a positive, finite variance or auto is valid"
    )
    noise_var: Hyperparameter[float] = Hyperparameter(
        _variance, valid="a positive, finite variance or auto is valid"
    )
    noise_ema = Hyperparameter[float](
        number, lambda ema: 0 < ema < 1, "a number between 0 and 1 is valid"
    )
    noise_floor = Hyperparameter[float](
        number, is_rate, "a share of at least 0 is valid", scope="construction"
    )

    def check(self) -> None:
        super().check()
        for name in ("prior_var", "noise_var") if hasattr(self, "noise_var_floor") else ():
            require(
                not isinstance(getattr(self, name), str),
                f"{name}='auto': is counted when the optimizer is built; a number is valid now",
            )

    def count_parameters(self) -> None:
        """Give "auto" its number, now that the parameters are known."""
        auto = sum(p.numel() for p in self.trainable()) / 1e6
        for name in ("prior_var", "noise_var"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, auto)
        self.noise_var_floor = self.noise_floor**2 * self.noise_var

    def scalar_state(self) -> dict[str, float]:
        return {"noise_var": self.noise_var, "noise_var_floor": self.noise_var_floor}

    def settings(self) -> dict[str, Any]:
        """The floor is said as the variance that it comes to."""
        found = {**super().settings(), "noise_var_floor": self.noise_var_floor}
        del found["noise_floor"]
        return found
