"""Packed batches: texts behind one another in one row have the losses that they have alone."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import bszo.models.packing
from bszo.errors import ModelError
from bszo.models import GenerativeModel, LanguageModel, ProbedModel, load_model, traits, tuning
from bszo.models.encode import Encoded, OptionTokens
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


def shapes_read(model: LanguageModel) -> list[tuple[int, ...]]:
    """A list to which every pass from now on adds (rows, columns) of what it reads."""
    seen: list[tuple[int, ...]] = []
    embedding: Any = model.module.get_input_embeddings()  # type: ignore[operator]
    embedding.register_forward_hook(lambda _, args, output: seen.append(tuple(args[0].shape)))
    return seen


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
    """In one row, and in several as wide as is said or as the longest text, or all of an example,
    whose options share their beginning; Mistral's window of attention forbids that."""
    model = load(zoo[family], packed=True)
    monkeypatch.setattr(bszo.models.packing, "WIDTH", width)
    if adapted:
        model = tuning.lora(model, rank=2)
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    seen = shapes_read(model)
    encoded = model.encode(CAUSAL_EXAMPLES)
    batch = model.collate(encoded)
    assert not batch.attention_mask.all()  # there is padding to be spared
    loss = model.loss(batch).item()
    sizes, common = batch.attention_mask.sum(1).tolist(), 0
    if family != "mistral":  # a token for each beginning that some option has
        whole = sum(sizes)
        beginnings = [{r[: i + 1] for r in e.rows for i in range(len(r))} for e in encoded]
        common = len(set.intersection(*beginnings))  # once in each row
        sizes = [len(those) - common for those in beginnings]
        assert sum(sizes) < whole - common
    ((rows, columns),) = seen
    needed, room = sum(sizes), max(width, 2 * common, *sizes)
    assert rows == min(-(-needed // room), len(sizes))
    own = columns - common
    assert own == needed if rows == 1 else needed <= rows * own
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


@pytest.mark.parametrize("family", ["llama", "opt", TRANSPOSED])
@pytest.mark.parametrize("probed", [False, True])
def test_options_may_share_any_part_of_their_beginning(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch, family: str, probed: bool
) -> None:
    """Nothing, a part, all that stands before their last token, all of another; alone in the batch,
    and beside rows of all positions that the model has, which padding must not exceed."""
    model = load(zoo[family], packed=True)
    model.module.double()
    if probed:
        model = ProbedModel(model, num_options=4)
        for parameter in model.module.probe.parameters():  # type: ignore[union-attr]
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    ways = model.traits.packed
    rng = random.Random(0)
    for width in (300, 60, 1):
        monkeypatch.setattr(bszo.models.packing, "WIDTH", width)
        for count in (1, 1, 1, 2, 3, 9):
            batch = model.collate([branching(rng, str(i)) for i in range(count)])
            for way in ways:
                model.traits = replace(model.traits, packed=(way,))
                with torch.no_grad():
                    found = model.losses(batch)
                    model.traits = replace(model.traits, packed=())
                    torch.testing.assert_close(found, model.losses(batch), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "opt", TRANSPOSED])
def test_examples_may_share_their_beginning(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """The loss, its gradient and the scores of an evaluation are those of texts alone."""
    model = load(zoo[family], packed=True)
    model.module.double()
    weights = list(model.module.parameters())
    rng = random.Random(1)
    for width in (300, 60, 1):
        monkeypatch.setattr(bszo.models.packing, "WIDTH", width)
        for count in (1, 2, 3, 9):
            shared = tuple(rng.choices(range(5, 60), k=rng.choice([1, 7, 49])))
            examples = [branching(rng, str(i), shared) for i in range(count)]
            batch = model.collate(examples)
            found = []
            for ways in (("mask",), ()):
                model.traits = replace(model.traits, packed=ways)
                loss = model.loss(batch)
                of_all = torch.autograd.grad(loss, weights, allow_unused=True)
                gradient = torch.cat([g.flatten() for g in of_all if g is not None])
                scores = model.score_all(examples, max_tokens=rng.choice([1, 200, 4000]))
                found.append((loss.detach(), gradient, scores))
            for packed, alone in zip(*found, strict=True):
                torch.testing.assert_close(packed, alone, atol=1e-6, rtol=0)


def test_a_row_has_a_common_beginning_once_and_the_loss_of_each_example_does_not_share_it(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directions of each example's own need tokens of each example's own."""
    model = load(zoo["llama"], packed=True)
    seen = shapes_read(model)
    read = (OptionTokens(0, (29,), (5,)), OptionTokens(0, (29,), (6,)))
    made = [Encoded(str(i), 0, ((7,) * 29 + (8 + i,),), read, False) for i in range(9)]
    batch = model.collate(made)
    monkeypatch.setattr(bszo.models.packing, "WIDTH", 3)  # less than twice the beginning
    together = model.loss(batch)
    each = model.losses(batch)
    model.score_all(made, max_tokens=10_000)
    assert seen == [(1, 29 + 9), (9, 30), (1, 29 + 9)]
    torch.testing.assert_close(together, each.mean())
    owners, of_read = model.examples(batch)
    assert owners.tolist() == [[i] * 30 for i in (*range(9),)]
    assert of_read.tolist() == [list(range(9))]


def test_padding_is_no_beginning(zoo: dict[str, str]) -> None:
    """A text may have the token of padding where another has padding."""
    model = load(zoo["llama"])
    read = (OptionTokens(0, (4,), (5,)),)

    def common(*rows: tuple[int, ...]) -> int:
        made = [Encoded(str(i), 0, (row,), read, False) for i, row in enumerate(rows)]
        texts = bszo.models.packing.texts_of(model.collate(made))
        assert texts == list(map(list, rows))
        return bszo.models.packing.common_beginning(texts)

    text, pad = (7, 8, 9, 10, 11), (model.pad_id,)
    assert common(text, (*text, *pad, 12)) == 5
    assert common(text, text[:2]) == common(text, (7, 8, 12, 10, 11)) == 2
    assert common(text, (12, 8, 9, 10, 11)) == common(text) == 0


def test_an_evaluation_is_packed_where_that_spares_a_fifth(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_tokens` holds beside a beginning that all examples share."""
    model = load(zoo["llama"], packed=True)
    seen = shapes_read(model)
    read = (OptionTokens(0, (19,), (5,)), OptionTokens(0, (19,), (6,)))

    def shapes(common: int, lengths: list[int], max_tokens: int) -> list[tuple[int, ...]]:
        seen.clear()
        made = [
            Encoded(str(i), 0, ((7,) * common + (8 + i,) * (length - common),), read, False)
            for i, length in enumerate(lengths)
        ]
        model.predict(made, max_tokens=max_tokens)
        return list(seen)

    assert shapes(0, [20] * 6, 60) == [(3, 20)] * 2
    assert shapes(3, [20] * 6, 70) == [(3, 20)] * 2
    assert shapes(16, [20] * 6, 12) == [(1, 16 + 12)] * 2  # 384 of 400 positions are their own
    # 76 x 384 / 460 = 64 of 76 + 64 positions
    assert shapes(76, [80] * 32, 76) == [(1, 76 + 64)] * 2
    assert shapes(20, [20] * 6, 3) == [(1, 20)] * 2  # texts that are all alike, too
    assert shapes(0, [40, 20, 20, 20], 160) == [(1, 100)]
    assert shapes(0, [40, 36, 36, 36], 160) == [(4, 40)]


def branching(rng: random.Random, name: str, shared: tuple[int, ...] = ()) -> Encoded:
    """An example of up to four options behind a prompt; all 64 positions may be taken. `shared`
    stands in front, and one option may be no more than that."""
    if shared:
        plain = branching(rng, name)
        n = len(shared)
        rows = tuple((shared + row)[: rng.choice([64, 64, n])] for row in plain.rows)
        last = [min(option.columns[-1] + n, len(rows[option.row]) - 1) for option in plain.options]
        options = tuple(
            replace(o, columns=tuple(range(c + 1 - len(o.columns), c + 1)))
            if c + 1 >= len(o.columns)
            else replace(o, columns=(c,), tokens=o.tokens[:1])
            for o, c in zip(plain.options, last, strict=True)
        )
        return replace(plain, rows=rows, options=options)
    prompt = rng.choices(range(5, 60), k=rng.choice([0, 1, 20, 50]))
    texts = [prompt + rng.choices(range(5, 60), k=rng.choice([1, 2, 14]))]
    for _ in range(rng.randrange(4)):
        other = rng.choice(texts)[:63]
        kept = other[: rng.choice([0, len(prompt), len(other) // 2, len(other) - 1, len(other)])]
        texts.append(kept + rng.choices(range(5, 60), k=rng.randint(1, 64 - len(kept))))
    options = tuple(
        OptionTokens(row, tuple(range(min(len(prompt), len(text) - 1), len(text))), tuple(text))
        for row, text in enumerate(texts)
    )
    options = tuple(replace(o, tokens=o.tokens[-len(o.columns) :]) for o in options)
    return Encoded(name, 0, tuple(map(tuple, texts)), options, False)


def test_padding_has_no_position_that_a_model_lacks(
    zoo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 64 of GPT-2's are taken, and an example's four options make a row of 106 tokens."""
    model = load(zoo[TRANSPOSED], packed=True)
    monkeypatch.setattr(bszo.models.packing, "WIDTH", 1)
    texts = tuple((7,) * 50 + (8 + i,) * 14 for i in range(4))
    options = tuple(OptionTokens(i, (63,), (5,)) for i in range(4))
    short = Encoded("1", 0, ((7, 8),), (OptionTokens(0, (1,), (5,)),), False)
    batch = model.collate([Encoded("0", 0, texts, options, False), short])
    assert in_few_rows(batch, "mask").input_ids.shape == (2, 106)
    loss = model.loss(batch).item()
    model.traits = replace(model.traits, packed=())
    assert loss == pytest.approx(model.loss(batch).item(), abs=1e-6)


def test_one_long_text_among_short_ones_makes_no_padding(zoo: dict[str, str]) -> None:
    model = load(zoo["llama"])
    long = OptionTokens(0, (0,), (5,))
    made = [Encoded(str(i), 0, ((5,) * (30 + 2000 * (i == 7)),), (long,), False) for i in range(9)]
    tight = in_few_rows(model.collate(made), "positions")
    assert tight.input_ids.shape == (2, 2030)


@pytest.mark.parametrize("size", [1, 2, 3, 11])
def test_a_trial_of_few_words(zoo: dict[str, str], size: int) -> None:
    """Of eleven, two of the tokens that are drawn for it are the same."""
    module = load(zoo["llama"]).module
    words = list(range(20, 20 + size))
    found = traits.find_traits(
        module, style="causal", path="x", vocabulary=words, pad_id=0, packed=None, longest=64
    )
    assert found.packed == (() if size == 1 else ("positions", "mask"))


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
        (
            "gpt_neo",  # which has columns for so many tokens of a row
            {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 767},
            (),
        ),
        # whose attention is sharper from so many columns of a row on
        ("llama4_text", {"floor_scale": 768}, ("positions",)),
        ("llama4_text", {"floor_scale": 767}, ()),
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
    if kind == "llama4_text":
        sizes |= {"head_dim": 8, "intermediate_size_mlp": 64, "moe_layers": []}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes, **more, **ids)
    path = str(save_any(tmp_path, config, tokenizer, AutoModelForCausalLM))
    model = load_model(path, dtype="float32", packed=None, max_length=64)
    assert model.traits.packed == ways


def test_written_answers_are_packed_too(zoo: dict[str, str]) -> None:
    """They begin alike, which the loss of each does not share."""
    examples = [
        Example("0", "the man was tired so", (" he went home",), 0, ("he went home",)),
        Example("1", "the man was tired of", (" the movie",), 0, ("the movie",)),
    ]
    losses = []
    for packed in (False, True):
        model = GenerativeModel(load(zoo["llama"], packed=packed), task())
        batch = model.collate(model.encode(examples))
        seen = shapes_read(model)
        losses.append([model.loss(batch).item(), *model.losses(batch).tolist()])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    (_, together), (_, each) = seen
    assert together < each == model.examples(batch)[0].shape[1] == batch.attention_mask.sum()


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
