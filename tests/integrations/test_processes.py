"""transformers' Trainer on two processes: the steps of one process that has the whole batch, the
same bits in both, and one number a loss between them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, TrainingArguments

from bszo import AGZO, BSZO, FirstOrder, MeZO
from bszo.errors import OptimError
from bszo.integrations.transformers import ZerothOrderTrainer
from tests.forked import in_group

STEPS = 4


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=16,
        hidden_size=8,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        word_embed_proj_dim=8,
        dropout=0.2,
        pad_token_id=1,
    )
    return OPTForCausalLM(config).double()


def rows(count: int = 24) -> list[dict[str, list[int]]]:
    """Of unequal numbers of tokens that count."""
    ids = torch.randint(2, 16, (count, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    for i, row in enumerate(labels):
        row[: 1 + i % 6] = -100
    return [
        {"input_ids": a.tolist(), "labels": b.tolist()} for a, b in zip(ids, labels, strict=True)
    ]


class Watched(ZerothOrderTrainer):
    """Keeps the losses, and what its steps send."""

    def _take(self, *args: Any, **kwargs: Any) -> float:
        losses, sent = vars(self).setdefault("losses", []), vars(self).setdefault("sent", [])
        gather = dist.all_gather, dist.all_gather_into_tensor

        def counted(function: Any, out: Any, tensor: Tensor, *more: Any, **named: Any) -> Any:
            sent.append((tensor.numel(), tensor.dtype))
            return function(out, tensor, *more, **named)

        dist.all_gather = partial(counted, gather[0])
        dist.all_gather_into_tensor = partial(counted, gather[1])
        try:
            losses.append(super()._take(*args, **kwargs))
        finally:
            dist.all_gather, dist.all_gather_into_tensor = gather
        return losses[-1]


def trained(rank: int, out: Path, *, method: Any, batch: int, seed: int = 0, **more: Any) -> Any:
    """What a process has after some steps: losses, weights, forward passes, and what it has
    sent."""
    AcceleratorState._reset_state(reset_partial_state=True)  # a fork has the tests' own
    GradientState._reset_state()
    args = TrainingArguments(
        str(out),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=batch,
        learning_rate=0.05,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        seed=3,
        **more,
    )
    trainer: Any = Watched(network(seed), args, train_dataset=rows(), method=method)  # type: ignore[arg-type]
    trainer.train()
    wrapped = type(trainer.model_wrapped).__name__
    weights = [p.detach().clone().numpy() for p in trainer.model.parameters()]
    method = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return trainer.losses, weights, method.num_forwards, trainer.sent, wrapped


@pytest.mark.parametrize("accumulation", [1, 3])
def test_two_processes_take_the_steps_of_one(tmp_path: Path, accumulation: int) -> None:
    """To rounding, not bit for bit: each process sums its own rows' losses in float32, as
    transformers' models do, before they are added up, and one process sums all of them in one
    go."""
    method = partial(BSZO, eps=1e-2, prior_var=10.0, noise_var=1.0)
    more = {"method": method, "gradient_accumulation_steps": accumulation}
    first, second = in_group(2, lambda rank: trained(rank, tmp_path, batch=2, **more))
    (alone,) = in_group(1, lambda rank: trained(rank, tmp_path, batch=4, **more))
    for found in (first, second, alone):
        assert not isinstance(found, str), found
    losses, weights, num_forwards, sent, wrapped = first
    assert losses == second[0] and num_forwards == second[2] == alone[2] == 3 * STEPS
    assert all((a == b).all() for a, b in zip(weights, second[1], strict=True))
    assert losses == pytest.approx(alone[0], rel=1e-5) and len(set(losses)) == STEPS
    for a, b, start in zip(weights, alone[1], network().parameters(), strict=True):
        moved = abs(a - start.detach().numpy()).max()
        assert abs(a - b).max() <= 1e-2 * moved or moved == 0
    # one number a loss, and no wrapper that would send gradients
    assert sent == second[3] == [(1, torch.float64)] * num_forwards
    assert wrapped == alone[4] == "OPTForCausalLM" and alone[3] == []


def test_what_several_processes_cannot_do(tmp_path: Path) -> None:
    def first_order(groups: Any, lr: float, **more: Any) -> FirstOrder:
        return FirstOrder(groups, algorithm=partial(torch.optim.SGD, lr=lr), **more)

    def body(rank: int) -> list[str]:
        found = []
        for method, seed in ((first_order, 0), (AGZO, 0), (MeZO, rank)):
            try:
                trained(rank, tmp_path, method=method, batch=2, seed=seed)
            except Exception as error:
                found.append(f"{type(error).__name__}: {error}")
        return found

    for lines in in_group(2, body):
        assert "FirstOrder needs gradients, and only losses cross between 2 processes" in lines[0]
        assert "AGZO finds its directions in the whole batch" in lines[1]
        assert "ParallelError" in lines[2] and "differ in their weights at the start" in lines[2]
        assert lines[0].startswith(OptimError.__name__)
