"""First-order baselines: a gradient that is not finite moves nothing."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from bszo import FirstOrder
from bszo.errors import NonFiniteLoss, OptimError


def test_a_decay_that_an_algorithm_does_not_have_is_refused() -> None:
    def groups(decay: float) -> list[dict[str, Any]]:
        return [{"params": [nn.Parameter(torch.ones(2))], "weight_decay": decay}]

    with pytest.raises(OptimError, match=r"^weight_decay=0.5: Rprop has none; 0 is valid$"):
        FirstOrder(groups(0.5), algorithm=torch.optim.Rprop)
    FirstOrder(groups(0.5), algorithm=torch.optim.SGD)
    FirstOrder(groups(0.0), algorithm=torch.optim.Rprop)


def test_a_gradient_that_is_not_finite_is_said_before_anything_moves() -> None:
    """The loss is 1; the derivative of sqrt at 0 is infinite, times 0."""
    theta = nn.Parameter(torch.tensor([0.0, 1.0]))
    optimizer = FirstOrder([theta], algorithm=partial(torch.optim.AdamW, lr=0.1))
    with pytest.raises(NonFiniteLoss, match=r"^step 0: the gradient is nan, not a finite number$"):
        optimizer.step(lambda: theta.square().sum().sqrt() + (theta * 0).sum().sqrt())
    assert theta.tolist() == [0.0, 1.0] and theta.grad is None and not optimizer.state
    optimizer.skip()
    optimizer.step(lambda: theta.square().sum())
    assert optimizer.num_steps == 2 and bool(theta.isfinite().all())
