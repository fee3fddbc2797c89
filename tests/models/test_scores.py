"""Scores equal a plain computation, whatever shares the batch; single-token options share one
forward."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from bszo.errors import ModelError
from bszo.models import LanguageModel, evaluate, load_model
from bszo.models.batch import buckets
from bszo.tasks import Example

CAUSAL, MASKED = ("opt", "llama", "mistral"), ("roberta", "bert")
REAL = ("opt-mini", "roberta-mini", "stories260k-llama", "babyllama-char-1m")

CAUSAL_EXAMPLES = [
    Example("0", "the movie was great . It was", (" terrible", " great"), 1),
    Example("1", 'Does this mean that "the man is old" is true? Yes or No?\n', ("Yes", "No"), 0),
    Example("2", "Suppose it was good? Yes, No, or Maybe?\n", ("Yes", "No", "Maybe"), 2),
    Example(
        "3", "The man was tired because", (" the film was long.", " he went home so it was."), 0
    ),
    Example("4", "It", (" was", " is", " ends"), 1),
]
MASKED_EXAMPLES = [
    Example("0", "the movie was great . It was <mask> .", (" terrible", " great"), 1),
    Example(
        "1",
        "the man is old ? <mask> , the man was tired and the story was long",
        (" Yes", " No"),
        0,
    ),
    Example("2", "<mask> , it was good .", (" Yes", " No", " Maybe"), 2),
    Example("3", "the film was <mask>", (" great", " terrible"), 0),
]


def load(path: str, **changes: Any) -> LanguageModel:
    return load_model(path, **{"dtype": "float32", **changes})


def examples_for(model: LanguageModel) -> list[Example]:
    return CAUSAL_EXAMPLES if model.style == "causal" else MASKED_EXAMPLES


def plain_score(model: LanguageModel, example: Example, option: str) -> float:
    """One option by itself: no padding, no sharing, logits everywhere, log-softmax, mean over its
    tokens."""
    tokenizer, module = model.tokenizer, model.module
    with torch.no_grad():
        if model.style == "masked":
            ids = tokenizer(
                example.prompt.replace("<mask>", tokenizer.mask_token), return_tensors="pt"
            ).input_ids
            log_prob = module(
                input_ids=ids, attention_mask=torch.ones_like(ids)
            ).logits.log_softmax(-1)
            (word,) = tokenizer(option, add_special_tokens=False).input_ids
            (place,) = (ids[0] == tokenizer.mask_token_id).nonzero()[0].tolist()
            return log_prob[0, place, word].item()
        ids = tokenizer(example.prompt + option, return_tensors="pt").input_ids
        start = len(tokenizer(example.prompt).input_ids)
        assert ids[0, :start].tolist() == tokenizer(example.prompt).input_ids, (
            "no clean border: not for this check"
        )
        log_prob = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.log_softmax(-1)
        picked = [log_prob[0, t - 1, ids[0, t]].item() for t in range(start, ids.shape[1])]
        return sum(picked) / len(picked)


def check_against_plain(model: LanguageModel, examples: Sequence[Example]) -> None:
    with torch.no_grad():
        together = model.scores(model.collate(model.encode(examples)))
        assert together.dtype == torch.float32
        for b, example in enumerate(examples):
            expected = torch.tensor(
                [plain_score(model, example, option) for option in example.options]
            )
            assert expected.std() > 1e-3  # else a score read at the wrong place could pass
            torch.testing.assert_close(together[b, : len(expected)], expected, atol=1e-5, rtol=1e-5)
            assert (together[b, len(expected) :] == -math.inf).all()
            alone = model.scores(model.collate(model.encode([example])))
            torch.testing.assert_close(alone[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_scores_equal_one_option_a_pass(zoo: dict[str, str], family: str) -> None:
    model = load(zoo[family])
    check_against_plain(model, examples_for(model))


@pytest.mark.parametrize("name", REAL)
def test_scores_of_real_models_equal_one_option_a_pass(shared: Any, name: str) -> None:
    model = load(str(shared / "models" / name))
    check_against_plain(model, examples_for(model))


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_predict_keeps_the_order_whatever_the_buckets(zoo: dict[str, str], family: str) -> None:
    model = load(zoo[family])
    encoded = model.encode(examples_for(model) * 3)
    expected = model.score_all(encoded, max_tokens=1)  # each example by itself
    for max_tokens in (60, 200, 10_000):
        torch.testing.assert_close(
            model.score_all(encoded, max_tokens=max_tokens), expected, atol=1e-5, rtol=1e-5
        )
    assert model.predict(encoded, max_tokens=100) == expected.argmax(-1).tolist()
    assert len(set(model.predict(encoded, max_tokens=100))) > 1
    assert model.predict([], max_tokens=100) == []


class Counter:
    """Counts a module's forward passes, and the rows and positions that go into it."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = self.rows = self.positions = 0
        module.register_forward_pre_hook(self.count, with_kwargs=True, prepend=False)

    def count(self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        inputs = args[0] if args else kwargs["input_ids"]
        self.calls += 1
        self.rows += inputs.shape[0]
        self.positions += inputs.shape[0] * inputs.shape[1]


def counted(model: LanguageModel, examples: Sequence[Example]) -> tuple[Counter, Counter]:
    """Counters of the whole model and of its last matrix product after one call of `scores`."""
    batch = model.collate(model.encode(examples))
    whole, last = Counter(model.module), Counter(model.module.get_output_embeddings())  # type: ignore[operator]
    # the gathering hook comes later than ours on a head that is the last matrix, so count behind it
    model.module.get_output_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda _, __, logits: setattr(last, "positions", logits.shape[0] * logits.shape[1])
    )
    model.scores(batch)
    return whole, last


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_single_token_options_share_one_row_and_the_head_sees_only_their_places(
    zoo: dict[str, str], family: str
) -> None:
    model = load(zoo[family])
    options = ("Y", "N", "M") if model.style == "causal" else (" Yes", " No", " Maybe")
    gap = "" if model.style == "causal" else "<mask>"
    examples = [
        Example(str(i), "it was good? " * i + "Yes or No?\n" + gap, options, 0) for i in (1, 2, 3)
    ]
    whole, last = counted(model, examples)
    assert (whole.calls, whole.rows) == (1, 3)
    assert last.positions == 3


