"""What the methods with a direction for each example of a batch share."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, Unpack

from torch import Tensor

from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, whole
from bszo.optim.options import Options, Params, require
from bszo.perturb import Directions, Each, PerExample, linear_layers, mix64


class PerExampleOptimizer(ZerothOrderOptimizer):
    """theta <- theta - lr ((1/B) sum_e g_e + weight_decay theta), g_e from example e's own losses.

    Example e looks along z_e = A_e B_e^T / sqrt(r) in the weight of each linear layer
    (`bszo.perturb.PerExample`, `bszo.perturb.Each`), so that a pass shows as many directions as the
    batch has examples. What is no linear layer's weight (embeddings, the output layer of a language
    model, norms, biases) has z_e = 0 and only decays. No weight is perturbed.

    The closure returns the losses of its examples, (B,). Where a layer's input has another first
    axis than the examples, the closure says in an attribute `examples` which example each position
    is of (`bszo.perturb.Each.at_each`).

    Args:
        rank: r.
        module: the module that the closure runs; it must be given.
        params, lr, eps, weight_decay, seed, directions, rounding: see ZerothOrderOptimizer.

    Raises:
        OptimError: no module was given, directions or a walk were given, or no trainable parameter
            is a linear layer's weight; from `step`, a layer of which it cannot be told which
            example its rows belong to, or which computes something else than W x + b.
    """

    per_example: ClassVar[bool] = True

    rank = Hyperparameter[int](whole, lambda r: r >= 1, "at least 1 is valid", scope="construction")

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        eps: float = 1e-3,
        rank: int = 1,
        **options: Unpack[Options],
    ) -> None:
        self.rank = rank
        super().__init__(params, lr=lr, eps=eps, **options)
        require(
            self.module is not None,
            "module=None: the layers of the module that the closure runs give each example its own"
            " direction; that module is valid",
        )
        require(
            self.perturbation in ("exact", "streaming"),
            f"perturbation={self.perturbation!r}: no parameter is perturbed; exact or streaming is"
            " valid",
        )
        require(
            not self.injected,
            "directions=: an example's own direction has two thin factors, which no injected one"
            " has; none is valid",
        )
        self._require_matrices()

    def restrict(self, **restriction: Any) -> Self:
        """Refused but for the values that restrict nothing: a masked direction has no thin factors,
        and a block's would need passes of its own."""
        require(
            restriction.get("sparsity", 0.0) == 0.0 and restriction.get("blocks", "none") == "none",
            "sparsity and blocks: a masked direction has no two thin factors, and blocks have"
            " passes of their own; sparsity=0 and blocks=none are valid",
        )
        return super().restrict(**restriction)

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        return PerExample(params, self.rank, self._matrices(params))

    def _matrices(self, params: Sequence[Tensor]) -> set[int]:
        """The numbers of the linear layers' weights, but for the output layer's: it runs for a few
        positions and words alone."""
        assert self.module is not None
        trained = {id(p) for p in self.trainable()}
        index = {id(p): i for i, p in enumerate(params) if id(p) in trained}
        output = getattr(self.module, "get_output_embeddings", lambda: None)()
        layers = linear_layers(self.module, index)
        return {i for layer, i in layers.items() if layer is not output}

    def _require_matrices(self) -> None:
        require(
            bool(self._matrices(self.trainable())),
            "params: no trainable parameter is the weight of a linear layer alone, and nothing else"
            " has a direction for each example",
        )

    def _bind(self) -> None:
        before = self._bound
        super()._bind()
        if self._bound != before:
            self._require_matrices()
            assert self.module is not None
            self._engine = Each(self._params, self.module)
            matrices = self._matrices(self._params)
            self._reached = [float(i in matrices) for i in range(len(self._params))]

    def reach(self) -> Sequence[float]:
        """1 for each matrix that moves, 0 for all else."""
        return self._reached


def own_seeds(seed: int) -> Callable[[int], list[int]]:
    """The number of examples -> a seed for each, all from one."""
    return lambda count: [mix64(seed, e) for e in range(count)]
