"""Under PEFT: only the adapters move, streaming reaches every one of them, and its losses are the
copies' losses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

IDS = torch.tensor([[5, 9, 9, 2, 17], [1, 5, 30, 31, 2]])


def lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model
    from transformers import OPTConfig, OPTForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=32,
            hidden_size=8,
            ffn_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            word_embed_proj_dim=8,
            pad_token_id=1,
        )
        adapters = LoraConfig(
            r=2, lora_alpha=16, target_modules=["q_proj", "v_proj", "embed_tokens"]
        )
        model = get_peft_model(OPTForCausalLM(config), adapters)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_" in name:
                    p.copy_(0.1 * torch.randn(p.shape))
    return model.double().eval()


@pytest.fixture(scope="module")
def states() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in lora().state_dict().items()}


def test_adapters_train_alone(method: Any, states: dict[str, Tensor]) -> None:
    results = []
    for streaming in (True, False):
        model = lora()
        model.load_state_dict(states)
        trained = [p for p in model.parameters() if p.requires_grad]
        copied = {"perturbation": "copy"} if method.zeroth_order and not streaming else {}
        needed = model if streaming or method.needs_module else None
        optimizer = method(trained, module=needed, **copied)
        steps = 3 * method.sweep
        losses = [
            optimizer.step(lambda model=model: model(input_ids=IDS, labels=IDS).loss)
            for _ in range(steps)
        ]
        forwards = method.forwards * len(trained) // 4 if method.per_tensor else method.forwards
        assert forwards * steps <= optimizer.num_forwards <= forwards * steps + streaming
        for name, value in model.state_dict().items():
            assert torch.equal(value, states[name]) == ("lora_" not in name), name
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-9)
