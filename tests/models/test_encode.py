"""Where an option's tokens are, and what is cut when a row is too long."""

import json
import random
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from bszo.errors import ModelError
from bszo.models import CausalEncoder, Encoded, MaskedEncoder, load_model
from bszo.tasks import Example


def example(prompt: str, *options: str, label: int = 0) -> Example:
    return Example("7", prompt, options, label)


def option_texts(tokenizer: Any, encoded: Encoded) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(list(option.tokens)) for option in encoded.options]


def read_from(tokenizer: Any, encoded: Encoded) -> list[list[str]]:
    """For each option the tokens at which it is read: those one to the left of its own."""
    rows = [tokenizer.convert_ids_to_tokens(list(row)) for row in encoded.rows]
    return [[rows[option.row][c] for c in option.columns] for option in encoded.options]


@pytest.fixture
def opt(zoo: dict[str, str]) -> PreTrainedTokenizerFast:
    return load_model(zoo["opt"], dtype="float32").tokenizer


@pytest.fixture
def roberta(zoo: dict[str, str]) -> PreTrainedTokenizerFast:
    return load_model(zoo["roberta"], dtype="float32").tokenizer


@pytest.fixture
def llama(tmp_path: Any) -> PreTrainedTokenizerFast:
    """Characters with byte fallback, of which two pairs merge: `?` with `Y`, and a blank with
    `g`."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzINYM?.,"]
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *letters,
        "?Y",
        "▁g",
    ]
    core = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "pre_tokenizer": None,
        "decoder": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [["?", "Y"], ["▁", "g"]],
        },
    }
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(core)), **names)


def test_an_option_after_a_word_has_its_blank(opt: Any, llama: Any) -> None:
    (encoded,) = CausalEncoder(opt, 64)([example("It was", " great", " terrible")])
    assert option_texts(opt, encoded) == [["Ġgreat"], ["Ġterrible"]]
    assert read_from(opt, encoded) == [["Ġwas"], ["Ġwas"]]
    assert encoded.rows == ((2, *opt("It was", add_special_tokens=False).input_ids),)
    (encoded,) = CausalEncoder(llama, 64)([example("It was", " go")])
    assert option_texts(llama, encoded) == [["▁g", "o"]]
    assert read_from(llama, encoded) == [["s", "▁g"]]


def test_a_row_with_nothing_before_its_options_is_said(opt: Any) -> None:
    core = Tokenizer.from_str(opt.backend_tokenizer.to_str())
    core.post_processor = processors.ByteLevel(trim_offsets=False)  # which puts nothing in front
    bare = PreTrainedTokenizerFast(tokenizer_object=core)
    with pytest.raises(ModelError, match=r"example 7: nothing stands before its options .*prompt"):
        CausalEncoder(bare, 64)([example("", "Yes", "No")])


def test_an_option_after_a_newline_has_none(opt: Any, llama: Any) -> None:
    (encoded,) = CausalEncoder(opt, 64)([example("Yes or No?\n", "Yes", "No")])
    assert ["".join(tokens) for tokens in option_texts(opt, encoded)] == ["Yes", "No"]
    assert [tokens[0] for tokens in read_from(opt, encoded)] == ["Ċ", "Ċ"]
    (encoded,) = CausalEncoder(llama, 64)([example("Yes or No?\n", "Yes")])
    assert option_texts(llama, encoded) == [["Y", "e", "s"]]
    assert read_from(llama, encoded) == [["<0x0A>", "Y", "e"]]


def test_a_token_across_the_border_is_the_options(llama: Any) -> None:
    (encoded,) = CausalEncoder(llama, 64)([example("is it?", "Yes", "No")])
    assert option_texts(llama, encoded) == [["?Y", "e", "s"], ["N", "o"]]
    assert read_from(llama, encoded) == [["t", "?Y", "e"], ["?", "N"]]


def test_a_blank_at_the_prompts_end_goes_with_the_option_that_takes_it(opt: Any) -> None:
    (encoded,) = CausalEncoder(opt, 64)([example("It was ", "great")])
    assert option_texts(opt, encoded) == [["Ġgreat"]]
    assert read_from(opt, encoded) == [["Ġwas"]]


def test_letters_of_several_tokens_stay_whole(opt: Any, llama: Any) -> None:
    for tokenizer in (opt, llama):
        (encoded,) = CausalEncoder(tokenizer, 64)([example("caf日", "本")])
        assert encoded.options[0].tokens == tuple(tokenizer("caf日本").input_ids[-3:])


def test_an_empty_prompt_is_read_from_the_start_token(opt: Any) -> None:
    (encoded,) = CausalEncoder(opt, 64)([example("", " great")])
    assert encoded.rows == ((2,),)
    assert read_from(opt, encoded) == [["</s>"]]


def test_text_that_looks_like_a_start_token_is_cut_as_text(opt: Any) -> None:
    text = example("</s></s> the man was tired. It was", " great")
    num_tokens = len(opt(text.prompt + " great").input_ids)
    for cut, num_starts in ((0, 3), (1, 2), (2, 1), (3, 1)):
        (encoded,) = CausalEncoder(opt, num_tokens - cut)([text])
        assert encoded.rows[0].count(2) == num_starts
        assert len(encoded.rows[0]) == num_tokens - cut - 1


@pytest.mark.parametrize("limit", [5, 8, 12])
def test_a_long_prompt_loses_its_beginning_the_same_for_every_option(opt: Any, limit: int) -> None:
    prompt = "the man was tired so he went home because the film was long. It was"
    whole, cut = (
        CausalEncoder(opt, n)([example(prompt, " great", " great and great")])[0]
        for n in (64, limit)
    )
    assert cut.truncated and not whole.truncated
    assert [o.tokens for o in cut.options] == [o.tokens for o in whole.options]
    assert read_from(opt, cut) == read_from(opt, whole)
    assert max(len(cut.rows[o.row]) for o in cut.options) + 1 == limit
    assert cut.rows[0][0] == 2
    assert cut.rows[0][1:] == whole.rows[0][-len(cut.rows[0]) + 1 :]


def test_a_row_that_just_fits_is_not_cut(opt: Any) -> None:
    text = example("It was", " great")
    num_tokens = len(opt("It was great").input_ids)
    assert not CausalEncoder(opt, num_tokens)([text])[0].truncated
    assert CausalEncoder(opt, num_tokens - 1)([text])[0].truncated


def test_an_option_that_leaves_no_room_is_named(opt: Any) -> None:
    with pytest.raises(
        ModelError, match=r"example 7: no token is left .*at most 3 tokens .*' great and great'"
    ):
        CausalEncoder(opt, 3)([example("It was", " great", " great and great")])


@pytest.mark.parametrize(
    ("options", "label", "message"),
    [
        ((), 0, "example 7: it has no options"),
        (("a", ""), 0, "example 7: option 1 is empty"),
        (("a", "b"), 2, "example 7: label 2 is no option's index"),
        (("a", "b"), -1, "example 7: label -1"),
    ],
)
def test_examples_that_cannot_be_scored_are_named(
    opt: Any, roberta: Any, options: tuple[str, ...], label: int, message: str
) -> None:
    for encoder in (CausalEncoder(opt, 64), MaskedEncoder(roberta, 64)):
        with pytest.raises(ModelError, match=message):
            encoder([Example("7", "It was <mask>", options, label)])


def test_an_option_without_a_token_is_named(zoo: dict[str, str]) -> None:
    bert = load_model(zoo["bert"], dtype="float32").tokenizer  # drops blanks
    with pytest.raises(ModelError, match="example 7: the tokenizer makes no token of option '  '"):
        CausalEncoder(bert, 64)([example("It was", "  ")])


def test_options_of_the_same_tokens_are_named(zoo: dict[str, str]) -> None:
    bert = load_model(zoo["bert"], dtype="float32").tokenizer  # has lower case alone
    with pytest.raises(
        ModelError, match=r"example 7: its options 'a' and 'A' are .* nothing tells them apart"
    ):
        CausalEncoder(bert, 64)([example("It was ", "a", "A")])


def test_the_mask_takes_the_blank_and_the_word_keeps_its_own(roberta: Any) -> None:
    (encoded,) = MaskedEncoder(roberta, 64)([example("It was <mask> .", " Yes", " No")])
    assert option_texts(roberta, encoded) == [["ĠYes"], ["ĠNo"]]
    assert read_from(roberta, encoded) == [["<mask>"], ["<mask>"]]
    assert roberta.convert_ids_to_tokens(list(encoded.rows[0])) == [
        "<s>",
        "It",
        "Ġwas",
        "<mask>",
        "Ġ.",
        "</s>",
    ]


def test_words_of_several_tokens_and_unknown_ones_are_refused(
    roberta: Any, zoo: dict[str, str]
) -> None:
    with pytest.raises(ModelError, match=r"option ' Abbreviation': .* one token, it is \['Ġ"):
        MaskedEncoder(roberta, 64)([example("It is <mask>", " Yes", " Abbreviation")])
    bert = load_model(zoo["bert"], dtype="float32").tokenizer
    with pytest.raises(ModelError, match=r"option '日': .* one token, it is .*UNK"):
        MaskedEncoder(bert, 64)([example("It is <mask>", "日")])
    with pytest.raises(ModelError, match=r"two of the options \('Yes', 'yes'\) are the same token"):
        MaskedEncoder(bert, 64)([example("It is <mask>", "Yes", "yes")])


@pytest.mark.parametrize("prompt", ["no gap", "two <mask> <mask>"])
def test_a_masked_text_needs_one_gap(roberta: Any, prompt: str) -> None:
    with pytest.raises(
        ModelError, match=r"example 7: its text holds <mask> \d times, it must be once"
    ):
        MaskedEncoder(roberta, 64)([example(prompt, " Yes")])


def test_the_tokenizers_own_mask_in_the_text_is_not_the_gap(zoo: dict[str, str]) -> None:
    bert = load_model(zoo["bert"], dtype="float32").tokenizer
    (encoded,) = MaskedEncoder(bert, 64)([example("the [MASK] was great , <mask> [MASK] .", "yes")])
    row = bert.convert_ids_to_tokens(list(encoded.rows[0]))
    assert row[encoded.options[0].columns[0] - 1] == ","


def test_a_tokenizer_without_a_mask_says_what_would_work(opt: Any) -> None:
    with pytest.raises(ModelError, match=r"model\.kind=causal"):
        MaskedEncoder(opt, 64)


@pytest.mark.parametrize(
    ("left", "right", "kept"),
    [
        (30, 2, (5, 2)),  # room for 10 tokens, 3 of them <s> <mask> </s>
        (2, 30, (2, 5)),
        (30, 30, (3, 4)),
        (4, 4, (3, 4)),
        (0, 30, (0, 7)),
        (30, 0, (7, 0)),
        (4, 3, (4, 3)),
    ],
)
def test_the_longer_side_of_the_mask_is_cut(
    roberta: Any, left: int, right: int, kept: tuple[int, int]
) -> None:
    words = [" was", " great", " the"]
    before = [words[i % 3] for i in range(left)]
    after = [words[i % 3] for i in range(right)]
    (encoded,) = MaskedEncoder(roberta, 10)(
        [example("".join(before) + " <mask>" + "".join(after), " Yes")]
    )
    assert encoded.truncated == (left + right > 7)
    tokens = ["Ġ" + word.strip() for word in (*before[left - kept[0] :], *after[: kept[1]])]
    row = roberta.convert_ids_to_tokens(list(encoded.rows[0]))
    column = encoded.options[0].columns[0]
    assert (row[0], row[column], row[-1]) == ("<s>", "<mask>", "</s>")
    assert row[1:column] + row[column + 1 : -1] == tokens


def test_options_are_the_tails_of_their_rows_on_real_tokenizers(shared: Any) -> None:
    """Random prompts and options: what is right of the border is the option, but for a shared
    token."""
    rng = random.Random(0)
    letters = ["a", "b", " ", "\n", "?", "é", "日", "great", " was", "'s", "1"]
    for name in ("opt-mini", "stories260k-llama", "babyllama-char-1m"):
        model = load_model(str(shared / "models" / name), dtype="float32")
        for _ in range(200):
            prompt, option = ("".join(rng.choices(letters, k=rng.randint(1, 8))) for _ in range(2))
            (encoded,) = model.encode([Example("0", prompt, (option,), 0)])
            tokens, columns = encoded.options[0].tokens, encoded.options[0].columns
            whole = tuple(model.tokenizer(prompt + option).input_ids)
            assert encoded.rows[0] + tokens[-1:] == whole
            assert columns == tuple(range(len(whole) - len(tokens) - 1, len(whole) - 1))
            tail = model.tokenizer.decode(tokens)
            head = model.tokenizer.decode(whole[: -len(tokens)][1:])
            assert tail.endswith(option.lstrip(" ")) and prompt.startswith(head)
