"""The state of an optimizer: all that a later step depends on, and nothing of another method's."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bszo.errors import OptimError
from bszo.optim.bound import Bound
from bszo.optim.groups import declared, name_of, plain
from bszo.optim.options import require

COUNTERS = ("seed", "num_steps", "num_forwards", "num_backwards")
RESTRICTED = ("zeros", "places")  # what a restriction has found out, beside its settings


class Saved(Bound):
    """An optimizer that goes on bit for bit from its `state_dict`."""

    num_forwards: int
    num_backwards: int
    rounding: str

    def scalar_state(self) -> dict[str, Any]:
        """Attributes of the method beside the counters that a later step depends on."""
        return {}

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """torch's state with one more entry: counters, seed and the method's scalars. Nothing else
        is needed."""
        own = {
            "method": type(self).__name__,
            **{name: getattr(self, name) for name in COUNTERS},
            **self.scalar_state(),
        }
        places = {id(p): i for i, p in enumerate(self._everything())}
        own["numbered"] = [places.get(id(p)) for p in self._numbered]
        own["built"] = self._built()
        if self._restricted is not None:
            own["restriction"] = self._restricted.state(self._everything())
        return {**super().state_dict(), "zeroth_order": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bit for bit from a `state_dict` of the same method with the same settings.

        What a group may have of its own is loaded with it, as torch does; so are seed and counters.

        Raises:
            OptimError: another method saved it, or one with other hyperparameters or under another
                restriction, rounding, perturbation or directions; nothing is loaded then.
        """
        if "zeroth_order" not in state_dict:
            raise OptimError(
                "state_dict has no entry 'zeroth_order': it was not saved by one of these"
                " optimizers"
            )
        own = dict(state_dict["zeroth_order"])
        method = own.pop("method", None)
        if method != type(self).__name__:
            raise OptimError(
                f"state_dict was saved by {method}; one of {type(self).__name__} is valid"
            )
        restriction = own.pop("restriction", None)
        self._require_same(state_dict["param_groups"], own, restriction)
        restricted = self._restricted and self._restricted.saved(
            restriction, self._everything(), self.module
        )
        # an older state lacks what its version kept elsewhere or did not have
        mine = {name: self.defaults[name] for name in declared(type(self))}
        groups = [{**mine, **group} for group in state_dict["param_groups"]]
        super().load_state_dict({"state": state_dict["state"], "param_groups": groups})
        self._restore_types(state_dict)
        everything = self._everything()
        self._numbered = [
            everything[place] if place is not None else torch.empty(0)  # one that has left
            for place in own.get("numbered", ())
        ]
        self.load_scalars(own)
        self._restricted = restricted
        self.unbind()

    def load_scalars(self, saved: dict[str, Any]) -> None:
        """Take over counters, seed and `scalar_state` from a saved state."""
        for name in (*COUNTERS, *self.scalar_state()):
            if name in saved:
                setattr(self, name, saved[name])

    def _built(self) -> dict[str, Any]:
        """What else it was built with that moves a number. The engines that restore theta exactly
        do so to the same bits."""
        alike = self.perturbation in ("streaming", "copy")
        return {
            "rounding": self.rounding,
            "perturbation": "exact" if alike else self.perturbation,
            "directions": name_of(self.injected),
            "module": None if self.module is None else "given",
        }

    def _require_same(
        self, groups: Sequence[dict[str, Any]], own: dict[str, Any], restriction: Any
    ) -> None:
        """OptimError unless the state was saved with these hyperparameters and this restriction."""
        loaded = self.scalar_state()
        for name, hyperparameter in declared(type(self)).items():
            if hyperparameter.scope == "group" or name in loaded:
                continue
            here = getattr(self, name)
            for saved in (*groups, own):
                require(
                    name not in saved or plain(saved[name]) == plain(here),
                    f"state_dict was saved with {name}={saved.get(name)!r}, here it is {here!r};"
                    " an optimizer that was built with the same is valid",
                )
        for name, here in self._built().items():
            there = own.get("built", {}).get(name, here)  # an older state does not say
            require(
                there == here,
                f"state_dict was saved with {name}={there!r}, here it is {here!r}; an optimizer"
                " that was built with the same is valid",
            )
        here = self.restriction and asdict(self.restriction)
        there = restriction and {k: v for k, v in restriction.items() if k not in RESTRICTED}
        require(there == here, f"state_dict was saved under restrict({there}), here it is {here}")

    def _restore_types(self, state_dict: dict[str, Any]) -> None:
        """torch casts loaded state to the parameter's type, which would round fp32 moments of
        16-bit parameters; what is to have that type has it."""
        numbers = [i for group in state_dict["param_groups"] for i in group["params"]]
        for position, p in zip(numbers, self._everything(), strict=True):
            for name, value in state_dict["state"].get(position, {}).items():
                if not isinstance(value, Tensor):
                    self.state[p][name] = copy.deepcopy(value)
                    continue
                own = (
                    getattr(self, "state_dtype", None) == "parameter" and value.is_floating_point()
                )
                self.state[p][name] = value.to(p.device, p.dtype if own else value.dtype).clone()
