"""Hyperparameters: declared in a method's class body, kept where torch keeps them, checked wherever
they are set."""

import math
import operator
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, get_args, overload

from torch.optim import Optimizer

from bszo.errors import OptimError
from bszo.optim.options import require

T = TypeVar("T")
Scope = Literal["group", "optimizer", "construction"]
_SAID: Any = object()  # equal to no value


class Hyperparameter(Generic[T]):
    """A value that lives in `param_groups` and `defaults`, and is read and set as an attribute.

    So torch's `repr` shows it, `state_dict` saves it, schedulers that cycle a momentum find it, and
    no second copy can fall out of step with the one that is used.

    Args:
        read: (value) -> the value that is kept, such as `whole` or `number`.
        holds: whether a value that was read is in range.
        valid: what to say of one that is not, as the end of "k=0: at least 1 is valid".
        scope: who may have a value of its own. group: each parameter group. optimizer: the whole
            optimizer; all groups hold the same value, which may change between steps.
            construction: the same, and it stays as it was when the optimizer was built.
        unsaid: for an argument that is newer than the first trajectories, the value with which the
            method does what it did before. `settings` leaves it out, so that old headers still fit.

    Example:
        >>> from bszo import BSZO
        >>> import torch
        >>> optimizer = BSZO([torch.nn.Parameter(torch.zeros(3))], k=4, m=5)
        >>> optimizer.k, optimizer.param_groups[0]["k"]
        (4, 4)
    """

    def __init__(
        self,
        read: Callable[[Any], T],
        holds: Callable[[T], bool] = lambda value: True,
        valid: str = "",
        *,
        scope: Scope = "optimizer",
        unsaid: T = _SAID,
    ) -> None:
        self.read, self.holds, self.scope, self.unsaid = read, holds, scope, unsaid
        self.valid = valid or getattr(read, "valid", "")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def checked(self, value: Any, where: str = "") -> T:
        """The value as it is kept; OptimError where it is none of this hyperparameter's."""
        refusal = f"{self.name}={value!r:.80}{where}: {self.valid}"
        try:
            kept = self.read(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptimError(refusal) from error
        require(self.holds(kept), refusal)
        return kept

    @overload
    def __get__(self, optimizer: None, owner: type) -> "Hyperparameter[T]": ...
    @overload
    def __get__(self, optimizer: Optimizer, owner: type) -> T: ...
    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self
        groups = vars(optimizer).get("param_groups") or [optimizer.defaults]
        return groups[0][self.name]

    def __set__(self, optimizer: Optimizer, value: T) -> None:
        """Set it in every group; before torch has made the groups, in the defaults that it makes
        them from."""
        groups = vars(optimizer).get("param_groups", [])
        kept = self.checked(value)
        require(
            self.scope != "construction" or not groups,
            f"{self.name}={value!r}: {self.name} was fixed when the optimizer was built; a new one"
            " is valid",
        )
        for values in (vars(optimizer).setdefault("defaults", {}), *groups):
            values[self.name] = kept


def hyperparameters(cls: type) -> dict[str, Hyperparameter[Any]]:
    """A class's hyperparameters by name, those of its bases first."""
    names = {name: None for base in reversed(cls.__mro__) for name in vars(base)}
    found = {name: getattr(cls, name, None) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, Hyperparameter)}


def whole(value: Any) -> int:
    """An integer of any library as Python's; TypeError for 2.0 and for True."""
    if isinstance(value, bool):
        raise TypeError("a truth value is no number")
    return int(operator.index(value))


def number(value: Any) -> float:
    """A number of any library as Python's; a Python number stays what it is."""
    if isinstance(value, (bool, str)):
        raise TypeError("a text or a truth value is no number")
    return value if type(value) in (int, float) else float(value)


def number_or_none(value: Any) -> float | None:
    """The same, or None."""
    return None if value is None else number(value)


def flag(value: Any) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool):
        raise TypeError("neither True nor False")
    return value


flag.valid = "True or False is valid"  # type: ignore[attr-defined]


def one_of(literal: Any) -> Callable[[Any], Any]:
    """A reader that takes the texts of a Literal, and no other."""
    texts = get_args(literal)

    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in texts:
            raise ValueError("none of them")
        return value

    read.valid = (  # type: ignore[attr-defined]
        f"{' or '.join(texts)} is valid"
        if len(texts) < 3
        else f"one of {', '.join(texts)} is valid"
    )
    return read


def is_rate(value: float) -> bool:
    """Whether a number is finite and not negative; NaN is neither."""
    return 0 <= value < math.inf
