"""A replay is the run again without a forward pass: bit for bit, whatever the method, type,
rounding or schedule."""

import functools
import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bszo.optim
from bszo.errors import BszoError, NonFiniteLoss, TrajectoryError
from bszo.optim import ZerothOrderOptimizer
from bszo.trajectory import Step, TrajectoryWriter, describe, read, record, replay
from tests.killing import kill, profiled
from tests.squares import square

BASE = "0" * 64
METHODS: dict[str, Any] = {
    name: made
    for name, made in vars(bszo.optim).items()
    if isinstance(made, type)
    and issubclass(made, ZerothOrderOptimizer)
    and made is not ZerothOrderOptimizer
    and not made.reads_inputs  # a replay has no batch
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},  # a new method earns these tests by being exported
    "BSZO-B": ("BSZO", {"k": 3, "m": 5, "reuse_observations": False, "adapt_noise": "beyond-k"}),
    "EachBSZO": ("EachBSZO", {"prior_var": 1.0}),  # else so small a model's steps round to nothing
    "EachBSZO-all": (
        "EachBSZO",
        {"prior_var": 1.0, "rank": 2, "vectors": "perturb", "embeddings": "perturb"},
    ),
    "EachMeZO-lozo": (
        "EachMeZO",
        {"rank": 2, "subspace": "lozo", "subspace_interval": 3, "momentum": 0.5},
    ),
    "EachBSZO-subzero": (
        "EachBSZO",
        {
            "prior_var": 1.0,
            "rank": 6,
            "distribution": "rademacher",
            "subspace": "subzero",
            "subspace_interval": 3,
            "embeddings": "perturb",
        },
    ),
    "MeZO-q3": ("MeZO", {"num_directions": 3}),
    "MeZOAdam-as-run": ("MeZOAdam", {"state_dtype": "parameter", "adam_eps": 1e-3}),
    "HiZOO-as-run": ("HiZOO", {"state_dtype": "parameter", "smoothing": 1e-6}),
    "LOZO-as-run": ("LOZO", {"interval": 3, "scale": "none", "redraw_stream": "as-run"}),
    "LOZOM-redrawn": ("LOZOM", {"interval": 3}),
    "SubZeroPlus": ("SubZeroPlus", {"num_directions": 3, "rank": 2, "interval": 3}),
    "ZOMuon-as-run": (
        "ZOMuon",
        {"rank": 2, "interval": 3, "redraw": "each-probe", "vector_lr": 1e-3, "update": "exact"},
    ),
    "ES": ("ES", {"num_directions": 3, "law": "low-rank", "antithetic": True}),
    "SubZero-momentum": ("SubZero", {"rank": 2, "interval": 3, "scale": "none", "momentum": 0.9}),
    "LOREN-as-run": ("LOREN", {"score": "as-run", "updates": "each-probe", "curvature_lr": 1.0}),
    "ZOLDSD-as-run": ("ZOLDSD", {"mean_noise": "fresh", "plus_side": "again", "mean_lr": 1.0}),
    "ZOLDSD-forgets": ("ZOLDSD", {"mean_window": 3, "mean_lr": 1.0}),
    "ConMeZO-as-run": (
        "ConMeZO",
        {"start": "noise", "warmup": "as-run", "state_dtype": "parameter"},
    ),
    "ZOSGDSign-as-run": ("ZOSGDSign", {"sign": "scalar"}),
    "MeZOBCD": ("MeZOBCD", {"blocks": "tensor"}),
    "MeZOBCD-random": ("MeZOBCD", {"blocks": "tensor", "order": "random"}),
    "MeZOAdamHistory-forgets": ("MeZOAdamHistory", {"window": 3, "num_directions": 2}),
}
WALKING = [
    name for name, made in METHODS.items() if "perturbation" in inspect.signature(made).parameters
]
TYPES = [(torch.float32, "nearest"), (torch.bfloat16, "nearest"), (torch.bfloat16, "stochastic")]


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Tied to nothing, but with a lookup, matrices, vectors and a norm."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)
    )
    return layers.to(dtype)


