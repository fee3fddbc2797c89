"""Hybrid ZO-FO against a dense reference, and the border at which the backward pass and its memory
stop."""

import copy
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from bszo import BSZO, EachMeZO, FirstOrder, ForwardGrad, Hybrid, MeZO, find_lr
from bszo.errors import NonFiniteLoss, OptimError, TrajectoryError
from bszo.perturb import mix64, noise
from bszo.trajectory import describe

IDS = torch.arange(48).reshape(4, 12) % 30 + 2
SGD = partial(torch.optim.SGD, lr=0.05)
ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)


def opt(layers: int = 3) -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=32,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=16,
            word_embed_proj_dim=16,
            dropout=0.1,
        )
        return OPTForCausalLM(config).double().eval()


def loss_of(model: Any) -> Tensor:
    return model(input_ids=IDS, labels=IDS, use_cache=False).loss


def kept_bytes(optimizer: Any, model: nn.Module) -> int:
    """What autograd keeps for the backward pass of one step, each storage once, parameters
    aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        optimizer.step(lambda: loss_of(model))
    return sum(storages.values())


def test_both_halves_step_from_the_same_theta() -> None:
    """Above the border the gradient of theta, below it MeZO's estimate at theta, from formulas and
    a dense z."""
    model, eps, lr, seed = opt(), 1e-2, 1e-2, 5
    twin = copy.deepcopy(model)
    optimizer = Hybrid(
        model.parameters(),
        zeroth_order=partial(MeZO, lr=lr, eps=eps),
        algorithm=SGD,
        num_blocks=2,
        weight_decay=0.1,
        seed=seed,
        module=model,
    )
    names = [name for name, _ in model.named_parameters()]
    high = [
        i
        for i, name in enumerate(names)
        if "layers.2." in name or name.startswith("model.decoder.final")
    ]
    low = [i for i in range(len(names)) if i not in high]
    for step in range(3):
        theta = [p.detach().clone() for p in twin.parameters()]
        value = loss_of(twin)
        gradients = torch.autograd.grad(value, list(twin.parameters()))
        z = {
            i: noise.values(theta[i].shape, place, mix64(seed, step, 0)).double()
            for place, i in enumerate(low)
        }
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for i, p in enumerate(twin.parameters()):
                    p.copy_(theta[i] + sign * eps * z[i] if i in z else theta[i])
                sides.append(float(loss_of(twin)))
        y = (sides[0] - sides[1]) / (2 * eps)
        with torch.no_grad():
            for i, p in enumerate(twin.parameters()):
                delta = (
                    -lr * (y * z[i] + 0.1 * theta[i])
                    if i in z
                    else -0.05 * (gradients[i] + 0.1 * theta[i])
                )
                p.copy_(theta[i] + delta)
        assert optimizer.step(lambda: loss_of(model)) == pytest.approx(float(value), rel=1e-6)
        for name, p, q in zip(names, model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=name)  # the loss is in fp32
    assert (optimizer.num_forwards, optimizer.num_backwards, optimizer.num_steps) == (9, 3, 3)
    assert optimizer.num_passes == 9 + 2 * 3
    assert optimizer.last is not None
    assert optimizer.last.losses == pytest.approx([float(value), *sides], rel=1e-6)
    assert optimizer.last.loss == pytest.approx(float(value), rel=1e-6)
    assert optimizer.next_forwards() is None  # as MeZO's own, it does not say


def test_a_pass_of_forward_mode_below_the_border_costs_three() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).eval()
    optimizer = Hybrid(
        net.parameters(),
        zeroth_order=partial(ForwardGrad, lr=1e-3),
        algorithm=SGD,
        num_blocks=2,
        blocks="tensor",
        module=net,
    )
    optimizer.step(lambda: net(torch.ones(2, 4)).square().mean())
    assert (optimizer.num_forwards, optimizer.num_passes) == (2, 3 + 1 + 2)


def test_no_activation_is_kept_below_the_border() -> None:
    """With one of n layers above it, what is kept does not grow with n; without a border it
    does."""

    def kept(layers: int, num_blocks: int | None) -> int:
        model = opt(layers)
        if num_blocks is None:
            return kept_bytes(FirstOrder(model.parameters(), algorithm=SGD), model)
        return kept_bytes(
            Hybrid(
                model.parameters(),
                zeroth_order=partial(MeZO, lr=1e-3, eps=1e-3),
                algorithm=SGD,
                num_blocks=num_blocks,
                module=model,
            ),
            model,
        )

    assert kept(2, 2) == kept(5, 2) < kept(5, 3) < kept(5, None)
    a_layer = (kept(5, None) - kept(2, None)) / 3
    assert kept(5, 3) - kept(5, 2) == pytest.approx(a_layer, rel=0.25)


def test_nothing_below_has_a_gradient_and_all_still_require_one() -> None:
    model = opt()
    optimizer = Hybrid(
        model.parameters(), zeroth_order=partial(BSZO, lr=1e-3), algorithm=ADAMW, module=model
    )
    seen: list[int] = []
    optimizer.step(
        lambda: seen.append(sum(p.requires_grad for p in model.parameters())) or loss_of(model)
    )
    assert seen[0] == 2 and set(seen[1:]) == {len(list(model.parameters()))}, (
        "only the last norm while it is recorded"
    )
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_failure_below_leaves_all_where_it_was() -> None:
    model = opt()
    optimizer = Hybrid(
        model.parameters(), zeroth_order=partial(MeZO, lr=1e-3), algorithm=ADAMW, module=model
    )
    before, calls = copy.deepcopy(model.state_dict()), iter([1.0, 1.0, float("nan"), float("nan")])
    with pytest.raises(NonFiniteLoss):
        optimizer.step(lambda: loss_of(model) * next(calls))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    optimizer.skip()
    assert optimizer.num_steps == 1 == optimizer.low.num_steps
    # nothing is pending in a part either, which the search for a rate would refuse
    found = find_lr(optimizer, [lambda: loss_of(model)], steps=1, repeats=2, rates=[1e-6])
    assert len(found.probes) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"num_blocks": 5},
            "num_blocks=5: there are 5 blocks, and each method needs one; 1 to 4 is valid",
        ),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"blocks": "none"}, "blocks='none'"),
        ({"module": None}, "needs module="),
        ({"zeroth_order": partial(MeZO, lr=1e-3, seed=9)}, "has seed=9, and seed=0 is its seed"),
    ],
)
def test_a_border_out_of_range_is_refused(more: dict[str, Any], message: str) -> None:
    model = opt()
    with pytest.raises(OptimError, match=message):
        Hybrid(
            model.parameters(),
            **{"zeroth_order": partial(MeZO, lr=1e-3), "algorithm": SGD, "module": model} | more,
        )


def small(**more: Any) -> Hybrid:
    """Of three tensors, 40, 6 and 2 elements, the last above the border."""
    net = nn.ParameterList([torch.ones(40), torch.ones(6), torch.ones(2)])
    settings = {"zeroth_order": partial(MeZO, lr=1e-3, eps=1e-2), "algorithm": SGD}
    return Hybrid(net.parameters(), **settings | {"blocks": "tensor", "module": net} | more)


def squares(optimizer: Hybrid) -> Tensor:
    return sum((p.square().sum() for p in optimizer.trainable()), torch.zeros(()))


@pytest.mark.parametrize("estimator", ["central", "forward", "p1"])
def test_what_the_next_step_costs_is_known_where_it_is_below(
    estimator: Literal["central", "forward", "p1"],
) -> None:
    low = partial(MeZO, lr=1e-3, eps=1e-2, estimator=estimator, perturbation="copy")
    optimizer = small(zeroth_order=low)
    for _ in range(4):
        before, ahead = optimizer.num_forwards, optimizer.next_forwards()
        optimizer.step(lambda: squares(optimizer))
        assert ahead in (None, optimizer.num_forwards - before)
    assert (ahead is None) == (estimator == "central")


def test_a_mask_below_the_border_reaches_a_share_there_and_all_above_it() -> None:
    optimizer = small().restrict(sparsity=0.5)
    optimizer.step(lambda: squares(optimizer))
    assert optimizer.last is not None and optimizer.last.reach == (0.5, 0.5, 1.0)
    assert [p.numel() for p in optimizer.trainable()] == [40, 6, 2]
    whole = small()
    whole.step(lambda: squares(whole))
    assert whole.last is not None and whole.last.reach == ()


def test_it_restores_theta_as_exactly_as_the_method_below_does() -> None:
    walk = partial(MeZO, lr=1e-3, eps=1e-2, perturbation="three-leg")
    assert small().exact and not small(zeroth_order=walk).exact


def test_an_error_of_another_kind_leaves_nothing_to_skip() -> None:
    optimizer = small()

    def broken() -> Tensor:
        raise KeyError("no such batch")

    with pytest.raises(KeyError, match="no such batch"):
        optimizer.step(broken)
    with pytest.raises(OptimError, match=r"skip\(\) at step 0"):
        optimizer.skip()


def test_a_method_of_a_loss_an_example_below_the_border_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).eval()
    with pytest.raises(OptimError, match="EachMeZO: its closure returns a loss an example"):
        Hybrid(
            net.parameters(),
            zeroth_order=partial(EachMeZO, lr=1e-3),
            algorithm=SGD,
            blocks="tensor",
            module=net,
        )


def test_parameters_that_come_later_are_refused() -> None:
    model = opt()
    optimizer = Hybrid(
        model.parameters(), zeroth_order=partial(MeZO, lr=1e-3), algorithm=SGD, module=model
    )
    with pytest.raises(OptimError, match=r"^add_param_group\(\): on which side of the border"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})


def test_it_has_no_trajectory() -> None:
    model = opt()
    optimizer = Hybrid(
        model.parameters(), zeroth_order=partial(MeZO, lr=1e-3), algorithm=SGD, module=model
    )
    with pytest.raises(TrajectoryError, match="Hybrid follows true gradients"):
        describe(optimizer, base="0" * 64)


def test_foreign_states_are_refused() -> None:
    model = opt()
    optimizer = Hybrid(
        model.parameters(), zeroth_order=partial(MeZO, lr=1e-3), algorithm=SGD, module=model
    )
    with pytest.raises(OptimError, match="not saved by Hybrid"):
        optimizer.load_state_dict(FirstOrder(model.parameters(), algorithm=SGD).state_dict())


def test_gradient_checkpointing_changes_no_bit_and_keeps_far_less() -> None:
    """In evaluation mode, where transformers' own switch does nothing."""
    results = []
    for checkpointing in (False, True):
        model = opt(5)
        optimizer = FirstOrder(
            model.parameters(), algorithm=SGD, gradient_checkpointing=checkpointing, module=model
        )
        kept = kept_bytes(optimizer, model)
        optimizer.step(lambda model=model: loss_of(model))
        assert not any("forward" in vars(part) for part in model.modules()), (
            "no layer stays wrapped"
        )
        results.append((kept, model.state_dict()))
    (plain, one), (less, other) = results
    assert less < 0.5 * plain
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_gradient_checkpointing_without_layers_is_refused() -> None:
    for module, message in (
        (None, "needs module="),
        (nn.Linear(2, 2), "Linear has no list of repeated modules"),
    ):
        params = nn.Linear(2, 2).parameters() if module is None else module.parameters()
        with pytest.raises(OptimError, match=message):
            FirstOrder(params, algorithm=SGD, gradient_checkpointing=True, module=module)


