"""The bench's rows of own directions run on a model whose layers see all positions in one axis."""

import argparse
from pathlib import Path

import pytest
import torch
from transformers import OPTConfig

from bszo import EachMeZO
from scripts.bench.setting import Setting


@pytest.mark.parametrize("stacked", [False, True])
def test_a_step_of_own_directions_runs_and_its_losses_are_the_bench_s(
    stacked: bool, tmp_path: Path
):
    OPTConfig(
        vocab_size=30_000,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=16,
    ).save_pretrained(tmp_path)
    setting = Setting(
        argparse.Namespace(model=str(tmp_path), dtype="float32", device="cpu", batch=3, length=4)
    )
    optimizer = EachMeZO(setting.params, lr=1e-9, module=setting.model, stacked=stacked)
    loss = optimizer.step(setting.each)
    torch.testing.assert_close(torch.tensor(loss), torch.tensor(setting.loss()), rtol=1e-2, atol=0)
    assert optimizer.num_forwards == 2
