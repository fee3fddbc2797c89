"""Parameters that are frozen, unfrozen or added between steps: each keeps its number, its basis and
its age."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import LOZOM, HiZOO, MeZO, MeZOAdam, MeZOAdamHistory, SubZero
from bszo.errors import OptimError, TrajectoryError
from bszo.trajectory import TrajectoryWriter, describe, record

Make = Callable[..., nn.Module]
ADAMS = [MeZOAdam, MeZOAdamHistory]


def matrices(count: int = 3) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(6, 5, generator=generator, dtype=torch.float64))
        for _ in range(count)
    ]


def loss(params: list[nn.Parameter]) -> Callable[[], Tensor]:
    return lambda: sum(((p - 1).square().sum() for p in params), torch.zeros(()))


def directions_of(optimizer: Any, params: list[nn.Parameter]) -> dict[int, Tensor]:
    """z of the step that comes next, by the parameter's place in `params`."""
    optimizer._bind()
    family = optimizer.restricted(optimizer.directions())
    (seed,) = optimizer.direction_seeds(1)
    place = {id(p): i for i, p in enumerate(params)}
    return {place[id(p)]: family.direction(seed, i) for i, p in enumerate(optimizer._params)}


@pytest.mark.parametrize("make", [MeZO, LOZOM, SubZero, HiZOO])
def test_a_parameter_keeps_its_number(make: Any) -> None:
    """Two optimizers of one seed: in one the first parameter is frozen for a while."""
    params, others = matrices(), matrices()
    more: Any = (
        {"smoothing": 0.0} if make is HiZOO else {}
    )  # else z is scaled by what it has learnt
    one = make(params, lr=0.0, eps=1e-3, seed=4, **more)
    two = make(others, lr=0.0, eps=1e-3, seed=4, **more)
    for step in range(6):
        params[0].requires_grad_(step not in (2, 3))
        left, right = directions_of(one, params), directions_of(two, others)
        assert set(left) == ({1, 2} if step in (2, 3) else {0, 1, 2})
        assert all(torch.equal(left[i], right[i]) for i in left)
        one.step(loss(params))
        two.step(loss(others))


def test_later_parameters_get_the_next_numbers() -> None:
    """Unfrozen first, added second: 0 is what trained from the start."""
    params, ordered = matrices(), matrices()
    params[0].requires_grad_(False)
    optimizer = MeZO(params[:2], lr=0.0, eps=1e-3, seed=4)
    optimizer.step(loss(params))
    params[0].requires_grad_(True)
    optimizer.step(loss(params))
    optimizer.add_param_group({"params": [params[2]]})
    wanted = MeZO([ordered[1], ordered[0], ordered[2]], lr=0.0, eps=1e-3, seed=4)
    wanted.num_steps = 2
    left, right = directions_of(optimizer, params), directions_of(wanted, ordered)
    assert all(torch.equal(left[i], right[i]) for i in range(3))


@pytest.mark.parametrize("make", [MeZO, LOZOM, SubZero, HiZOO, *ADAMS])
def test_numbers_are_saved(make: Any) -> None:
    more = {"momentum": 0.9, "interval": 2} if make is SubZero else {}
    params = matrices()
    params[0].requires_grad_(False)
    optimizer = make(params, lr=1e-3, eps=1e-3, seed=4, **more)
    for _ in range(3):
        optimizer.step(loss(params))
    params[0].requires_grad_(True)
    params[1].requires_grad_(False)
    optimizer.step(loss(params))
    again = matrices()
    for p, q in zip(again, params, strict=True):
        p.data.copy_(q.data)
        p.requires_grad_(q.requires_grad)
    resumed = make(again, lr=1e-3, eps=1e-3, seed=9, **more)
    resumed.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        assert resumed.step(loss(again)) == optimizer.step(loss(params))
    params[1].requires_grad_(True)
    again[1].requires_grad_(True)
    for _ in range(3):
        assert resumed.step(loss(again)) == optimizer.step(loss(params))
    assert all(map(torch.equal, again, params))


def test_loaded_numbers_hold_in_an_optimizer_that_has_stepped_too() -> None:
    """Its own are 0, 1, 2; of the one that is loaded the first parameter trained last."""
    params, again = matrices(), matrices()
    params[0].requires_grad_(False)
    saving, loading = (MeZO(own, lr=0.0, eps=1e-3, seed=4) for own in (params, again))
    saving.step(loss(params))
    params[0].requires_grad_(True)
    for _ in range(2):
        saving.step(loss(params))
        loading.step(loss(again))
    loading.load_state_dict(saving.state_dict())
    left, right = directions_of(loading, again), directions_of(saving, params)
    assert all(torch.equal(left[i], right[i]) for i in range(3))


