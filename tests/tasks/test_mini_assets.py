"""The tiny models that ship with the package: they load offline, are small, and know every answer
as one token."""

from pathlib import Path

import pytest
import torch
import transformers

import bszo
from bszo.tasks import mini

ASSETS = Path(bszo.__file__).parent / "models" / "assets"
CLASSES = {
    "tiny-roberta": ("AutoModelForMaskedLM", "RobertaForMaskedLM"),
    "tiny-opt": ("AutoModelForCausalLM", "OPTForCausalLM"),
    "tiny-mistral": ("AutoModelForCausalLM", "MistralForCausalLM"),
}
BLANK_WORDS = (
    "terrible great bad first second short thing what who where how Yes No Maybe "
    "Abbreviation Entity Description Human Location Number"
)
BARE_WORDS = "Yes No Maybe"


@pytest.fixture(params=sorted(CLASSES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def tokenizer(name: str) -> transformers.PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(ASSETS / name, local_files_only=True)


def load(name: str) -> transformers.PreTrainedModel:
    auto, _ = CLASSES[name]
    return getattr(transformers, auto).from_pretrained(ASSETS / name, local_files_only=True)


def test_each_is_the_class_it_is_named_for_and_small(name: str) -> None:
    model = load(name)
    assert type(model).__name__ == CLASSES[name][1]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    head = model.get_output_embeddings()
    assert head is not None and head.weight is model.get_input_embeddings().weight
    files = [path for path in (ASSETS / name).iterdir() if path.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in files
    }
    assert sum(path.stat().st_size for path in files) < 4_000_000


def test_mistral_groups_its_queries() -> None:
    config = load("tiny-mistral").config
    assert config.num_key_value_heads < config.num_attention_heads


def test_every_answer_is_one_token(name: str) -> None:
    answers = [f" {word}" for word in BLANK_WORDS.split()] + BARE_WORDS.split()
    pieces = tokenizer(name)
    lengths = {
        answer: len(pieces(answer, add_special_tokens=False).input_ids) for answer in answers
    }
    assert set(lengths.values()) == {1}, lengths


def test_special_tokens_stand_where_the_family_has_them(name: str) -> None:
    pieces = tokenizer(name)
    ids = pieces("the plot is dull .").input_ids
    assert pieces.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert ids[0] == (2 if name == "tiny-opt" else 0)
    assert (ids[-1] == 2) == (name == "tiny-roberta")
    assert pieces.pad_token_id == 1
    assert pieces.decode(ids, skip_special_tokens=True) == "the plot is dull ."


def test_the_mask_is_the_last_token_and_takes_the_blank_before_it() -> None:
    pieces = tokenizer("tiny-roberta")
    assert pieces.mask_token_id == len(pieces) - 1
    assert pieces("It was <mask> .").input_ids == pieces("It was<mask> .").input_ids


@pytest.mark.parametrize("task", sorted(mini.MAKERS))
def test_mini_texts_fit_two_hundred_tokens(name: str, task: str) -> None:
    rows = mini.generate(task, "train", 1000, seed=0)
    texts = ["\n".join(str(row[column]) for column in mini.MAKERS[task].text) for row in rows]
    # the prompts' own words need fewer than 50
    assert max(map(len, tokenizer(name)(texts).input_ids)) <= 150


def test_the_models_have_learnt_the_world(name: str) -> None:
    """Text of the world, held apart by its seed, costs far less than the uniform 6.9 nats a
    token."""
    model, pieces = load(name).eval(), tokenizer(name)
    texts = [text for text in mini.corpus(100, seed=99) if "\n" not in text]
    batch = pieces(texts, return_tensors="pt", padding=True)
    inputs, targets = batch.input_ids, batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    if name == "tiny-roberta":
        every_seventh = torch.arange(inputs.shape[1]) % 7 == 3
        masked = every_seventh & (inputs > 3)
        targets = targets.masked_fill(~masked, -100)
        inputs = inputs.masked_fill(masked, pieces.mask_token_id)
    with torch.no_grad():
        loss = model(input_ids=inputs, attention_mask=batch.attention_mask, labels=targets).loss
    assert loss < 3