def groups(module: nn.Module) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not."""
    params = list(module.parameters())
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.ndim == 1], "weight_decay": 0.0},
    ]


def build(module: nn.Module, variant: str, **more: Any) -> Any:
    name, kwargs = VARIANTS[variant]
    length = {"eps": 1e-2} if name in WALKING else {}
    return METHODS[name](
        groups(module), **{"lr": 1e-2, "seed": 5, "module": module, **length, **kwargs, **more}
    )


def closure(optimizer: Any, step: int) -> Callable[[], Tensor]:
    """The mean loss of six examples, or the loss of each of six or seven."""
    per_example = optimizer.per_example
    ids = torch.arange(6 + per_example * (step % 2)) * (step + 1) % 11
    reduction = "none" if per_example else "mean"
    return lambda: nn.functional.cross_entropy(
        optimizer.module(ids).float(), ids % 5, reduction=reduction
    )


def train(optimizer: Any, steps: int, schedule: bool = False) -> list[bytes]:
    """Train from where the optimizer stands; the parameters' bytes after every step."""
    seen = []
    for step in range(optimizer.num_steps, steps):
        if schedule:
            for i, group in enumerate(optimizer.param_groups):
                group["lr"] = (i + 1) * 1e-2 * (1 - step / steps)
        optimizer.step(closure(optimizer, step))
        seen.append(bits(optimizer.module))
    return seen


def bits(module: nn.Module) -> bytes:
    return b"".join(
        p.detach().view(torch.uint8).numpy().tobytes() for p in module.parameters() if p.ndim
    )


def state(optimizer: Any) -> dict[str, Any]:
    """Everything in a state_dict, tensors as bytes."""
    plain = optimizer.state_dict()
    tensors = {
        f"{i}.{key}": (
            value.view(torch.uint8).numpy().tobytes() if isinstance(value, Tensor) else value
        )
        for i, values in plain["state"].items()
        for key, value in values.items()
    }
    return {"tensors": tensors, "groups": plain["param_groups"], "own": plain["zeroth_order"]}


def recorded(
    path: Path,
    variant: str,
    steps: int,
    dtype: torch.dtype = torch.float32,
    schedule: bool = False,
    **more: Any,
) -> tuple[Any, list[bytes]]:
    optimizer = build(model(dtype), variant, **more)
    with TrajectoryWriter(path, describe(optimizer, base=BASE), flush_every=4) as writer:
        record(optimizer, writer)
        seen = train(optimizer, steps, schedule)
        writer.finish()
    return optimizer, seen


