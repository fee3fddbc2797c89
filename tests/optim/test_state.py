"""A state_dict is the whole state: a run that is saved and loaded continues bit for bit."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bszo
from bszo import MeZO, MeZOAdam, MeZOAdamHistory
from bszo.errors import NonFiniteLoss, OptimError
from tests.optim.conftest import METHODS
from tests.squares import square

Make = Callable[..., nn.Module]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# through memory or a file, in 32 or 16 bits: two pairs of them see all four
@pytest.mark.parametrize(
    ("save", "dtype"),
    square([copy.deepcopy, through_a_file], [torch.float32, torch.bfloat16])
    + [
        pytest.param(save, torch.float16, marks=pytest.mark.exhaustive)
        for save in (copy.deepcopy, through_a_file)
    ],
)
def test_round_trip_continues_bit_for_bit(
    method_or_setting: Any, dtype: torch.dtype, save: Any
) -> None:
    method, module = method_or_setting, method_or_setting.problem(dtype)
    optimizer = method(module.parameters(), seed=5)
    for _ in range(4):
        optimizer.step(module)
    model_state = {name: value.clone() for name, value in module.state_dict().items()}
    state, passes = save(optimizer.state_dict()), optimizer.num_forwards
    types = {
        id(p): {n: v.dtype for n, v in s.items() if isinstance(v, torch.Tensor)}
        for p, s in zip(module.parameters(), optimizer.state.values(), strict=False)
    }
    expected = [optimizer.step(module) for _ in range(4)]

    fresh = method.problem(dtype)
    fresh.load_state_dict(model_state)
    resumed = method(fresh.parameters(), seed=99)
    resumed.load_state_dict(state)
    assert (resumed.num_steps, resumed.num_forwards) == (4, passes)
    loaded = [
        {n: v.dtype for n, v in s.items() if isinstance(v, torch.Tensor)}
        for s in resumed.state.values()
    ]
    assert loaded == list(types.values())
    assert [resumed.step(fresh) for _ in range(4)] == expected
    for p, q in zip(module.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)
    assert resumed.num_forwards == optimizer.num_forwards


def test_a_resumed_run_does_not_count_again_the_pass_that_streaming_repeats() -> None:
    """It searches anew for a parameter that is used outside its module; the first step has paid."""
    module = nn.Linear(3, 2)
    optimizer = MeZO(module.parameters(), lr=1e-2, module=module)

    def closure() -> Tensor:
        return nn.functional.linear(torch.ones(1, 3), module.weight, module.bias).square().sum()

    optimizer.step(closure)
    resumed = MeZO(module.parameters(), lr=1e-2, module=module)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, resumed):
        one.step(closure)
    assert resumed.num_forwards == optimizer.num_forwards == 2 * 2 + 1


def through_pickle(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


# both take what __getstate__ gives, so that the two take turns
@pytest.mark.parametrize(
    ("method", "copied"), square(METHODS, [copy.deepcopy, through_pickle]), indirect=["method"]
)
def test_a_copy_goes_on_like_the_original(method: Any, problem: Make, copied: Any) -> None:
    """Settings, counters and state with it; and the two have nothing in common."""
    module = problem()
    optimizer = method(module.parameters(), seed=5)
    for _ in range(3):
        optimizer.step(module)
    twin, second = copied((module, optimizer))
    expected = [optimizer.step(module) for _ in range(4)]
    assert [second.step(twin) for _ in range(4)] == expected
    assert second.num_forwards == optimizer.num_forwards
    for p, q in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q) and p.data_ptr() != q.data_ptr()


def test_loading_copies(zeroth_order: Any, problem: Make) -> None:
    """Two optimizers from one state do not share it."""
    module = problem()
    optimizer = zeroth_order(module.parameters())
    optimizer.step(module)
    state = through_a_file(optimizer.state_dict())
    one, two = problem(), problem()
    first, second = zeroth_order(one.parameters()), zeroth_order(two.parameters())
    first.load_state_dict(state)
    second.load_state_dict(state)
    first.step(one)
    first.step(one)
    second.step(two)
    for name, value in through_a_file(optimizer.state_dict())["state"].get(0, {}).items():
        assert torch.equal(torch.as_tensor(state["state"][0][name]), torch.as_tensor(value))


def test_the_state_has_what_the_method_says(method: Any, problem: Make) -> None:
    module = problem(torch.bfloat16)
    optimizer = method(module.parameters())
    optimizer.step(module)
    if method.state:
        wanted = (
            torch.bfloat16 if method.kwargs.get("state_dtype") == "parameter" else torch.float32
        )
        for p in module.parameters():
            kept = {k: v for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
            assert set(kept) == method.state
            smaller = method.compact if p.ndim > 1 else set()
            assert all(
                v.dtype == wanted
                and (v.numel() < p.numel() if name in smaller else v.shape == p.shape)
                for name, v in kept.items()
            )
    elif method.zeroth_order:
        assert not optimizer.state, "no dense state: memory is O(k^2)"


def test_foreign_states_are_refused(methods: dict[str, Any], problem: Make) -> None:
    module = problem()
    adam = torch.optim.Adam(module.parameters())
    bszo, mezo, first = (
        methods[name](module.parameters()) for name in ("bszo", "mezo", "first-order")
    )
    for optimizer in (bszo, mezo, first):
        with pytest.raises(OptimError, match="state_dict"):
            optimizer.load_state_dict(adam.state_dict())
    with pytest.raises(OptimError, match="saved by MeZO; one of BSZO is valid"):
        bszo.load_state_dict(mezo.state_dict())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounding", "stochastic"),
        ("perturbation", "as-published"),
        ("perturbation", "three-leg"),
        ("directions", lambda params, seed: [torch.ones_like(p) for p in params]),
        ("module", None),
    ],
)
def test_a_state_of_an_optimizer_that_was_built_otherwise_is_refused(key: str, value: Any) -> None:
    module = torch.nn.Linear(3, 2).bfloat16()
    usual = {"module": module, key: value}
    saved = bszo.MeZO(module.parameters(), **usual).state_dict()
    bszo.MeZO(module.parameters(), **usual).load_state_dict(saved)
    other = bszo.MeZO(module.parameters(), module=module)
    with pytest.raises(OptimError, match=f"state_dict was saved with {key}=.*built with the same"):
        other.load_state_dict(saved)
    del saved["zeroth_order"]["built"]  # as an older version wrote it
    other.load_state_dict(saved)


def test_state_of_the_parameter_s_type_has_it_after_loading_too() -> None:
    short, wide = (torch.nn.Linear(3, 2).to(d) for d in (torch.bfloat16, torch.float32))
    kinds = {"lr": 1e-3, "eps": 1e-2, "state_dtype": "parameter"}
    saved = bszo.MeZOAdam(short.parameters(), **kinds)  # type: ignore[arg-type]
    saved.step(lambda: short.weight.float().square().sum())
    other = bszo.MeZOAdam(wide.parameters(), **kinds)  # type: ignore[arg-type]
    other.load_state_dict(saved.state_dict())
    assert other.state[wide.weight]["m"].dtype == torch.float32
    with pytest.raises(OptimError, match="state_dtype was fixed when the optimizer was built"):
        other.state_dtype = "float32"


def test_second_moments_in_fp16_are_said(caplog: pytest.LogCaptureFixture) -> None:
    theta = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    for method in (bszo.MeZOAdam, bszo.SubZeroPlus):
        params = [theta] if method is bszo.MeZOAdam else [torch.nn.Parameter(theta[:, None].data)]
        method(params)
        assert caplog.text == ""
        method(params, state_dtype="parameter")
        assert "a step may be 10^5 times lr long" in caplog.text
        caplog.clear()


def test_engines_that_restore_exactly_go_on_from_each_other(problem: Make) -> None:
    module = problem()
    saved = bszo.MeZO(module.parameters(), module=module, perturbation="copy").state_dict()
    bszo.MeZO(module.parameters(), module=module, perturbation="streaming").load_state_dict(saved)


def test_noise_var_lives_on_and_is_saved(methods: dict[str, Any], problem: Make) -> None:
    module = problem()
    optimizer = methods["bszo"](module.parameters())
    optimizer.step(module)
    assert optimizer.noise_var != 1.0
    fresh = methods["bszo"](problem().parameters())
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.noise_var == optimizer.noise_var


def failing(optimizer: Any) -> None:
    with pytest.raises(NonFiniteLoss):
        optimizer.step(lambda: torch.tensor(torch.nan))


def test_only_the_step_that_has_just_failed_can_be_skipped(method: Any, problem: Make) -> None:
    module = problem()
    optimizer = method(module.parameters())
    failing(optimizer)
    optimizer.step(module)  # taken again, on another batch
    with pytest.raises(OptimError, match=r"skip\(\) at step 1"):
        optimizer.skip()
    failing(optimizer)
    optimizer.skip()
    assert optimizer.num_steps == 2


def skipping(optimizer: Any, module: nn.Module) -> list[float]:
    """Losses of two steps between which one is skipped, and before which two are."""
    for _ in range(2):
        failing(optimizer)
        optimizer.skip()
    losses = [optimizer.step(module)]
    failing(optimizer)
    optimizer.skip()
    return [*losses, optimizer.step(module)]


@pytest.mark.parametrize("dense", [True, False])
def test_adam_corrects_its_moments_for_the_gradients_that_they_saw(
    dense: bool, problem: Make
) -> None:
    """After two skipped steps the first move is lr in every element, as Adam's first is, not a part
    of it."""
    module = problem(torch.float64)
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = (MeZOAdam if dense else MeZOAdamHistory)(
        module.parameters(), lr=0.01, adam_eps=1e-12
    )
    for _ in range(2):
        failing(optimizer)
        optimizer.skip()
    optimizer.step(module)
    for p, q in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close((p - q).abs(), torch.full_like(q, 0.01), rtol=1e-5, atol=0)


def test_what_was_skipped_is_saved(problem: Make) -> None:
    whole, halves, other = problem(), problem(), problem()
    optimizer = MeZOAdam(whole.parameters(), lr=0.01)
    expected = [*skipping(optimizer, whole), optimizer.step(whole)]
    first, second = MeZOAdam(halves.parameters(), lr=0.01), MeZOAdam(other.parameters(), lr=0.01)
    losses = skipping(first, halves)
    other.load_state_dict(halves.state_dict())
    second.load_state_dict(through_a_file(first.state_dict()))
    assert [*losses, second.step(other)] == expected
    assert all(map(torch.equal, whole.parameters(), other.parameters()))


def test_lr_of_a_scheduler_is_saved(method: Any, problem: Make) -> None:
    module = problem()
    optimizer = method(module.parameters())
    optimizer.step(module)
    optimizer.param_groups[0]["lr"] = 0.125
    fresh = method(problem().parameters())
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["lr"] == 0.125
