"""Forward-Grad: the exact slope along one random direction, by forward-mode differentiation."""

from typing import Any, Unpack

from bszo.costs import FORWARD_MODE
from bszo.errors import OptimError
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.options import Options, Params, require
from bszo.optim.report import StepReport
from bszo.perturb import ForwardMode, LossOracle, Terms


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
            forward-mode rule; from `step`, another operation without one, a closure that calls
            backward(), or one that returns no tensor of one element.

    Source: Baydin et al. 2022, arXiv 2202.08587; Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592,
        section 3.

    Example:
        >>> import torch
        >>> from bszo import ForwardGrad
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> optimizer = ForwardGrad(net.parameters(), lr=0.01, module=net)
        >>> x, y = torch.eye(4), torch.ones(4, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square().mean()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 50)
    """

    losses_suffice = False
    eps: float = 1.0  # type: ignore[assignment]  # no hyperparameter: nothing here has a length

    def __init__(self, params: Params, *, lr: float = 1e-6, **options: Unpack[Options]) -> None:
        require(
            options.get("module") is not None,
            "module=None: forward mode needs the module that the closure runs; without it a"
            " method that takes differences, such as MeZO, is valid",
        )
        super().__init__(params, lr=lr, eps=1.0, **options)
        assert self.module is not None
        self._pass = ForwardMode(self.trainable(), self.module)

    @property
    def num_passes(self) -> int:
        return FORWARD_MODE * self.num_forwards

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        (seed,) = self.direction_seeds(1)
        try:
            loss, slope = oracle.slope(seed, self._pass)
        except OptimError as error:
            if "backward() called inside" not in str(error):
                raise
            raise OptimError(
                "closure(): calls backward(), and forward mode needs the loss alone; a closure"
                " without backward() is valid"
            ) from error
        return {seed: slope}, StepReport(loss, (slope,))

    def settings(self) -> dict[str, Any]:
        """Headers of trajectories have an eps, whatever the method."""
        return {**super().settings(), "eps": self.eps}