# each method in one of the three; the walks, below, are in the second
@pytest.mark.parametrize(
    ("variant", "dtype", "rounding"),
    square(VARIANTS, TYPES),
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_every_method_replays_bit_for_bit(
    tmp_path: Path, variant: str, dtype: torch.dtype, rounding: str
) -> None:
    optimizer, seen = recorded(
        tmp_path / "log", variant, 8, dtype, schedule=True, rounding=rounding
    )
    trajectory = read(tmp_path / "log")
    assert trajectory.problem is None and trajectory.finished and len(trajectory.steps) == 8
    assert len({bits(model(dtype)), *seen}) > 5, (
        "most steps moved something, or equality would show nothing"
    )
    again = build(model(dtype), variant, rounding=rounding)
    replay(trajectory, again, base=BASE)
    assert bits(again.module) == seen[-1]
    assert state(again) == state(optimizer), (
        "moments, curvature, noise variance, counters and rates as well"
    )
    for to_step in (0, 1, 5):
        part = build(model(dtype), variant, rounding=rounding)
        replay(trajectory, part, base=BASE, to_step=to_step)
        assert bits(part.module) == (bits(model(dtype)) if to_step == 0 else seen[to_step - 1])
        assert part.num_steps == to_step


# a replay walks as the engine says, whatever the method
@pytest.mark.parametrize(
    ("variant", "perturbation"),
    square(WALKING, ["copy", "two-leg", "three-leg", "in-place", "as-published"], each=2),
)
def test_walks_replay_with_the_rounding_that_they_leave(
    tmp_path: Path, variant: str, perturbation: str
) -> None:
    _, seen = recorded(tmp_path / "log", variant, 5, torch.bfloat16, perturbation=perturbation)
    again = build(model(torch.bfloat16), variant, perturbation=perturbation)
    replay(read(tmp_path / "log"), again, base=BASE)
    assert bits(again.module) == seen[-1]


def test_no_forward_pass_is_made(tmp_path: Path) -> None:
    optimizer, _ = recorded(tmp_path / "log", "BSZO", 3)
    again = build(model(), "BSZO")
    again.module.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass"))
    replay(read(tmp_path / "log"), again, base=BASE)
    assert again.num_forwards == optimizer.num_forwards == 9
    assert again.last.loss == optimizer.last.loss


def test_a_first_pass_that_was_repeated_is_counted(tmp_path: Path) -> None:
    """Streaming repeats its first perturbed pass where parameters are used outside the module that
    owns them."""

    class Roundabout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self) -> Tensor:
            return nn.functional.linear(torch.ones(1, 3), self.inner.weight).square().sum()

    def make() -> Any:
        torch.manual_seed(1)
        module = Roundabout()
        return METHODS["MeZO"](module.parameters(), lr=1e-2, eps=1e-2, module=module)

    optimizer = make()
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)) as writer:
        record(optimizer, writer)
        for _ in range(3):
            optimizer.step(optimizer.module)
    assert optimizer.num_forwards == 7
    again = make()
    replay(read(tmp_path / "log"), again, base=BASE)
    assert (bits(again.module), again.num_forwards) == (bits(optimizer.module), 7)


@pytest.mark.parametrize("seed", [2**64 - 1, 2**70 + 3, -17])
def test_seeds_of_any_size(tmp_path: Path, seed: int) -> None:
    _, seen = recorded(tmp_path / "log", "MeZO", 3, seed=seed)
    trajectory = read(tmp_path / "log")
    assert trajectory.header.settings["seed"] == seed
    again = build(model(), "MeZO", seed=seed)
    replay(trajectory, again, base=BASE)
    assert bits(again.module) == seen[-1]


def test_injected_directions_replay_with_the_same_function_only(tmp_path: Path) -> None:
    def ones(params: Any, seed: int) -> list[Tensor]:
        return [torch.full(p.shape, float(seed % 3) - 1.2) for p in params]

    _, seen = recorded(tmp_path / "log", "MeZO", 3, directions=ones)
    again = build(model(), "MeZO", directions=ones)
    replay(read(tmp_path / "log"), again, base=BASE)
    assert bits(again.module) == seen[-1]
    with pytest.raises(TrajectoryError, match=r"setting injected is '.*ones' there and None here"):
        replay(read(tmp_path / "log"), build(model(), "MeZO"), base=BASE)


@pytest.mark.parametrize("given", [True, False])
def test_a_module_is_given_to_both_or_to_neither(tmp_path: Path, given: bool) -> None:
    """It says which rows are padding and stay."""
    before, after = (model() for _ in range(2))
    with_it, without = (
        METHODS["MeZO"](before.parameters(), module=before),
        METHODS["MeZO"](after.parameters()),
    )
    first, other = (with_it, without) if given else (without, with_it)
    with TrajectoryWriter(tmp_path / "log", describe(first, base=BASE)):
        pass
    place = "there and not here" if given else "here and not there"
    with pytest.raises(TrajectoryError, match=f"module= names the parameters {place}"):
        replay(read(tmp_path / "log"), other, base=BASE)