def test_a_longer_option_takes_the_single_token_options_along(zoo: dict[str, str]) -> None:
    model = load(zoo["opt"])
    example = Example("0", "It was", (" great", " great and great", " terrible"), 0)
    whole, last = counted(model, [example])
    assert whole.rows == 1
    # after "It was", and before the longer option's second and third tokens
    assert last.positions == 3
    check_against_plain(load(zoo["opt"]), [example])


def test_options_of_several_tokens_take_a_row_each(zoo: dict[str, str]) -> None:
    whole, _ = counted(load(zoo["opt"]), [CAUSAL_EXAMPLES[3]])
    assert whole.rows == 2


@pytest.mark.parametrize("family", ["opt", "roberta", "bert"])
def test_outside_scores_the_model_is_untouched_also_after_an_error(
    zoo: dict[str, str], family: str
) -> None:
    model = load(zoo[family])
    encoded = model.encode(examples_for(model))
    batch = model.collate(encoded)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = model.module.get_output_embeddings().register_forward_hook(fail)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="out of memory"):
        model.scores(batch)
    handle.remove()
    hooks = [part._forward_pre_hooks for part in model.module.modules()]
    assert not any(hooks)
    assert model.module(input_ids=batch.input_ids).logits.shape[:2] == batch.input_ids.shape


def test_loss_is_the_cross_entropy_of_the_scores_and_has_gradients(zoo: dict[str, str]) -> None:
    model = load(zoo["opt"])
    batch = model.collate(model.encode(CAUSAL_EXAMPLES))  # two and three options mixed
    scores = [[plain_score(model, e, option) for option in e.options] for e in CAUSAL_EXAMPLES]
    terms = [
        math.log(sum(map(math.exp, row))) - row[e.label]
        for row, e in zip(scores, CAUSAL_EXAMPLES, strict=True)
    ]
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)
    loss.backward()
    for name, parameter in model.module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_sixteen_bits_give_a_float32_loss_near_the_full_one(
    zoo: dict[str, str], family: str, dtype: str
) -> None:
    full, half = load(zoo[family]), load(zoo[family], dtype=dtype)
    encoded = half.encode(examples_for(half))
    with torch.no_grad():
        loss, expected = half.loss(half.collate(encoded)), full.loss(full.collate(encoded))
    assert loss.dtype == torch.float32 and next(half.module.parameters()).dtype == getattr(
        torch, dtype
    )
    assert loss.item() == pytest.approx(expected.item(), abs=0.2)


def test_a_swap_of_the_parameters_shows_in_the_loss(zoo: dict[str, str]) -> None:
    model = load(zoo["opt"])
    batch = model.collate(model.encode(CAUSAL_EXAMPLES))
    with torch.no_grad():
        before = model.loss(batch).item()
        kept = {p: p.data for p in model.module.parameters()}
        for p in kept:
            p.data = p.data * 1.1
        assert model.loss(batch).item() != before
        for p, data in kept.items():
            p.data = data
        assert model.loss(batch).item() == before


@pytest.mark.parametrize("family", ["opt", "llama", "roberta"])
def test_a_fresh_low_rank_adapter_changes_no_score(zoo: dict[str, str], family: str) -> None:
    model = load(zoo[family])
    encoded = model.encode(examples_for(model))
    expected = model.score_all(encoded, max_tokens=1000)
    targets = ["query"] if family == "roberta" else ["q_proj"]
    model.module = get_peft_model(model.module, LoraConfig(target_modules=targets))  # type: ignore[arg-type]
    torch.testing.assert_close(model.score_all(encoded, max_tokens=1000), expected)
    _, last = counted(model, examples_for(model))
    # the head is still found below the wrapper
    assert last.positions == len(model.collate(encoded).rows)


