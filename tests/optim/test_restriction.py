"""Masks and blocks on any method: dense references, costs, resume, replay, and what is refused."""

import copy
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import (
    BSZO,
    ES,
    LOZO,
    HiZOO,
    MeZO,
    MeZOAdam,
    MeZOAdamHistory,
    MeZOBCD,
    SubZeroPlus,
    ZOMuon,
    ZOSGDMomentum,
)
from bszo.errors import NonFiniteLoss, OptimError, TrajectoryError
from bszo.perturb import Gaussian, Mask, mix64, seed_in_block
from bszo.trajectory import TrajectoryWriter, describe, read, record, replay
from tests.squares import square

BASE = "0" * 64
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bszo": (BSZO, {"lr": 0.01, "eps": 1e-3, "prior_var": 100.0, "noise_var": 1.0}),
    "mezo": (MeZO, {"lr": 0.01, "eps": 1e-3}),
    "mezo-adam": (MeZOAdam, {"lr": 0.01, "eps": 1e-3}),
    "hizoo": (HiZOO, {"lr": 0.01, "eps": 1e-2, "smoothing": 1e-4}),
    "momentum": (ZOSGDMomentum, {"lr": 0.01, "eps": 1e-3}),
    "lozo": (LOZO, {"lr": 0.01, "eps": 1e-3, "interval": 2}),
    "es": (ES, {"lr": 0.01, "num_directions": 2, "law": "low-rank", "antithetic": True}),
    "zo-muon": (
        ZOMuon,
        {
            "num_directions": 2,
            "rank": 2,
            "interval": 2,
            "redraw": "each-probe",
            "embeddings": False,
        },
    ),
    "subzero-plus": (SubZeroPlus, {"num_directions": 2, "rank": 2, "interval": 2}),
}
RESTRICTIONS: dict[str, dict[str, Any]] = {
    "layer": {"sparsity": 0.5, "mask_interval": 2},
    "global": {"sparsity": 0.5, "mask_scope": "global"},
    "blocks": {"blocks": "transformer"},
    "both": {"sparsity": 0.3, "mask_interval": 3, "blocks": "transformer"},
}


