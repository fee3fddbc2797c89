"""Redrawn bases: what the methods share whose directions lie in a subspace that stays for some
steps: LOZO, SubZero, SubZero+ and ZO-Muon."""

from typing import Any, Unpack

from bszo.optim.hyperparameter import Hyperparameter, whole
from bszo.optim.mezo import MeZO
from bszo.optim.options import DifferenceOptions, Params, require
from bszo.perturb import Directions


class Redrawn(MeZO):
    """MeZO along directions in a basis of rank r, the n-th of which serves steps n `interval` to
    (n + 1) `interval` - 1. A method says what the basis is (`subspace`).

    Args:
        rank: r.
        interval: steps between redraws of the basis.
        params, lr, eps, ...: see ZerothOrderOptimizer.

    Raises:
        OptimError: no parameter is a matrix.
    """

    rank = Hyperparameter[int](whole, lambda r: r >= 1, "at least 1 is valid", scope="construction")
    interval = Hyperparameter[int](whole, lambda n: n >= 1, "at least 1 step is valid")

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        rank: int,
        interval: int,
        num_directions: int = 1,
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.rank, self.interval = rank, interval
        super().__init__(params, lr=lr, num_directions=num_directions, **options)
        self._current: tuple[Any, Directions] | None = None
        require(
            self.injected is not None or any(p.ndim > 1 and p.numel() for p in self.trainable()),
            f"rank={self.rank}: no trained parameter has two axes, so that none has a rank; MeZO is"
            " valid here",
        )

    @property
    def draw(self) -> int:
        """The number of this step's basis."""
        return self.num_steps // self.interval

    def subspace(self, draw: int) -> Directions:
        """The family in the basis of this number."""
        raise TypeError(f"{type(self).__name__} does not say what its subspaces are")

    def directions(self) -> Directions:
        if self.injected:
            return self._family
        chosen = {name: group for name, group in self.settings().items() if name != "eps"}
        key = (self._bound, self.numbers(), self.draw, chosen)
        if self._current is None or self._current[0] != key:
            self._current = key, self.subspace(self.draw)
        return self._current[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the basis, which is drawn again from its seed."""
        return {**super().__getstate__(), "_current": None}
