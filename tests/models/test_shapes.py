"""The shapes count the parameters that the papers state; random models cost no second copy."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from bszo.errors import ModelError
from bszo.models import SHAPES, random_model, weights_fingerprint

# parameters of the published checkpoints, tied embeddings once
PUBLISHED = {
    "roberta-large": 355_412_057,
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "mistral-7b": 7_241_732_096,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "vicuna-7b": 6_738_415_616,
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_shapes_have_the_published_number_of_parameters(name: str) -> None:
    auto = AutoModelForMaskedLM if name.startswith("roberta") else AutoModelForCausalLM
    with torch.device("meta"):
        module = auto.from_config(AutoConfig.for_model(**SHAPES[name]))
    assert sum(p.numel() for p in module.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "roberta", "bert"])
def test_a_random_model_is_finite_tied_and_seeded(zoo: dict[str, str], family: str) -> None:
    state = torch.get_rng_state()
    module = random_model(zoo[family], dtype="bfloat16")
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    config = module.config
    tied = module.get_output_embeddings().weight is module.get_input_embeddings().weight  # type: ignore[union-attr]
    assert tied == config.tie_word_embeddings  # type: ignore[union-attr]
    ids = torch.arange(12).view(2, 6) + 3
    with torch.no_grad():
        logits = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.isfinite().all() and logits.std() > 0
    assert weights_fingerprint(random_model(zoo[family], dtype="bfloat16")) == weights_fingerprint(
        module
    )
    assert weights_fingerprint(
        random_model(zoo[family], dtype="bfloat16", seed=1)
    ) != weights_fingerprint(module)


@pytest.mark.parametrize("family", ["opt", "llama", "roberta", "bert"])
def test_a_random_model_differs_from_a_usual_one_in_its_weights_alone(
    zoo: dict[str, str], family: str
) -> None:
    module = random_model(zoo[family], dtype="float32")
    auto = AutoModelForCausalLM if family in ("opt", "llama") else AutoModelForMaskedLM
    usual = auto.from_pretrained(zoo[family]).eval()
    usual.load_state_dict(module.state_dict())
    ids = torch.arange(12).view(2, 6) + 3
    with torch.no_grad():  # buffers outside the state, such as rotary frequencies, must be right
        torch.testing.assert_close(usual(input_ids=ids).logits, module(input_ids=ids).logits)


def test_names_that_are_no_shape_are_listed_against_those_that_are(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"shape 'opt-1b': neither .* roberta-large, opt-125m"):
        random_model("opt-1b", dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ModelError, match=r"its config\.json cannot be read"):
        random_model(str(tmp_path), dtype="float32")
    with pytest.raises(ModelError, match="dtype int8: must be one of float32"):
        random_model("opt-125m", dtype="int8")  # type: ignore[arg-type]