@pytest.mark.parametrize("make", [LOZOM, SubZero])
def test_a_momentum_that_slept_over_redraws_is_carried_from_its_own_basis(make: Any) -> None:
    """Frozen from the first basis to the third: what it wakes with is the first's M, projected."""
    params = matrices()
    optimizer = make(params, lr=0.0, eps=1e-3, seed=4, rank=2, interval=2, momentum=0.5)
    for _ in range(2):
        optimizer.step(loss(params))
    kept = optimizer.state[params[0]]["momentum"].clone()
    first = optimizer.subspace(0)
    params[0].requires_grad_(False)
    for _ in range(2):
        optimizer.step(loss(params))
    assert torch.equal(optimizer.state[params[0]]["momentum"], kept)
    params[0].requires_grad_(True)
    optimizer._bind()
    third = optimizer.subspace(2)
    carried = third.carry(kept, 0, first)
    (seed,) = optimizer.direction_seeds(1)
    fresh = third.coordinates(seed, 0)
    optimizer.step(loss(params))
    weight = 0.5 if make is LOZOM else 1.0
    g = optimizer.last.observations[0]
    wanted = 0.5 * carried + weight * g * fresh
    torch.testing.assert_close(optimizer.state[params[0]]["momentum"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", ADAMS)
@pytest.mark.parametrize("how", ["added", "unfrozen"])
def test_adam_s_first_move_of_a_late_parameter_is_lr(make: Any, how: str) -> None:
    params = matrices()
    late, lr = params[2], 1e-6
    late.requires_grad_(how == "added")
    more: Any = {"window": 8} if make is MeZOAdamHistory else {}
    first = params[:2] if how == "added" else params
    optimizer = make(first, lr=lr, eps=1e-3, adam_eps=1e-12, **more)
    for _ in range(12):
        optimizer.step(loss(params))
    if how == "added":
        optimizer.add_param_group({"params": [late]})
    late.requires_grad_(True)
    before = late.detach().clone()
    optimizer.step(loss(params))
    moved = (late.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, lr), rtol=1e-4, atol=0)


@pytest.mark.parametrize("make", ADAMS)
def test_a_frozen_parameter_does_not_grow_older(make: Any) -> None:
    """Adam by hand on the gradients that each parameter had: the first sleeps for steps 2 to 4."""
    params, lr = matrices(2), 0.01
    optimizer = make(params, lr=lr, eps=1e-3, seed=4, betas=(0.8, 0.9), adam_eps=1e-8)
    mine = [p.detach().clone() for p in params]
    moments = [[torch.zeros_like(p), torch.zeros_like(p), 0] for p in mine]
    for step in range(8):
        params[0].requires_grad_(step not in (2, 3, 4))
        z = directions_of(optimizer, params)
        optimizer.step(loss(params))
        g = optimizer.last.observations[0]
        for i, direction in z.items():
            m, v, age = moments[i]
            grad = g * direction.double()
            m, v, age = 0.8 * m + 0.2 * grad, 0.9 * v + 0.1 * grad**2, age + 1
            moments[i] = [m, v, age]
            mine[i] -= lr * (m / (1 - 0.8**age)) / ((v / (1 - 0.9**age)).sqrt() + 1e-8)
        for p, q in zip(params, mine, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-6)


def test_masks_keep_the_shares_of_those_that_had_one() -> None:
    params = matrices()
    with torch.no_grad():
        params[0].mul_(0.1)
    optimizer = MeZO(params[:2], lr=0.0, eps=1e-3).restrict(sparsity=0.5, mask_scope="global")
    optimizer.step(loss(params))
    shares = list(optimizer._restricted.zeros)  # type: ignore[union-attr]
    params[0].requires_grad_(False)
    with torch.no_grad():
        params[0].mul_(100)
    optimizer.step(loss(params))
    params[0].requires_grad_(True)
    optimizer.add_param_group({"params": [params[2]]})
    optimizer.step(loss(params))
    assert optimizer._restricted.zeros == [*shares, 15.0]  # type: ignore[union-attr]


def test_what_can_not_go_on_is_refused(tmp_path: Any) -> None:
    params = matrices()
    optimizer = MeZO(params, lr=0.0, eps=1e-3)
    optimizer.step(loss(params))
    for p in params:
        p.requires_grad_(False)
    with pytest.raises(OptimError, match=r"step\(\): no parameter requires a gradient"):
        optimizer.step(loss(params))
    params = matrices()
    history = MeZOAdamHistory(params[:2], lr=0.0, eps=1e-3).restrict(blocks="tensor")
    history.step(loss(params))
    history.add_param_group({"params": [params[2]]})
    with pytest.raises(OptimError, match="blocks: the remembered directions lie in 2 blocks"):
        history.step(loss(params))
    params = matrices()
    optimizer = MeZO(params, lr=0.0, eps=1e-3)
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base="0" * 64)) as writer:
        record(optimizer, writer)
        params[0].requires_grad_(False)
        with pytest.raises(TrajectoryError, match="other parameters are trained"):
            optimizer.step(loss(params))


def test_a_parameter_that_has_left_keeps_its_number(problem: Make) -> None:
    params, ordered = matrices(), matrices()
    optimizer = MeZO([{"params": [p]} for p in params], lr=0.0, eps=1e-3, seed=4)
    optimizer.step(loss(params))
    del optimizer.param_groups[0]
    again = matrices()
    resumed = MeZO([{"params": [p]} for p in again[1:]], lr=0.0, eps=1e-3, seed=4)
    resumed.load_state_dict(optimizer.state_dict())
    whole = MeZO(ordered, lr=0.0, eps=1e-3, seed=4)
    whole.num_steps = 1
    wanted = directions_of(whole, ordered)
    for found in (directions_of(optimizer, params), directions_of(resumed, again)):
        assert set(found) == {1, 2} and all(torch.equal(found[i], wanted[i]) for i in found)
