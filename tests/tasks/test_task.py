"""What a task refuses: rows that it cannot read, arguments that contradict each other."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bszo.errors import ConfigError, DataError
from bszo.tasks import Hub, Task, Template

CONF = Path(__file__).resolve().parents[2] / "conf"
AT = "/d/sst2/train.jsonl:17"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"text": "x", "label": 0},
            "no field 'sentence'; task sst2 needs sentence, label; the row has text, label",
        ),
        (
            {"sentence": "x"},
            "no field 'label'; task sst2 needs sentence, label; the row has sentence",
        ),
        ({}, "no field 'sentence'; task sst2 needs sentence, label; the row has none"),
        ({"sentence": 3, "label": 0}, "field 'sentence' is 3, not a text"),
        ({"sentence": None, "label": 0}, "field 'sentence' is None, not a text"),
        ({"sentence": ["x"], "label": 0}, "field 'sentence' is ['x'], not a text"),
        ({"sentence": " \n\t", "label": 0}, "field 'sentence' is empty"),
        ({"sentence": "a\0b", "label": 0}, "field 'sentence' holds a NUL character"),
        (
            {"sentence": "a\ud800", "label": 0},
            "field 'sentence' holds half a surrogate pair, which is no character",
        ),
        ({"sentence": "x", "label": 2}, "field 'label' is 2; valid: 0 (negative), 1 (positive)"),
        ({"sentence": "x", "label": -1}, "field 'label' is -1; valid: 0 (negative), 1 (positive)"),
        (
            {"sentence": "x", "label": 1.0},
            "field 'label' is 1.0; valid: 0 (negative), 1 (positive)",
        ),
        (
            {"sentence": "x", "label": "1"},
            "field 'label' is '1'; valid: 0 (negative), 1 (positive)",
        ),
        (
            {"sentence": "x", "label": True},
            "field 'label' is True; valid: 0 (negative), 1 (positive)",
        ),
        (
            {"sentence": "x", "label": None},
            "field 'label' is None; valid: 0 (negative), 1 (positive)",
        ),
    ],
)
@pytest.mark.parametrize("style", ["causal", "masked"])
def test_bad_row(
    row: dict[str, Any], says: str, style: Any, load_task: Callable[..., Task]
) -> None:
    with pytest.raises(DataError) as caught:
        load_task("sst2").example(row, style, where=AT)
    assert str(caught.value) == f"{AT}: {says}"


def test_bad_row_without_a_place_names_the_task(load_task: Callable[..., Task]) -> None:
    with pytest.raises(DataError, match=r"^task sst2, a row: no field 'sentence'"):
        load_task("sst2").example({"label": 0}, "causal")


def test_long_values_are_shortened_in_messages(load_task: Callable[..., Task]) -> None:
    with pytest.raises(DataError) as caught:
        load_task("sst2").example({"sentence": "x", "label": "y" * 10_000}, "causal", where=AT)
    assert len(str(caught.value)) < 200


def test_unknown_connector(load_task: Callable[..., Task]) -> None:
    row = {"premise": "a", "choice1": "b", "choice2": "c", "question": "reason", "label": 0}
    with pytest.raises(
        DataError, match=r":17: field 'question' is 'reason'; valid: effect, cause$"
    ):
        load_task("copa").example(row, "causal", where=AT)


@pytest.mark.parametrize("text", ["a <mask> b", "<mask>"])
def test_mask_in_a_row(text: str, load_task: Callable[..., Task]) -> None:
    task, row = load_task("sst2"), {"sentence": text, "label": 0}
    with pytest.raises(DataError, match=r":17: field 'sentence' holds <mask>"):
        task.example(row, "masked", where=AT)
    assert task.example(row, "causal", where=AT).prompt == f"{text} It was"


def test_mask_made_by_a_conversion(load_task: Callable[..., Task]) -> None:
    row = {"text": "a", "span1_text": "b", "span2_text": "<MASK>", "label": 0}
    with pytest.raises(DataError, match="field 'span2_text' holds <mask>"):
        load_task("wsc").example(row, "masked", where=AT)


@pytest.mark.parametrize(
    ("task_name", "value", "label"),
    [
        ("rte", "entailment", 0),
        ("rte", "not_entailment", 1),
        ("cb", "neutral", 2),
        ("wic", False, 0),
        ("wic", True, 1),
        ("boolq", True, 1),
        ("boolq", "false", 0),
        ("wsc", 1, 1),
    ],
)
def test_labels_by_name(
    task_name: str, value: Any, label: int, load_task: Callable[..., Task]
) -> None:
    """SuperGLUE's own files hold names and truth values where the hub's hold numbers."""
    task = load_task(task_name)
    row = {column: "x" for column in task.columns} | {"label": value}
    assert task.example(row, "causal").label == label


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "../sst2"}, "task.name='../sst2': not a plain name"),
        ({"name": "a/b"}, "task.name='a/b': not a plain name"),
        ({"name": ".."}, "task.name='..': not a plain name"),
        ({"name": "sst2\n"}, "not a plain name"),
        ({"name": 7}, "task.name=7: not a plain name"),
        (
            {"splits": {"train": "/etc/x", "test": "y"}},
            "task.splits.train='/etc/x': not a plain name",
        ),
        ({"splits": {"train": "x"}}, "task.splits names train; valid: train and test, both"),
        ({"num_train": 0}, "task.num_train=0: must be a whole number, 1 or more"),
        ({"num_validation": True}, "task.num_validation=True: must be"),
        ({"num_train": "1000"}, "task.num_train='1000': must be"),
        ({"version": 0}, "task.version=0: must be"),
        ({"columns": "sentence"}, "task.columns='sentence': must be a list of texts"),
        ({"columns": ["text"]}, "task.causal uses sentence; task.columns has text"),
        ({"lookup": {"kind": {"a": "b"}}}, "task.causal uses kind; task.columns has sentence"),
        ({"lookup": {"sentence": {"a": True}}}, "task.lookup.sentence: True is no text"),
        ({"label": ""}, "task.label: '' is no text"),
        ({"label_names": ["a"]}, "task.label_names=['a']: two or more, all different"),
        ({"label_names": ["a", "a"]}, "two or more, all different"),
        ({"label_names": ["a", "b", "c"]}, "3 different ones are needed, one a label (a, b, c)"),
        ({"hub": {"name": "x"}}, "task.hub.path is missing; valid: path, name, revision"),
        (
            {"hub": {"path": "x", "nmae": "y"}},
            "task.hub.nmae: no such key; valid: path, name, revision",
        ),
        ({"causal": "{sentence}"}, "task.causal='{sentence}': must be a mapping"),
        ({"causal": {"prompt": "{sentence}"}}, "task.causal.options is missing"),
        (
            {"causal": {"prompt": "{sentence}", "options": [False, True]}},
            "causal.options: False is no text",
        ),
        (
            {"causal": {"prompt": "{sentence}", "options": ["a", "a"]}},
            "2 different ones are needed",
        ),
        (
            {"causal": {"prompt": "{sentence} <mask>", "options": ["a", "b"]}},
            "prompt must hold <mask> nowhere",
        ),
        (
            {"masked": {"prompt": "{sentence}", "options": ["a", "b"]}},
            "task.masked.prompt must hold <mask> once",
        ),
        (
            {"masked": {"prompt": "<mask> <mask>", "options": ["a", "b"]}},
            "masked.prompt must hold <mask> once",
        ),
        (
            {"masked": {"prompt": "<mask>", "options": ["a", "b"], "options_as_run": ["a"]}},
            "2 different ones",
        ),
        (
            {"masked": {"prompt": "{x!z} <mask>", "options": ["a", "b"]}},
            "conversion !z is not one of",
        ),
    ],
)
def test_bad_arguments(changes: dict[str, Any], says: str, load_task: Callable[..., Task]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task("sst2", **changes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("style", "words", "says"),
    [
        ("mask", "corrected", "style 'mask': not one of causal, masked"),
        ("masked", "asrun", "label words 'asrun': not one of corrected, as-run"),
    ],
)
def test_unknown_style_or_words(
    style: Any, words: Any, says: str, load_task: Callable[..., Task]
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_task("sst2").example({"sentence": "x", "label": 0}, style, words)


def test_file_builds_alike_with_and_without_hydra(
    task_name: str, load_task: Callable[..., Task]
) -> None:
    built = instantiate(OmegaConf.load(CONF / "task" / f"{task_name}.yaml"))
    assert built == load_task(task_name)
    assert built.name == task_name
    assert (
        type(built.masked.options) is tuple
        and type(built.splits) is dict
        and type(built.lookup) is dict
    )


def test_plain_python(load_task: Callable[..., Task]) -> None:
    task = load_task("sst2", hub=Hub("a/b"), causal=Template("{sentence}", (" a", " b")))
    assert task.hub.name is None and task.num_labels == 2
    assert task.example({"sentence": "x", "label": 0}, "causal").options == (" a", " b")


def test_sizes_are_the_papers(load_task: Callable[..., Task], shared: Path) -> None:
    with (shared / "paper" / "table6.csv").open(newline="", encoding="utf-8") as file:
        sizes = {row["task"].lower().replace("-", ""): row for row in csv.DictReader(file)}
    assert len(sizes) == 8
    for name, row in sizes.items():
        task = load_task(name)
        assert (task.num_train, task.num_validation) == (int(row["train"]), int(row["validation"]))


@pytest.mark.parametrize(
    ("task_name", "num_train", "num_validation", "num_labels"),
    [
        ("sst2", 1000, 500, 2),
        ("boolq", 1000, 500, 2),
        ("rte", 1000, 500, 2),
        ("copa", 300, 100, 2),
        ("wic", 1000, 500, 2),
        ("wsc", 450, 100, 2),
        ("cb", 200, 50, 3),
        ("trec", 1000, 500, 6),
    ],
)
def test_sizes(
    task_name: str,
    num_train: int,
    num_validation: int,
    num_labels: int,
    load_task: Callable[..., Task],
) -> None:
    task = load_task(task_name)
    assert (task.num_train, task.num_validation, task.num_labels) == (
        num_train,
        num_validation,
        num_labels,
    )


@pytest.mark.parametrize("field", ["{0}", "{sentence.__class__}", "{sentence[0]}"])
def test_a_field_is_a_column_and_nothing_of_it(field: str, load_task: Callable[..., Task]) -> None:
    with pytest.raises(ConfigError, match=r"task\.columns has sentence"):
        load_task("sst2", causal={"prompt": field, "options": ["a", "b"]})


def test_columns_may_have_blanks_dashes_and_dots(load_task: Callable[..., Task]) -> None:
    names = ["Review Text", "sub-title", "meta.lang"]
    task = load_task(
        "sst2",
        columns=names,
        causal={"prompt": "{Review Text!l} {sub-title} {meta.lang}", "options": ["a", "b"]},
        masked={"prompt": "{Review Text} <mask>", "options": ["a", "b"]},
    )
    row = {"Review Text": "Good", "sub-title": "it", "meta.lang": "en", "label": 1}
    assert task.example(row, "causal").prompt == "good it en"


@pytest.mark.parametrize(
    ("names", "value", "label"),
    [
        (["1", "2", "3"], "1", 0),
        (["1", "0"], "1", 0),
        (["0", "1"], 1, 1),
        (["bad", "good"], 1, 1),
        (["true", "false"], True, 0),
        (["2D", "3D"], 0, 0),  # words that begin with a digit
        # an index from 0, or a name
        (["1", "2", "3"], 1, None),
        (["1", "2", "3"], 0, None),
        (["1", "2", "3"], 3, None),
        (["1", "0"], 0, None),
        (["1.0", "2.0"], 1, None),
        (["1 star", "2 stars"], 1, None),
    ],
)
def test_a_number_is_no_label_where_names_are_other_numbers(
    names: list[str], value: Any, label: int | None, load_task: Callable[..., Task]
) -> None:
    task = load_task(
        "sst2",
        label_names=names,
        causal={"prompt": "{sentence}", "options": [f" {name}" for name in names]},
        masked={"prompt": "{sentence}<mask>", "options": [f" {name}" for name in names]},
    )
    row = {"sentence": "x", "label": value}
    if label is not None:
        assert task.example(row, "causal").label == label
        return
    with pytest.raises(DataError) as caught:
        task.example(row, "causal", where="/d/train.jsonl:3")
    assert f'the name as a text ("{value}"), or task.label_names without' in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "options", "joined"),
    [
        ("{sentence} It was ", ["bad", " good"], ["x It was bad", "x It was good"]),
        ("{sentence} It was", [" bad", " good"], ["x It was bad", "x It was good"]),
        ("{sentence}: ", ["{sentence}", "\n"], ["x: x", "x:\n"]),
        ("{sentence}\n", ["bad", "good"], ["x\nbad", "x\ngood"]),
    ],
)
def test_a_blank_at_the_end_of_a_prompt_moves_to_its_options(
    prompt: str, options: list[str], joined: list[str], load_task: Callable[..., Task]
) -> None:
    task = load_task("sst2", causal={"prompt": prompt, "options": options})
    example = task.example({"sentence": "x", "label": 0}, "causal")
    assert [example.prompt + option for option in example.options] == joined
    assert not example.prompt.endswith(" ")


def test_a_template_that_mentions_the_label_is_refused(load_task: Callable[..., Task]) -> None:
    causal = {"prompt": "{sentence} ({label}) It was", "options": [" bad", " good"]}
    with pytest.raises(ConfigError, match=r"task.causal mentions \{label\}, which is the right"):
        load_task("sst2", columns=["sentence", "label"], causal=causal)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("It was", "task.causal mentions no column, so that every row asks the same"),
        ("{{sentence}} It was", "task.causal has {{sentence}}, which is the text {sentence}"),
        ("{sentence} {{ sentence }}", "a column is written {sentence}"),
    ],
)
def test_a_template_without_a_column_is_refused(
    prompt: str, says: str, load_task: Callable[..., Task]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task("sst2", causal={"prompt": prompt, "options": ["a", "b"]})
    assert says in str(caught.value)


def test_braces_that_name_no_column_are_text(load_task: Callable[..., Task]) -> None:
    task = load_task("sst2", causal={"prompt": "f() {{x}} {sentence}", "options": ["a", "b"]})
    assert task.example({"sentence": "y", "label": 0}, "causal").prompt == "f() {x} y"
