"""Bad arguments stop at the constructor, with the argument's name; good ones all build and
agree."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bszo import (
    AGZO,
    BSZO,
    ES,
    FZOO,
    LOREN,
    LOZO,
    LOZOM,
    ZOLDSD,
    ConMeZO,
    EachBSZO,
    EachMeZO,
    HiZOO,
    MeZO,
    MeZOAdam,
    MeZOAdamHistory,
    MeZOBCD,
    SubZero,
    ZOSGDConservative,
    ZOSGDMomentum,
    ZOSGDSign,
)
from bszo.errors import BszoError, OptimError
from bszo.perturb import Gaussian
from tests.optim.conftest import ZEROTH_ORDER
from tests.squares import square

Make = Callable[..., nn.Module]
NAN, INF = float("nan"), float("inf")
COMMON = [
    ("lr", -1e-3),
    ("lr", NAN),
    ("lr", INF),
    ("eps", 0.0),
    ("eps", -1e-3),
    ("eps", NAN),
    ("eps", INF),
    ("weight_decay", -0.1),
    ("weight_decay", NAN),
    ("perturbation", "four-leg"),
    ("perturbation", "streaming"),
    ("rounding", "up"),
    ("rounding", "stochastic"),
]
OWN: list[tuple[type, str, Any]] = [
    (BSZO, "k", 0),
    (BSZO, "m", 1),
    (BSZO, "noise_ema", 0.0),
    (BSZO, "noise_ema", 1.0),
    (BSZO, "noise_ema", NAN),
    (BSZO, "noise_floor", -0.1),
    (BSZO, "prior_var", 0.0),
    (BSZO, "prior_var", NAN),
    (BSZO, "prior_var", INF),
    (BSZO, "noise_var", -1.0),
    (BSZO, "noise_var", INF),
    (BSZO, "adapt_noise", "sometimes"),
    (BSZO, "prior_var", "automatic"),
    (BSZO, "noise_var", "automatic"),
    (MeZO, "num_directions", 0),
    (MeZOAdam, "betas", (0.9, 1.0)),
    (MeZOAdam, "betas", (-0.1, 0.9)),
    (MeZOAdam, "adam_eps", 0.0),
    (MeZOAdam, "state_dtype", "float64"),
    (HiZOO, "smoothing", 1.0),
    (HiZOO, "smoothing", -1e-8),
    (HiZOO, "state_dtype", "bf16"),
    (LOZO, "rank", 0),
    (LOZO, "interval", 0),
    (LOZO, "scale", "r"),
    (LOZO, "redraw_stream", "other"),
    (LOZO, "rank", 4),
    (LOZOM, "rank", 4),
    (LOZOM, "momentum", 0.0),
    (LOZOM, "momentum", NAN),
    (LOZOM, "state_dtype", "bf16"),
    (SubZero, "rank", 0),
    (SubZero, "interval", 0),
    (SubZero, "scale", "1/r"),
    (SubZero, "momentum", 1.0),
    (SubZero, "state_dtype", "bf16"),
    (FZOO, "num_directions", 1),
    (LOREN, "num_directions", 1),
    (LOREN, "momentum", 1.0),
    (LOREN, "damping", 0.0),
    (LOREN, "curvature_lr", -1.0),
    (LOREN, "score", "scaled"),
    (LOREN, "updates", "twice"),
    (ZOLDSD, "num_directions", 1),
    (ZOLDSD, "spread", 0.0),
    (ZOLDSD, "mean_lr", -1.0),
    (ZOLDSD, "mean_noise", "old"),
    (ZOLDSD, "plus_side", "twice"),
    (ZOLDSD, "mean_window", 0),
    (ConMeZO, "angle", 1.6),
    (ConMeZO, "momentum", 1.0),
    (ConMeZO, "start", "first"),
    (ConMeZO, "warmup", "some"),
    (AGZO, "rank", 0),
    (AGZO, "rounds", -1),
    (AGZO, "sides", "three"),
    (AGZO, "scale", "1/r"),
    (AGZO, "others", "all"),
    (AGZO, "basis", "svd"),
    (AGZO, "oja_rate", 0.0),
    (AGZO, "compared_with", "none"),
    (AGZO, "module", None),
    (ZOSGDSign, "sign", "vector"),
    (ZOSGDMomentum, "momentum", 0.0),
    (ZOSGDMomentum, "momentum", 1.0),
    (ZOSGDMomentum, "state_dtype", "bf16"),
    (ZOSGDConservative, "num_directions", 0),
    (MeZOAdamHistory, "window", 0),
    (MeZOBCD, "blocks", "none"),
    (MeZOBCD, "order", "sorted"),
]


# one class checks them for all methods; that a method hands them on, four of them show
@pytest.mark.parametrize(
    ("zeroth_order", "name", "value"),
    square(ZEROTH_ORDER, COMMON, each=4),
    indirect=["zeroth_order"],
)
def test_common_arguments(zeroth_order: Any, problem: Make, name: str, value: Any) -> None:
    with pytest.raises(OptimError, match=name) as caught:
        zeroth_order(problem().parameters(), **{"module": None, name: value})
    assert isinstance(caught.value, BszoError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("cls", "name", "value"), OWN)
def test_own_arguments(problem: Make, cls: Any, name: str, value: Any) -> None:
    with pytest.raises(OptimError, match=name):
        cls(problem().parameters(), **{"lr": 1e-3, name: value})


def test_nothing_to_train(zeroth_order: Any, problem: Make) -> None:
    module = problem().requires_grad_(False)
    with pytest.raises((OptimError, ValueError), match="param"):
        zeroth_order(module.parameters())


PERTURBATIONS = [
    "exact",
    "streaming",
    "copy",
    "two-leg",
    "three-leg",
    "in-place",
    "as-published",
]


# methods whose own step must come home first
WALKS = [("mezo-adam", "three-leg"), ("conmezo", "three-leg")]


# tests/perturb/test_engines.py has every engine with every family of directions
@pytest.mark.parametrize(
    ("zeroth_order", "perturbation"),
    square(ZEROTH_ORDER, PERTURBATIONS, each=2, also=WALKS),
    indirect=["zeroth_order"],
)
def test_every_perturbation_takes_the_same_steps(
    zeroth_order: Any, problem: Make, perturbation: str
) -> None:
    """In float64 the walks differ by rounding only; without a module `exact` is `copy`."""
    module, plain = problem(torch.float64), problem(torch.float64)
    reference = zeroth_order(plain.parameters())
    tested = zeroth_order(module.parameters(), perturbation=perturbation, module=module)
    for _ in range(4):
        assert tested.step(module) == pytest.approx(reference.step(plain), rel=1e-9)
    for p, q in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)


def test_injected_directions_are_used(zeroth_order: Any, problem: Make) -> None:
    """directions= that says what Gaussian says changes no bit; all-zero directions move nothing."""
    own, injected, still = problem(), problem(), problem()
    family = Gaussian(list(injected.parameters()))
    if zeroth_order.gaussian:
        one = zeroth_order(own.parameters())
        two = zeroth_order(injected.parameters(), directions=family)
        for _ in range(3):
            assert one.step(own) == two.step(injected)
            family.release()
    before = [p.detach().clone() for p in still.parameters()]
    zero = zeroth_order(
        still.parameters(), directions=lambda params, seed: [torch.zeros(p.shape) for p in params]
    )
    zero.step(still)
    assert all(torch.equal(p, q) for p, q in zip(still.parameters(), before, strict=True))


def test_stochastic_rounding_moves_what_nearest_swallows(zeroth_order: Any) -> None:
    """bf16 weights near 1 and steps far below their spacing; a layer in float32 beside them is
    rounded to nearest."""
    for rounding in ("nearest", "stochastic"):
        generator = torch.Generator().manual_seed(0)
        params = [
            (1 + 0.1 * torch.rand(40, 100, generator=generator))
            .to(torch.bfloat16)
            .requires_grad_(),
            torch.ones(5).requires_grad_(),
        ]
        before = [p.detach().clone() for p in params]
        lr = {0.03: 1e-5, 0.1: 1e-3}.get(zeroth_order.kwargs["lr"], 1e-6)
        optimizer = zeroth_order(params, lr=lr, rounding=rounding)
        for _ in range(3):
            optimizer.step(
                lambda params=params: params[0].double().sum() * 1e-3 + params[1].double().sum()
            )
        share = float((params[0] != before[0]).double().mean())
        assert share < 0.1 if rounding == "nearest" else share > 0
        assert not torch.equal(params[1], before[1])


def test_stochastic_rounding_is_reproducible(zeroth_order: Any, problem: Make) -> None:
    results = []
    for seed in (1, 1):
        module = problem(torch.bfloat16)
        optimizer = zeroth_order(module.parameters(), seed=seed, rounding="stochastic")
        for _ in range(3):
            optimizer.step(module)
        results.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_every_step_rounds_by_bits_of_its_own() -> None:
    """A quarter of the spacing below 1: of what the first step leaves at 1 the second, which is
    like it, takes a quarter too."""
    theta, shares = torch.ones(10_000, dtype=torch.bfloat16, requires_grad=True), []
    optimizer = MeZO([theta], lr=2.0**-10, weight_decay=1.0, rounding="stochastic")
    for _ in range(2):
        left = theta == 1
        optimizer.step(lambda: 1.0)
        shares.append(float((theta[left] != 1).double().mean()))
    assert shares == pytest.approx([0.25, 0.25], abs=0.025)


def test_an_expanded_parameter_is_refused(zeroth_order: Any, problem: Make) -> None:
    module: Any = problem()
    module.matrix = nn.Parameter(torch.ones(4).expand(3, 4))
    module.matrix.owner = module  # type: ignore[attr-defined]
    with pytest.raises(OptimError, match=r"^params: a parameter is an expanded view"):
        zeroth_order(module.parameters())


@pytest.mark.parametrize("cls", [FZOO, ES, EachBSZO, EachMeZO])
def test_a_signature_shows_the_defaults_that_are_taken(cls: Any) -> None:
    net = nn.Linear(3, 2)
    made = cls(net.parameters(), module=net)
    shown = inspect.signature(cls).parameters
    taken = [name for name in ("eps", "rank", "stacked", "seed", "weight_decay") if name in shown]
    assert len(taken) >= 3
    for name in taken:
        held = made.param_groups[0].get(name, getattr(made, name, None))
        assert shown[name].default == held, name
