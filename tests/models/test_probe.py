"""The linear probe against its formula, computed from transformers' own hidden states."""

from pathlib import Path
from typing import Any

import pytest
import torch

import bszo
from bszo.errors import ModelError
from bszo.models import ProbedModel, load_model, load_probe, saved
from bszo.tasks import Example

EXAMPLES = {
    "causal": [
        Example("x:0", "the movie was", (" great story", " terrible"), 1),
        Example("x:1", "It", (" was", " is"), 0),
    ],
    "masked": [Example("x:0", "the movie was <mask> .", (" great", " terrible"), 1)],
}


@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "roberta", "bert"])
def test_score_is_the_model_s_plus_the_head_on_the_last_hidden_state(
    family: str, zoo: dict[str, str]
):
    model = load_model(zoo[family], dtype="float32")
    probed = ProbedModel(load_model(zoo[family], dtype="float32"), 2)
    encoded = model.encode(EXAMPLES[model.style])
    batch = probed.collate(encoded)
    before = model.scores(batch)
    assert torch.equal(probed.scores(batch), before)  # it starts as zero-shot
    assert torch.equal(probed.loss(batch), model.loss(batch))
    module: Any = probed.module
    torch.nn.init.normal_(module.probe.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(module.probe.bias, generator=torch.Generator().manual_seed(1))
    found = probed.scores(batch)
    for b, example in enumerate(encoded):
        for o, option in enumerate(example.options):
            with torch.no_grad():
                out = model.module(
                    input_ids=torch.tensor([example.rows[option.row]]), output_hidden_states=True
                )
            hidden = out.hidden_states[-1][0, list(option.columns)].mean(0)
            expected = before[b, o] + module.probe.weight[o] @ hidden + module.probe.bias[o]
            torch.testing.assert_close(found[b, o], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny-roberta", "tiny-opt", "tiny-mistral"])
def test_the_head_alone_trains_by_either_kind_of_method_and_comes_back(name: str, tmp_path: Path):
    for first_order in (True, False):
        model = ProbedModel(load_model(f"asset:{name}", dtype="float32"), 2)
        trained = [p for p in model.module.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == 2 * 64 + 2
        batch = model.collate(model.encode(EXAMPLES[model.style]))
        optimizer: Any = (
            bszo.FirstOrder(trained, algorithm=lambda p: torch.optim.AdamW(p, lr=1e-2))
            if first_order
            else bszo.MeZO(trained, lr=1e-3, eps=1e-3, seed=0, module=model.module)
        )
        losses = [optimizer.step(lambda m=model, b=batch: m.loss(b)) for _ in range(15)]
        assert model.loss(batch).item() < 0.95 * losses[0]
        folder = tmp_path / str(first_order)
        saved.save_tuned(model, folder)
        back = load_probe(load_model(f"asset:{name}", dtype="float32"), folder)
        assert torch.equal(back.scores(batch), model.scores(batch))


def test_what_it_cannot_tell_apart_or_read(zoo: dict[str, str], tmp_path: Path):
    model = load_model(zoo["opt"], dtype="float32")
    with pytest.raises(ModelError, match=r"^tuning=linear-probe: tells options apart"):
        ProbedModel(model, 1)
    with pytest.raises(ModelError, match=r"^probe .*probe\.safetensors: does not fit opt"):
        load_probe(model, tmp_path)
