"""A complete state: what torch saves, and the counters, seed and scalars by which an optimizer goes
on bit for bit."""

import copy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bszo.errors import OptimError
from bszo.optim.restriction import Restricted, Restriction


class Copied(torch.optim.Optimizer):
    """copy.deepcopy and pickle take everything along, as of any object; torch's own would keep
    groups and state alone.

    Whoever copies an optimizer by itself gets copies of its parameters: copy it together with its
    module.
    """

    def __getstate__(self) -> dict[str, Any]:
        return vars(self).copy()


class CompleteState(Copied):
    """`state_dict` and `load_state_dict` of every zeroth-order optimizer."""

    seed: int
    num_steps: int
    num_forwards: int
    num_backwards: int
    restriction: Restriction | None
    _restricted: Restricted | None

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """torch's state with one more entry: counters, seed and the method's scalars. Nothing else
        is needed."""
        own = {
            "method": type(self).__name__,
            "seed": self.seed,
            "num_steps": self.num_steps,
            "num_forwards": self.num_forwards,
            "num_backwards": self.num_backwards,
            **self.scalar_state(),
        }
        if self._restricted is not None:
            own["restriction"] = self._restricted.state()
        return {**super().state_dict(), "zeroth_order": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bit for bit from a `state_dict` of the same method."""
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
        there, here = own.pop("restriction", None), self.restriction and asdict(self.restriction)
        require(
            (there and {key: there[key] for key in there if key != "zeros"}) == here,
            f"state_dict was saved under restrict({there and {**there, 'zeros': None}}), here it is"
            f" {here}",
        )
        super().load_state_dict(
            {key: value for key, value in state_dict.items() if key != "zeroth_order"}
        )
        self._restore_types(state_dict)
        for name, value in own.items():
            setattr(self, name, value)
        if self._restricted is not None:
            self._restricted.load(there)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is bound to these very tensors, made anew at the next step, and without log
        and group."""
        bound = ("_params", "_family", "_engine")
        kept = {name: value for name, value in super().__getstate__().items() if name not in bound}
        return {**kept, "_bound": (), "_failed": None, "recorder": None, "share": None}

    def pass_by(self) -> None:
        """Count a step that moves nothing; its directions are used up."""
        self.num_steps += 1

    def scalar_state(self) -> dict[str, float]:
        """Attributes of the method beside the counters that a later step depends on."""
        return {}

    def _restore_types(self, state_dict: dict[str, Any]) -> None:
        """torch casts loaded state to the parameter's type, which would round fp32 moments of
        16-bit parameters."""
        params = [p for group in self.param_groups for p in group["params"]]
        numbers = [i for group in state_dict["param_groups"] for i in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[p][name] = (
                    value.to(p.device).clone()
                    if isinstance(value, Tensor)
                    else copy.deepcopy(value)
                )


def require_failed(failed: bool, step: int) -> None:
    """OptimError unless the last step raised NonFiniteLoss, which alone may be skipped."""
    require(failed, f"skip() at step {step}: only a step that raised NonFiniteLoss can be skipped")


def require(condition: bool, message: str) -> None:
    """Raise OptimError with the message unless the condition holds (NaN fails every comparison, so
    it is caught)."""
    if not condition:
        raise OptimError(message)


def is_expanded(p: Tensor) -> bool:
    """Whether elements share memory, so that none can be written alone."""
    return any(size > 1 and step == 0 for size, step in zip(p.shape, p.stride(), strict=True))
