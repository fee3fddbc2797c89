"""Generator of rows of every task, with the hub's columns, and of text for pretraining.

A grammar of a small English world writes them, for machines that reach no data hub. The label comes
first and the text is written for it, so labels are right, except that 5 % of SST-2's rows are
undecided on purpose. The text of a row alone decides whether it may train or test, so that the two
splits are disjoint whatever the seeds.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from bszo.errors import DataError
from bszo.tasks.mini import documents, facts, questions, rows
from bszo.tasks.mini.rows import Row

Split = Literal["train", "test"]


class Maker(NamedTuple):
    """How the rows of one task are made.

    Attributes:
        make: writes a row for a label.
        num_labels: how many labels there are.
        text: the columns that make two rows different.
        label: the column of the label; empty where the row holds its answers.
        names: the label's values where they are not indices.
        numbered: whether a row has an `idx`.
    """

    make: Callable[[random.Random, int], Row]
    num_labels: int
    text: tuple[str, ...]
    label: str = "label"
    names: tuple[str, ...] = ()
    numbered: bool = True


MAKERS = {
    "sst2": Maker(rows.sst2, 2, ("sentence",)),
    "rte": Maker(facts.rte, 2, ("premise", "hypothesis")),
    "cb": Maker(rows.cb, 3, ("premise", "hypothesis")),
    "copa": Maker(rows.copa, 2, ("premise", "choice1", "choice2", "question")),
    "wic": Maker(rows.wic, 2, ("word", "sentence1", "sentence2")),
    "wsc": Maker(rows.wsc, 2, ("text", "span1_text", "span2_text")),
    "trec": Maker(facts.trec, 6, ("text",), "coarse_label", numbered=False),
    "boolq": Maker(facts.boolq, 2, ("question", "passage")),
    "winogrande": Maker(
        questions.winogrande, 2, ("sentence", "option1", "option2"), "answer", ("1", "2"), False
    ),
    "multirc": Maker(questions.multirc, 2, ("paragraph", "question", "answer")),
    "squad": Maker(questions.squad, 1, ("context", "question"), label="", numbered=False),
}
MAX_TRIES = (
    200  # for one row, so that a split that is nearly exhausted ends in an error, not a hang
)


def split_of(task_name: str, row: Row) -> Split:
    """The split that a row's text belongs to, by its CRC-32: one text in three is for testing."""
    text = "\n".join([task_name, *(str(row[column]) for column in MAKERS[task_name].text)])
    return "test" if zlib.crc32(text.encode()) % 3 == 0 else "train"


def _labels(rng: random.Random, num_labels: int) -> Iterator[int]:
    """Endless labels: every stretch of `num_labels` holds each label once, in a random order."""
    while True:
        yield from sorted(
            range(num_labels), key=[rng.random() for _ in range(num_labels)].__getitem__
        )


def draw(rng: random.Random, task_name: str, split: Split, label: int) -> Row:
    """The next row with this label that belongs to this split."""
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
    made = []
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
        made.append(row | ({"idx": index} if maker.numbered else {}))
    return made


def corpus(num_documents: int, seed: int) -> list[str]:
    """Documents of the same world for pretraining: reviews, small stories, quizzes, questions and
    small talk.

    Only rows that may train are written into them. No document answers a row in the label words of
    its task: quizzes answer Right and Wrong, while Yes, No, great and terrible stand where they
    tell nothing about a row, or nearly nothing.
    """
    rng = random.Random(f"corpus/{seed}")

    def train_row(task_name: str) -> tuple[Row, int]:
        label = int(rng.random() * MAKERS[task_name].num_labels)
        return draw(rng, task_name, "train", label), label

    return [documents.document(rng, train_row) for _ in range(num_documents)]
