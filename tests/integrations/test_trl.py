"""TRL's trainers with these optimizers: the steps of a plain loop on the loss by its formula, and
logs that count a step once."""

import json
import math
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

from bszo import BSZO
from bszo.models.locate import named_folder

pytest.importorskip("trl", reason="trl is not installed: pip install 'bszo[trl]'")

from datasets import Dataset
from trl import DPOConfig, SFTConfig  # pyright: ignore[reportMissingImports]

from bszo.integrations.trl import ZerothOrderDPOTrainer, ZerothOrderSFTTrainer

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
METHOD = partial(BSZO, eps=1e-2, prior_var=10.0, noise_var=1.0)
TOKENIZER = AutoTokenizer.from_pretrained(str(named_folder("asset:tiny-opt")))


def network() -> Any:
    """Tied, as small models are: TRL reads the output layer's weight without running the layer."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=8,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        word_embed_proj_dim=8,
        dropout=0.2,
        pad_token_id=TOKENIZER.pad_token_id,
    )
    return OPTForCausalLM(config)


def configured(kind: Any, out: Path, rows: int, **more: Any) -> Any:
    """Every step has all rows, so that their order is no matter."""
    return kind(
        str(out),
        max_steps=STEPS,
        per_device_train_batch_size=rows,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        save_strategy="no",
        seed=3,
        **more,
    )


def log_probs(module: Any, ids: list[int], start: int) -> torch.Tensor:
    """Log-probabilities of the tokens from place `start` on, one row and no padding."""
    logits = module(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logits[range(start - 1, len(ids) - 1), ids[start:]]


def plain_loop(loss: Any) -> tuple[list[float], Any]:
    """Losses and module after the same steps, with copies of the weights and no Trainer."""
    module = network().eval()
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    rest = [p for p in module.parameters() if p.ndim < 2]
    optimizer = METHOD([{"params": matrices}, {"params": rest}], lr=0.05, seed=3)
    return [optimizer.step(lambda: loss(module)) for _ in range(STEPS)], module


def compare(trainer: Any, loss: Any) -> None:
    trainer.train()
    losses, module = plain_loop(loss)
    found = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert found == pytest.approx(losses, abs=1e-4) and len(set(found)) == STEPS
    for a, b, start in zip(
        trainer.model.parameters(), module.parameters(), network().parameters(), strict=True
    ):
        moved = float((b - start).abs().max())
        assert float((a - b).detach().abs().max()) <= 0.02 * moved


def logs_of(trainer: Any, name: str) -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]


def test_sft_takes_the_steps_of_a_plain_loop(tmp_path: Path) -> None:
    texts = [f"{name} bought a red ball ." for name in ("Anna", "Tom", "Kate and Ben")]
    args = configured(SFTConfig, tmp_path, len(texts))
    trainer: Any = ZerothOrderSFTTrainer(
        network(),
        args,
        method=METHOD,
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=TOKENIZER,
    )
    ids = [row["input_ids"] for row in trainer.train_dataset]
    assert [TOKENIZER.decode(row, skip_special_tokens=True) for row in ids] == texts

    def loss(module: Any) -> torch.Tensor:
        return -torch.cat([log_probs(module, row, 1) for row in ids]).mean()

    compare(trainer, loss)
    # a step of three passes counts its tokens once, under their own name
    assert logs_of(trainer, "num_tokens") == [sum(map(len, ids)) * (i + 1) for i in range(STEPS)]
    entropy = logs_of(trainer, "entropy")[0]
    with torch.no_grad():
        every = [network().eval()(input_ids=torch.tensor([row])).logits[0, :-1] for row in ids]
    expected = torch.distributions.Categorical(logits=torch.cat(every)).entropy().mean()
    assert entropy == pytest.approx(float(expected), rel=1e-4)  # at theta, not at theta + eps z


@pytest.mark.parametrize("once", [True, False])
def test_dpo_takes_the_steps_of_a_plain_loop(tmp_path: Path, once: bool) -> None:
    rows = {
        "prompt": ["Anna bought a", "Tom and Kate sold"],
        "chosen": [" red ball .", " a dog ."],
        "rejected": [" green house , then .", " it ."],
    }
    trainer: Any = ZerothOrderDPOTrainer(
        network(),
        ref_model=network(),
        args=configured(DPOConfig, tmp_path, 2, beta=0.5, precompute_ref_log_probs=once),
        method=METHOD,
        train_dataset=Dataset.from_dict(rows),
        processing_class=TOKENIZER,
    )
    data, reference = list(trainer.train_dataset), network().eval()

    def gain(module: Any, row: Any, which: str) -> torch.Tensor:
        ids = [*row["prompt_ids"], *row[f"{which}_ids"]]
        start = len(row["prompt_ids"])
        return (log_probs(module, ids, start) - log_probs(reference, ids, start)).sum()

    def loss(module: Any) -> torch.Tensor:
        margins = [gain(module, row, "chosen") - gain(module, row, "rejected") for row in data]
        return -torch.nn.functional.logsigmoid(0.5 * torch.stack(margins)).mean()

    compare(trainer, loss)
    assert logs_of(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_the_examples_learn(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model so small that thirty steps take seconds."""
    network().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    row = {"text": "Anna bought a red ball ."}
    if name == "dpo":
        row = {"prompt": "Anna bought a", "chosen": " red ball .", "rejected": " green house ."}
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps(row) + "\n") * 16, encoding="utf-8")
    given = [str(part) for part in (tmp_path / "model", rows, tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["example", *given])
    trainer = runpy.run_path(str(ROOT / "examples" / f"trl_{name}.py"))["trainer"]
    losses = logs_of(trainer, "loss")
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert (tmp_path / "out" / "model.safetensors").is_file()