class Stack(nn.Module):
    """An embedding, three repeated layers and a head; the loss is smooth in all of them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.words = nn.Embedding(6, 4)
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
            self.head = nn.Linear(4, 2)
        self.double()

    def forward(self) -> Tensor:
        x = self.words(torch.tensor([0, 3, 5, 3]))
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return self.head(x).square().mean()


def build(method: str, module: nn.Module, restriction: str, **more: Any) -> Any:
    make, kwargs = METHODS[method]
    return make(module.parameters(), module=module, seed=4, **{**kwargs, **more}).restrict(
        **RESTRICTIONS[restriction]
    )


def bits(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


# as a reader of Stack says it: words, three layers, head
BLOCKS = [[0], [1, 2], [3, 4], [5, 6], [7, 8]]


def follow(
    optimizer: Any,
    module: nn.Module,
    directions: Callable[[int, list[Tensor]], Sequence[Sequence[Tensor]]],
    step_of: Callable[[list[float], Sequence[Sequence[Tensor]], list[Tensor]], list[Tensor]],
    eps: float,
) -> None:
    """Six steps of both: central differences along each dense direction from one theta, then the
    given step."""
    twin = copy.deepcopy(module)
    for step in range(6):
        theta = bits(twin)
        z = directions(step, theta)
        y = []
        for one in z:
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    for p, t, d in zip(twin.parameters(), theta, one, strict=True):
                        p.copy_(t + sign * eps * d)
                    sides.append(float(twin()))
            y.append((sides[0] - sides[1]) / (2 * eps))
        with torch.no_grad():
            for p, value in zip(twin.parameters(), step_of(y, z, theta), strict=True):
                p.copy_(value)
        optimizer.step(module)
        for p, q in zip(module.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)


def sgd(y: list[float], z: Sequence[Sequence[Tensor]], theta: list[Tensor]) -> list[Tensor]:
    return [
        t - 0.01 * sum((g * one[i] for g, one in zip(y, z, strict=True)), 0 * t)
        for i, t in enumerate(theta)
    ]


@pytest.mark.parametrize("perturbation", ["exact", "copy", "two-leg", "three-leg", "in-place"])
def test_blocks_one_estimate_each_from_the_same_theta(perturbation: str) -> None:
    module = Stack()
    family = Gaussian(list(module.parameters()))

    def directions(step: int, theta: list[Tensor]) -> list[list[Tensor]]:
        seeds = [seed_in_block(mix64(4, step, 0), b, 5) for b in range(5)]
        return [
            [family.direction(seed, i).double() * (i in block) for i in range(9)]
            for seed, block in zip(seeds, BLOCKS, strict=True)
        ]

    optimizer = build("mezo", module, "blocks", perturbation=perturbation)
    follow(optimizer, module, directions, sgd, 1e-3)
    assert optimizer.num_forwards == 6 * 2 * 5
    assert len(optimizer.last.observations) == 5


def test_a_mask_is_kept_for_its_interval() -> None:
    module = Stack()
    family, params = Gaussian(list(module.parameters())), list(module.parameters())

    def directions(step: int, theta: list[Tensor]) -> list[list[Tensor]]:
        mask = Mask(params, mix64(4, step // 2, -3), [0.5 * p.numel() for p in params])
        family.release()
        return [[family.direction(mix64(4, step, 0), i).double() * mask.keeps(i) for i in range(9)]]

    follow(build("mezo", module, "layer"), module, directions, sgd, 1e-3)


def test_hizoo_learns_curvature_where_it_looked() -> None:
    """H by its formula, block by block, with each block's own second difference; a masked entry's H
    only shrinks."""
    module, a, eps = Stack(), 1e-4, 1e-2
    optimizer = build("hizoo", module, "both")
    family, params = Gaussian(list(module.parameters())), list(module.parameters())
    h = [torch.ones_like(p) for p in params]
    for step in range(4):
        twin, theta = copy.deepcopy(module), bits(module)
        mask = Mask(params, mix64(4, step // 3, -3), [0.3 * p.numel() for p in params])
        f_0 = float(twin().detach())
        for b, block in enumerate(BLOCKS):
            seed = seed_in_block(mix64(4, step, 0), b, 5)
            family.release()
            z = {i: family.direction(seed, i).double() * mask.keeps(i) for i in block}
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    for i, p in enumerate(twin.parameters()):
                        p.copy_(theta[i] + sign * eps * z[i] / h[i].sqrt() if i in z else theta[i])
                    sides.append(float(twin()))
            for i in block:
                h[i] = (1 - a) * h[i] + a * abs(sum(sides) - 2 * f_0) * h[i] * z[i] ** 2 / (
                    2 * eps**2
                )
        optimizer.step(module)
        for p, dense in zip(params, h, strict=True):
            torch.testing.assert_close(
                optimizer.state[p]["curvature"].double(), dense, rtol=1e-6, atol=1e-7
            )
    assert max(float((dense - 1).abs().max()) for dense in h) > 1e-4, (
        "H must have moved for this to mean something"
    )


@pytest.mark.parametrize(("method", "restriction"), square(METHODS, RESTRICTIONS, each=2))
def test_resume_and_replay_bit_for_bit(method: str, restriction: str, tmp_path: Path) -> None:
    module, start = Stack(), Stack()
    optimizer = build(method, module, restriction)
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)) as writer:
        record(optimizer, writer)
        for _ in range(3):
            optimizer.step(module)
        buffer = io.BytesIO()
        torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
        for _ in range(3):
            optimizer.step(module)
    buffer.seek(0)
    saved, resumed = torch.load(buffer, weights_only=True), Stack()
    resumed.load_state_dict(saved["model"])
    again = build(method, resumed, restriction)
    again.load_state_dict(saved["optimizer"])
    for _ in range(3):
        again.step(resumed)
    assert again.num_forwards == optimizer.num_forwards
    from_log = build(method, start, restriction)
    replay(read(tmp_path / "log"), from_log, base=BASE)
    for p, q, r in zip(module.parameters(), resumed.parameters(), start.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)


def test_a_masked_entry_does_not_move() -> None:
    module = Stack()
    optimizer, before = build("mezo", module, "layer"), bits(module)
    optimizer.step(module)
    mask = Mask(
        list(module.parameters()), mix64(4, 0, -3), [0.5 * p.numel() for p in module.parameters()]
    )
    for i, (p, q) in enumerate(zip(module.parameters(), before, strict=True)):
        assert torch.equal(p != q, mask.keeps(i))


def test_a_nan_in_a_later_block_leaves_no_trace() -> None:
    """BSZO's noise variance has taken in the first block's residuals by then."""
    module = Stack()
    optimizer = build("bszo", module, "blocks")
    optimizer.step(module)
    before, noise_var, calls = bits(module), optimizer.noise_var, [0]

    def closure() -> Tensor:
        calls[0] += 1
        return module() * (float("nan") if calls[0] == 8 else 1.0)

    with pytest.raises(NonFiniteLoss):
        optimizer.step(closure)
    assert optimizer.noise_var == noise_var and all(map(torch.equal, bits(module), before))
    assert optimizer.last.mean.shape == (10,) and optimizer.last.cov.shape == (10, 10)


def test_a_closure_that_raises_in_a_later_block_leaves_no_trace() -> None:
    """Out of memory, say: the step that is then taken with a smaller batch starts from the state
    before."""
    module, calls = Stack(), [0]
    optimizer = build("bszo", module, "blocks")
    optimizer.step(module)
    state = optimizer.state_dict()["zeroth_order"]

    def closure() -> Tensor:
        calls[0] += 1
        if calls[0] == 8:
            raise MemoryError
        return module()

    with pytest.raises(MemoryError):
        optimizer.step(closure)
    assert {
        **optimizer.state_dict()["zeroth_order"],
        "num_forwards": state["num_forwards"],
    } == state


def test_another_restriction_is_another_run(tmp_path: Path) -> None:
    module = Stack()
    optimizer = build("mezo", module, "layer")
    with TrajectoryWriter(tmp_path / "log", describe(optimizer, base=BASE)) as writer:
        record(optimizer, writer)
        optimizer.step(module)
    with pytest.raises(TrajectoryError, match=r"restriction\.\w+ is .* there and .* here"):
        replay(read(tmp_path / "log"), build("mezo", Stack(), "both"), base=BASE)
    with pytest.raises(OptimError, match="saved under restrict"):
        build("mezo", Stack(), "both").load_state_dict(optimizer.state_dict())
    with pytest.raises(OptimError, match="has made 1 steps"):
        optimizer.restrict(sparsity=0.1)


def test_a_second_restriction_is_refused_and_not_put_in_place_of_the_first() -> None:
    module = Stack()
    optimizer = MeZO(module.parameters(), lr=0.1, module=module).restrict()
    with pytest.raises(OptimError, match="halves"):
        optimizer.restrict(blocks="halves")  # which the module has none of
    optimizer.restrict(sparsity=0.75)
    with pytest.raises(OptimError, match=r"sparsity=0.75.* stands already; one call with all"):
        optimizer.restrict(blocks="tensor")
    assert optimizer.restriction is not None and optimizer.restriction.sparsity == 0.75


def test_mezo_bcd_s_own_blocks_stand_under_a_mask() -> None:
    module = Stack()
    optimizer = MeZOBCD(module.parameters(), lr=0.1, blocks="tensor", module=module)
    optimizer.restrict().restrict(sparsity=0.5)
    assert optimizer.restriction is not None
    assert (optimizer.restriction.sparsity, optimizer.restriction.blocks) == (0.5, "tensor")
    with pytest.raises(OptimError, match="stands already"):
        optimizer.restrict(sparsity=0.25)


def test_mezo_bcd_s_own_blocks_stand_where_a_mask_is_refused() -> None:
    module = Stack()
    optimizer = MeZOBCD(module.parameters(), lr=0.1, blocks="tensor", module=module)
    before = optimizer.restriction
    with pytest.raises(OptimError, match="sparsity=2"):
        optimizer.restrict(sparsity=2)
    assert before is not None and optimizer.restriction is before
    optimizer.step(module)
    with pytest.raises(OptimError, match="has made 1 steps"):
        optimizer.restrict(sparsity=0.5)
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_mask_stays_while_another_parameter_is_frozen() -> None:
    """Within an interval; a mask is named by the parameter, not by its place among what trains."""
    module = Stack()
    optimizer = MeZO(module.parameters(), lr=1e-3, eps=1e-2, module=module)
    optimizer.restrict(sparsity=0.5, mask_interval=9)

    def moved() -> list[Tensor]:
        before = bits(module)
        optimizer.step(module)
        return [p != q for p, q in zip(module.parameters(), before, strict=True)]

    first = moved()
    next(module.parameters()).requires_grad_(False)
    frozen, *others = moved()
    assert not frozen.any() and all(map(torch.equal, others, first[1:]))


def test_moments_from_a_history_have_no_masks() -> None:
    with pytest.raises(OptimError, match=r"sparsity=0.5: MeZO-Adam from its history"):
        MeZOAdamHistory(Stack().parameters()).restrict(sparsity=0.5)
    module = Stack()
    optimizer = MeZOAdamHistory(module.parameters(), module=module).restrict(blocks="transformer")
    optimizer.step(module)
    assert optimizer.num_forwards == 10


@pytest.mark.parametrize(
    ("restriction", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": -0.1}, "sparsity=-0.1"),
        ({"sparsity": float("nan")}, "spars"),
        ({"sparsity": "0.5"}, "sparsity='0.5'"),
        ({"sparsity": 0.5, "mask_interval": 0}, "mask_interval=0"),
        ({"sparsity": 0.5, "mask_interval": 1.5}, "mask_interval=1.5"),
        ({"mask_scope": "row"}, "mask_scope='row'"),
        ({"blocks": "rows"}, "blocks='rows'"),
        ({"blocks": "halves"}, "Linear has no child that is an attention"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(restriction: dict[str, Any], message: str) -> None:
    module = Stack()
    with pytest.raises(OptimError, match=message) as caught:
        MeZO(module.parameters(), lr=0.1, module=module).restrict(**restriction)
    assert "\n" not in str(caught.value)


def test_an_older_state_of_other_masks_is_refused_before_anything_is_loaded() -> None:
    """It did not say whose zeros it has, and one of two optimizers trains a parameter less: all
    else, too, stays as it was."""
    module, other = Stack(), Stack()
    saved = MeZO(module.parameters(), lr=0.1, seed=3, module=module).restrict(sparsity=0.5)
    saved.step(module)
    next(iter(other.parameters())).requires_grad_(False)
    optimizer = MeZO(other.parameters(), lr=0.2, seed=5, module=other).restrict(sparsity=0.5)
    state = saved.state_dict()
    del state["zeroth_order"]["restriction"]["places"]
    with pytest.raises(OptimError, match=r"was saved while \d+ parameters were masked, here"):
        optimizer.load_state_dict(state)
    assert (optimizer.seed, optimizer.num_steps, optimizer.param_groups[0]["lr"]) == (5, 0, 0.2)


def test_parameters_that_are_masked_whole_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """LoRA's B starts at 0 and is the least of all: under a global mask it would stay there without
    a word."""
    caplog.set_level("INFO", logger="bszo")
    a, b = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.zeros(8, 4))
    MeZO([a, b]).restrict(sparsity=0.5)
    assert caplog.messages == []
    optimizer = MeZO([a, b], lr=0.1, eps=1e-2).restrict(sparsity=0.5, mask_scope="global")
    assert caplog.messages == [
        "sparsity=0.5, mask_scope=global: 1 of 2 parameters are masked whole and will not move"
    ]
    optimizer.step(lambda: a.detach().sum() + b.detach().sum())
    assert not b.any() and bool((a != 1).all())


def masked(params: Sequence[Tensor]) -> MeZO:
    optimizer = MeZO(params, lr=0.1, eps=1e-3, seed=1)
    return optimizer.restrict(sparsity=0.5, mask_scope="global", mask_interval=1000)


def test_a_parameter_that_was_frozen_when_it_was_saved_keeps_its_share_of_zeros() -> None:
    def begun() -> list[nn.Parameter]:
        return [nn.Parameter(torch.full((4, 4), value)) for value in (0.1, 1.0)]

    params, others = begun(), begun()
    first = masked(params)
    first.step(lambda: sum((p - 3).square().sum() for p in params))
    params[0].requires_grad_(False)  # no step follows before the state is saved
    saved = copy.deepcopy(first.state_dict())
    others[0].requires_grad_(False)
    second = masked(others)
    second.load_state_dict(saved)
    with torch.no_grad():
        for p, other in zip(params, others, strict=True):
            other.copy_(p)
    for _ in range(2):
        first.step(lambda: sum((p - 3).square().sum() for p in params))
        second.step(lambda: sum((p - 3).square().sum() for p in others))
        params[0].requires_grad_(True)
        others[0].requires_grad_(True)
    assert first.reach() == second.reach() == [0.0, 1.0]
    assert all(torch.equal(p, other) for p, other in zip(params, others, strict=True))
