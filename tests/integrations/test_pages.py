"""The pages on other libraries: their code takes the steps of a plain loop, bit for bit."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bszo import BSZO

DOCS = Path(__file__).resolve().parents[2] / "docs"
X = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)
STEPS = 6


def code(page: str) -> str:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return block


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 1))


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(X, Y), batch_size=8)


def plain() -> tuple[float, nn.Module]:
    """The last loss, and the network after as many steps."""
    module, loss = net().eval(), 0.0
    optimizer = BSZO(
        module.parameters(), lr=1e-2, eps=1e-3, prior_var=1.0, noise_var=1.0, module=module
    )
    for _ in range(STEPS // 3):
        for x, y in loader():
            loss = optimizer.step(lambda x=x, y=y: nn.functional.mse_loss(module(x), y))
    return loss, module


def same(a: nn.Module, b: nn.Module) -> bool:
    start = [p.detach() for p in net().parameters()]
    pairs = zip(a.parameters(), b.parameters(), start, strict=True)
    return all(torch.equal(p, q) and not torch.equal(p, r) for p, q, r in pairs)


@pytest.fixture
def one_process() -> Iterator[None]:
    """Accelerate's state is the process's, and is put away afterwards."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_accelerate(one_process: None) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    module = net()
    names: dict[str, Any] = {"net": module, "loader": loader(), "epochs": STEPS // 3}
    exec(code("accelerate"), names)
    loss, expected = plain()
    assert names["loss"] == loss and same(module.to("cpu"), expected)


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip(
        "lightning", reason="lightning is not installed: pip install lightning"
    )
    names: dict[str, Any] = {}
    exec(code("lightning"), names)
    module = net()
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    tuned = names["Tuned"](module)
    trainer.fit(tuned, loader())
    loss, expected = plain()
    assert same(module, expected) and trainer.global_step == STEPS
    assert float(trainer.callback_metrics["loss"]) == pytest.approx(loss, rel=1e-6)
    (saved,) = tmp_path.rglob("*.ckpt")
    (state,) = torch.load(saved, weights_only=False)["optimizer_states"]
    assert state["zeroth_order"]["num_steps"] == STEPS
