"""Forward-Grad: the exact slope along one random direction, by forward-mode differentiation."""

from torch import nn

from bszo.optim.base import Params, Rounding, StepReport, ZerothOrderOptimizer, require
from bszo.perturb import DirectionFunction, ForwardMode, LossOracle, Terms


class ForwardGrad(ZerothOrderOptimizer):
    """theta <- theta - lr (g v + weight_decay theta),  g = v^T grad L(theta),  v ~ N(0, I).

    g has no finite-difference error and no length eps; theta is not perturbed. Forward passes a
    step: 1, which carries a tangent beside every value: it costs two to three plain passes. Extra
    memory: n elements for v in the parameters' type, and the tangents of the activations that are
    alive.

    Args:
        module: the module that the closure runs; its loss must be a tensor, computed in this
            process.
        params, lr, weight_decay, seed, directions, rounding: see ZerothOrderOptimizer.

    Raises:
        OptimError: no module, a parameter that is not its own, or an attention kernel without a
            forward-mode rule.

    Source: Baydin et al. 2022, arXiv 2202.08587; Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592,
        section 3.
    """

    losses_suffice = False

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        weight_decay: float = 0.0,
        seed: int = 0,
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(
            module is not None,
            "module=None: forward mode needs the module that the closure runs; without it a"
            " method that takes differences, such as MeZO, is valid",
        )
        assert module is not None
        super().__init__(
            params,
            lr=lr,
            eps=1.0,
            weight_decay=weight_decay,
            seed=seed,
            perturbation="exact",
            # nothing has the length eps
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self._pass = ForwardMode(self.trainable(), module)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        (seed,) = self.direction_seeds(1)
        loss, slope = oracle.slope(seed, self._pass)
        return {seed: slope}, StepReport(loss, (slope,))
