"""Adapters against dense weights, real tokens in front and an attention of our own; what they
refuse; their files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    BartConfig,
    BartForConditionalGeneration,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

import bszo
from bszo.errors import ModelError
from bszo.models import (
    Encoded,
    LanguageModel,
    load_model,
    projections,
    saved,
    tuning,
    weights_fingerprint,
)
from bszo.tasks import Example
from tests.squares import square

CAUSAL, MASKED = ("opt", "llama", "mistral"), ("roberta", "bert")
FAMILIES = (*CAUSAL, *MASKED)
SCHEMES = ("lora", "prefix", "prompt")
EXAMPLES = {
    "causal": [
        Example("x:0", "the movie was great and", (" terrible", " great story"), 1),
        Example("x:1", "It was", (" great", " terrible"), 0),
    ],
    "masked": [
        Example("x:0", "the movie was great and it was <mask> .", (" terrible", " great"), 1),
        Example("x:1", "It was <mask> .", (" great", " terrible"), 0),
    ],
}
Load = Callable[[str], LanguageModel]


@pytest.fixture
def load(zoo: dict[str, str]) -> Load:
    """The family's random model, in double precision, so that equal means equal."""

    def read(family: str) -> LanguageModel:
        model = load_model(zoo[family], dtype="float32")
        model.module.double()
        return model

    return read


def encoded(model: LanguageModel) -> list[Encoded]:
    return model.encode(EXAMPLES[model.style])


def scores(model: LanguageModel, examples: list[Encoded] | None = None) -> Tensor:
    with torch.no_grad():
        return model.scores(model.collate(examples or encoded(model)))


def attach(scheme: str, model: LanguageModel, **arguments: Any) -> LanguageModel:
    return getattr(tuning, scheme)(model, **arguments)


def trained(model: LanguageModel) -> list[Tensor]:
    return [parameter for parameter in model.module.parameters() if parameter.requires_grad]


