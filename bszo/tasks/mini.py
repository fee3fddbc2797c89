"""A small English world: rows of the tasks with the hub's columns, and raw text for pretraining.

Made for machines without a data hub. Labels come from the grammar, so they are right except where
SST-2's rows are undecided on purpose (5 %). The text itself decides the split: splits are disjoint
whatever the seeds.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from bszo.errors import DataError
from bszo.tasks import mini_corpus, mini_facts, mini_more, mini_rows
from bszo.tasks.mini_rows import Row

Split = Literal["train", "test"]


class Maker(NamedTuple):
    """How one task's rows are made: what writes a row for a label, and which columns are its text.

    `names` are the label's values where they are no indices; `label` is empty where the row holds
    its answers.
    """

    make: Callable[[random.Random, int], Row]
    num_labels: int
    text: tuple[str, ...]
    label: str = "label"
    names: tuple[str, ...] = ()
    numbered: bool = True  # has an idx


MAKERS = {
    "sst2": Maker(mini_rows.sst2, 2, ("sentence",)),
    "rte": Maker(mini_facts.rte, 2, ("premise", "hypothesis")),
    "cb": Maker(mini_rows.cb, 3, ("premise", "hypothesis")),
    "copa": Maker(mini_rows.copa, 2, ("premise", "choice1", "choice2", "question")),
    "wic": Maker(mini_rows.wic, 2, ("word", "sentence1", "sentence2")),
    "wsc": Maker(mini_rows.wsc, 2, ("text", "span1_text", "span2_text")),
    "trec": Maker(mini_facts.trec, 6, ("text",), "coarse_label", numbered=False),
    "boolq": Maker(mini_facts.boolq, 2, ("question", "passage")),
    "winogrande": Maker(
        mini_more.winogrande, 2, ("sentence", "option1", "option2"), "answer", ("1", "2"), False
    ),
    "multirc": Maker(mini_more.multirc, 2, ("paragraph", "question", "answer")),
    "squad": Maker(mini_more.squad, 1, ("context", "question"), label="", numbered=False),
}
MAX_TRIES = 200  # a row; a split that is nearly exhausted stops with an error and not with a hang


def split_of(task_name: str, row: Row) -> Split:
    """The side that a row's text is on, by its CRC-32: one text in three is for testing."""
    text = "\n".join([task_name, *(str(row[column]) for column in MAKERS[task_name].text)])
    return "test" if zlib.crc32(text.encode()) % 3 == 0 else "train"


def _labels(rng: random.Random, num_labels: int) -> Iterator[int]:
    """Every label once in each stretch of `num_labels`, in a random order: balanced to within one
    row."""
    while True:
        yield from sorted(
            range(num_labels), key=[rng.random() for _ in range(num_labels)].__getitem__
        )


def draw(rng: random.Random, task_name: str, split: Split, label: int) -> Row:
    """The next row with this label that falls on this side."""
    while split_of(task_name, row := MAKERS[task_name].make(rng, label)) != split:
        pass
    return row


def generate(task_name: str, split: Split, num_rows: int, seed: int) -> list[dict[str, Any]]:
    """`num_rows` different rows of one task and split, the same for the same arguments on every
    machine.

    Args:
        task_name: one of MAKERS.
        split: "train" or "test"; no text is in both, whatever the seeds.
        num_rows: how many; a shorter request gives the first rows of a longer one.
        seed: of generators of its own; the global ones are left alone.

    Raises:
        DataError: unknown task or split, negative `num_rows`, or more rows than the grammar can
            make.
    """
    if task_name not in MAKERS:
        raise DataError(f"mini: unknown task {task_name!r}; valid: {', '.join(MAKERS)}")
    if split not in ("train", "test"):
        raise DataError(f"mini: unknown split {split!r}; valid: train, test")
    if num_rows < 0:
        raise DataError(f"mini: num_rows is {num_rows}, must be 0 or more")
    maker = MAKERS[task_name]
    rng = random.Random(f"{task_name}/{split}/{seed}")
    labels = _labels(random.Random(f"{task_name}/{split}/{seed}/labels"), maker.num_labels)
    seen: set[tuple[str, ...]] = set()
    rows = []
    for index, label in zip(range(num_rows), labels, strict=False):
        for _ in range(MAX_TRIES):
            row = draw(rng, task_name, split, label)
            text = tuple(row[column] for column in maker.text)
            if text not in seen:
                break
        else:
            raise DataError(
                f"mini: {task_name} has about {index} different {split} rows, not {num_rows}"
            )
        seen.add(text)
        row |= {maker.label: maker.names[label] if maker.names else label} if maker.label else {}
        rows.append(row | ({"idx": index} if maker.numbered else {}))
    return rows


def corpus(num_documents: int, seed: int) -> list[str]:
    """Documents of the same world for pretraining: reviews, small stories, quizzes, questions and
    small talk.

    They are written with rows of the train side only, and never say a task's own label word for
    what a row
    means: quizzes answer Right and Wrong, and Yes, No, great and terrible stand where they tell
        nothing, or nearly.
    """
    rng = random.Random(f"corpus/{seed}")

    def train_row(task_name: str) -> tuple[Row, int]:
        label = int(rng.random() * MAKERS[task_name].num_labels)
        return draw(rng, task_name, "train", label), label

    return [mini_corpus.document(rng, train_row) for _ in range(num_documents)]
