"""The user's own rows, broken in every way that a file can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.records import store
from tests.experiments.conftest import Cli
from tests.hostile.conftest import SMALL

TRAIN = [{"sentence": f"film number {i}", "label": i % 2, "idx": i} for i in range(30)]
TEST = [{"sentence": f"other film {i}", "label": i % 2, "idx": i} for i in range(8)]


def lay(root: Path, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> list[str]:
    """SST-2's two files under a root, and the arguments that name it."""
    (root / "sst2").mkdir(parents=True)
    for name, rows in (("train", train), ("validation", test)):
        (root / "sst2" / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    return ["data=local", f"data.root={root}"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"sentence": "x", "label": 2}', "field 'label' is 2; valid: 0 (negative), 1 (positive)"),
        (b'{"sentence": "x", "label": -1}', "field 'label' is -1"),
        (b'{"sentence": "x", "label": 1e999}', "field 'label' is inf"),
        (b'{"sentence": "x", "label": NaN}', "field 'label' is nan"),
        (b'{"sentence": "x", "label": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b'{"sentence": "x"}', "no field 'label'"),
        (b'{"sentence": 3, "label": 0}', "is 3, not a text"),
        (b'{"sentence": " ", "label": 0}', "is empty"),
        (b'{"sentence": "a\\u0000b", "label": 0}', "NUL"),
        (b'{"sentence": "a\0b", "label": 0}', "NUL bytes"),
        (b'{"sentence": "\\ud800", "label": 0}', "surrogate"),
        (b'{"sentence": "<mask>", "label": 0}', "<mask>"),
        ('{"sentence": "caf\u00e9", "label": 0}'.encode("latin-1"), "not UTF-8"),
        ('{"sentence": "x", "label": 0}'.encode("utf-16"), "NUL bytes"),
        (b'{"sentence": "x", "label": 0, "idx": 3}', "has the id train:3, as "),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "a JSON array; one object a line"),
        (b"\x00" * 100, "NUL bytes"),
    ],
)
def test_a_bad_row_is_named(refused: Callable[..., str], tmp_path: Path, line: bytes, says: str):
    arguments = lay(tmp_path, TRAIN, TEST)
    with (tmp_path / "sst2" / "train.jsonl").open("ab") as file:
        file.write(line + b"\n")
    # the last row is taken, too
    said = refused(*arguments, "task.num_train=20", "task.num_validation=11")
    assert says in said and "train.jsonl:31" in said


def test_a_line_of_a_gigabyte(refused: Callable[..., str], tmp_path: Path):
    arguments = lay(tmp_path, TRAIN, TEST)
    with (tmp_path / "sst2" / "train.jsonl").open("r+b") as file:
        file.truncate(1 << 30)  # sparse: takes no room on the disk
    assert "more than 10,000,000 bytes" in refused(*arguments)


def test_rows_of_the_test_split_that_train_are_counted(
    cli: Cli, tmp_path: Path, model_folder: Path
):
    copied = [
        TRAIN[0] | {"idx": 100},
        TRAIN[1] | {"idx": 101, "label": 0},
        TRAIN[25] | {"idx": 102},
    ]
    rows = lay(tmp_path / "data", TRAIN, [*TEST, *copied])
    arguments = [
        *SMALL,
        *rows,
        "fidelity.train_rows=first",
        "model=local",
        f"model.path={model_folder}",
    ]
    done = cli(*arguments, f"paths.results={tmp_path / 'r'}")
    assert done.code == 0, done.err
    # the third is in neither split
    assert "2 of 11 test rows have the text of a training row" in done.err
    (record,) = store.load_all([tmp_path / "r" / "runs"])
    assert record["data"]["num_overlapping"] == {"validation": 0, "test": 2}