def test_directions_without_a_name_are_not_recorded(tmp_path: Path) -> None:
    optimizer = build(model(), "MeZO", directions=lambda params, seed: [p * 0 for p in params])
    with pytest.raises(TrajectoryError, match="directions= is a lambda, which has no name"):
        describe(optimizer, base=BASE)


def test_a_scheduler_that_wraps_step_is_no_setting(tmp_path: Path) -> None:
    optimizer = build(model(), "MeZO")
    before = describe(optimizer, base=BASE)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    assert describe(optimizer, base=BASE) == before


def test_theta_moves_by_the_logged_coefficients_where_the_last_bits_differ(tmp_path: Path) -> None:
    """Another processor may find others in the last place; then the log is right."""
    _, seen = recorded(tmp_path / "log", "BSZO", 4)
    trajectory = read(tmp_path / "log")
    again = build(model(), "BSZO")
    method = type(again).estimate

    class Elsewhere(type(again)):
        def estimate(self, oracle: Any) -> Any:
            gradient, report = method(self, oracle)
            return {seed: g * (1 + 9e-7) for seed, g in gradient.items()}, report

    Elsewhere.__name__ = "BSZO"
    again.__class__ = Elsewhere
    replay(trajectory, again, base=BASE)
    assert bits(again.module) == seen[-1]


@pytest.mark.parametrize("factor", [2, 1 + 1e-5])
def test_changed_maths_is_found_not_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    recorded(tmp_path / "log", "BSZO", 4)
    trajectory = read(tmp_path / "log")
    method = METHODS["BSZO"].estimate
    monkeypatch.setattr(
        METHODS["BSZO"],
        "estimate",
        lambda self, oracle: ({s: factor * g for s, g in method(self, oracle)[0].items()}, None),
    )
    again = build(model(), "BSZO")
    with pytest.raises(
        TrajectoryError, match="step 0: from the run's losses this version of the method finds"
    ):
        replay(trajectory, again, base=BASE)
    assert bits(again.module) == bits(model())
    for count, error in ((1, "the run had"), (9, "asks for more losses")):
        monkeypatch.setattr(
            METHODS["BSZO"],
            "estimate",
            lambda self, oracle, n=count: ({1: sum(oracle.loss() for _ in range(n))}, None),
        )
        with pytest.raises(TrajectoryError, match=error):
            replay(trajectory, build(model(), "BSZO"), base=BASE)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"seed": 6}, "setting seed is 5 there and 6 here"),
        ({"k": 3}, "setting k is 2 there and 3 here"),
        ({"noise_ema": 0.2}, "setting noise_ema is 0.1 there and 0.2 here"),
        ({"perturbation": "two-leg"}, "setting perturbation is 'exact' there and 'two-leg' here"),
        ({"variant": "MeZO"}, "optimizer is 'BSZO' there and 'MeZO' here"),
        ({"base": "1" * 64}, "base is '0000.* there and '1111.* here"),
        ({"dtype": torch.bfloat16}, "dtype is 'float32' there and 'bfloat16' here"),
        ({"freeze": True}, "names is .* there and .* here"),
        ({"to_step": 7}, "step 7: the trajectory goes from 0 to 4"),
        ({"to_step": -1}, "step -1: the trajectory goes from 0 to 4"),
        ({"steps": 1}, "the optimizer has made 1 steps"),
    ],
)
def test_what_does_not_match_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], error: str
) -> None:
    recorded(tmp_path / "log", "BSZO", 4)
    change = dict(change)
    module = model(change.pop("dtype", torch.float32))
    next(module.parameters()).requires_grad_(not change.pop("freeze", False))
    base = change.pop("base", BASE)
    to_step = change.pop("to_step", None)
    steps = change.pop("steps", 0)
    optimizer = build(module, change.pop("variant", "BSZO"), **change)
    train(optimizer, steps)
    before = bits(module)
    with pytest.raises(TrajectoryError, match=error) as caught:
        replay(read(tmp_path / "log"), optimizer, base=base, to_step=to_step)
    assert "\n" not in str(caught.value) and bits(module) == before


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"coefficients": (float("inf"), 7.0)}, r"coefficients\[0\]=inf: a finite number is"),
        ({"coefficients": (0.0, float("nan"))}, r"coefficients\[1\]=nan: a finite number is"),
        ({"coefficients": (1e300, 1.0)}, "no float32 holds their product"),
        ({"coefficients": (1e20, 1.0), "lr": (1e-9, 1e20)}, "no float32 holds their product"),
        ({"losses": ()}, "coefficients without losses"),
        ({"lr": (float("nan"), 1e-2)}, r"lr\[0\]=nan: a finite number of at least 0"),
        ({"lr": (1e-2, -1.0)}, r"lr\[1\]=-1.0: a finite number of at least 0"),
        ({"weight_decay": (float("inf"), 0.0)}, r"weight_decay\[0\]=inf: a finite number of at"),
        ({"weight_decay": (0.0, 1e3)}, "a product of at most 2 is valid"),
        ({"losses": (float("nan"),) * 3}, "the loss is nan"),
    ],
)
def test_values_by_which_no_run_moves_are_refused(
    tmp_path: Path, change: dict[str, Any], error: str
) -> None:
    """An infinite coefficient must not open the check of the others, nor a rate give NaN."""
    recorded(tmp_path / "log", "BSZO", 4)
    trajectory = read(tmp_path / "log")
    trajectory.steps[2] = replace(trajectory.steps[2], **change)
    optimizer = build(model(), "BSZO")
    with pytest.raises(BszoError, match=error) as caught:
        replay(trajectory, optimizer, base=BASE)
    assert "\n" not in str(caught.value) and "step 2: " in str(caught.value)
    if error != "the loss is nan":  # which the method itself finds
        assert bits(optimizer.module) == bits(model())
    replay(trajectory, build(model(), "BSZO"), base=BASE, to_step=2)


