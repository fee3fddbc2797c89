"""MeZO-Adam from its history: the dense one bit for bit within the window, Adam on the window's
gradients beyond it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import MeZOAdam, MeZOAdamHistory
from bszo.errors import OptimError
from bszo.optim import mezo_adam_history
from bszo.perturb import Directions, Gaussian
from tests.optim.test_reference import N, flat, make_loss, parameters, spsa

Make = Callable[..., nn.Module]
SETTINGS: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "adam_eps": 1e-6, "seed": 7}


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_within_the_window_it_is_the_dense_one_bit_for_bit(
    problem: Make, dtype: torch.dtype, q: int
) -> None:
    one, two = problem(dtype), problem(dtype)
    dense = MeZOAdam(one.parameters(), eps=1e-2, num_directions=q, weight_decay=0.1, **SETTINGS)
    history = MeZOAdamHistory(
        two.parameters(), eps=1e-2, num_directions=q, weight_decay=0.1, window=9, **SETTINGS
    )
    for _ in range(9):
        assert dense.step(one) == history.step(two)
        assert all(
            torch.equal(p, p2) for p, p2 in zip(one.parameters(), two.parameters(), strict=True)
        )
    for _ in range(4):
        dense.step(one)
        history.step(two)
    assert any(
        not torch.equal(p, p2) for p, p2 in zip(one.parameters(), two.parameters(), strict=True)
    ), "it forgets"


@pytest.mark.parametrize(("window", "q"), [(1, 1), (3, 1), (3, 2), (100, 1)])
def test_beyond_it_is_adam_on_the_last_gradients(window: int, q: int) -> None:
    """Moments as sums over the window, in float64, with torch's Adam as a second witness."""
    params, loss, reference_loss, eps = parameters(), make_loss(), make_loss(), 1e-3
    optimizer = MeZOAdamHistory(
        params, eps=eps, num_directions=q, window=window, weight_decay=0.4, **SETTINGS
    )
    family, gradients, theta, before = Gaussian(params), [], flat(params), torch.zeros(N)
    m = step = torch.zeros(N)
    for _ in range(8):
        z = [flat(family(params, seed)) for seed in optimizer.direction_seeds(q)]
        family.release()
        optimizer.step(lambda: loss(flat(params)))
        gradients.append(
            torch.stack([spsa(theta, reference_loss, one, eps) * one for one in z]).mean(0)
        )
        last = gradients[-window:]
        t = len(last)
        m = (
            0.2
            * sum((0.8 ** (t - 1 - s) * g for s, g in enumerate(last)), torch.zeros(N).double())
            / (1 - 0.8**t)
        )
        v = 0.05 * sum(
            (0.95 ** (t - 1 - s) * g**2 for s, g in enumerate(last)), torch.zeros(N).double()
        )
        step = m / ((v / (1 - 0.95**t)).sqrt() + 1e-6)
        theta = theta - 0.02 * (step + 0.4 * theta)
        # the moments are fp32
        torch.testing.assert_close(flat(params), theta, rtol=1e-5, atol=1e-7)
        theta = flat(params)
    point = torch.zeros(N, dtype=torch.float64)
    adam = torch.optim.Adam([point], lr=1.0, betas=(0.8, 0.95), eps=1e-6)
    for g in gradients[-window:]:
        before, point.grad = point.clone(), g
        adam.step()
    state = adam.state[point]
    torch.testing.assert_close(
        state["exp_avg"] / (1 - 0.8 ** len(gradients[-window:])), m, rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(point - before, -step, rtol=1e-6, atol=1e-9)


def test_no_dense_state_and_nothing_kept(problem: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = problem()
    optimizer, kept = MeZOAdamHistory(module.parameters(), window=4, num_directions=2), []
    learn_ = mezo_adam_history.learn_

    def counted(*arguments: Any) -> None:
        kept.append(len(optimizer.directions()._kept))
        learn_(*arguments)

    monkeypatch.setattr(mezo_adam_history, "learn_", counted)
    for _ in range(7):
        optimizer.step(module)
    assert not optimizer.state and max(kept) <= 4 and optimizer.directions()._kept == {}
    own = optimizer.state_dict()["zeroth_order"]["_history"]
    assert len(own) == 4 and all(len(step) == 2 for step in own), (
        "W q pairs are all that a resume needs"
    )


@pytest.mark.parametrize("q", [1, 3])
def test_the_cost_is_window_times_q_directions_a_step(
    problem: Make, q: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where directions are added up: every parameter's, W q of them beside the 2 q of the
    losses."""
    made: list[int] = []
    shift = Gaussian.shift

    def counted(self: Directions, theta: Tensor, index: int, terms: Any, **more: Any) -> Tensor:
        made.append(len(terms) * theta.numel())
        return shift(self, theta, index, terms, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Gaussian, "shift", counted)
    module = problem()
    optimizer = MeZOAdamHistory(module.parameters(), window=4, num_directions=q)
    n = sum(p.numel() for p in module.parameters())
    for step in range(1, 8):
        made.clear()
        optimizer.step(module)
        assert sum(made) == (2 + min(step, 4)) * q * n


def test_any_directions_that_are_functions_of_the_seed(problem: Make) -> None:
    def rule(params: Sequence[Tensor], seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed % 2**63)
        return [torch.randn(p.shape, generator=generator) for p in params]

    one, two = problem(), problem()
    dense = MeZOAdam(one.parameters(), directions=rule, **SETTINGS)
    history = MeZOAdamHistory(two.parameters(), directions=rule, window=5, **SETTINGS)
    for _ in range(5):
        assert dense.step(one) == history.step(two)


def test_blocks_are_remembered_and_masks_are_refused(problem: Make) -> None:
    one, two = problem(), problem()
    dense = MeZOAdam(one.parameters(), **SETTINGS).restrict(blocks="tensor")
    history = MeZOAdamHistory(two.parameters(), window=5, **SETTINGS).restrict(blocks="tensor")
    for _ in range(4):
        assert dense.step(one) == history.step(two)
    with pytest.raises(OptimError, match=r"sparsity=0.5: .* 0 is valid here, MeZOAdam takes any"):
        MeZOAdamHistory(problem().parameters()).restrict(sparsity=0.5)


def test_a_large_model_has_one_parameter_s_moments_at_a_time(
    problem: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = problem(), problem()
    dense = MeZOAdam(one.parameters(), **SETTINGS)
    monkeypatch.setattr("bszo.perturb.directions.gaussian.KEEP_BELOW", 0)
    history = MeZOAdamHistory(two.parameters(), window=5, **SETTINGS)
    for _ in range(4):
        assert dense.step(one) == history.step(two)
    assert history._together() == [[0], [1], [2], [3]]


def test_other_parameters_in_as_many_blocks_are_refused() -> None:
    """A parameter's block has its number by the parameters that train beside it."""
    params = [nn.Parameter(torch.ones(4)) for _ in range(3)]
    params[2].requires_grad_(False)
    optimizer = MeZOAdamHistory(params, lr=0.01, eps=1e-3).restrict(blocks="tensor")
    optimizer.step(lambda: sum(p.square().sum() for p in params))
    params[0].requires_grad_(False)
    params[2].requires_grad_(True)
    with pytest.raises(OptimError, match="blocks: the remembered directions lie in 2 blocks"):
        optimizer.step(lambda: sum(p.square().sum() for p in params))
