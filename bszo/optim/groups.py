"""Parameter groups: what each may set, checked before anything moves; and the parameters in them,
in one order."""

import functools
import inspect
import typing
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from bszo.errors import OptimError
from bszo.optim.copied import Copied
from bszo.optim.hyperparameter import hyperparameters
from bszo.optim.options import require

# what torch and its schedulers keep in a group beside the optimizer's own hyperparameters
TORCH_KEYS = (
    "params",
    "param_names",
    "differentiable",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "swa_lr",
)
RATES = ("lr", "weight_decay")  # schedules move them, so that they are no setting of a run

declared = functools.cache(hyperparameters)  # by name, of a class


class Grouped(Copied):
    """An optimizer whose groups hold the hyperparameters that its class declares, and nothing
    else."""

    _fixed: Mapping[str, Any] = MappingProxyType({})  # what no argument says, see `fixed`
    _complete = False  # are all groups there that it is built with?

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as for any torch optimizer.

        Raises:
            OptimError: it has a key that is none of the optimizer's, a value that is out of range,
                or one that differs from the other groups' where all must have the same; or one of
                its parameters has no shape yet.
        """
        known = declared(type(self))
        if isinstance(param_group, dict):
            refuse_strange_keys(param_group, known, type(self).__name__)
            for name in known if self.param_groups else ():
                if known[name].scope != "group":
                    first = self.param_groups[0] if self._complete else self.defaults
                    param_group.setdefault(name, first[name])
        super().add_param_group(param_group)
        try:
            group, at = self.param_groups[-1], f" in group {len(self.param_groups) - 1}"
            require(
                not any(map(is_lazy, group["params"])),
                f"params{at}: a parameter of a lazy module has no shape yet; the optimizer can be"
                " built after the module's first forward pass",
            )
            for name, hyperparameter in known.items():
                group[name] = hyperparameter.checked(group[name], at)
            self.check()
        except OptimError:
            self.param_groups.pop()
            raise

    def check(self) -> None:
        """OptimError unless every group's hyperparameters are in range, and the same in all groups
        where the optimizer has one for all.

        Each step begins with it, since schedulers and users write into groups.
        """
        for name, hyperparameter in declared(type(self)).items():
            for i, group in enumerate(self.param_groups):
                value = hyperparameter.checked(group[name], f" in group {i}")
                require(
                    name not in self._fixed or plain(value) == plain(self._fixed[name]),
                    f"{name}={value!r} in group {i}: {type(self).__name__} has no such argument;"
                    f" {self._fixed.get(name)!r} is valid",
                )
                if hyperparameter.scope != "group":
                    built = hyperparameter.scope == "construction"
                    wanted = (self.defaults if built else self.param_groups[0])[name]
                    require(
                        value == wanted,
                        f"{name}={value!r} in group {i}: the optimizer has one for all its groups"
                        f"{', for life' if built else ''}; {wanted!r} is valid",
                    )

    def _group_settings(self) -> dict[str, Any]:
        """The hyperparameters as plain values, but for the rates; a list with a value a group,
        where groups differ."""
        found: dict[str, Any] = {}
        for name, hyperparameter in declared(type(self)).items():
            values = [plain(group[name]) for group in self.param_groups]
            if name not in RATES and values[0] != hyperparameter.unsaid:
                found[name] = values[0] if all(v == values[0] for v in values) else values
        return found

    def _everything(self) -> list[Tensor]:
        """All parameters, those that stay where they are included, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def trainable(self) -> list[Tensor]:
        """The parameters that move, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def per_parameter(self, name: str) -> list[float]:
        """A group's number for each trainable parameter."""
        return [float(g[name]) for g in self.param_groups for p in g["params"] if p.requires_grad]

    def with_groups(self) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        """Each trainable parameter with its place among them and its group, rates as numbers."""
        pairs = [(p, g) for g in self.param_groups for p in g["params"] if p.requires_grad]
        for i, (p, group) in enumerate(pairs):
            yield i, p, {**group, **{name: float(group[name]) for name in RATES}}


def refuse_strange_keys(group: dict[str, Any], known: typing.Iterable[str], who: str) -> None:
    """OptimError for a group's key that nobody would read."""
    strange = sorted(str(key) for key in group.keys() - {*known, *TORCH_KEYS})
    require(
        not strange,
        f"params: a group has the key {strange[0] if strange else ''!r:.80}, which {who} has no use"
        f" for; {', '.join(sorted(known))} are valid",
    )


def fixed(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters that a class inherits and has no argument for, with the values that its
    constructor gave them."""
    arguments = inspect.signature(cls).parameters
    if any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments.values()):
        return {}  # they may be among the others
    return {name: values[name] for name in declared(cls) if name not in arguments if name in values}


def name_of(function: Any) -> str | None:
    """How a function, or an object that is called, is named in settings; None for None."""
    if function is None:
        return None
    return getattr(function, "__qualname__", type(function).__qualname__)


def plain(value: Any) -> Any:
    """A tuple as the list that it is in JSON."""
    return list(value) if isinstance(value, tuple) else value