def behind(ids: list[int], example: Encoded) -> Encoded:
    """The example with real tokens in front of every row."""
    options = tuple(
        replace(option, columns=tuple(column + len(ids) for column in option.columns))
        for option in example.options
    )
    return replace(example, rows=tuple((*ids, *row) for row in example.rows), options=options)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_is_w_plus_scaled_b_a_on_every_query_and_value(family: str, load: Load):
    tuned, dense = tuning.lora(load(family), rank=3, alpha=12, seed=1), load(family)
    weights: dict[str, Tensor] = {name: p.data for name, p in dense.module.named_parameters()}
    generator, changed = torch.Generator().manual_seed(0), set()
    for name, b in tuned.module.named_parameters():
        if ".lora_B." in name:
            b.data.copy_(torch.randn(b.shape, generator=generator))
            a = dict(tuned.module.named_parameters())[name.replace("lora_B", "lora_A")]
            base = name.removeprefix("base_model.model.").replace(".lora_B.default", "")
            weights[base] += 12 / 3 * (b.data @ a.data)
            changed.add(base)
    assert len(changed) == 2 * 2  # query and value, two layers
    names = ("query.", "value.") if family in MASKED else ("q_proj.", "v_proj.")
    assert all(any(part in name for part in names) for name in changed)
    torch.testing.assert_close(scores(tuned), scores(dense))


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_begins_with_the_base_s_scores_bit_for_bit(family: str, load: Load):
    assert torch.equal(scores(tuning.lora(load(family))), scores(load(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_real_embeddings_is_real_tokens_in_front(family: str, load: Load):
    base, tuned = load(family), tuning.prompt(load(family), num_tokens=4, seed=3)
    (virtual,) = trained(tuned)
    table: Any = base.module.get_input_embeddings()  # type: ignore[operator]
    ids = torch.cdist(virtual, table.weight).argmin(1).tolist()
    assert base.pad_id not in ids
    torch.testing.assert_close(scores(tuned), scores(base, [behind(ids, e) for e in encoded(base)]))


@pytest.mark.parametrize("family", CAUSAL)
def test_a_prefix_of_real_activations_is_real_tokens_in_front(family: str, load: Load):
    """Grouped queries (llama, mistral), and rows longer than mistral's window of 16, the prefix
    included."""
    base, tuned = load(family), tuning.prefix(load(family), num_tokens=5, seed=3)
    ids = torch.randint(
        len(base.tokenizer), (5,), generator=torch.Generator().manual_seed(3)
    ).tolist()
    examples = encoded(base)
    torch.testing.assert_close(
        scores(tuned), scores(base, [behind(ids, example) for example in examples])
    )
    assert family != "mistral" or max(example.length for example in examples) > 16
    cached = trained(tuned)[0].shape[1]
    # layers, keys and values, half the heads where grouped
    assert cached == 2 * 2 * (32 if family == "opt" else 16)


@pytest.mark.parametrize("family", MASKED)
def test_a_masked_model_s_prefix_is_keys_and_values_in_front(family: str, load: Load):
    base, tuned, n = load(family), tuning.prefix(load(family), num_tokens=5, seed=3), 5
    (weight,) = trained(tuned)
    # layer, key or value, head, token, width
    heads = weight.detach().view(n, 2, 2, 4, 8).permute(1, 2, 3, 0, 4)
    config: Any = base.module.config
    first = config.pad_token_id + 1 if family == "roberta" else 0

    def prefixed(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, *, scaling: float, **_: Any
    ):
        k, v = (torch.cat([heads[module.layer_idx, i][None], x], 2) for i, x in enumerate((k, v)))
        return ((q @ k.mT * scaling).softmax(-1) @ v).transpose(1, 2), None

    AttentionInterface.register("prefixed", prefixed)
    base.module.set_attn_implementation("prefixed")  # type: ignore[operator]
    for example, found in zip(encoded(base), scores(tuned), strict=True):
        ids = torch.tensor(example.rows)
        with torch.no_grad():
            logits = base.module(
                input_ids=ids, position_ids=torch.arange(ids.shape[1])[None] + first + n
            ).logits[0]
        expected = [logits[o.columns[0]].log_softmax(-1)[o.tokens[0]] for o in example.options]
        torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "scheme"), square(FAMILIES, SCHEMES))
def test_streaming_perturbs_every_adapter_and_nothing_else_moves(
    family: str, scheme: str, load: Load
):
    losses = []
    for streaming in (True, False):
        model = attach(scheme, load(family), seed=2)
        for parameter in trained(model):
            parameter.data += 0.1  # B = 0 would hide A
        batch = model.collate(encoded(model))
        frozen = {
            name: p.clone() for name, p in model.module.named_parameters() if not p.requires_grad
        }
        before = [p.clone() for p in trained(model)]
        optimizer = bszo.MeZO(
            trained(model), lr=1e-2, eps=1e-2, seed=5, module=model.module if streaming else None
        )
        losses.append([optimizer.step(lambda m=model, b=batch: m.loss(b)) for _ in range(3)])
        assert all(
            torch.equal(p, frozen[name])
            for name, p in model.module.named_parameters()
            if name in frozen
        )
        assert all((a != b).all() for a, b in zip(before, trained(model), strict=True))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert len(set(losses[0])) == 3


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", ["opt", "mistral", "roberta"])
def test_the_few_words_shortcut_says_the_same(family: str, scheme: str, load: Load):
    """`loss` may take the rows of the options' words alone: it differs from the scores by a
    constant an example."""
    model = attach(scheme, load(family))
    examples = EXAMPLES[model.style][1:]
    batch = model.collate(model.encode(examples))
    expected = torch.nn.functional.cross_entropy(model.scores(batch), batch.labels)
    torch.testing.assert_close(model.loss(batch), expected)


@pytest.mark.parametrize(
    ("name", "scheme"), square(["tiny-roberta", "tiny-opt", "tiny-mistral"], SCHEMES)
)
def test_training_lowers_the_loss(name: str, scheme: str):
    for first_order, steps in ((True, 12), (False, 40)):
        model = attach(scheme, load_model(f"asset:{name}", dtype="float32"))
        batch = model.collate(encoded(model))
        parameters = trained(model)
        optimizer: Any = (
            bszo.FirstOrder(parameters, algorithm=lambda p: torch.optim.AdamW(p, lr=2e-2))
            if first_order
            else bszo.MeZO(parameters, lr=2e-2, eps=1e-2, seed=0, module=model.module)
        )
        losses = [optimizer.step(lambda m=model, b=batch: m.loss(b)) for _ in range(steps)]
        assert model.loss(batch).item() < (0.7 if first_order else 1.0) * losses[0], (
            first_order,
            losses,
        )


@pytest.mark.parametrize(
    ("name", "scheme"), square(["stories260k-llama", "opt-mini", "roberta-mini"], SCHEMES)
)
def test_real_small_models_take_every_scheme(name: str, scheme: str, shared: Path):
    base = load_model(str(shared / "models" / name), dtype="float32")
    examples = encoded(base)
    before = scores(base, examples)
    model = attach(scheme, base)
    assert torch.equal(scores(model, examples), before) == (scheme == "lora")
    batch = model.collate(examples)
    optimizer = bszo.MeZO(trained(model), lr=1e-3, eps=1e-3, seed=0, module=model.module)
    losses = [optimizer.step(lambda: model.loss(batch)) for _ in range(10)]
    assert model.loss(batch).item() < losses[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_decides_the_start_and_no_global_generator_moves(scheme: str, load: Load):
    state = torch.get_rng_state()
    first, again, other = (attach(scheme, load("opt"), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    prints = [weights_fingerprint(model.module) for model in (first, again, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_adapters_have_the_base_s_type(scheme: str, zoo: dict[str, str]):
    model = attach(scheme, load_model(zoo["llama"], dtype="bfloat16"))
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    assert scores(model)[1].isfinite().all() and not model.module.training


@pytest.mark.parametrize("scheme", ["prefix", "prompt"])
@pytest.mark.parametrize("family", ["opt", "roberta", "bert"])
def test_virtual_tokens_take_positions_of_the_text(family: str, scheme: str, load: Load):
    model = attach(scheme, load(family), num_tokens=7)
    assert model.limit == 64 - 7
    word = " great" if family == "opt" else " <mask>"
    long = Example("x:0", "the movie was great " * 40 + word.strip(), (" great", " terrible"), 0)
    (example,) = model.encode([long])
    # a causal row goes without the token that is scored
    assert example.truncated and example.length in (57, 56)
    assert scores(model, [example]).isfinite().all()


@pytest.mark.parametrize(
    ("scheme", "arguments", "says"),
    [
        (
            "lora",
            {"rank": 0},
            r"^tuning.rank=0: must be 1 to 16, the smaller side of .*'s projections$",
        ),
        ("lora", {"rank": 17}, r"^tuning.rank=17: must be 1 to 16"),
        ("lora", {"alpha": 0}, r"^tuning.alpha=0: must be more than 0$"),
        (
            "prefix",
            {"num_tokens": 0},
            r"^tuning.num_tokens=0: must be at least 1 and at most 62, the model has 64 posi",
        ),
        ("prompt", {"num_tokens": 63}, r"^tuning.num_tokens=63: must be at least 1 and at most 62"),
    ],
)
def test_sizes_that_fit_no_model(scheme: str, arguments: dict[str, Any], says: str, load: Load):
    with pytest.raises(ModelError, match=says):
        attach(scheme, load("llama"), **arguments)


def test_a_prefix_stands_before_no_encoder_decoder(load: Load):
    size: Any = {"vocab_size": 600, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    heads: Any = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    wide: Any = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64}
    bart = LanguageModel(
        BartForConditionalGeneration(BartConfig(**size, **heads, **wide)).eval(),
        load("bert").tokenizer,
        style="masked",
        max_length=64,
        name="bart",
    )
    with pytest.raises(ModelError, match=r"^tuning=prefix: bart .* encoder-decoder model"):
        tuning.prefix(bart)


def test_a_scheme_that_a_model_cannot_take_is_refused_with_what_would_work(load: Load):
    size: Any = {"vocab_size": 600, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    fused = LanguageModel(
        GPT2LMHeadModel(GPT2Config(**size)).eval(),
        load("opt").tokenizer,
        style="causal",
        max_length=64,
        name="gpt",
    )
    assert projections.lora_targets(fused) == ["c_attn"]  # query, key and value in one layer
    assert tuning.prefix(fused, num_tokens=3).limit == 61
    small: Any = {"vocab_size": 600, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    keyless = LanguageModel(
        DistilBertForMaskedLM(DistilBertConfig(**small)).eval(),
        load("bert").tokenizer,
        style="masked",
        max_length=64,
        name="distil",
    )
    with pytest.raises(
        ModelError, match=r"^tuning=prefix: distil .* cannot have virtual tokens .*tuning=lora and"
    ):
        tuning.prefix(keyless)
    assert len(trained(tuning.lora(keyless, rank=2))) == 4  # and again
    shape: Any = {"vocab_size": 600, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    neither = LanguageModel(
        MambaForCausalLM(MambaConfig(**shape)).eval(),
        load("opt").tokenizer,
        style="causal",
        max_length=64,
        name="mamba",
    )
    with pytest.raises(
        ModelError,
        match=r"^tuning=prefix: mamba .* virtual tokens .*; tuning=lora and tuning=full need none",
    ):
        tuning.prefix(neither)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", ["mistral", "roberta"])
def test_a_saved_adapter_comes_back_and_is_peft_s_own(
    family: str, scheme: str, load: Load, tmp_path: Path
):
    from peft import PeftModel

    model = attach(scheme, load(family), seed=4)
    for parameter in trained(model):
        parameter.data += 0.1
    saved.save_tuned(model, tmp_path / "adapter")
    files = [path for path in (tmp_path / "adapter").iterdir() if path.suffix != ".safetensors"]
    assert not any(str(tmp_path) in path.read_text() for path in files)
    assert [path.name for path in files] == ["adapter_config.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    back = saved.load_tuned(load(family), tmp_path / "adapter")
    assert torch.equal(scores(back), scores(model)) and back.limit == model.limit
    assert [p.shape for p in trained(back)] == [p.shape for p in trained(model)]
    foreign = load(family)
    theirs = PeftModel.from_pretrained(foreign.module, tmp_path / "adapter")  # type: ignore[arg-type]
    foreign.module = theirs.double().eval()
    torch.testing.assert_close(scores(foreign), scores(model), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="is there already"):
        saved.save_tuned(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"^adapter .*: does not fit .*"):
        saved.load_tuned(
            load("opt" if scheme != "prompt" else "bert"), _narrowed(tmp_path / "adapter")
        )
    with pytest.raises(ModelError, match=r"has no adapter_config\.json"):
        saved.load_tuned(load(family), tmp_path)


@pytest.mark.parametrize("family", ["opt", "roberta"])
def test_a_saved_model_is_read_as_any_other_and_does_not_say_where_it_came_from(
    family: str, zoo: dict[str, str], tmp_path: Path
):
    model = load_model(zoo[family], dtype="float32")
    for parameter in model.module.parameters():
        parameter.data += 0.01
    saved.save_tuned(model, tmp_path / "model")
    back = load_model(str(tmp_path / "model"), dtype="float32")
    assert torch.equal(scores(back), scores(model))
    assert zoo[family] not in (tmp_path / "model" / "config.json").read_text()


def test_what_transformers_refuses_to_save_is_one_line(load: Load, tmp_path: Path):
    """A temperature without sampling, which published generation settings have been known to
    hold."""
    model: Any = load("opt")
    model.module.generation_config.temperature = 0.5
    with pytest.raises(ModelError, match=r"model: cannot be written \(.*[Gg]eneration"):
        saved.save_tuned(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def _narrowed(folder: Path) -> Path:
    """The adapter with a tensor of another width."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file({name: value[:, :-1].contiguous() for name, value in load_file(file).items()}, file)
    return folder
