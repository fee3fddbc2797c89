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


def test_what_an_algorithm_would_not_read_or_cannot_do_is_refused() -> None:
    theta = nn.Parameter(torch.ones(2))
    optimizer = FirstOrder([theta], algorithm=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(OptimError, match="'momentun', which SGD has no use for"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "momentun": 0.9})
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "momentum": 0.9})
    state = FirstOrder([theta], algorithm=torch.optim.AdamW).state_dict()
    other = FirstOrder([theta], algorithm=torch.optim.RAdam)
    with pytest.raises(OptimError, match="state_dict was saved by AdamW; one of RAdam is valid"):
        other.load_state_dict(state)
    del state["counters"]["algorithm"]  # as an older version wrote it
    other.load_state_dict(state)
    with pytest.raises(OptimError, match="algorithm: LBFGS calls the closure itself"):
        FirstOrder([theta], algorithm=torch.optim.LBFGS)
    with pytest.raises(OptimError, match="its loss depends on no parameter that requires a"):
        optimizer.step(lambda: torch.tensor(1.0))


def test_a_gradient_that_is_not_finite_is_said_before_anything_moves() -> None:
    """The loss is 1; the derivative of sqrt at 0 is infinite, times 0."""
    theta, other = nn.Parameter(torch.tensor([0.0, 1.0])), nn.Parameter(torch.ones(1))
    groups = [{"params": [other]}, {"params": [theta]}]
    optimizer = FirstOrder(groups, algorithm=partial(torch.optim.AdamW, lr=0.1))
    with pytest.raises(NonFiniteLoss, match=r"^step 0: the gradient is nan, not a finite number$"):
        optimizer.step(lambda: theta.square().sum().sqrt() + (theta * 0).sum().sqrt())
    assert theta.tolist() == [0.0, 1.0] and theta.grad is None and not optimizer.state
    assert optimizer.num_passes == 1 + 2, "the backward pass was made"
    optimizer.skip()
    optimizer.step(lambda: theta.square().sum())
    assert optimizer.num_steps == 2 and bool(theta.isfinite().all())


def test_a_step_follows_the_gradient_of_its_own_loss_alone() -> None:
    """Whatever a parameter's `grad` held before, and where gradients are off around it."""
    theta = nn.Parameter(torch.ones(2))
    theta.grad = torch.full((2,), 7.0)
    optimizer = FirstOrder([theta], algorithm=partial(torch.optim.SGD, lr=0.25))
    with torch.no_grad():
        optimizer.step(lambda: theta.sum())
    assert theta.tolist() == [0.75, 0.75] and theta.grad is None
