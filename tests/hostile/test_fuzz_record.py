"""The fuzz target of the record reader, over its corpus and mutations of it, without atheris."""

import random
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.test_trajectory_fuzz import mutated

FUZZ = Path(__file__).parents[1] / "fuzz"
CORPUS = sorted((FUZZ / "corpus" / "record").iterdir())
NUM_MUTATIONS = 2000


@pytest.fixture(scope="module")
def fuzz() -> dict[str, Any]:
    return runpy.run_path(str(FUZZ / "fuzz_record.py"))


def test_the_corpus_has_records_that_are_believed_and_others(fuzz: dict[str, Any]):
    believed = {path.name: fuzz["target"](path.read_bytes()) for path in CORPUS}
    assert {name for name, whether in believed.items() if whether} == {"ok", "diverged", "path"}
    assert len(CORPUS) >= 10


def test_mutations_of_the_corpus(fuzz: dict[str, Any]):
    rng, num_believed = random.Random(0), 0
    corpus = [path.read_bytes() for path in CORPUS]
    for i in range(NUM_MUTATIONS):  # of values and of bytes, in turn
        data = rng.choice(corpus)
        data = (fuzz["changed"](data, rng) if i % 2 else None) or mutated(data, corpus, rng)
        try:
            num_believed += fuzz["target"](data)
        except BaseException:
            print(f"the input: {data!r}")
            raise
    assert 10 < num_believed < NUM_MUTATIONS / 2
