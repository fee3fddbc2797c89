"""Tasks whose answers are written: golden text, gold answers, refusals; demonstrations in front of
a prompt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bszo.errors import ConfigError, DataError
from bszo.tasks import Example, GenerationTask, Task, choose, demonstrated, exact_match, token_f1

CONF = Path(__file__).resolve().parents[2] / "conf"
ROW: dict[str, Any] = {
    "id": "5",
    "title": "Otter",
    "context": "Otters eat fish.",
    "question": "What do they eat?",
    "answers": {"text": ["fish", "Otters eat fish"], "answer_start": [11, 0]},
}
AT = "/d/squad/train.jsonl:3"


def squad(**changes: Any) -> GenerationTask:
    node = yaml.safe_load((CONF / "task" / "squad.yaml").read_text(encoding="utf-8"))
    assert node.pop("_target_") == "bszo.tasks.GenerationTask"
    return GenerationTask(**(node | changes))


def test_golden_text() -> None:
    example = squad().example(ROW, "causal", where=AT)
    assert (
        example.prompt
        == "Title: Otter\nContext: Otters eat fish.\nQuestion: What do they eat?\nAnswer:"
    )
    assert (example.id, example.options, example.label) == ("train:3", (" fish",), 0)
    assert example.answers == ("fish", "Otters eat fish")
    assert (
        squad().example(ROW | {"answers": ["fish", "Otters eat fish"]}, "causal", where=AT)
        == example
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"answers": {"text": []}},
            "field 'answers' is {'text': []}; valid: a list of one or more texts",
        ),
        (
            {"answers": "fish"},
            "field 'answers' is 'fish'; valid: a list of one or more texts, or {\"text\": [...]}",
        ),
        ({"answers": ["fish", " "]}, "field 'answers', answer 2 is empty"),
        ({"answers": [3]}, "field 'answers', answer 1 is 3, not a text"),
        ({"question": None}, "field 'question' is None, not a text"),
    ],
)
def test_bad_row(changes: dict[str, Any], says: str) -> None:
    for use in (
        lambda: squad().check(ROW | changes, AT),
        lambda: squad().example(ROW | changes, "causal", where=AT),
    ):
        with pytest.raises(DataError) as caught:
            use()
        assert str(caught.value).startswith(f"{AT}: {says}")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"objective": "bleu"},
            (
                "task.objective='bleu': not one of likelihood, f1, accuracy, exact_match,"
                " reward:brevity, reward:number"
            ),
        ),
        ({"prompt": "none"}, "task.prompt='none': written answers need a prompt; null"),
        ({"max_new_tokens": 0}, "task.max_new_tokens=0: must be a whole number, 1 or more"),
        ({"max_new_tokens": True}, "task.max_new_tokens=True: must be a whole number, 1 or more"),
        ({"stop": " "}, "task.stop=' ': must be one character, and no blank, with which most"),
        ({"label_names": ("yes",)}, "task.label_names: a written answer has none; without it"),
        (
            {"masked": {"prompt": "x", "options": ["y"]}},
            "task.masked: a written answer has none; without it",
        ),
        ({"num_samples": -1}, "task.num_samples=-1: must be a whole number, 0 or more"),
        ({"num_samples": True}, "task.num_samples=True: must be a whole number, 0 or more"),
        (
            {"num_samples": 2},
            "task.num_samples=2: task.objective=likelihood is of the gold answer and samples none;",
        ),
        (
            {"objective": "f1", "num_samples": 2, "temperature": 0},
            "task.temperature=0: must be a positive, finite number; task.num_samples=0 takes the",
        ),
        (
            {"objective": "f1", "num_samples": 2, "temperature": float("inf")},
            "task.temperature=inf: must be a positive, finite number;",
        ),
        (
            {"objective": "f1", "temperature": 0.5},
            "task.temperature=0.5: task.num_samples=0 takes the greedy answer, which has none;",
        ),
        ({"stop": "\n\n"}, "task.stop='\\n\\n': must be one character"),
        (
            {"causal": {"prompt": "{title}", "options": [" {gold}"]}},
            "task.causal uses gold; task.columns has title",
        ),
    ],
)
def test_bad_arguments(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        squad(**changes)
    assert str(caught.value).startswith(says)


def test_a_masked_model_is_told_to_stay_away() -> None:
    with pytest.raises(
        ConfigError, match=r"^task=squad: answers are written, which a masked model cannot"
    ):
        squad().example(ROW, "masked")


@pytest.mark.parametrize("count", [0, 2])
def test_a_gap_must_be_there_once(count: int, load_task: Callable[..., Task]) -> None:
    row = {"sentence": "It is " + "_ " * count + ".", "option1": "a", "option2": "b", "answer": "1"}
    with pytest.raises(
        DataError, match=rf":17: field 'sentence' holds the gap _ {count} times, it must be once$"
    ):
        load_task("winogrande").example(row, "causal", where="/d/x/train.jsonl:17")


@pytest.mark.parametrize(
    ("prediction", "answers", "f1", "exact"),
    [
        ("the Fish!", ["fish"], 1, 1),
        ("a big fish", ["fish"], 2 / 3, 0),
        ("", ["fish"], 0, 0),
        ("fish fish", ["fish"], 2 / 3, 0),
        ("fish fish", ["fish fish"], 1, 1),
        ("red fish", ["blue fish", "red"], 2 / 3, 0),
        ("the", ["a"], 1, 1),
        ("a-b", ["ab"], 1, 1),  # articles go last
        ("It's 1,000", ["its 1000"], 1, 1),
        ("otter", ["fish"], 0, 0),
        ("eat fish", ["fish eat"], 1, 0),
        ("theatre", ["atre"], 0, 0),
    ],
)
def test_f1_and_exact_match_by_hand(
    prediction: str, answers: list[str], f1: float, exact: float
) -> None:
    assert token_f1(prediction, answers) == pytest.approx(f1)
    assert exact_match(prediction, answers) == exact


CAUSAL = [Example(f"t:{i}", f"text {i} It was", (" bad", " good"), i % 2) for i in range(6)]
MASKED = [Example(f"t:{i}", f"text {i} It was <mask> .", (" bad", "good"), i % 2) for i in range(6)]


def test_shots_stand_in_front_with_their_right_answers() -> None:
    asked = Example("v:0", "who ? It was", (" bad", " good"), 0)
    assert (
        demonstrated(asked, CAUSAL[:2], "causal").prompt
        == "text 0 It was bad\n\ntext 1 It was good\n\nwho ? It was"
    )
    assert demonstrated(asked, [], "causal") == asked
    letters = Example("t:0", "a <mask> It was", (" bad", " good"), 1)
    assert demonstrated(asked, [letters], "causal").prompt == "a <mask> It was good\n\nwho ? It was"
    masked = Example("v:0", "who ? It was <mask> .", (" bad", "good"), 0)
    prompt = demonstrated(masked, MASKED[:2], "masked").prompt
    assert prompt == "text 0 It was bad .\n\ntext 1 It was good .\n\nwho ? It was <mask> ."


def test_shots_are_a_function_of_the_seed_and_none_comes_twice() -> None:
    drawn = {tuple(e.id for e in choose(CAUSAL, 4, seed)) for seed in range(8)}
    assert len(drawn) > 4 and all(len(set(ids)) == 4 for ids in drawn)
    assert (
        choose(CAUSAL, 4, 1) == choose(CAUSAL, 4, 1)
        and choose(CAUSAL, 2, 1) == choose(CAUSAL, 4, 1)[:2]
    )
    with pytest.raises(
        DataError, match=r"^tuning.num_shots=7: must be 0 to 6, the number of training rows$"
    ):
        choose(CAUSAL, 7, 0)


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        ("{question}", [" yes"], "task.causal.options has ' yes' without {answer}"),
        ("{question} {answer}", [" {answer}"], "task.causal.prompt mentions {answer}"),
        ("{question}", [" {{answer}}"], "task.causal has {{answer}}"),
    ],
)
def test_only_the_option_holds_the_answer(prompt: str, options: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        squad(causal={"prompt": prompt, "options": options})
    assert says in str(caught.value)


def test_a_blank_before_the_answer_moves_to_it() -> None:
    example = squad(causal={"prompt": "{question} ", "options": ["{answer}"]}).example(
        ROW, "causal", where=AT
    )
    assert (example.prompt, example.options) == ("What do they eat?", (" fish",))
