"""Golden text: every task's prompt, options and label; causal, masked, and masked as the authors
ran it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bszo.errors import ConfigError
from bszo.tasks import Task

PAIR = {"premise": "All of the lamps are lit.", "hypothesis": "A lamp is lit."}
ROWS: dict[str, dict[str, Any]] = {
    "sst2": {"sentence": "a slow , sweet ride ", "label": 1, "idx": 3},
    "rte": PAIR | {"label": 1, "idx": 0},
    "cb": PAIR | {"label": 2, "idx": 0},
    "copa": {
        "premise": "The kettle sang.",
        "choice1": "I lit the stove.",
        "choice2": "The Cat slept.",
        "question": "cause",
        "label": 0,
        "idx": 0,
    },
    "wic": {
        "word": "bank",
        "sentence1": "We sat on the bank.",
        "sentence2": "The bank was shut.",
        "start1": 14,
        "end1": 18,
        "start2": 4,
        "end2": 8,
        "label": 0,
        "idx": 0,
    },
    "wsc": {
        "text": "Ann thanked Beth because She had helped.",
        "span1_text": "Beth",
        "span2_text": "She",
        "span1_index": 2,
        "span2_index": 4,
        "label": 1,
        "idx": 0,
    },
    "trec": {"text": "Where is Delft ?", "coarse_label": 4, "fine_label": 30},
    "boolq": {
        "passage": "Otter -- An otter -- a swimmer -- eats fish.",
        "question": "do otters eat fish",
        "label": 1,
        "idx": 0,
    },
    "winogrande": {
        "sentence": "The cup fits the box because the _ is small, he said.",
        "option1": "box",
        "option2": "cup",
        "answer": "2",
    },
    "multirc": {
        "paragraph": "Otters eat fish.",
        "question": "What do they eat?",
        "answer": "fish",
        "label": 1,
        "idx": {"paragraph": 0, "question": 0, "answer": 0},
    },
}

# task -> (causal prompt, options, masked prompt, options, options as run)
TREC_WORDS = ("short", "thing", "what", "who", "where", "how")
GOLDEN: dict[str, tuple[str, tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]] = {
    "sst2": (
        "a slow , sweet ride It was",
        (" terrible", " great"),
        "a slow , sweet ride It was <mask> .",
        (" terrible", " great"),
        (" bad", " great"),
    ),
    "rte": (
        'All of the lamps are lit.\nDoes this mean that "A lamp is lit." is true? Yes or No?\n',
        ("Yes", "No"),
        "All of the lamps are lit. ? <mask> , A lamp is lit.",
        (" Yes", " No"),
        ("No", "Yes"),
    ),
    "cb": (
        (
            'Suppose All of the lamps are lit. Can we infer that "A lamp is lit."? Yes, No, or'
            " Maybe?\n"
        ),
        ("Yes", "No", "Maybe"),
        "All of the lamps are lit. ? <mask> , A lamp is lit.",
        (" Yes", " No", " Maybe"),
        ("Yes", "Maybe", "No"),
    ),
    "copa": (
        "The kettle sang because",
        (" I lit the stove.", " the Cat slept."),
        (
            "The kettle sang because what? First: I lit the stove. Second: The Cat slept. The"
            " <mask> one ."
        ),
        (" first", " second"),
        (" first", " second"),
    ),
    "wic": (
        (
            'Does the word "bank" have the same meaning in these two sentences? Yes, No?\n'
            "We sat on the bank.\nThe bank was shut.\n"
        ),
        ("No", "Yes"),
        (
            'We sat on the bank. The bank was shut. Does the word "bank" have the same meaning?'
            " <mask> ."
        ),
        (" No", " Yes"),
        ("No", "Yes"),
    ),
    "wsc": (
        (
            "Ann thanked Beth because She had helped.\n"
            'In the previous sentence, does the pronoun "she" refer to Beth? Yes or No?\n'
        ),
        ("No", "Yes"),
        'Ann thanked Beth because She had helped. Does the pronoun "she" refer to Beth? <mask> .',
        (" No", " Yes"),
        (" No", " Yes"),
    ),
    "trec": (
        "Question: Where is Delft ?\nType:",
        (" Abbreviation", " Entity", " Description", " Human", " Location", " Number"),
        "Where is Delft ? This is a <mask> question.",
        tuple(f" {word}" for word in TREC_WORDS),
        TREC_WORDS,
    ),
    "boolq": (
        "An otter -- a swimmer -- eats fish. Do otters eat fish?\n",
        ("No", "Yes"),
        "An otter -- a swimmer -- eats fish. Do otters eat fish? <mask> .",
        (" No", " Yes"),
        ("Yes", "No"),
    ),
    "winogrande": (
        "The cup fits the box because the",
        (" box is small, he said.", " cup is small, he said."),
        (
            "The cup fits the box because the _ is small, he said. First: box Second: cup The"
            " <mask> one fits ."
        ),
        (" first", " second"),
        (" first", " second"),
    ),
    "multirc": (
        (
            'Otters eat fish.\nQuestion: What do they eat?\nI found this answer "fish". Is that'
            " correct? Yes or No?\n"
        ),
        ("No", "Yes"),
        (
            'Otters eat fish. Question: What do they eat? I found this answer "fish". Is that'
            " correct? <mask> ."
        ),
        (" No", " Yes"),
        (" No", " Yes"),
    ),
}


def answer(task: Task, row: dict[str, Any]) -> int:
    value = row[task.label]
    return task.label_names.index(value) if isinstance(value, str) else value


def test_causal_text(task_name: str, load_task: Callable[..., Task]) -> None:
    prompt, options, *_ = GOLDEN[task_name]
    task, row = load_task(task_name), ROWS[task_name]
    for words in ("corrected", "as-run"):  # the label words' switch is a matter of masked models
        example = task.example(row, "causal", words, where="x/train.jsonl:1")
        assert (example.prompt, example.options, example.label) == (
            prompt,
            options,
            answer(task, row),
        )


def test_masked_text(task_name: str, load_task: Callable[..., Task]) -> None:
    _, _, prompt, options, options_as_run = GOLDEN[task_name]
    task, row = load_task(task_name), ROWS[task_name]
    corrected, as_run = task.example(row, "masked"), task.example(row, "masked", "as-run")
    assert (corrected.prompt, corrected.options) == (prompt, options)
    assert (as_run.prompt, as_run.options) == (prompt, options_as_run)
    assert corrected.label == as_run.label == answer(task, row)


@pytest.mark.parametrize(
    ("task_name", "swaps"),
    [
        ("rte", {0: 1, 1: 0}),
        ("cb", {1: 2, 2: 1}),
        ("boolq", {0: 1, 1: 0}),
    ],
)
def test_as_run_words_are_the_wrong_way_round(
    task_name: str, swaps: dict[int, int], load_task: Callable[..., Task]
) -> None:
    words = load_task(task_name).masked
    for label, other in swaps.items():
        assert words.options_as_run[label] == words.options[other].strip()


@pytest.mark.parametrize(
    ("task_name", "text", "num_labels"),
    [
        ("sst2", "a slow , sweet ride", 2),
        ("rte", "All of the lamps are lit. A lamp is lit.", 2),
        ("copa", "The kettle sang. I lit the stove. The Cat slept. because", 2),
        ("trec", "Where is Delft ?", 6),
        ("winogrande", f"{ROWS['winogrande']['sentence']} box cup", 2),
    ],
)
def test_without_a_prompt_there_are_the_text_and_the_labels_numbers(
    task_name: str, text: str, num_labels: int, load_task: Callable[..., Task]
) -> None:
    task, row = replace(load_task(task_name), prompt="none"), ROWS[task_name]
    numbers = tuple(f" {label}" for label in range(num_labels))
    assert task.example(row, "causal").prompt == text
    assert task.example(row, "masked", "as-run").prompt == f"{text} <mask>"
    for style in "causal", "masked":
        found = task.example(row, style, "as-run")
        assert found.options == numbers
        assert found.label == load_task(task_name).example(row, style).label
    with pytest.raises(ConfigError, match="'no': not one of null, none"):
        replace(load_task(task_name), prompt="no")


@pytest.mark.parametrize(
    ("premise", "question", "prompt"),
    [
        ("The kettle sang.", "effect", "The kettle sang so"),
        ("The kettle sang . ", "cause", "The kettle sang  because"),
        ("Who sang?", "effect", "Who sang? so"),
        ("It sang...", "cause", "It sang.. because"),
    ],
)
def test_copa_premise(
    premise: str, question: str, prompt: str, load_task: Callable[..., Task]
) -> None:
    row = ROWS["copa"] | {"premise": premise, "question": question}
    assert load_task("copa").example(row, "causal").prompt == prompt


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("is ice cold", "Is ice cold?"),
        ("Is ice cold?", "Is ice cold?"),
        ("is ice cold ?", "Is ice cold?"),
    ],
)
def test_boolq_question_has_one_mark_and_passage_without_title(
    question: str, asked: str, load_task: Callable[..., Task]
) -> None:
    row = {"passage": "Ice is cold.", "question": question, "label": 1}
    assert load_task("boolq").example(row, "causal").prompt == f"Ice is cold. {asked}\n"


def test_braces_in_a_row_stay_as_they_are(load_task: Callable[..., Task]) -> None:
    row = {"sentence": "{label} {0} }{ {sentence!l}", "label": 0}
    assert load_task("sst2").example(row, "causal").prompt == "{label} {0} }{ {sentence!l} It was"


@pytest.mark.parametrize(
    ("row", "where", "name"),
    [
        ({"idx": 7}, "a/b/train.jsonl:1", "train:7"),
        ({}, "a/b/train.jsonl:12", "train:12"),
        ({}, "aps/super_glue/rte/validation:3", "validation:3"),
        ({"idx": "../x"}, "mini/sst2/test:4", "test:4"),
        ({"idx": 5}, "", "row:5"),
    ],
)
def test_example_id(
    row: dict[str, Any], where: str, name: str, load_task: Callable[..., Task]
) -> None:
    assert (
        load_task("sst2").example({"sentence": "x", "label": 0} | row, "causal", where=where).id
        == name
    )