def test_an_eps_that_the_type_rounds_to_zero_is_refused():
    half = nn.Linear(2, 2).half()
    with pytest.raises(
        OptimError,
        match=r"algorithm.eps=1e-08: is zero in float16; 1e-4 is valid, or precision=bf16",
    ):
        FirstOrder(half.parameters(), algorithm=partial(torch.optim.AdamW, lr=1e-3))
    FirstOrder(half.parameters(), algorithm=partial(torch.optim.AdamW, lr=1e-3, eps=1e-4))
    FirstOrder(half.parameters(), algorithm=partial(torch.optim.SGD, lr=1e-3))


def test_each_method_keeps_its_own_weight_decay_unless_one_is_for_both() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).eval()
    low = partial(MeZO, lr=0.01, eps=1e-3, weight_decay=0.5)

    def built(**options: Any) -> Hybrid:
        return Hybrid(net.parameters(), num_blocks=2, blocks="tensor", module=net, **options)

    optimizer = built(zeroth_order=low, algorithm=ADAMW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.1]
    optimizer = built(zeroth_order=partial(MeZO, lr=0.01), algorithm=SGD, weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3]
    groups = [{"params": [p], "weight_decay": 0.1 * i} for i, p in enumerate(net.parameters())]
    optimizer = Hybrid(
        groups,
        zeroth_order=partial(MeZO, lr=0.01),
        algorithm=SGD,
        num_blocks=2,
        blocks="tensor",
        weight_decay=0.9,
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1, 0.2, 0.1 * 3]
    with pytest.raises(OptimError, match=r"^algorithm: has weight_decay=0.1, and weight_decay=0.5"):
        built(zeroth_order=low, algorithm=ADAMW, weight_decay=0.5)
