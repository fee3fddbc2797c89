"""Hyperparameters in `param_groups`: shown, saved, settable, checked, and refused where nobody
would read them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bszo import (
    BSZO,
    ES,
    FZOO,
    LOZO,
    LOZOM,
    EachMeZO,
    FirstOrder,
    HiZOO,
    Hybrid,
    MeZO,
    MeZOAdam,
    MeZOAdamHistory,
    MeZOBCD,
    SubZero,
    SubZeroPlus,
    ZOMuon,
)
from bszo.errors import OptimError, TrajectoryError
from bszo.optim.hyperparameter import hyperparameters
from bszo.trajectory import TrajectoryWriter, describe, record

Make = Callable[..., nn.Module]


def theta(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape or (6, 5)))


def test_every_argument_of_a_method_is_in_groups_repr_and_state(
    zeroth_order: Any, problem: Make
) -> None:
    module = problem()
    optimizer = zeroth_order(module.parameters())
    shared = {"params", "seed", "module", "directions", "perturbation", "rounding"}
    arguments = inspect.signature(type(optimizer)).parameters
    assert arguments["lr"].kind is inspect.Parameter.KEYWORD_ONLY and "options" not in arguments
    shown, saved = repr(optimizer), optimizer.state_dict()["param_groups"][0]
    for name in arguments.keys() - shared:
        group = optimizer.param_groups[0]
        assert name in optimizer.defaults and name in group and name in saved
        assert f"{name}: {group[name]}" in shown
        given = zeroth_order.kwargs.get(name, arguments[name].default)
        assert group[name] == (1.0 if name == "noise_var" else given) or name == "prior_var"
    assert f"seed: 0, perturbation: {optimizer.perturbation}, rounding: nearest" in shown


def test_a_group_s_own_betas_and_momentum_are_used() -> None:
    first, second = theta(4), theta(4)
    optimizer = MeZOAdam(
        [{"params": [first], "betas": (0.0, 0.5)}, {"params": [second]}], lr=0.1, adam_eps=1e-12
    )
    for _ in range(2):
        optimizer.step(lambda: first.sum() + second.sum())
    m = [optimizer.state[p]["m"] for p in (first, second)]
    z = [optimizer.directions().direction(s, 0) for s in optimizer.direction_seeds(1)]
    assert len(z) == 1 and not torch.equal(*m)
    assert optimizer.settings()["betas"] == [[0.0, 0.5], [0.9, 0.999]]


@pytest.mark.parametrize("name", ["eps", "interval", "scale"])
def test_what_holds_for_all_groups_must_be_one(name: str) -> None:
    other = {"scale": "none"}.get(name, 3)
    groups = [{"params": [theta()]}, {"params": [theta()], name: other}]
    with pytest.raises(OptimError, match=rf"^{name}=.* in group 1: the optimizer has one for all"):
        LOZO(groups, lr=0.1)
    with pytest.raises(OptimError, match=rf"^{name}=.* in group 1: the optimizer has one for all"):
        LOZO(groups[::-1], lr=0.1)  # nor does the first group speak for those that say nothing
    single = LOZO([{"params": [theta()], name: other}], lr=0.1)
    assert getattr(single, name) == other
    with pytest.raises(OptimError, match=r"^rank=3 in group 0: .* for life; 2 is valid"):
        LOZO([{"params": [theta()], "rank": 3}], lr=0.1)


@pytest.mark.parametrize(
    ("make", "given", "says"),
    [
        (BSZO, {"rank": 4}, "rank=4: directions of law='gaussian' have none; 1 is valid"),
        (ES, {"rank": 4}, "rank=4: directions of law='gaussian' have none; 1 is valid"),
        (MeZO, {"law_ratio": 0.3}, "law_ratio=0.3: nothing reads it with estimator='central'"),
        (MeZO, {"law": "zipf"}, "law='zipf': nothing reads it with estimator='central'"),
        (MeZO, {"estimator": "p4", "law_exponent": 3.0}, "law_exponent=3.0: nothing reads it"),
        (MeZO, {"estimator": "p4", "law": "zipf", "law_ratio": 0.3}, "law_ratio=0.3: nothing"),
        (EachMeZO, {"subspace_interval": 7}, "subspace_interval=7: with subspace='none' nothing"),
    ],
)
def test_a_setting_whose_switch_is_off_is_refused(
    make: Any, given: dict[str, Any], says: str
) -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(OptimError, match=f"^{says}"):
        make(net.parameters(), module=net, **given)


def test_lozo_s_rank_is_held_to_the_matrices_of_all_groups() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(n, n + 1))]} for n in (2, 8)]
    for order in (groups, groups[::-1]):
        assert LOZO([dict(group) for group in order], rank=4).rank == 4
        with pytest.raises(OptimError, match=r"^rank=9: the trained matrices' smaller sides are 8"):
            LOZO([dict(group) for group in order], rank=9)


@pytest.mark.parametrize("given", [{"mask_scope": "global"}, {"mask_interval": 7}])
def test_so_it_is_of_masks(given: dict[str, Any]) -> None:
    optimizer = MeZO([theta()])
    with pytest.raises(OptimError, match="sparsity=0 has no mask"):
        optimizer.restrict(**given)
    optimizer.restrict(sparsity=0.5, **given)


@pytest.mark.parametrize("make", [MeZO, BSZO, LOZO, MeZOAdam, FZOO])
@pytest.mark.parametrize("key", ["learning_rate", "leraning", "k_", "name"])
def test_a_key_that_is_none_of_the_optimizer_s_is_refused(make: Any, key: str) -> None:
    with pytest.raises(OptimError, match=rf"^params: a group has the key '{key}', .*lr"):
        make([{"params": [theta()], key: 1}])
    optimizer = make([theta()])
    with pytest.raises(OptimError, match=key):
        optimizer.add_param_group({"params": [theta()], key: 1})
    with pytest.raises(TypeError, match="dict"):  # torch's own word
        optimizer.add_param_group([theta()])  # type: ignore[arg-type]
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (ZOMuon, "clip", 1e-3),
        (SubZeroPlus, "estimator", "p1"),
        (LOZO, "clip", 0.5),
        (MeZOAdamHistory, "second", "momentum"),
    ],
)
def test_what_a_method_has_no_argument_for_is_refused_wherever_it_is_set(
    make: Any, name: str, value: Any
) -> None:
    assert name not in inspect.signature(make).parameters
    line = f"{name}={value!r} in group 0: {make.__name__} has no such argument"
    with pytest.raises(OptimError, match=line):
        make([{"params": [theta()], name: value}])
    optimizer = make([theta()])
    setattr(optimizer, name, value)
    with pytest.raises(OptimError, match=line):
        optimizer.step(lambda: 0.0)
    optimizer = make([theta()])
    optimizer.param_groups[0][name] = value
    with pytest.raises(OptimError, match=line):
        optimizer.step(lambda: 0.0)


def test_a_subclass_may_fix_what_it_inherits() -> None:
    class Twice(MeZO):
        def __init__(self, params: Any, *, lr: float = 0.1) -> None:
            super().__init__(params, lr=lr, num_directions=2)

    optimizer = Twice([theta()])
    optimizer.step(lambda: 0.0)
    assert optimizer.num_forwards == 4
    optimizer.num_directions = 3
    line = r"^num_directions=3 in group 0: Twice has no such argument; 2 is valid$"
    with pytest.raises(OptimError, match=line):
        optimizer.step(lambda: 0.0)


def test_so_it_is_of_first_order_and_hybrid() -> None:
    for make in (
        lambda groups: FirstOrder(groups, algorithm=torch.optim.SGD),
        lambda groups: Hybrid(
            groups, zeroth_order=MeZO, algorithm=torch.optim.SGD, blocks="tensor"
        ),
    ):
        with pytest.raises(OptimError, match="a group has the key 'learning_rate'"):
            make([{"params": [theta(), theta()], "learning_rate": 1}])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "fast"])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "eps"])
def test_a_group_s_number_is_checked_wherever_it_is_set(name: str, value: Any) -> None:
    with pytest.raises(OptimError, match=f"^{name}="):
        MeZO([{"params": [theta()], name: value}])
    p = theta()
    optimizer = MeZO([p], lr=0.1)
    optimizer.param_groups[0][name] = value
    with pytest.raises(OptimError, match=rf"^{name}=.* in group 0: .*valid"):
        optimizer.step(lambda: p.sum())
    assert torch.equal(p, theta()) and optimizer.num_steps == 0
    with pytest.raises(OptimError, match=f"^{name}="):
        setattr(optimizer, name, value)


def test_set_in_a_group_or_as_an_attribute_it_is_one_value() -> None:
    p = theta(5)
    optimizer = BSZO([{"params": [p]}, {"params": [theta(3)]}], lr=0.1, prior_var=1.0, noise_var=1)
    optimizer.k, optimizer.m = 3, 4
    assert [group["k"] for group in optimizer.param_groups] == [3, 3]
    optimizer.step(lambda: p.square().sum())
    assert optimizer.last is not None and len(optimizer.last.observations) == 4
    optimizer.add_param_group({"params": [theta(2)]})
    assert optimizer.param_groups[2]["k"] == 3
    optimizer.k = 9
    with pytest.raises(OptimError, match=r"^m=4: at least k=9"):
        optimizer.step(lambda: p.square().sum())
    with pytest.raises(OptimError, match="noise_floor was fixed when the optimizer was built"):
        optimizer.noise_floor = 0.5
    optimizer.k, optimizer.param_groups[0]["noise_floor"] = 2, 0.5
    with pytest.raises(OptimError, match=r"noise_floor=0.5 in group 0: .*for life; 0.1 is valid"):
        optimizer.step(lambda: p.square().sum())


OTHERS = [
    (BSZO, {}, {"k": 3, "m": 3}, "k=2, here it is 3"),
    (BSZO, {}, {"m": 4}, "m=3, here it is 4"),
    (BSZO, {}, {"eps": 1e-2}, "eps=0.0001, here it is 0.01"),
    (BSZO, {}, {"prior_var": 2.0}, "prior_var=3e-05, here it is 2.0"),
    (MeZO, {}, {"num_directions": 2}, "num_directions=1, here it is 2"),
    (LOZO, {}, {"rank": 3}, "rank=2, here it is 3"),
    (LOZOM, {"scale": "none"}, {}, "scale='none', here it is '1/r'"),
    (SubZero, {}, {"interval": 5}, "interval=1000, here it is 5"),
    (HiZOO, {"state_dtype": "parameter"}, {}, "state_dtype='parameter', here it is 'float32'"),
    (MeZOBCD, {"blocks": "tensor"}, {"blocks": "tensor", "order": "random"}, "order='cyclic'"),
]


@pytest.mark.parametrize(("make", "there", "here", "message"), OTHERS)
def test_a_state_with_other_hyperparameters_is_refused_with_both_values(
    make: Any, there: dict[str, Any], here: dict[str, Any], message: str
) -> None:
    p = theta()
    saving, loading = make([p], **there), make([theta()], **here)
    saving.step(lambda: p.sum())
    with pytest.raises(OptimError, match=f"^state_dict was saved with {message}"):
        loading.load_state_dict(saving.state_dict())
    assert loading.num_steps == 0
    twin = make([theta()], **there)
    twin.load_state_dict(saving.state_dict())
    assert twin.num_steps == 1


def test_a_group_s_own_values_are_loaded_in_place_of_the_ones_here() -> None:
    first, second, p, q = (theta(4) for _ in range(4))
    own = {"betas": (0.0, 0.5), "lr": 0.3}
    saving = MeZOAdam([{"params": [first], **own}, {"params": [second]}], lr=0.1)
    loading = MeZOAdam([{"params": [p]}, {"params": [q], "betas": (0.1, 0.2)}], lr=0.2)
    saving.step(lambda: first.sum() + second.square().sum())
    for mine, other in ((p, first), (q, second)):
        mine.data.copy_(other.data)
    loading.load_state_dict(saving.state_dict())
    assert [tuple(group["betas"]) for group in loading.param_groups] == [(0.0, 0.5), (0.9, 0.999)]
    assert [group["lr"] for group in loading.param_groups] == [0.3, 0.1]
    saving.step(lambda: first.sum() + second.square().sum())
    loading.step(lambda: p.sum() + q.square().sum())
    assert torch.equal(p, first) and torch.equal(q, second)


def test_a_state_from_before_groups_had_hyperparameters_loads() -> None:
    p, q = theta(), theta()
    old, new = MeZOAdam([p], lr=0.1), MeZOAdam([q], lr=0.1)
    for _ in range(3):
        old.step(lambda: p.square().sum())
    state = old.state_dict()
    names = hyperparameters(MeZOAdam).keys() - {"lr", "weight_decay"}
    state["param_groups"] = [
        {k: v for k, v in group.items() if k not in names} for group in state["param_groups"]
    ]
    state["state"] = {0: {k: v for k, v in state["state"][0].items() if k != "age"}}
    state["zeroth_order"] = {**state["zeroth_order"], "_num_passed": 0}
    del state["zeroth_order"]["numbered"]
    q.data.copy_(p.data)
    new.load_state_dict(state)
    assert new.step(lambda: q.square().sum()) == old.step(lambda: p.square().sum())
    assert torch.equal(p, q)


@pytest.mark.parametrize("seed", [np.int64(7), np.uint8(7), torch.tensor(7), torch.tensor([7])])
def test_a_seed_of_any_library_is_the_integer_that_it_is(seed: Any) -> None:
    ends = []
    for one in (seed, 7):
        p = theta()
        optimizer = MeZO([p], lr=0.1, seed=one, num_directions=np.int32(2), eps=np.float64(1e-3))  # type: ignore[arg-type]
        optimizer.step(lambda p=p: p.square().sum())
        ends.append(p.detach())
        assert type(optimizer.seed) is int and type(optimizer.num_directions) is int
        assert type(optimizer.eps) is float
    assert torch.equal(*ends)


@pytest.mark.parametrize("seed", [1.5, "7", None, torch.tensor(1.0), torch.tensor([1, 2])])
def test_a_seed_that_is_no_integer_is_refused(seed: Any) -> None:
    with pytest.raises(OptimError, match=r"^seed=.*: an integer is valid"):
        MeZO([theta()], seed=seed)


def test_a_log_notices_what_it_does_not_hold(tmp_path: Path) -> None:
    """A momentum that is cycled would be replayed as it was at the start."""
    p = theta()
    optimizer = LOZOM([p], lr=0.1)
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base="0" * 64)) as writer:
        record(optimizer, writer)
        optimizer.step(lambda: p.square().sum())
        optimizer.param_groups[0]["momentum"] = 0.5
        with pytest.raises(TrajectoryError, match=r"step 1: momentum is 0.5, it was 0.9"):
            optimizer.step(lambda: p.square().sum())


def test_a_parameter_without_a_shape_is_refused() -> None:
    net = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    line = r"^params in group 0: a parameter of a lazy module has no shape yet; .* after the"
    with pytest.raises(OptimError, match=line):
        MeZO(net.parameters(), lr=0.1)
    optimizer = MeZO(net[1].parameters(), lr=0.1)
    with pytest.raises(OptimError, match=r"^params in group 1: a parameter of a lazy module"):
        optimizer.add_param_group({"params": net[0].parameters()})
    assert len(optimizer.param_groups) == 1
    net(torch.ones(1, 3))
    optimizer.add_param_group({"params": net[0].parameters()})
    optimizer.step(lambda: net(torch.ones(1, 3)).square().mean())
