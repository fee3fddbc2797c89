"""accelerate as the integrations' note says: the model and the data prepared, the optimizer not."""

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader

import bszo

DATA = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """Its state is the process's, and is put away afterwards."""
    yield Accelerator(cpu=True, gradient_accumulation_steps=2)
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def net() -> nn.Linear:
    module = nn.Linear(3, 1)
    nn.init.constant_(module.weight, 0.5)
    nn.init.zeros_(module.bias)
    return module.eval()


def test_a_prepared_model_takes_the_plain_model_s_steps(accelerator: Accelerator) -> None:
    """Each step on the mean loss of two micro-batches of a prepared loader; and its state is saved
    and loaded."""
    plain, mine = net(), net()
    expected = bszo.BSZO(plain.parameters(), lr=0.1, eps=1e-3, module=plain)
    model, loader = accelerator.prepare(mine, DataLoader(DATA, batch_size=2))  # type: ignore[misc]
    optimizer = bszo.BSZO(model.parameters(), lr=0.1, eps=1e-3, module=model)
    batches = list(loader)
    for pair in (batches[:2], batches[2:]):
        whole = torch.cat(pair)

        def loss(pair: list[Tensor] = pair) -> Tensor:
            return sum((model(batch).square().mean() for batch in pair), torch.zeros(())) / 2

        found = optimizer.step(loss)
        wanted = expected.step(lambda whole=whole: plain(whole).square().mean())
        assert found == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(torch.cat(batches), DATA) and optimizer.num_steps == 2
    torch.testing.assert_close(mine.weight, plain.weight, rtol=1e-3, atol=1e-4)
    assert not torch.equal(mine.weight, net().weight)


def test_what_the_note_warns_of_is_what_a_prepared_optimizer_does(accelerator: Accelerator) -> None:
    """If accelerate changes this, the note should."""
    module = net()
    optimizer = bszo.MeZO(module.parameters(), lr=0.1, eps=1e-3, module=module)
    model, prepared = accelerator.prepare(module, optimizer)  # type: ignore[misc]
    found = []
    for batch in DATA.split(2):
        with accelerator.accumulate(model):
            found.append(prepared.step(lambda batch=batch: model(batch).square().mean()))
    assert found == [None] * 4 and optimizer.num_steps == 2
