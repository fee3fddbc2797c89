"""Copies of optimizers: what copy.deepcopy and pickle take along, and what stays with the
original."""

from typing import Any

import torch


class Copied(torch.optim.Optimizer):
    """copy.deepcopy, pickle and torch.save copy the optimizer whole, where torch's own optimizers
    lose all but groups and state.

    Two things stay with the original: hooks, which torch leaves behind as well, and methods that
    were replaced in this one object, such as the `step` that a scheduler wraps. These are bound to
    the original, so that calling one on the copy would step the original. A copy of an optimizer
    alone has copies of its parameters: copy it together with its module, and with its scheduler.
    """

    def __getstate__(self) -> dict[str, Any]:
        def stays(name: str) -> bool:
            return name.endswith("_hooks") or callable(getattr(type(self), name, None))

        return {name: value for name, value in vars(self).items() if not stays(name)}
