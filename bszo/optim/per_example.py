"""What the methods with a direction for each example of a batch share."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, ClassVar, Literal, Self, Unpack

from torch import Tensor, nn

from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, flag, number, one_of, whole
from bszo.optim.momentum import follow_momentum_, has_momentum
from bszo.optim.options import Options, Params, require
from bszo.perturb import (
    Directions,
    Distribution,
    Each,
    LossOracle,
    PerExample,
    PerExampleLowRank,
    PerExampleSubspace,
    Terms,
    is_transposed,
    layers_of,
    linear_layers,
    mix64,
)

Part = Literal["leave", "perturb"]
SharedSubspace = Literal["none", "lozo", "subzero"]


class OwnOptions(Options, total=False):
    """Keyword arguments that every method with directions of each example's own takes;
    `PerExampleOptimizer` says what each means."""

    rank: int
    distribution: Distribution
    vectors: Part
    embeddings: Part
    subspace: SharedSubspace
    subspace_interval: int
    stacked: bool
    momentum: float


class PerExampleOptimizer(ZerothOrderOptimizer):
    """theta <- theta - lr (mean_e g_e + weight_decay theta), g_e from example e's own losses.

    Example e looks along z_e = A_e B_e^T / sqrt(r) in the weight of each linear layer, GPT-2's
    Conv1D among them (`bszo.perturb.PerExample`, `bszo.perturb.Each`), so that a pass shows as many
    directions as the batch has examples. Embeddings with the output layer of a language model, and
    vectors, take part where it is asked for; a vector's z_e has independent elements. What takes no
    part has z_e = 0 and only decays. No weight is perturbed.

    The closure returns the losses of its examples, (B,). Where a layer's input has another first
    axis than the examples, the closure says in an attribute `examples` which example each position
    is of (`bszo.perturb.Each.at_each`).

    Args:
        rank: r.
        distribution: of the elements of A_e and B_e, and of a vector's z_e: "gaussian", or
            "rademacher" for +1 and -1 alike, with which all directions of rank 1 are equally long.
        vectors: "perturb": biases of linear layers and norms, and norms' weights, take part;
            "leave": they do not.
        embeddings: "perturb": the weights of embeddings and of the output layer take part; a
            matrix that they share moves alike in both. "leave": they do not.
        subspace: "none": A_e and B_e are new for each example at each step. "lozo": all examples
            share B, which stays for some steps: z_e = A_e V^T / sqrt(r). "subzero": they share all
            but an (r, r) Z_e: z_e = s U Z_e V, with orthonormal U (m, r) and V (r, n), s =
            sqrt(m n) / r, and r clipped to min(m, n). Both are unbiased over redraws.
        subspace_interval: steps between redraws of V, or of U and V, which are kept in fp32 for as
            long: r (m + n) elements a matrix at most.
        stacked: all points of a step in one pass over so many copies of the batch, which
            `closure.repeated(count)` gives. It reads the parameters once, where they stand on a
            disk or far from the processor, and holds the activations of all copies; it counts as
            so many passes. The numbers are equal but for rounding.
        momentum: b, with which M <- b M + mean_e g_e takes the estimate's place in the step; a
            group may have its own. M has as many fp32 elements as what takes part. 0: none is kept.
        module: the module that the closure runs; it must be given.
        params, lr, eps, weight_decay, seed, rounding: see ZerothOrderOptimizer.
        directions: None alone is valid.

    Raises:
        OptimError: no module was given, directions were, perturbation is neither exact nor
            streaming, or no trainable parameter takes part; a vector or an embedding should take
            part and belongs to a kind of module that is not known; from `step`, a layer whose rows
            cannot be assigned to examples, or which computes something else than its kind does
            (`bszo.perturb.Each`).
    """

    per_example: ClassVar[bool] = True

    rank = Hyperparameter[int](whole, lambda r: r >= 1, "at least 1 is valid", scope="construction")
    distribution: Hyperparameter[Distribution] = Hyperparameter(
        one_of(Distribution), scope="construction", unsaid="gaussian"
    )
    vectors: Hyperparameter[Part] = Hyperparameter(
        one_of(Part), scope="construction", unsaid="leave"
    )
    embeddings: Hyperparameter[Part] = Hyperparameter(
        one_of(Part), scope="construction", unsaid="leave"
    )

    subspace: Hyperparameter[SharedSubspace] = Hyperparameter(
        one_of(SharedSubspace), scope="construction", unsaid="none"
    )
    subspace_interval = Hyperparameter[int](
        whole, lambda n: n >= 1, "at least 1 step is valid", scope="construction", unsaid=50
    )

    stacked = Hyperparameter[bool](flag, unsaid=False)
    momentum = Hyperparameter[float](
        number,
        lambda b: 0 <= b < 1,
        "a number from 0 to below 1 is valid",
        scope="group",
        unsaid=0.0,
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        eps: float = 1e-3,
        rank: int = 1,
        distribution: Distribution = "gaussian",
        vectors: Part = "leave",
        embeddings: Part = "leave",
        subspace: SharedSubspace = "none",
        subspace_interval: int = 50,
        stacked: bool = False,
        momentum: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        self.rank, self.distribution = rank, distribution
        self.vectors, self.embeddings = vectors, embeddings
        self.subspace, self.subspace_interval = subspace, subspace_interval
        self.stacked, self.momentum = stacked, momentum
        super().__init__(params, lr=lr, eps=eps, **options)
        require(
            subspace != "none" or subspace_interval == 50,
            f"subspace_interval={subspace_interval}: with subspace='none' nothing is redrawn; 50 is"
            " valid",
        )
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
        self._require_some()

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
        moved = self.moved_of(params)
        if self.subspace == "none":
            return PerExample(params, self.rank, moved, self.distribution)
        kept = PerExampleLowRank if self.subspace == "lozo" else PerExampleSubspace
        basis_seed = mix64(self.seed, self._subspace_number, -2)
        return kept(params, self.rank, moved, basis_seed, self.distribution)

    @property
    def _subspace_number(self) -> int:
        """The number of this step's subspace, 0 where none is kept."""
        return 0 if self.subspace == "none" else self.num_steps // self.subspace_interval

    def directions(self) -> Directions:
        if self._made_at != self._subspace_number:
            self._made_at, self._family = self._subspace_number, self.numbered(self.make_family)
        return self._family

    def moved_of(self, params: Sequence[Tensor]) -> set[int]:
        """The numbers of the parameters that take part: linear layers' weights, but for the output
        layer's, which runs for a few positions and words alone; and what was asked for.

        Raises:
            OptimError: a vector or an embedding should take part, and no known layer uses it.
        """
        assert self.module is not None
        trained = {id(p) for p in self.trainable()}
        index = {id(p): i for i, p in enumerate(params) if id(p) in trained}
        output = getattr(self.module, "get_output_embeddings", lambda: None)()
        linear = linear_layers(self.module, index, is_transposed)
        moved = {i for layer, i in linear.items() if layer is not output}
        layers = layers_of(self.module, index)
        if self.embeddings == "perturb":
            tables = {
                layer.weight
                for m, layer in layers.items()
                if layer.kind == "lookup" or (m is output and layer.kind == "linear")
            }
            self._require_known("embeddings", nn.EmbeddingBag, index, tables)
            moved |= {i for i in tables if i is not None}
        if self.vectors == "perturb":
            vectors = {i for layer in layers.values() for i in layer.numbers if params[i].ndim == 1}
            self._require_known("vectors", nn.Module, index, vectors)
            moved |= vectors
        return moved

    def _require_known(
        self, which: str, owner: type, index: Mapping[int, int], known: Set[int | None]
    ) -> None:
        """OptimError for a parameter of such modules that should take part and that no known layer
        uses."""
        assert self.module is not None
        for name, m in self.module.named_modules():
            for key, p in m._parameters.items() if isinstance(m, owner) else ():
                i = index.get(id(p))
                require(
                    i is None or p is None or i in known or (which == "vectors" and p.ndim > 1),
                    f"{which}='perturb': {name and name + '.'}{key} belongs to a"
                    f" {type(m).__name__}, of which an example's own direction is not known;"
                    f" freezing it is valid, or {which}='leave'",
                )

    def _require_some(self) -> None:
        require(
            bool(self.moved_of(self.trainable())),
            "params: no trainable parameter is the weight of a linear layer alone, and nothing else"
            " has a direction for each example unless vectors or embeddings ask for it",
        )

    def _bind(self) -> None:
        before = self._bound
        super()._bind()
        if self._bound != before:
            self._require_some()
            assert self.module is not None
            self._engine = Each(self._params, self.module)
            self._made_at = self._subspace_number
            moved = self.moved_of(self._params)
            self._reached = [float(i in moved) for i in range(len(self._params))]

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        if not has_momentum(self):
            super().apply_(oracle, gradient)
            return
        follow_momentum_(
            self, oracle, gradient, mean=False, state_dtype="float32", moved=self.reach()
        )

    def reach(self) -> Sequence[float]:
        """1 for each parameter that takes part, 0 for all else."""
        return self._reached


def own_seeds(seed: int) -> Callable[[int], list[int]]:
    """The number of examples -> a seed for each, all from one."""
    return lambda count: [mix64(seed, e) for e in range(count)]
