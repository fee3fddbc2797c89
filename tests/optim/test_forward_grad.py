"""Forward-Grad: its slope is backpropagation's, on real attention; what has no rule is refused by
name."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import ForwardGrad
from bszo.errors import NonFiniteLoss, OptimError
from bszo.models import load_model
from bszo.perturb import Gaussian, Unpadded, padding_rows

Make = Callable[..., nn.Module]
IDS = torch.tensor([[5, 9, 7, 21, 33, 4], [8, 8, 6, 17, 20, 11]])


def closure(module: nn.Module) -> Callable[[], Tensor]:
    """A padded batch: with its mask the fused kernel would be taken."""
    mask = torch.ones_like(IDS)
    mask[0, 4:] = 0
    return lambda: module(input_ids=IDS, attention_mask=mask, labels=IDS).loss


@pytest.mark.parametrize("model", ["tiny-roberta", "tiny-opt", "tiny-mistral"])
def test_the_slope_is_backpropagation_s(model: str, caplog: pytest.LogCaptureFixture) -> None:
    """Tied embeddings and sdpa attention; the log says which kernel ran."""
    module = load_model(f"asset:{model}", dtype="float32").module
    params = list(module.parameters())
    before = [p.detach().clone() for p in params]
    with caplog.at_level(logging.INFO, "bszo"):
        optimizer = ForwardGrad(params, lr=1e-3, weight_decay=0.2, module=module, seed=3)
        (seed,) = optimizer.direction_seeds(1)
        loss = optimizer.step(closure(module))
    assert [record.message for record in caplog.records if "forward mode" in record.message] == [
        "forward mode: attention runs PyTorch's math kernel, for the fused ones have no"
        " forward-mode rule"
    ]
    after = [p.detach().clone() for p in params]
    with torch.no_grad():
        for p, old in zip(params, before, strict=True):
            p.copy_(old)
    value = closure(module)()
    value.backward()
    family = Unpadded(Gaussian(params), padding_rows(params, module))
    z = family(params, seed)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    slope = float(sum((g.double() * v.double()).sum() for g, v in zip(grads, z, strict=True)))
    assert loss == pytest.approx(float(value.detach()), rel=1e-5)
    assert optimizer.last is not None and optimizer.last.observations[0] == pytest.approx(
        slope, rel=1e-4
    )
    for new, old, v in zip(after, before, z, strict=True):
        torch.testing.assert_close(
            new, old - 1e-3 * (optimizer.last.observations[0] * v + 0.2 * old)
        )
    assert optimizer.num_forwards == 1 and all(p.requires_grad for p in params)


def test_the_mean_step_is_the_gradient_s(problem: Make) -> None:
    module = problem(torch.float64)
    start = [p.detach().clone() for p in module.parameters()]
    optimizer, steps = ForwardGrad(module.parameters(), lr=0.1, module=module), []
    for _ in range(100):
        optimizer.step(module)
        steps.append(
            torch.cat(
                [
                    (p.detach() - s).reshape(-1)
                    for p, s in zip(module.parameters(), start, strict=True)
                ]
            )
        )
        with torch.no_grad():
            for p, s in zip(module.parameters(), start, strict=True):
                p.copy_(s)
    steps = torch.stack(steps)
    gradient = torch.cat([(s - 0.5).reshape(-1) for s in start])  # of 0.5 |theta - 0.5|^2
    error = steps.std(dim=0) / steps.shape[0] ** 0.5
    assert bool(((steps.mean(dim=0) + 0.1 * gradient).abs() < 4.5 * error).all())


class NoRule(torch.autograd.Function):
    @staticmethod
    def forward(x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


def test_an_operation_without_a_rule_is_named_at_the_first_step(problem: Make) -> None:
    module = problem()
    optimizer, before = ForwardGrad(module.parameters(), module=module), module.matrix.clone()  # type: ignore[operator]
    with pytest.raises(
        OptimError, match=r"closure.*custom autograd.Function.*such as MeZO, is valid"
    ) as caught:
        optimizer.step(lambda: NoRule.apply(module()))
    assert "\n" not in str(caught.value) and torch.equal(module.matrix, before)  # type: ignore[arg-type]
    assert optimizer.num_steps == 0


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_rule_is_refused_at_the_start(kernel: str) -> None:
    module = load_model("asset:tiny-opt", dtype="float32").module
    module.config._attn_implementation_internal = kernel  # type: ignore[union-attr]
    with pytest.raises(
        OptimError, match=f"{kernel} has no forward-mode rule; .*'sdpa' or 'eager' is valid"
    ):
        ForwardGrad(module.parameters(), module=module)


def test_a_layer_that_is_added_later_trains_and_one_that_is_taken_out_is_named() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double().eval()
    optimizer = ForwardGrad(net.parameters(), lr=0.1, module=net)
    optimizer.step(lambda: net(torch.eye(3).double()).square().mean())
    last = nn.Linear(4, 2).double()
    net.append(last)
    optimizer.add_param_group({"params": list(last.parameters())})
    before = last.bias.detach().clone()
    optimizer.step(lambda: net(torch.eye(3).double()).square().mean())
    assert not torch.equal(before, last.bias)
    del net[2]
    with pytest.raises(OptimError, match=r"^params: 2 of 4 are not parameters of module="):
        optimizer.step(lambda: net(torch.eye(3).double()).square().mean())


def test_a_closure_that_differentiates_by_autograd_is_refused_and_by_functorch_is_taken() -> None:
    net, x = nn.Linear(3, 1).double().eval(), torch.eye(3).double()
    optimizer = ForwardGrad(net.parameters(), lr=0.1, module=net)

    def penalty() -> Tensor:  # the squared gradient in the inputs, which is |w|^2
        with torch.enable_grad():
            inputs = x.clone().requires_grad_()
            return (
                torch.autograd.grad(net(inputs).sum(), inputs, create_graph=True)[0].square().sum()
            )

    with pytest.raises(
        OptimError, match=r"^closure\(\): .*functorch transform; a method that takes"
    ):
        optimizer.step(penalty)
    w, (seed,) = net.weight.detach().clone(), optimizer.direction_seeds(1)
    z = Gaussian(list(net.parameters())).direction(seed, 0)
    loss = optimizer.step(lambda: torch.func.grad(lambda v: net(v).sum())(x).square().sum())
    assert loss == pytest.approx(3 * w.square().sum().item())
    assert optimizer.last is not None
    assert optimizer.last.observations == pytest.approx([6 * (w * z).sum().item()])


def test_a_closure_that_calls_backward_is_told_so_and_another_error_is_its_own() -> None:
    net = nn.Linear(3, 1).eval()
    optimizer = ForwardGrad(net.parameters(), module=net)

    def closure() -> Tensor:
        loss = net(torch.eye(3)).sum()
        loss.backward()
        return loss

    def broken() -> Tensor:
        raise RuntimeError("no such batch")

    with pytest.raises(OptimError, match=r"^closure\(\): calls backward\(\), and forward mode"):
        optimizer.step(closure)
    with pytest.raises(RuntimeError, match="no such batch"):
        optimizer.step(broken)


def test_its_header_has_the_eps_that_headers_have_and_no_setting_moves_it() -> None:
    net = nn.Linear(3, 1).eval()
    optimizer = ForwardGrad(net.parameters(), module=net)
    assert optimizer.eps == optimizer.settings()["eps"] == 1.0


def test_what_it_cannot_differentiate_is_refused(problem: Make) -> None:
    module = problem()
    with pytest.raises(OptimError, match="module=None: forward mode needs the module"):
        ForwardGrad(module.parameters())
    with pytest.raises(OptimError, match="params: 4 of 4 are not parameters of module="):
        ForwardGrad(problem().parameters(), module=module)
    optimizer = ForwardGrad(module.parameters(), module=module)
    with pytest.raises(OptimError, match=r"closure.. returned float .*needs a tensor"):
        optimizer.step(lambda: float(module()))
    with pytest.raises(NonFiniteLoss, match=r"the slope is nan, .*\(the loss at theta is 0\)"):
        optimizer.step(lambda: (module() - module()).sqrt())  # a loss of 0 whose slope is 0 / 0
    assert optimizer.num_steps == 0
