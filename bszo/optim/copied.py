"""Copies of optimizers: what copy.deepcopy and pickle take along, and what stays with the
original."""

from typing import Any

import torch


class Copied(torch.optim.Optimizer):
    """copy.deepcopy, pickle and torch.save copy the optimizer whole, where torch's own optimizers
    lose all but groups and state.

    Two things stay with the original. A method that stands in for the class's own in this one
    object, as a scheduler's `step` does: it is bound to the original, so that the copy would step
    that. And hooks, which torch leaves behind as well. A copy of an optimizer alone has copies of
    its parameters: copy it together with its module, and with its scheduler.
    """

    def __getstate__(self) -> dict[str, Any]:
        def stays(name: str) -> bool:
            return name.endswith("_hooks") or callable(getattr(type(self), name, None))

        return {name: value for name, value in vars(self).items() if not stays(name)}
