"""AGZO: directions in the span of each linear layer's inputs."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Unpack

from torch import Tensor

from bszo.core import central_difference, forward_difference
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, is_rate, number, one_of, whole
from bszo.optim.options import DifferenceOptions, Params, require
from bszo.optim.report import StepReport
from bszo.perturb import Directions, InputBases, InputSpan, LossOracle, Terms, mix64

Sides = Literal["one", "two"]
Scale = Literal["gaussian", "none"]
Others = Literal["gaussian", "none"]
Basis = Literal["power", "oja"]
ComparedWith = Literal["theta", "others"]

log = logging.getLogger(__name__)


class AGZO(ZerothOrderOptimizer):
    """theta <- theta - lr (g P + weight_decay theta),  P = s R A^T for a linear layer's weight,
    g = (L(theta + eps P) - L(theta)) / eps.

    The gradient of a linear layer's weight (d_out, d_in) is a sum over tokens of outer products
    with its inputs, so that its rows lie in their span. A (d_in, r) has orthonormal columns: the
    strongest directions of the inputs, from the pass that takes L(theta) (`InputBases`). R (d_out,
    r) is Gaussian and new at each step; what is no linear layer's weight has a Gaussian direction,
    or none. With q directions the estimate is the mean of q such g P. Forward passes a step: 1 + q,
    or 1 + 2 q two-sided. Extra memory: r d_in a linear layer from the unperturbed pass to the end
    of the step ("oja": always), and one layer's inputs in fp32 while its A is found.

    With basis="power" A is found anew at every step from the batch and from theta, and is no part
    of the state: a run that is resumed on the same batches goes on bit for bit. With basis="oja" A
    is stored and follows the inputs of all steps. A replay has no batches, and so a trajectory is
    refused.

    Args:
        rank: r, clipped to d_in.
        rounds: of power iteration.
        sides: "one", as above, or "two": g = (L(theta + eps P) - L(theta - eps P)) / (2 eps).
        scale: s is sqrt(d_in / r) ("gaussian": |P| is a Gaussian's on average, and eps means what
            it means elsewhere), or 1 ("none", as printed).
        others: parameters that are no linear layer's weight (embeddings, norms, biases) have
            Gaussian directions, or do not move ("none"). In a language model most of |P|^2 is else
            the embedding's, whose gradient such a direction hardly meets.
        num_directions: q.
        basis: A by "power" iteration at every step, or by "oja", which starts so and then turns the
            A of the step before to the new inputs.
        oja_rate: of Oja's rule.
        compared_with: the losses at theta + eps P are compared with the one at "theta", or each
            with the mean of the "others" (leave-one-out, which needs q of at least 2 and one side).
        module: the module that the closure runs; it must be given.
        params, lr, eps, weight_decay, ...: see ZerothOrderOptimizer.

    Raises:
        OptimError: no module was given, or compared_with="others" does not fit q and sides; from
            `step`, others="none" where no linear layer's weight is trained.

    Source: Lin et al. 2026, arXiv 2601.17261. Oja's rule and the leave-one-out comparison are
        AIM-ZO's (2026, arXiv 2609.35257), whose probes of a few columns each are left out.

    Example:
        >>> import torch
        >>> from bszo import AGZO
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> optimizer = AGZO(net.parameters(), lr=0.01, eps=1e-3, module=net)
        >>> x, y = torch.ones(3, 4), torch.ones(3, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square().mean()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 100)
    """

    reads_inputs: ClassVar[bool] = True

    rank = Hyperparameter[int](whole, lambda r: r >= 1, "at least 1 is valid")
    rounds = Hyperparameter[int](whole, lambda k: k >= 0, "at least 0 are valid")
    sides: Hyperparameter[Sides] = Hyperparameter(one_of(Sides))
    scale: Hyperparameter[Scale] = Hyperparameter(one_of(Scale), scope="construction")
    others: Hyperparameter[Others] = Hyperparameter(one_of(Others), scope="construction")
    num_directions = Hyperparameter[int](whole, lambda q: q >= 1, "at least 1 is valid")
    basis: Hyperparameter[Basis] = Hyperparameter(one_of(Basis), scope="construction")
    oja_rate = Hyperparameter[float](
        number, lambda rate: rate > 0 and is_rate(rate), "a positive, finite number is valid"
    )
    compared_with: Hyperparameter[ComparedWith] = Hyperparameter(one_of(ComparedWith))

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        rank: int = 1,
        rounds: int = 3,
        sides: Sides = "one",
        scale: Scale = "gaussian",
        others: Others = "gaussian",
        num_directions: int = 1,
        basis: Basis = "power",
        oja_rate: float = 0.3,
        compared_with: ComparedWith = "theta",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.rank, self.rounds, self.sides = rank, rounds, sides
        self.scale, self.others, self.num_directions = scale, others, num_directions
        self.basis, self.oja_rate, self.compared_with = basis, oja_rate, compared_with
        super().__init__(params, lr=lr, **options)
        self._inputs: InputBases | None = None
        self._said = False
        require(
            self.module is not None,
            "module=None: AGZO reads the inputs of linear layers; the module that the closure runs"
            " is valid",
        )

    def check(self) -> None:
        super().check()
        require(
            self.compared_with == "theta" or (self.sides == "one" and self.num_directions >= 2),
            f"compared_with='others': num_directions={self.num_directions}, sides={self.sides!r};"
            " at least 2 directions and one side are valid",
        )

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        assert self.module is not None
        trained = {id(p) for p in self._params}
        numbers = {id(p): number for number, p in enumerate(params) if id(p) in trained}
        self._inputs = InputBases(numbers, self.module, self.rank, self.rounds)
        return InputSpan(
            params,
            self._inputs.found,
            scaled=self.scale == "gaussian",
            others=self.others == "gaussian",
        )

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.num_directions)
        f_0 = self._at_theta(oracle)
        if self.sides == "one":
            f_plus = oracle.measure([{seed: self.eps} for seed in seeds])
            whole, q = sum(f_plus), len(f_plus)
            beside = [
                f_0 if self.compared_with == "theta" else (whole - f) / (q - 1) for f in f_plus
            ]
            slopes = [
                forward_difference(f, b, self.eps) for f, b in zip(f_plus, beside, strict=True)
            ]
        else:
            sides = oracle.measure([{seed: c} for seed in seeds for c in (self.eps, -self.eps)])
            slopes = [
                central_difference(f_plus, f_minus, self.eps)
                for f_plus, f_minus in zip(sides[::2], sides[1::2], strict=True)
            ]
        gradient = {seed: y / len(seeds) for seed, y in zip(seeds, slopes, strict=True)}
        return gradient, StepReport(f_0, tuple(slopes))

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        super().apply_(oracle, gradient)
        if self.basis == "oja" and self._inputs is not None:
            for number, a in self._inputs.found.items():  # not earlier: the step has not failed
                self.state[self._numbered[number]]["basis"] = a

    def _at_theta(self, oracle: LossOracle) -> float:
        """L(theta), from the pass in which the inputs are read: every process takes it."""
        inputs = self._inputs
        if inputs is None or self.injected:
            return oracle.loss()
        inputs.rank, inputs.rounds = self.rank, self.rounds
        kept = {
            number: self.state[p]["basis"]
            for number, p in enumerate(self._numbered)
            if self.basis == "oja" and "basis" in self.state.get(p, {})
        }
        with inputs.watched(mix64(self.seed, self.num_steps, -7), kept, self.oja_rate):
            f_0 = oracle.loss(everywhere=True)
        weights = set(inputs.layers.values())
        self._say(len(inputs.found), len(weights - inputs.found.keys()))
        return f_0

    def _say(self, found: int, missing: int) -> None:
        """Whose inputs were not seen, once; OptimError where nothing would move."""
        moving = self.others == "gaussian"
        require(
            found > 0 or moving,
            "others='none': no trained weight is that of a linear layer that runs, so that none"
            " would move; gaussian is valid",
        )
        if self._said or (found and not missing):
            return
        self._said = True
        fate = "have Gaussian directions" if moving else "do not move"
        if found:
            log.warning(
                "AGZO: of %d linear layers %d have not run as modules, so that their inputs are"
                " unknown: their weights %s",
                found + missing,
                missing,
                fate,
            )
        else:
            log.warning(
                "AGZO: no trained weight is that of a linear layer that runs: all directions are"
                " Gaussian, as MeZO's"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the layers, which are found again at the next step."""
        return {**super().__getstate__(), "_inputs": None}
