"""All points of a step in one pass over copies of the batch: the same losses and the same step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bszo import EachBSZO, EachMeZO
from bszo.errors import OptimError
from bszo.models import EachLoss
from bszo.models.batch import repeated
from tests.models.conftest import CAUSAL, MASKED, TRANSPOSED
from tests.models.test_scores import examples_for, load

METHODS: list[Callable[..., Any]] = [EachMeZO, EachBSZO]
ALL: Any = {"vectors": "perturb", "embeddings": "perturb"}


@pytest.mark.parametrize(
    ("family", "packed", "method", "more"),
    [
        *((family, False, EachBSZO, {"k": 2, **ALL}) for family in (*CAUSAL, *MASKED)),
        ("llama", True, EachBSZO, {"k": 3}),
        ("llama", True, EachMeZO, ALL),
        ("opt", False, EachMeZO, {"subspace": "lozo"}),
        (TRANSPOSED, False, EachMeZO, ALL),
        ("opt", False, EachMeZO, {"subspace": "subzero", "rank": 2}),
    ],
)
def test_losses_and_steps_are_those_of_a_pass_a_point(
    zoo: dict[str, str], family: str, packed: bool, method: Any, more: Any
) -> None:
    """Of a model in fp64; its losses, in fp32, are those to 1e-6. The input layer runs once a
    step."""
    found = {}
    for stacked in (False, True):
        model = load(zoo[family], packed=packed)
        module = model.module.double()
        ran: list[int] = []
        module.get_input_embeddings().register_forward_hook(  # type: ignore[operator]
            lambda m, args, y, ran=ran: ran.append(len(args[0]))
        )
        batch = model.collate(model.encode(examples_for(model)))
        optimizer = method(
            module.parameters(), lr=0.1, eps=0.05, seed=1, module=module, stacked=stacked, **more
        )
        optimizer.step(EachLoss(model, batch))
        points = len(optimizer.last.losses) // len(batch.labels)
        assert len(ran) == (1 if stacked else points)
        assert optimizer.num_forwards == points > 1
        theta = torch.cat([p.detach().flatten() for p in module.parameters()])
        found[stacked] = optimizer.last.losses, theta
    assert found[True][0] == pytest.approx(found[False][0], abs=2e-6)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=0, atol=1e-4)
    assert len(set(found[True][0])) == len(found[True][0])


def test_copies_of_a_batch_have_its_scores(zoo: dict[str, str]) -> None:
    """Options of several tokens, and of different numbers of rows an example."""
    model = load(zoo["opt"])
    batch = model.collate(model.encode(examples_for(model)))
    scores = model.scores(batch)
    torch.testing.assert_close(model.scores(repeated(batch, 3)), scores.repeat(3, 1))


class Rows:
    """The losses of a plain module's rows, and of copies of them."""

    def __init__(self, net: nn.Module, x: torch.Tensor) -> None:
        self.net, self.x = net, x

    def __call__(self) -> torch.Tensor:
        return self.net(self.x).square().sum(-1)

    def repeated(self, count: int) -> "Rows":
        return Rows(self.net, self.x.repeat(count, 1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_module_and_its_types(method: Any, dtype: torch.dtype) -> None:
    """Length by length in the factors, so that 16 bits round them once more."""
    losses = []
    for stacked in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5)).to(dtype)
        x = torch.randn(4, 6).to(dtype)
        optimizer = method(
            net.parameters(),
            lr=0.1,
            eps=0.1,
            seed=2,
            module=net,
            stacked=stacked,
            vectors="perturb",
        )
        optimizer.step(Rows(net, x))
        losses.append(optimizer.last.losses)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-4
    assert losses[0] == pytest.approx(losses[1], abs=tolerance)


def test_what_cannot_be_stacked_is_one_line() -> None:
    net = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    rows = Rows(net, x)
    optimizer = EachMeZO(net.parameters(), lr=0.1, module=net, stacked=True)
    with pytest.raises(OptimError, match="stacked=True: the closure has no `repeated`"):
        optimizer.step(lambda: rows())
    rows.repeated = lambda count: Rows(net, x[:3])  # type: ignore[method-assign]
    with pytest.raises(OptimError, match=r"repeated\(2\) has 3 examples; a multiple of 2 is"):
        optimizer.step(rows)
    with pytest.raises(OptimError, match="stacked='yes'"):
        EachMeZO(net.parameters(), module=net, stacked="yes")  # type: ignore[arg-type]
