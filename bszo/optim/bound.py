"""What steps are made with, for the parameters that train now: numbers, directions, engine,
restriction."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from bszo.optim.groups import Grouped
from bszo.optim.options import require
from bszo.optim.restriction import Restricted, Restriction
from bszo.perturb import (
    DirectionFunction,
    Directions,
    Gaussian,
    Injected,
    Legs,
    MaskScope,
    Numbered,
    Perturbation,
    Split,
    Unpadded,
    engine_class,
    make_engine,
    padding_rows,
)


class Bound(Grouped):
    """An optimizer that finds out before each step whether other parameters train than before, and
    then makes its family of directions and its engine anew."""

    published_walk: ClassVar[Legs] = "three-leg"
    perturbation: Perturbation
    module: nn.Module | None
    injected: DirectionFunction | None
    seed: int
    num_steps: int
    restriction: Restriction | None = None  # set by `restrict`

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._bound: tuple[int, ...] = ()
        self._numbered: list[Tensor] = []  # all that have trained, in the order in which they began
        self._restricted: Restricted | None = None
        super().__init__(params, defaults)

    def restrict(
        self,
        *,
        sparsity: float = 0.0,
        mask_scope: MaskScope = "layer",
        mask_interval: int = 100,
        blocks: Split | Literal["none"] = "none",
    ) -> Self:
        """Mask the directions, or estimate block by block; to be said before the first step (see
        `Restriction`).

        Raises:
            OptimError: a value that is out of range, blocks that the module has none of, or a
                second restriction, which would drop the first.
        """
        require(
            self.num_steps == 0,
            f"restrict(): it has made {self.num_steps} steps; before the first is valid",
        )
        require(
            self.restriction is None or not self.restriction.binds,
            f"restrict(): {self.restriction} stands already; one call with all of it is valid",
        )
        restriction = Restriction(sparsity, mask_scope, mask_interval, blocks)
        self._restricted = Restricted(restriction, self.trainable(), self.module)
        self.restriction = restriction
        return self

    def _bind(self) -> None:
        """Build the family and the engine for the parameters that are trainable now."""
        params = self.trainable()
        bound = tuple(id(p) for p in params)
        if bound == self._bound:
            return
        require(bool(params), "step(): no parameter requires a gradient, so none would be trained")
        known = {id(p) for p in self._numbered}
        self._numbered = [*self._numbered, *(p for p in params if id(p) not in known)]
        self._bound, self._params = bound, params
        self._family = self.numbered(
            lambda all_params: (
                Injected(all_params, self.injected)
                if self.injected
                else self.make_family(all_params)
            )
        )
        self._padding = padding_rows(params, self.module)
        self._engine = make_engine(self.perturbation, params, self.module, self.published_walk)
        if self._restricted and bound != self._restricted.bound:
            self._restricted = self._restricted.on(params, self.module)

    def numbered(self, make: Callable[[Sequence[Tensor]], Directions]) -> Directions:
        """A family of the parameters that train now, each with the number that it got when it first
        trained.

        The number names its noise and its basis. So what a method remembers of a parameter stays
        true of it while others are frozen, unfrozen or added.

        Args:
            make: (parameters) -> the family over all of these, which are in the order of their
                numbers.
        """
        numbers, family = self.numbers(), make(self._numbered)
        everything = tuple(range(len(self._numbered)))
        return family if numbers == everything else Numbered(family, numbers)

    def numbers(self) -> tuple[int, ...]:
        """The number of each parameter that trains now (see `numbered`)."""
        place = {id(p): number for number, p in enumerate(self._numbered)}
        return tuple(place[id(p)] for p in self._params)

    def unbind(self) -> None:
        """Build family and engine anew at the next step: what streaming has watched so far was no
        model's pass."""
        self._bound = ()

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        """The family that `directions` starts from."""
        return Gaussian(params)

    def directions(self) -> Directions:
        """The family of this step's directions; Gaussian unless a method says otherwise."""
        return self._family

    def restricted(self, family: Directions) -> Directions:
        """The family with padding rows left out, masked and cut into blocks where `restrict` asked
        for it."""
        if self._padding:
            family = Unpadded(family, self._padding)
        return (
            family
            if self._restricted is None
            else self._restricted.family(family, self.seed, self.num_steps, self.numbers())
        )

    def reach(self) -> Sequence[float]:
        """The share of each trainable parameter's elements that this step's directions can move;
        empty where nothing is masked."""
        return () if self._restricted is None else self._restricted.reach()

    @property
    def exact(self) -> bool:
        """Whether theta is the same to the bit after a perturbed pass (`Engine.exact`)."""
        return engine_class(self.perturbation, self.module).exact

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: all but what is made of these very tensors, which it makes
        anew at its next step."""
        bound = ("_params", "_family", "_engine")
        kept = {name: value for name, value in super().__getstate__().items() if name not in bound}
        return {**kept, "_bound": ()}