@pytest.mark.parametrize(("lr", "decay"), [(1.5, 1.0), (1e-3, 2e3)])
def test_a_decay_of_up_to_two_is_sound(lr: float, decay: float) -> None:
    """It turns parameters round, and makes none grow."""
    step = Step((0.5,), (1.0,), (lr,), (decay,), 1)
    assert step.fault() is None
    assert "at most 2" in (replace(step, weight_decay=(decay + 2 / lr,)).fault() or "")


def test_parameters_that_end_infinite_are_refused(tmp_path: Path) -> None:
    """Every value of a step may be sound, and their sum too large for a float32."""
    recorded(tmp_path / "log", "MeZO", 4)
    trajectory = read(tmp_path / "log")
    for i, step in enumerate(trajectory.steps):
        rate = 3e38 / max(map(abs, step.coefficients))
        changed = {"lr": (rate, rate), "weight_decay": (0.0, 0.0)}
        trajectory.steps[i] = replace(step, **changed)
    with pytest.raises(TrajectoryError, match=r"step 4: parameter 0 of .* has become NaN"):
        replay(trajectory, build(model(), "MeZO"), base=BASE)
    replay(trajectory, build(model(), "MeZO"), base=BASE, require_finite=False)


@pytest.mark.parametrize(
    ("variant", "count"), [("MeZO", "num_directions"), ("FZOO", "num_directions"), ("BSZO", "k")]
)
def test_a_billion_directions_are_refused_before_they_are_drawn(
    tmp_path: Path, variant: str, count: str
) -> None:
    recorded(tmp_path / "log", variant, 2)
    found = read(tmp_path / "log")
    many = {count: 10**9, **({"m": 10**9} if count == "k" else {})}
    optimizer = build(model(), variant, **many)
    trajectory = replace(found, header=describe(optimizer, base=BASE))
    with pytest.raises(TrajectoryError, match="step 0: the method asks for 1000000000 directions"):
        replay(trajectory, optimizer, base=BASE)


