"""A prompt and its options as a task: the texts that a model reads, to the letter."""

import doctest

import pytest

from bszo.errors import ConfigError
from bszo.tasks import prompted as module
from bszo.tasks.prompted import prompted, spaced


@pytest.mark.parametrize(
    ("prompt", "option", "found"),
    [
        ("{text} It was", "bad", " bad"),
        ("{text} It was ", "bad", "bad"),  # Example takes the prompt's own blank over
        ("{text}\n", "Yes", "Yes"),
        ("{text}?", "Yes", " Yes"),
        ("{text}", "Yes", " Yes"),
        ("{text} (", "Yes", "Yes"),
        ("{text} It was", " bad", " bad"),
        ("{text}是", "好", "好"),
        ("{text} 이 영화는", "좋다", " 좋다"),
        ("{text} It was", "😡", " 😡"),
        ("{text} because", "{choice}", " {choice}"),
        ("{text}\n", "{choice}", "{choice}"),
        ('He said "{text}"', "Yes", " Yes"),
        ('{text} The answer is "', "Yes", "Yes"),
        ("[{text}]", "Yes", " Yes"),
        ("{text} It was <mask> .", "bad", " bad"),
        ("<mask> {text}", "bad", "bad"),
    ],
)
def test_no_option_is_glued_to_a_word(prompt: str, option: str, found: str) -> None:
    assert spaced(prompt, option) == found


def test_the_fields_that_prompt_and_options_mention_are_its_columns() -> None:
    task = prompted("{q!c}? {text}\n", ["{a}", "{b}"], label="y", label_names=["no", "yes"])
    row = {"q": "why", "text": "x", "a": "A", "b": "B", "y": "yes"}
    example = task.example(row, "causal", where="f.jsonl:3")
    assert task.columns == ("q", "text", "a", "b") and task.styles == ("causal",)
    assert (example.prompt, example.options, example.label) == ("Why? x\n", ("A", "B"), 1)


def test_what_is_no_task() -> None:
    for prompt, options, names, line in (
        ("{text}", ["a"], None, "options ['a']: two or more"),
        ("{text}", ["a", "a"], None, "all different"),
        ("{text}", ["a", " "], None, "two or more"),
        ("{text}", ["a", " a"], None, "labels ['a', 'a']: one each"),
        ("{text}", ["a", "b"], ["x"], "labels ['x']: one each"),
        ("It was", ["a", "b"], None, "mentions no field"),
        ("{text} {label}", ["a", "b"], None, "mention {label}, which is the right answer"),
        ("{text}", ["a", "not {label}"], ["x", "y"], "which is the right answer"),
        ("{text} <mask> <mask>", ["a", "b"], None, "holds <mask> 2 times"),
    ):
        with pytest.raises(ConfigError) as error:
            prompted(prompt, options, label_names=names)
        assert line in str(error.value)


def test_the_docstring_s_example() -> None:
    assert doctest.testmod(module).failed == 0
