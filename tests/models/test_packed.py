"""Packed batches: texts behind one another in one row have the losses that they have alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import bszo.models.packing
from bszo.errors import ModelError
from bszo.models import GenerativeModel, LanguageModel, load_model, traits, tuning
from bszo.models.packing import in_few_rows
from bszo.tasks import Example
from tests.models.conftest import TRANSPOSED, opt_tokenizer, save_any
from tests.models.test_generate import task
from tests.models.test_scores import CAUSAL_EXAMPLES, load, plain_score


def cross_entropy(model: LanguageModel) -> float:
    """Of the examples' options, each from a pass of its own."""
    terms = []
    for example in CAUSAL_EXAMPLES:
        scores = torch.tensor([plain_score(model, example, o) for o in example.options])
        terms.append(scores.logsumexp(0) - scores[example.label])
    return float(torch.stack(terms).mean())


@pytest.mark.parametrize("family", ["llama", "mistral", "opt", TRANSPOSED])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("width", [1000, 50, 1])
def test_a_packed_loss_is_the_loss_of_texts_alone(
    zoo: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    adapted: bool,
    width: int,
) -> None:
    """In one row, in several, and with a row for each text, or for each example, whose options
    share their beginning; Mistral's window of attention forbids that."""
    model = load(zoo[family], packed=True)
    monkeypatch.setattr(bszo.models.packing, "WIDTH", width)
    if adapted:
        model = tuning.lora(model, rank=2)
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    seen: list[tuple[int, ...]] = []
    embedding: Any = model.module.get_input_embeddings()  # type: ignore[operator]
    embedding.register_forward_hook(lambda _, args, output: seen.append(tuple(args[0].shape)))
    encoded = model.encode(CAUSAL_EXAMPLES)
    batch = model.collate(encoded)
    assert not batch.attention_mask.all()  # there is padding to be spared
    loss = model.loss(batch).item()
    needed, most = int(batch.attention_mask.sum()), len(batch.input_ids)
    if family != "mistral":  # a token for each beginning that some option has
        whole, most = needed, len(encoded)
        needed = sum(len({r[: i + 1] for r in e.rows for i in range(len(r))}) for e in encoded)
        assert needed < whole
    ((rows, columns),) = seen
    assert rows == min(-(-needed // width), most)
    assert columns == needed if rows == 1 else needed <= rows * columns
    assert loss == pytest.approx(cross_entropy(model), abs=1e-5)


@pytest.mark.parametrize("way", ["positions", "mask"])
def test_every_token_sees_its_own_text_and_no_other(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch, way: Any
) -> None:
    """What each position that is read sees, followed back token by token, is its row's beginning;
    rows are about as wide as is said, and hardly padded."""
    model = load(zoo["llama"])
    many = [replace(CAUSAL_EXAMPLES[i % 5], id=str(i)) for i in range(40)]
    batch = model.collate(model.encode(many))
    monkeypatch.setattr(bszo.models.packing, "WIDTH", 300)
    tight = in_few_rows(batch, way)
    tokens = int(tight.attention_mask.sum())
    padded, whole = batch.input_ids.numel(), int(batch.attention_mask.sum())
    assert tokens < 0.8 * whole if way == "mask" else tokens == whole
    assert len(tight.input_ids) == -(-tokens // 300)
    assert tight.input_ids.numel() < 1.05 * tokens < 0.8 * padded
    positions = tight.position_ids
    assert positions is not None and (tight.mask is None) == (way == "positions")
    reads = zip(tight.rows, tight.columns, batch.rows, batch.columns, strict=True)
    for row, column, old, end in reads:
        if tight.mask is not None:
            seen = tight.mask[row, 0, column]
        else:  # all from the last place before it whose position is 0
            seen = torch.zeros(len(positions[row]), dtype=torch.bool)
            seen[column - positions[row, column] : column + 1] = True
        assert tight.input_ids[row, seen].tolist() == batch.input_ids[old, : end + 1].tolist()
        assert positions[row, seen].tolist() == list(range(int(end) + 1))
        assert set(tight.owners[row, seen].tolist()) == {int(batch.owners[old, 0])}


def test_where_it_is_not_said_a_trial_says_it(zoo: dict[str, str]) -> None:
    assert load(zoo["llama"], packed=None).traits.packed == ("positions", "mask")
    assert load(zoo["opt"], packed=None).traits.packed == ("mask",)
    assert load(zoo["roberta"], packed=None).traits.packed == ()


@pytest.mark.parametrize(
    ("kind", "more", "ways"),
    [
        ("mistral", {"sliding_window": 64}, ("positions", "mask")),
        ("mistral", {"sliding_window": 63}, ("positions",)),
        ("gpt_neo", {"attention_types": [[["global", "local"], 1]]}, ("positions",)),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, ()),
    ],
)
def test_windows_and_states_that_a_mask_does_not_reach(
    tmp_path: Path, kind: str, more: Any, ways: tuple[str, ...]
) -> None:
    """A mask takes the place of a window, which a text of 64 tokens must then not need."""
    tokenizer = opt_tokenizer()
    ids = dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id"), tokenizer.pad_token_id)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "gpt_neo":
        sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes, **more, **ids)
    path = str(save_any(tmp_path, config, tokenizer, AutoModelForCausalLM))
    model = load_model(path, dtype="float32", packed=None, max_length=64)
    assert model.traits.packed == ways


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_model_that_mixes_texts_of_one_row_is_refused(tmp_path: Path, dtype: Any) -> None:
    """BLOOM's positions are distances that go on over the border of two texts. A little of the
    other text does not drown in 16 bits."""
    tokenizer = opt_tokenizer()
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        "bloom", vocab_size=len(tokenizer), hidden_size=32, n_head=4, n_layer=2, **ids
    )
    path = str(save_any(tmp_path, config, tokenizer, AutoModelForCausalLM))
    assert load_model(path, dtype=dtype, packed=None).traits.packed == ()
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
    assert load(zoo["llama"], packed=None).traits.packed == ()
    with pytest.raises(ModelError, match=r"model.packed=true, but it cannot be tried"):
        load(zoo["llama"], packed=True)