def test_parameters_in_another_order_are_refused(tmp_path: Path) -> None:
    """Two matrices of one shape: only their names tell."""

    def make(swapped: bool) -> Any:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        params = list(module.parameters())
        return METHODS["MeZO"](params[::-1] if swapped else params, lr=1e-3, module=module)

    TrajectoryWriter(tmp_path / "log", describe(make(False), base=BASE))
    trajectory = read(tmp_path / "log")
    replay(trajectory, make(False), base=BASE)
    with pytest.raises(TrajectoryError, match="names is"):
        replay(trajectory, make(True), base=BASE)


def test_first_order_methods_are_refused() -> None:
    module = model()
    optimizer = bszo.optim.FirstOrder(
        module.parameters(), algorithm=functools.partial(torch.optim.SGD, lr=0.1)
    )
    for refused in (optimizer, torch.optim.SGD(module.parameters(), lr=0.1)):
        with pytest.raises(
            TrajectoryError, match=f"{type(refused).__name__} follows true gradients"
        ):
            describe(refused, base=BASE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_skipped_step_moves_nothing_and_counts(tmp_path: Path, variant: str) -> None:
    optimizer = build(model(), variant)
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)) as writer:
        record(optimizer, writer)
        train(optimizer, 2)
        good = closure(optimizer, 2)
        passes = optimizer.num_forwards // optimizer.num_steps
        bad = lambda: torch.nan * good()  # noqa: E731
        losses = chain([good, bad][-passes:], repeat(bad))
        with pytest.raises(NonFiniteLoss):
            optimizer.step(lambda: next(losses)())
        optimizer.skip()
        train(optimizer, 5)
    trajectory = read(tmp_path / "log")
    assert [len(step.losses) == 0 for step in trajectory.steps] == [
        False,
        False,
        True,
        False,
        False,
    ]
    again = build(model(), variant)
    replay(trajectory, again, base=BASE)
    assert bits(again.module) == bits(optimizer.module) and state(again) == state(optimizer)


@pytest.mark.parametrize("walk", ["as-published", "in-place"])
def test_a_skipped_step_of_a_walk_leaves_no_rounding_behind(tmp_path: Path, walk: str) -> None:
    """Which no log would hold."""
    optimizer = build(model(torch.bfloat16), "MeZO", perturbation=walk, eps=1e-2)
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)) as writer:
        record(optimizer, writer)
        train(optimizer, 1)
        before, good = bits(optimizer.module), closure(optimizer, 1)
        losses = iter([good, lambda: torch.nan * good()])
        with pytest.raises(NonFiniteLoss):
            optimizer.step(lambda: next(losses)())
        assert bits(optimizer.module) == before
        optimizer.skip()
        train(optimizer, 4)
    again = build(model(torch.bfloat16), "MeZO", perturbation=walk, eps=1e-2)
    replay(read(tmp_path / "log"), again, base=BASE)
    assert bits(again.module) == bits(optimizer.module)


def test_a_candidate_without_a_finite_loss_is_none_in_a_replay_either(tmp_path: Path) -> None:
    optimizer = build(model(), "ZOSGDConservative")
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)) as writer:
        record(optimizer, writer)
        train(optimizer, 2)
        good = closure(optimizer, 2)
        losses = iter([good, good, good, lambda: torch.tensor(torch.nan), good])
        optimizer.step(lambda: next(losses)())
        train(optimizer, 5)
    again = build(model(), "ZOSGDConservative")
    replay(read(tmp_path / "log"), again, base=BASE)
    assert bits(again.module) == bits(optimizer.module) and state(again) == state(optimizer)


def test_a_step_that_was_not_recorded_is_not_passed_over(tmp_path: Path) -> None:
    optimizer = build(model(), "MeZO")
    writer = TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE))
    record(optimizer, writer)
    train(optimizer, 2)
    recorder, optimizer.recorder = optimizer.recorder, None
    train(optimizer, 3)
    optimizer.recorder = recorder
    with pytest.raises(TrajectoryError, match="step 3 cannot follow; the next one is 2"):
        train(optimizer, 4)
    with pytest.raises(TrajectoryError, match="has 2 steps, the optimizer made 4"):
        record(optimizer, writer)


