"""Families that are not what their name says: found at load, by trying them on a few tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

import bszo
from bszo.errors import ModelError
from bszo.models import GenerativeModel, LanguageModel, ProbedModel, load_model, tuning
from bszo.tasks import Example, GenerationTask
from tests.models.conftest import bert_tokenizer, opt_tokenizer, roberta_tokenizer, save_any

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MASKED = [
    Example("0", "the movie was great . It was <mask> .", (" Yes", " No"), 1),
    Example("1", "the man is old ? <mask> , the man was tired and long", (" Yes", " No"), 0),
    Example("2", "<mask> , it was good .", (" Yes", " No"), 1),
]


def save(folder: Path, family: str, tokenizer: Any, auto: Any, **changes: Any) -> str:
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **ids, **changes)
    return str(save_any(folder, config, tokenizer, auto))


def masked(folder: Path, family: str, **changes: Any) -> LanguageModel:
    path = save(folder, family, bert_tokenizer(), AutoModelForMaskedLM, **changes)
    return load_model(path, dtype="float32", kind="masked")


def alone(model: LanguageModel, example: Example) -> torch.Tensor:
    """Log-probabilities of an example's options, from a pass that pads nothing and saves
    nothing."""
    (encoded,) = model.encode([example])
    ids = torch.tensor([encoded.rows[0]])
    with torch.no_grad():
        logits = model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    (column,) = encoded.options[0].columns
    words = [option.tokens[0] for option in encoded.options]
    return logits[0, column].log_softmax(-1)[words]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_no_causal_model(tmp_path: Path, family: str, dtype: Any) -> None:
    tokenizer = bert_tokenizer() if family == "bert" else roberta_tokenizer()
    sizes = {**SMALL, "intermediate_size": 64}
    path = save(tmp_path, family, tokenizer, AutoModelForCausalLM, **sizes, is_decoder=False)
    with pytest.raises(ModelError, match=r"moves? when a later token changes.*is_decoder: true"):
        load_model(path, dtype=dtype, kind="causal")


def test_a_decoder_of_that_family_is_one(tmp_path: Path) -> None:
    sizes = {**SMALL, "intermediate_size": 64}
    path = save(tmp_path, "bert", bert_tokenizer(), AutoModelForCausalLM, **sizes, is_decoder=True)
    assert load_model(path, dtype="float32", kind="causal").traits.padded


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("fnet", {"intermediate_size": 64, "hidden_size": 32, "num_hidden_layers": 2}),
        ("convbert", {**SMALL, "intermediate_size": 64, "embedding_size": 32}),
    ],
)
def test_padding_that_moves_scores_is_kept_away(
    tmp_path: Path, family: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = masked(tmp_path, family, **changes)
    assert not model.traits.padded and "padding moves its scores" in caplog.text
    expected = torch.stack([alone(model, example) for example in MASKED])
    assert expected.std() > 1e-3
    encoded = model.encode(MASKED)
    with torch.no_grad():
        batch = model.collate(encoded)
        torch.testing.assert_close(model.scores(batch), expected, atol=1e-5, rtol=1e-5)
        labels = torch.tensor([example.label for example in MASKED])
        loss = torch.nn.functional.cross_entropy(expected, labels)
        torch.testing.assert_close(model.loss(batch), loss, atol=1e-5, rtol=1e-5)
        probed = ProbedModel(model, 2)  # whose head is 0 at its start
        torch.testing.assert_close(probed.scores(batch), expected, atol=1e-5, rtol=1e-5)


def test_the_shipped_models_keep_every_saving() -> None:
    for name in ("tiny-roberta", "tiny-opt", "tiny-mistral"):
        for dtype in ("float32", "float16", "bfloat16"):
            traits = load_model(f"asset:{name}", dtype=dtype).traits  # type: ignore[arg-type]
            assert (traits.padded, traits.shortcut) == (True, "words"), (name, dtype)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("esm", {**SMALL, "intermediate_size": 64, "mask_token_id": 4, "token_dropout": False}),
        (
            "bart",
            {
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_ffn_dim": 32,
                "decoder_ffn_dim": 32,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "bos_token_id": 2,
                "decoder_start_token_id": 3,
            },
        ),
    ],
)
def test_a_bias_outside_the_output_layer_counts(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    model = masked(tmp_path, family, **changes)
    batch = model.collate(model.encode(MASKED))
    expected = torch.stack([alone(model, example) for example in MASKED])
    with torch.no_grad():
        torch.testing.assert_close(model.scores(batch), expected, atol=1e-5, rtol=1e-5)
        differences = model._comparable(batch).diff(dim=1)
    torch.testing.assert_close(differences, expected.diff(dim=1), atol=1e-5, rtol=1e-5)


def test_encoder_decoder_models_are_refused_as_that(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5X"]}')
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "tokenizer.json").write_text("{}")
    for kind in ("auto", "causal", "masked"):
        with pytest.raises(ModelError, match="t5 is an encoder-decoder model, of which none"):
            load_model(str(tmp_path), dtype="float32", kind=kind)  # type: ignore[arg-type]


def test_attention_that_changes_for_good_is_refused(tmp_path: Path) -> None:
    sizes = {**SMALL, "intermediate_size": 64, "attention_type": "block_sparse", "block_size": 4}
    with pytest.raises(ModelError, match=r"attention_type=block_sparse.*original_full in its"):
        masked(tmp_path, "big_bird", **sizes)


def test_a_model_with_too_few_positions_for_a_trial_gets_no_padding(tmp_path: Path) -> None:
    """FNet mixes all positions, padding too."""
    sizes = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 14}
    model = masked(tmp_path, "fnet", **sizes)
    assert not model.traits.padded
    examples = [Example("0", "good <mask>", (" Yes", " No"), 1), *MASKED[2:]]
    together = model.scores(model.collate(model.encode(examples)))
    torch.testing.assert_close(together[0], alone(model, examples[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 24}),
        ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 24}),
        ("codegen", {"n_embd": 32, "n_head": 4, "n_layer": 2, "rotary_dim": 4, "n_positions": 24}),
    ],
)
def test_the_number_of_positions_under_any_name(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    path = save(tmp_path, family, opt_tokenizer(), AutoModelForCausalLM, **changes)
    model = load_model(path, dtype="float32")
    assert model.limit == 24
    encoded = model.encode([Example("0", "the man was tired " * 20, (" great", " bad"), 0)])
    assert encoded[0].truncated and model.loss(model.collate(encoded)).isfinite()


@pytest.mark.parametrize(
    ("family", "changes", "dtype"),
    [
        (
            "opt",
            {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
            "float32",
        ),
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "bfloat16"),
    ],
)
def test_a_probe_fits_the_state_that_it_reads(
    tmp_path: Path, family: str, changes: dict[str, Any], dtype: Any
) -> None:
    path = save(tmp_path, family, opt_tokenizer(), AutoModelForCausalLM, **changes)
    model = load_model(path, dtype=dtype)
    examples = [Example("0", "It was", (" great", " terrible"), 0)]
    batch = model.collate(model.encode(examples))
    with torch.no_grad():
        expected = model.scores(batch)
        probed: Any = ProbedModel(model, 2)
        assert torch.equal(probed.scores(batch), expected)  # w = 0 and b = 0
        probed.module.probe.bias.copy_(torch.tensor([1.0, 3.0]))
        moved = probed.scores(batch) - expected
    torch.testing.assert_close(moved, torch.tensor([[1.0, 3.0]]), atol=0.05, rtol=0)


def test_prompts_of_one_length_share_a_batch_where_padding_is_not_known(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}
    path = save(tmp_path, "rwkv", opt_tokenizer(), AutoModelForCausalLM, **sizes)
    task = GenerationTask(
        "t",
        1,
        {"path": "x"},  # type: ignore[arg-type]
        {"train": "train", "test": "test"},
        ("q",),
        "a",
        num_train=1,
        num_validation=1,
        causal={"prompt": "{q}", "options": [" {answer}"]},  # type: ignore[arg-type]
        max_new_tokens=4,
        stop="\n",
    )
    model = GenerativeModel(load_model(path, dtype="float32"), task)
    texts = ["It was", "the old man was tired so he went home", "No", "the film"]
    questions: Any = model.encode(
        [
            task.example({"q": text, "a": ["x"]}, "causal", where=f"t:{i}")
            for i, text in enumerate(texts)
        ]
    )
    together = model.answer(questions, max_tokens=1000)
    assert together == [model.answer([question], max_tokens=1000)[0] for question in questions]
    assert len(set(together)) > 1


def test_options_that_are_the_same_tokens_are_named(tmp_path: Path) -> None:
    sizes = {**SMALL, "intermediate_size": 64}
    path = save(tmp_path, "bert", bert_tokenizer(), AutoModelForCausalLM, **sizes, is_decoder=True)
    model = load_model(path, dtype="float32", kind="causal")
    for options in ((" Great", " great"), (" \u4e00", " \u4e01"), (" good", " good")):
        with pytest.raises(ModelError) as caught:
            model.encode([Example("7", "It was", options, 0)])
        assert f"example 7: its options {options[0]!r} and {options[1]!r}" in str(caught.value)


GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2}


@pytest.mark.parametrize(
    ("family", "changes", "style", "names"),
    [
        ("deberta-v2", {**SMALL, "intermediate_size": 64}, "masked", {"query_proj", "value_proj"}),
        ("mpnet", {**SMALL, "intermediate_size": 64}, "masked", {"q", "v"}),
        ("gpt2", GPT, "causal", {"c_attn"}),
        ("gpt_neox", {**SMALL, "intermediate_size": 64}, "causal", {"query_key_value"}),
        ("bloom", {"hidden_size": 32, "n_head": 4, "n_layer": 2}, "causal", {"query_key_value"}),
        (
            "mamba",
            {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
            "causal",
            {"in_proj", "x_proj"},
        ),
        (
            "falcon",
            {**SMALL, "num_kv_heads": 2, "new_decoder_architecture": True},
            "causal",
            {"query_key_value"},
        ),
        (
            "phi3",
            {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2},
            "causal",
            {"qkv_proj"},
        ),
        ("modernbert", {**SMALL, "intermediate_size": 64}, "masked", {"Wqkv"}),
    ],
)
def test_adapters_find_the_projections_of_a_family(
    tmp_path: Path, family: str, changes: dict[str, Any], style: str, names: set[str]
) -> None:
    tokenizer = opt_tokenizer() if style == "causal" else bert_tokenizer()
    auto = AutoModelForCausalLM if style == "causal" else AutoModelForMaskedLM
    path = save(tmp_path, family, tokenizer, auto, **changes)
    model = load_model(path, dtype="float32", kind=style)  # type: ignore[arg-type]
    gap = "" if style == "causal" else "<mask>"
    options = (" great", " bad") if style == "causal" else (" Yes", " No")
    batch = model.collate(model.encode([Example("0", f"It was {gap}", options, 0)]))
    with torch.no_grad():
        expected = model.scores(batch)
        tuned = tuning.lora(model, rank=2, alpha=3)
        torch.testing.assert_close(tuned.scores(batch), expected)  # B = 0
    trained = [(n, p) for n, p in tuned.module.named_parameters() if p.requires_grad]
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in trained} == names
    optimizer = bszo.MeZO([p for _, p in trained], lr=1e-2, eps=1e-3, module=tuned.module)
    optimizer.step(lambda: tuned.loss(batch))
    values = {name: p.detach() for name, p in trained}
    with torch.no_grad():  # the same from dense matrices: W + (3 / 2) B A
        found = tuned.scores(batch)
        dense = load_model(path, dtype="float32", kind=style)  # type: ignore[arg-type]
        weights = dict(dense.module.named_parameters())
        for name, b in values.items():
            if ".lora_B." in name:
                assert b.count_nonzero()
                change = 1.5 * b @ values[name.replace("lora_B", "lora_A")]
                w = weights[name.removeprefix("base_model.model.").replace("lora_B.default.", "")]
                w += change if w.shape == change.shape else change.T  # GPT-2's are transposed
        torch.testing.assert_close(found, dense.scores(batch))
    assert not torch.equal(found, expected)


def test_adapters_go_where_they_are_asked_for(zoo: dict[str, str]) -> None:
    model = load_model(zoo["opt"], dtype="float32")
    with pytest.raises(ModelError, match=r"target_modules: .* no layer whose name ends in 'fc9'"):
        tuning.lora(model, target_modules=["fc1", "fc9"])
    tuned = tuning.lora(model, rank=2, target_modules=["fc1"])
    trained = [n for n, p in tuned.module.named_parameters() if p.requires_grad]
    assert trained and all(".fc1.lora_" in name for name in trained)


@pytest.mark.parametrize(
    ("family", "style", "changes"),
    [
        ("distilbert", "masked", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
        ("mamba", "causal", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
        (
            "rwkv",
            "causal",
            {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
        ),
        ("xglm", "causal", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64}),
    ],
)
def test_a_prompt_begins_as_its_tokens_in_front_of_the_text(
    tmp_path: Path, family: str, style: Any, changes: dict[str, Any]
) -> None:
    tokenizer = opt_tokenizer() if style == "causal" else bert_tokenizer()
    auto = AutoModelForCausalLM if style == "causal" else AutoModelForMaskedLM
    path = save(tmp_path, family, tokenizer, auto, **changes)
    model = load_model(path, dtype="float32", kind=style)
    text = torch.tensor([[5, 6, 7, 8]])
    drawn = torch.randint(len(tokenizer), (1, 3), generator=torch.Generator().manual_seed(0))
    whole = torch.cat([drawn, text], dim=1)
    with torch.no_grad():
        expected = model.module(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
        tuned = tuning.prompt(model, num_tokens=3)
        found = tuned.module(input_ids=text, attention_mask=torch.ones_like(text)).logits
    torch.testing.assert_close(found, expected)
