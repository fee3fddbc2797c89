"""An output layer asked for a few words gives what the full one gives for them, in every kind of
pass."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from bszo.models import Batch, collate, option_logits, option_scores
from bszo.models.encode import Encoded, OptionTokens
from bszo.perturb import Copies, Gaussian, LossOracle, Streaming

SHAPE = {
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "llama": {"intermediate_size": 64, "num_key_value_heads": 2},
    "mistral": {"intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 16},
    "roberta": {"intermediate_size": 64, "type_vocab_size": 1},
    "bert": {"intermediate_size": 64},
}
MASKED = ("roberta", "bert")
VOCABULARY = 200
SETTINGS = [(family, tied) for family in SHAPE for tied in (True, False)]


def build(family: str, tied: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    config = AutoConfig.for_model(
        family,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_size=32,
        max_position_embeddings=40,
        vocab_size=VOCABULARY,
        tie_word_embeddings=tied,
        **SHAPE[family],
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = (AutoModelForMaskedLM if family in MASKED else AutoModelForCausalLM).from_config(
            config
        )
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return module.to(dtype).eval()


def example(number: int, options: Sequence[tuple[int, ...]], length: int = 9) -> Encoded:
    rows, found = [], []
    prompt = tuple((7 * number + 3 * i) % (VOCABULARY - 10) + 5 for i in range(length + number))
    for tokens in options:
        row = prompt + tokens[:-1]
        rows += [row] if row not in rows else []
        found.append(OptionTokens(rows.index(row), tuple(range(len(prompt) - 1, len(row))), tokens))
    return Encoded(str(number), number % len(options), tuple(rows), tuple(found), False)


ONE_TOKEN = [
    example(0, [(50,), (61,)]),
    example(1, [(61,), (50,), (9,)]),
    example(2, [(199,), (0,)]),
]
SEVERAL = [example(0, [(50,), (61,)]), example(1, [(61, 7), (50, 8, 9)])]


def of(batch: Batch, module: nn.Module, family: str, score: Callable[..., Tensor]) -> Tensor:
    with torch.no_grad():
        return score(module, batch, causal=family not in MASKED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "tied"), SETTINGS)
def test_a_few_words_give_the_full_layers_softmax(
    family: str, tied: bool, dtype: torch.dtype
) -> None:
    module, batch = build(family, tied, dtype), collate(ONE_TOKEN, pad_id=1)
    few, full = of(batch, module, family, option_logits), of(batch, module, family, option_scores)
    assert few.dtype == torch.float32 and few.shape == full.shape == (3, 3)
    difference = few - full  # the log-normaliser, one number an example
    present = batch.present[..., 0]
    assert torch.equal(few.isinf(), ~present) and torch.equal(full.isinf(), ~present)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for row, mask in zip(difference, present, strict=True):
        assert row[mask].max() - row[mask].min() < tolerance
        # not left as they are; untied masked models have a bias that only the full layer owns, and
        # run it
        assert row[mask].min() > 0.5 or (family in MASKED and not tied)
    torch.testing.assert_close(
        F.cross_entropy(few, batch.labels),
        F.cross_entropy(full, batch.labels),
        rtol=0,
        atol=tolerance,
    )


@pytest.mark.parametrize("engine", ["streaming", "copy"])
@pytest.mark.parametrize(("family", "tied"), SETTINGS)
def test_perturbed_passes_agree_at_no_further_pass(family: str, tied: bool, engine: str) -> None:
    module, batch = build(family, tied), collate(ONE_TOKEN, pad_id=1)
    params: list[Tensor] = list(module.parameters())
    before = [p.detach().clone() for p in params]

    def losses(score: Callable[..., Tensor]) -> list[float]:
        how = (
            Streaming(params, module)
            if engine == "streaming"
            else Copies(params, list(range(len(params))))
        )
        oracle = LossOracle(
            params,
            lambda: F.cross_entropy(of(batch, module, family, score), batch.labels),
            Gaussian(params),
            how,
        )
        found = oracle.measure([{}, {3: 0.02}, {3: -0.02, 8: 0.05}])
        assert oracle.num_forwards == 3
        return found

    few = losses(option_logits)
    assert few == pytest.approx(losses(option_scores), abs=2e-5)
    assert len({round(loss, 3) for loss in few}) == 3
    assert all(torch.equal(p, kept) for p, kept in zip(params, before, strict=True))


def test_only_the_words_rows_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bszo.perturb.directions.gaussian.KEEP_BELOW", 0)
    module, batch = build("mistral", tied=False), collate(ONE_TOKEN, pad_id=1)
    params: list[Tensor] = list(module.parameters())
    head = next(i for i, p in enumerate(params) if p is module.lm_head.weight)  # type: ignore[union-attr]
    drawn: list[int] = []

    class Counting(Gaussian):
        def shift(self, theta: Tensor, index: int, *args: Any, **kwargs: Any) -> Tensor:
            drawn.extend([theta.shape[0]] * (index == head))
            return super().shift(theta, index, *args, **kwargs)

        def shift_rows(self, theta: Tensor, index: int, rows: Tensor, *args: Any) -> Tensor:
            drawn.extend([len(rows)] * (index == head))
            return super().shift_rows(theta, index, rows, *args)

    oracle = LossOracle(
        params,
        lambda: of(batch, module, "mistral", option_logits).softmax(-1)[0, 0],
        Counting(params),
        Streaming(params, module),
    )
    oracle.loss({1: 0.1})
    assert drawn == [5]  # tokens 0, 9, 50, 61, 199


@pytest.mark.parametrize("family", ["opt", "roberta"])
def test_gradients_are_the_full_layers(family: str) -> None:
    module, batch = build(family, tied=True), collate(ONE_TOKEN, pad_id=1)
    gradients = []
    for score in (option_logits, option_scores):
        module.zero_grad()
        F.cross_entropy(score(module, batch, causal=family == "opt"), batch.labels).backward()
        gradients.append(
            [p.grad if p.grad is not None else torch.zeros_like(p) for p in module.parameters()]
        )
    for few, full in zip(*gradients, strict=True):
        torch.testing.assert_close(few, full, rtol=1e-4, atol=1e-6)


def test_options_of_several_tokens_keep_the_normaliser() -> None:
    module, batch = build("opt", tied=True), collate(SEVERAL, pad_id=1)
    assert batch.words is None and collate(ONE_TOKEN, pad_id=1).words is not None
    assert torch.equal(
        of(batch, module, "opt", option_logits), of(batch, module, "opt", option_scores)
    )


def test_options_read_at_several_places_keep_the_normaliser() -> None:
    options = (OptionTokens(0, (2,), (50,)), OptionTokens(0, (3,), (61,)))
    batch = collate([Encoded("0", 0, ((5, 6, 7, 8),), options, False)], pad_id=1)
    assert batch.words is None


def test_a_layer_that_is_more_than_a_matrix_is_run_in_full() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    module, batch = build("llama", tied=False), collate(ONE_TOKEN, pad_id=1)
    layer = Doubled(32, VOCABULARY, bias=False)
    layer.weight = module.lm_head.weight  # type: ignore[union-attr]
    module.lm_head = layer
    assert torch.equal(
        of(batch, module, "llama", option_logits), of(batch, module, "llama", option_scores)
    )


def test_a_model_may_ask_the_layer_for_its_type() -> None:
    """Mamba reads `lm_head.weight.dtype` before it calls the layer, in a pass with exchanged
    weights too."""
    config = AutoConfig.for_model(
        "mamba", num_hidden_layers=2, hidden_size=16, state_size=4, vocab_size=VOCABULARY
    )
    module, batch = AutoModelForCausalLM.from_config(config).eval(), collate(ONE_TOKEN, pad_id=1)
    few, full = (
        of(batch, module, "mamba", score).softmax(-1) for score in (option_logits, option_scores)
    )
    torch.testing.assert_close(few, full)
    params = list(module.parameters())
    losses = []
    for engine in (Streaming(params, module), Copies(params, list(range(len(params))))):
        oracle = LossOracle(
            params,
            lambda: option_logits(module, batch, causal=True)[0, 0],
            Gaussian(params),
            engine,
        )
        losses.append(oracle.loss({3: 0.1}))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_layer_is_back_after_an_error() -> None:
    module, batch = build("roberta", tied=True), collate(ONE_TOKEN, pad_id=1)
    layer, keys = module.get_output_embeddings(), list(module.state_dict())  # type: ignore[operator]

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = module.lm_head.layer_norm.register_forward_hook(fail)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="out of memory"):
        of(batch, module, "roberta", option_logits)
    handle.remove()
    assert module.get_output_embeddings() is layer  # type: ignore[operator]
    assert list(module.state_dict()) == keys