def test_thawing_parameters_during_a_run_is_refused(tmp_path: Path) -> None:
    optimizer = build(model(), "MeZO")
    record(optimizer, TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)))
    train(optimizer, 1)
    optimizer.module[2].requires_grad_(False)
    with pytest.raises(
        TrajectoryError, match="step 1: other parameters are trained than at the start"
    ):
        train(optimizer, 2)


@pytest.mark.parametrize(("backwards", "losses"), [(1, [0.5]), (0, [])])
def test_a_step_that_used_more_than_losses_is_not_recorded(
    tmp_path: Path, backwards: int, losses: list[float]
) -> None:
    optimizer = build(model(), "MeZO")
    record(optimizer, TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)))
    oracle = type(
        "Oracle", (), {"params": optimizer.trainable(), "losses": losses, "num_forwards": 1}
    )()
    optimizer.num_steps, optimizer.num_backwards = 1, backwards
    with pytest.raises(TrajectoryError, match="step 0: MeZO follows true gradients"):
        optimizer.recorder(optimizer, oracle, {1: 0.5})


def test_a_replay_is_not_recorded_twice(tmp_path: Path) -> None:
    recorded(tmp_path / "log", "MeZO", 2)
    again = build(model(), "MeZO")
    record(again, TrajectoryWriter(tmp_path / "other", describe(again, base=BASE)))
    with pytest.raises(TrajectoryError, match="being recorded"):
        replay(read(tmp_path / "log"), again, base=BASE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replayed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, variant: str) -> None:
    """The light checkpoint: base model and log are all that a resume needs."""
    _, seen = recorded(tmp_path / "whole", variant, 9)
    recorded(tmp_path / "log", variant, 5)
    again = build(model(), variant)
    header = describe(again, base=BASE)
    replay(read(tmp_path / "log"), again, base=BASE)
    with TrajectoryWriter.resume(tmp_path / "log", header) as writer:
        record(again, writer)
        assert train(again, 9) == seen[5:]
    assert read(tmp_path / "log").steps == read(tmp_path / "whole").steps


def _continue(path: Path, variant: str, steps: int) -> Any:
    """What a process does that finds a log, sound or cut: replay it and train on."""
    optimizer = build(model(torch.bfloat16), variant, rounding="stochastic")
    with TrajectoryWriter.resume(path, describe(optimizer, base=BASE), flush_every=3) as writer:
        replay(read(path), optimizer, base=BASE)
        record(optimizer, writer)
        train(optimizer, steps, schedule=True)
    return optimizer


STEPS = 40  # of a run that is killed


@pytest.mark.parametrize("variant", ["BSZO", "HiZOO"])
def test_a_run_that_is_killed_again_and_again_ends_where_it_would_have(
    tmp_path: Path, variant: str
) -> None:
    whole, seen = recorded(
        tmp_path / "whole", variant, STEPS, torch.bfloat16, schedule=True, rounding="stochastic"
    )
    path = tmp_path / "log"
    for name in ("tried", "log"):
        empty = build(model(torch.bfloat16), variant, rounding="stochastic")
        TrajectoryWriter(tmp_path / name, describe(empty, base=BASE))
    calls = profiled(lambda: _continue(tmp_path / "tried", variant, STEPS))
    moments = random.Random(variant)
    for _ in range(6):
        kill(lambda: _continue(path, variant, STEPS), at=moments.randrange(1, calls // 4))
    assert 0 < len(read(path).steps) < STEPS
    optimizer = _continue(path, variant, STEPS)
    assert bits(optimizer.module) == seen[-1] and state(optimizer) == state(whole)
    assert read(path).steps == read(tmp_path / "whole").steps
