"""The direction that is measured is the direction that is stepped along; and what a step costs in
passes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import BSZO, LOZO
from bszo.perturb import Directions

Make = Callable[..., nn.Module]


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in module.parameters()])


def watched_step(optimizer: Any, module: nn.Module) -> tuple[Tensor, Tensor]:
    """What the closure saw, as offsets from theta (evaluations, n), and how theta moved (n,)."""
    theta, seen = flat(module), []

    def closure() -> Tensor:
        seen.append(flat(module) - theta)
        return module()

    optimizer.step(closure)
    return torch.stack(seen), flat(module) - theta


def outside(seen: Tensor, moved: Tensor) -> float:
    """Share of the move that no combination of what was seen explains."""
    basis = seen[seen.norm(dim=1) > 0].T  # (n, evaluations)
    fit = torch.linalg.lstsq(basis, moved[:, None], driver="gelsd").solution
    return float((basis @ fit - moved[:, None]).norm() / moved.norm())


@pytest.mark.parametrize("perturbation", ["exact", "two-leg", "three-leg", "in-place"])
@pytest.mark.parametrize("name", ["bszo", "bszo-b", "bszo-k3-m7", "mezo", "mezo-q3", "hizoo"])
def test_a_step_lies_in_the_span_of_what_was_measured(
    methods: dict[str, Any], problem: Make, name: str, perturbation: str
) -> None:
    module, more = problem(torch.float64), {"smoothing": 0.0} if name == "hizoo" else {}
    optimizer = methods[name](module.parameters(), perturbation=perturbation, **more)
    for _ in range(3):
        seen, moved = watched_step(optimizer, module)
        assert outside(seen, moved) < 1e-9
        assert float(seen.norm(dim=1).max()) > 0 and seen.shape[0] == methods[name].forwards


@pytest.mark.parametrize("redraw", ["same", "as-run"])
def test_lozo_on_redraw_steps_too(redraw: str) -> None:
    """One matrix, so that 1/r is a common factor: `as-run` leaves the measured direction on redraw
    steps alone."""
    module = nn.Linear(5, 4, bias=False).double()
    module.forward = lambda: (module.weight - 0.3).square().sum()  # type: ignore[method-assign]
    optimizer = LOZO(module.parameters(), lr=1e-2, eps=1e-3, interval=3, redraw_stream=redraw)  # type: ignore[arg-type]
    for step in range(7):
        seen, moved = watched_step(optimizer, module)
        left = outside(seen, moved)
        assert left > 0.1 if redraw == "as-run" and step % 3 == 0 else left < 1e-9, step


def test_mezo_adam_moves_against_the_measured_signs(methods: dict[str, Any], problem: Make) -> None:
    """The first Adam step is -lr sign(g z)."""
    module = problem(torch.float64)
    optimizer = methods["mezo-adam"](module.parameters())
    seen, moved = watched_step(optimizer, module)
    (y,) = optimizer.last.observations
    torch.testing.assert_close(moved, -0.03 * torch.sign(y * seen[0]), rtol=1e-5, atol=0)


def test_passes_over_the_parameters(
    methods: dict[str, Any], problem: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass a perturbed loss and ONE for the update of all k directions, however many there
    are."""
    calls: list[int] = []
    shift = Directions.shift

    def counted(self: Directions, theta: Tensor, index: int, terms: Any, **more: Any) -> Tensor:
        calls.append(len(terms))
        return shift(self, theta, index, terms, **more)

    monkeypatch.setattr(Directions, "shift", counted)
    for name, perturbed in (
        ("bszo", 2),
        ("bszo-b", 3),
        ("bszo-k3-m7", 3),
        ("mezo", 2),
        ("mezo-q3", 6),
        ("lozo", 2),
        ("hizoo", 2),
    ):
        for streaming in (True, False):
            module = problem()
            optimizer = methods[name](module.parameters(), module=module if streaming else None)
            optimizer.step(module)
            calls.clear()
            optimizer.step(module)
            directions = getattr(optimizer, "k", getattr(optimizer, "num_directions", 1))
            if not streaming:
                assert calls == [1] * 4 * perturbed + [directions] * 4, name
            assert (
                calls[-4:] == [directions] * 4 and len(calls) <= 4 * (perturbed + 1) + 2 * perturbed
            ), name


def test_nothing_is_kept_after_a_step(problem: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = problem()
    optimizer = BSZO(module.parameters(), k=3, m=3)
    optimizer.step(module)
    assert optimizer.directions()._kept == {}
    monkeypatch.setattr("bszo.perturb.directions.gaussian.KEEP_BELOW", 0)
    large, kept = BSZO(module.parameters(), k=3, m=3), []
    large.step(lambda: kept.append(len(large.directions()._kept)) or module())
    assert set(kept) == {0} and len(kept) == 4


def test_the_seed_stream_is_a_function_of_seed_and_step(
    methods: dict[str, Any], problem: Make
) -> None:
    """No two directions of a run are alike, and a direction does not depend on what other steps
    saw."""
    module = problem()
    optimizer = methods["mezo-q3"](module.parameters(), seed=4)
    seeds = []
    for _ in range(50):
        seeds += optimizer.direction_seeds(3)
        optimizer.step(lambda: 1.0)
    other = methods["mezo-q3"](problem().parameters(), seed=5)
    assert len(set(seeds)) == 150 and not set(seeds) & set(other.direction_seeds(3))
