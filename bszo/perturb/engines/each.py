"""Each: the engine in which every example of a batch sees parameters of its own."""

from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager

from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.each_pass import EachPass, LengthsOf, SeedsOf
from bszo.perturb.engines.hooks import Hooks, every_module_runs
from bszo.perturb.engines.layers import Layers
from bszo.perturb.engines.streaming import Streaming
from bszo.perturb.engines.watch import Watch
from bszo.perturb.noise import Terms

__all__ = ["Each", "LengthsOf", "SeedsOf"]


class Each(Engine):
    """Example e sees W + c z_e with z_e = A_e B_e^T, and v + c z_e for a vector v. No such weight
    is made: each layer adds to its answer, at every position x of example e:

        linear  W x + b       + c (A_e (B_e^T x) + z_e)       z_e of the bias b
                x W + b       + c ((x A_e) B_e^T + z_e)       of GPT-2's Conv1D, x a row
        lookup  W[id]         + c A_e[id] B_e^T
        norm    w * x' + b    + c (w_e * x' + z_e)            x' is x, normalised; w_e of w

    No parameter's values are written, so that nothing is to be restored. (While a norm, or a lookup
    of its own kind, is asked for its formula, its parameters point to other values.) In 16 bits c z
    is not lost against a large W, for it meets the answer and not W. A weight that a lookup and an
    output layer share is seen alike by both; of a table of words only those rows of A are drawn
    that the pass reads.

    A linear layer's position costs rank (m + n) multiplications more than its m n, in the compiled
    kernel and where the first axis is the examples'. Elsewhere each position meets the factors of
    all examples, and a mask leaves it its own: so many times that. A norm, and a lookup that
    chooses its rows itself, run twice, more often in the first pass. Extra memory: rank (m + n)
    numbers an example, layer and direction, until the step ends.

    A layer is refused by name where its rows cannot be told to be one example's, where nobody calls
    it as a module, and where it computes its answer in another way. Where a batch has as many
    examples as positions, two further passes of the layer's first step see that no example moves
    with another one's direction. Points that all examples share
    are seen as `Streaming` shows them.

    Args:
        params: all parameters, in the optimizer's order.
        module: the module that the closure runs.

    Source: Wen et al. 2018 (Flipout), arXiv 1803.04386; Sarkar et al. 2025 (EGGROLL), arXiv
        2511.16652.
    """

    def __init__(self, params: list[Tensor], module: nn.Module) -> None:
        self.shared = Streaming(params, module)
        self.params = params
        self.layers = Layers(params, module)
        self.watched = False
        self.num_examples = 0  # in the last pass
        self.unsure: list[nn.Module] = []
        self._told: set[nn.Module] = set()

    def at(self, directions: Directions, terms: Terms) -> AbstractContextManager[None]:
        return self.shared.at(directions, terms)

    def repair(self) -> bool:
        return self.shared.repair()

    @contextmanager
    def at_each(
        self,
        directions: Directions,
        seeds_of: SeedsOf,
        c: float | LengthsOf,
        examples: Sequence[Tensor] = (),
    ) -> Iterator[None]:
        """While active, example e sees theta + c z_e.

        Args:
            directions: the family.
            seeds_of: the number of examples -> a seed for each.
            c: the same for all examples; at 0 they all see theta. Or the number of examples -> a c
                for each: copies of a batch behind one another are points of a step in one pass.
            examples: which example a position is of, for every form in which positions may come to
                a layer: integers (R,) for inputs (R, .., n); (R, T) for (R, T, .., n) and (R T, n).
                The first form is that of the batch, whose rows lookups read; its largest number
                plus 1 is how many examples there are. None are needed where the first axis of all
                inputs is the examples'.

        Raises:
            OptimError: before, where a layer's class has a formula of its own, or a position is of
                no example; inside, from a layer whose input has other axes, or whose answer is not
                the formula's, or a closure that differentiates; at the end, where a parameter that
                should move was used by no layer. Whether it is also used beside its layers is
                looked at in the first pass alone.
        """
        moved = {i for i in range(len(self.params)) if directions.own(i, {0: 1.0})}
        self.layers.require_plain(moved)
        taken = EachPass(self.layers, directions, moved, seeds_of, c, examples, self._told)
        with ExitStack() as stack:
            stack.enter_context(every_module_runs())
            if not self.watched:
                watch = Watch(taken.seen, lambda *_: None)
                taken.pause = watch.paused
            hooks = Hooks(taken.enter, taken.leave, taken.pause)
            stack.callback(hooks.remove)
            hooks.register()
            if not self.watched:
                stack.enter_context(watch)
            yield
        self.num_examples, self.unsure = taken.num_examples, taken.unsure
        self._require_seen(moved, taken)
        self.watched = True

    def require_own(self, at_theta: Sequence[float], moved: Sequence[float]) -> None:
        """OptimError unless no loss but the first example's has changed when it alone moved: then
        the layers that were unsure are told.

        Args:
            at_theta, moved: the loss of every example, before and then.
        """
        slack = 0.0 if self.params[0].is_cpu else 1e-5  # of sums in no fixed order
        for e, (before, now) in enumerate(zip(at_theta, moved, strict=True)):
            if e and abs(now - before) > slack * abs(before):
                names = ", ".join(self.layers.name(module) for module in self.unsure)
                raise OptimError(
                    f"the loss of example {e} moves along the direction of example 0: of one of"
                    f" {names}, the input's first axis is not the examples', though as long;"
                    " freezing its weight is valid"
                )
        self._told.update(self.unsure)

    def _require_seen(self, moved: Set[int], taken: EachPass) -> None:
        for i in sorted(moved):
            if i in taken.ran and i not in taken.beside:
                continue
            how = (
                "was used beside its layer"
                if i in taken.ran
                else "is to move, and its layer did not run"
            )
            raise OptimError(
                f"{self.layers.parameter_names[i]} {how}: an example's own direction is only seen"
                " by a layer that runs as a module; freezing it is valid"
            )