def test_virtual_tokens_in_front_shift_the_positions(zoo: dict[str, str]) -> None:
    model = load(zoo["opt"])
    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        token_dim=32,
        num_layers=2,
        num_attention_heads=4,
    )
    model.module = get_peft_model(model.module, config).eval()  # type: ignore[arg-type]
    example = CAUSAL_EXAMPLES[0]
    ids = model.tokenizer(example.prompt + " great", return_tensors="pt").input_ids
    start = len(model.tokenizer(example.prompt).input_ids)
    with torch.no_grad():
        log_prob = model.module(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).logits.log_softmax(-1)
    expected = sum(log_prob[0, 3 + t - 1, ids[0, t]].item() for t in range(start, ids.shape[1])) / (
        ids.shape[1] - start
    )
    scores = model.score_all(model.encode([example]), max_tokens=1000)
    assert scores[0, 1].item() == pytest.approx(expected, abs=1e-5)


def test_scores_that_are_not_finite_name_the_example(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(zoo["opt"])
    encoded = model.encode(CAUSAL_EXAMPLES)
    with torch.no_grad():
        next(iter(model.module.parameters())).fill_(math.nan)
    with pytest.raises(ModelError, match=r"opt: example 0 has option scores .*nan"):
        model.predict(encoded, max_tokens=1000)
    monkeypatch.setattr(model, "_score", lambda score, batch: torch.tensor([[1.0, math.inf]]))
    with pytest.raises(ModelError, match=r"opt: example 0 has option scores \[1.0, inf\]"):
        model.predict(encoded[:1], max_tokens=1000)


def test_no_pass_is_larger_than_is_said(zoo: dict[str, str]) -> None:
    """But for an example that is so by itself; padded, the longest first."""
    encoded = load(zoo["opt"]).encode(CAUSAL_EXAMPLES * 3)
    for most in (1, 30, 60, 100):
        found = list(buckets(encoded, most))
        assert sorted(i for bucket in found for i in bucket) == list(range(len(encoded)))
        for bucket in found:
            held = [encoded[i] for i in bucket]
            size = sum(len(e.rows) for e in held) * max(e.length for e in held)
            assert size <= most or len(bucket) == 1


def test_equal_scores_give_the_first_option(zoo: dict[str, str]) -> None:
    model = load(zoo["opt"])
    with torch.no_grad():
        model.module.get_output_embeddings().weight.zero_()  # type: ignore[operator]
    example = Example("0", "It was", (" great", " terrible", " good"), 2)
    assert model.predict(model.encode([example] * 4), max_tokens=50) == [0] * 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_whose_activations_overflow_has_collapsed(zoo: dict[str, str], dtype: str) -> None:
    """1e30 squared is infinite in float32 and in bfloat16, and 1 / infinity is 0, which makes every
    score finite, the loss log(options), and the first option the answer."""
    model = load(zoo["llama"], dtype=dtype)
    encoded = model.encode(CAUSAL_EXAMPLES[:4])
    before = evaluate(model, encoded, 256)
    assert not before.mute
    with torch.no_grad():
        next(iter(model.module.parameters())).fill_(1e30)  # the embeddings
    after = evaluate(model, encoded, 256)
    # of two options three examples, of three options one
    assert after.loss == pytest.approx((3 * math.log(2) + math.log(3)) / 4, abs=1e-6)
    assert after.mute
    one = evaluate(model, encoded[:1], 256)
    assert not one.mute  # one row cannot tell
    assert one.accuracy == (CAUSAL_EXAMPLES[0].label == 0)


@pytest.mark.parametrize("family", ["opt", "roberta"])
def test_a_model_that_says_the_same_of_every_row_is_mute(zoo: dict[str, str], family: str) -> None:
    """A LayerNorm of something infinite is its bias, by which an option can be preferred: the
    scores of two rows are the same, those of two options are not."""
    model = load(zoo[family])
    text = "{} . It was" + " <mask> ." * (family == "roberta")
    options = (" terrible", " great")
    examples = [Example(f"{i}", text.format(said), options, i % 2) for i, said in enumerate("abcd")]
    encoded = model.encode(examples)
    assert not evaluate(model, encoded, 256).mute
    norms = [m for m in model.module.modules() if isinstance(m, nn.LayerNorm)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in norms:
            norm.weight.zero_()
            norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator))
    logits = model.logits(encoded, max_tokens=256)
    assert torch.equal(logits[0], logits[3]) and logits[0, 0] != logits[0, 1]
    assert evaluate(model, encoded, 256).mute
    assert not evaluate(model, encoded[:1] * 2, 256).mute  # one row twice


def test_an_empty_batch_and_no_room_are_refused(zoo: dict[str, str]) -> None:
    model = load(zoo["opt"])
    with pytest.raises(ModelError, match="at least one example"):
        model.collate([])
    with pytest.raises(ModelError, match="max_tokens=0"):
        model.predict(model.encode(CAUSAL_EXAMPLES), max_tokens=0)
