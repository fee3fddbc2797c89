"""Packed batches: texts behind one another in one row have the losses that they have alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import bszo.models.batch
from bszo.errors import ModelError
from bszo.models import GenerativeModel, LanguageModel, load_model, traits, tuning
from bszo.models.batch import in_few_rows
from bszo.tasks import Example
from tests.models.conftest import opt_tokenizer, save_any
from tests.models.test_generate import task
from tests.models.test_scores import CAUSAL_EXAMPLES, load, plain_score


def cross_entropy(model: LanguageModel) -> float:
    """Of the examples' options, each from a pass of its own."""
    terms = []
    for example in CAUSAL_EXAMPLES:
        scores = torch.tensor([plain_score(model, example, o) for o in example.options])
        terms.append(scores.logsumexp(0) - scores[example.label])
    return float(torch.stack(terms).mean())


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("width", "rows"), [(1000, 1), (200, 3), (1, 12)])
def test_a_packed_loss_is_the_loss_of_texts_alone(
    zoo: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    adapted: bool,
    width: int,
    rows: int,
) -> None:
    """In one row, in several of several texts, and with a row for each."""
    monkeypatch.setattr(bszo.models.batch, "PACKED_WIDTH", width)
    model = load(zoo[family], packed=True)
    if adapted:
        model = tuning.lora(model, rank=2)
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    seen: list[tuple[int, ...]] = []
    embedding: Any = model.module.get_input_embeddings()  # type: ignore[operator]
    embedding.register_forward_hook(lambda _, args, output: seen.append(tuple(args[0].shape)))
    batch = model.collate(model.encode(CAUSAL_EXAMPLES))
    assert not batch.attention_mask.all()  # there is padding to be spared
    loss = model.loss(batch).item()
    assert len(seen) == 1 and seen[0][0] == rows
    assert seen[0][0] * seen[0][1] >= int(batch.attention_mask.sum())
    if rows == 1:
        assert seen[0][1] == int(batch.attention_mask.sum())
    assert loss == pytest.approx(cross_entropy(model), abs=1e-5)


def test_rows_are_about_as_wide_as_is_said_and_hardly_padded(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text whole, once, in a row, with its own positions; what is read is where it was."""
    model = load(zoo["llama"])
    many = [replace(CAUSAL_EXAMPLES[i % 5], id=str(i)) for i in range(40)]
    batch = model.collate(model.encode(many))
    monkeypatch.setattr(bszo.models.batch, "PACKED_WIDTH", 100)
    tight = in_few_rows(batch)
    assert tight.texts is not None and tight.position_ids is not None
    there, tokens = tight.attention_mask.bool(), int(batch.attention_mask.sum())
    assert int(there.sum()) == tokens
    assert tight.input_ids.shape[0] == -(-tokens // 100)
    assert tight.input_ids.numel() < 1.05 * tokens < 0.8 * batch.input_ids.numel()
    for text, (row, mask) in enumerate(zip(batch.input_ids, batch.attention_mask, strict=True)):
        held = (tight.texts == text) & there
        assert len(set(held.nonzero()[:, 0].tolist())) == 1
        assert tight.input_ids[held].tolist() == row[mask.bool()].tolist()
        assert tight.position_ids[held].tolist() == list(range(int(mask.sum())))
    assert torch.equal(
        tight.input_ids[tight.rows, tight.columns], batch.input_ids[batch.rows, batch.columns]
    )
    assert torch.equal(tight.texts[tight.rows, tight.columns], batch.rows)


def test_where_it_is_not_said_a_trial_says_it(zoo: dict[str, str]) -> None:
    assert load(zoo["llama"], packed=None).traits.packed is True
    assert load(zoo["opt"], packed=None).traits.packed is False
    assert load(zoo["roberta"], packed=None).traits.packed is False


def test_written_answers_are_packed_too(zoo: dict[str, str]) -> None:
    examples = [
        Example("0", "the man was tired so", (" he went home",), 0, ("he went home",)),
        Example("1", "the movie was", (" long",), 0, ("long",)),
    ]
    losses = []
    for packed in (False, True):
        model = GenerativeModel(load(zoo["llama"], packed=packed), task())
        losses.append(model.loss(model.collate(model.encode(examples))).item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_a_model_that_mixes_texts_of_one_row_is_refused(zoo: dict[str, str]) -> None:
    """OPT counts its positions by the attention mask."""
    assert load(zoo["opt"]).traits.packed is False
    with pytest.raises(ModelError, match=r"model.packed=true.*model.packed=false is valid"):
        load(zoo["opt"], packed=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_little_of_the_other_text_does_not_drown_in_16_bits(tmp_path: Path, dtype: Any) -> None:
    """BLOOM's positions are distances that go on over the border of two texts."""
    tokenizer = opt_tokenizer()
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        "bloom", vocab_size=len(tokenizer), hidden_size=32, n_head=4, n_layer=2, **ids
    )
    path = str(save_any(tmp_path, config, tokenizer, AutoModelForCausalLM))
    assert load_model(path, dtype=dtype, packed=None).traits.packed is False
    with pytest.raises(ModelError, match=r"model.packed=true.*model.packed=false is valid"):
        load_model(path, dtype=dtype, packed=True)


def test_a_masked_model_is_refused(zoo: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"model.packed=true is for causal models"):
        load(zoo["roberta"], packed=True)


@pytest.mark.parametrize("attach", [tuning.prefix, tuning.prompt])
def test_virtual_tokens_and_packed_rows_exclude_each_other(
    zoo: dict[str, str], attach: Any
) -> None:
    with pytest.raises(ModelError, match=r"model.packed=false is valid"):
        attach(load(zoo["llama"], packed=True), num_tokens=2)


def test_a_model_that_cannot_be_tried_is_refused(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on unpacked, and its record would say otherwise."""
    monkeypatch.setattr(traits, "NUM_PADDING", 1_000_000)
    assert load(zoo["llama"], packed=None).traits.packed is False
    with pytest.raises(ModelError, match=r"model.packed=true, but it cannot be tried"):
        load(zoo["llama"], packed=True)
