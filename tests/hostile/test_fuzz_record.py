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


def test_the_corpus_is_there(fuzz: dict[str, Any]):
    assert len(CORPUS) >= 5
    for path in CORPUS:
        fuzz["target"](path.read_bytes())


def test_mutations_of_the_corpus(fuzz: dict[str, Any]):
    rng = random.Random(0)
    corpus = [path.read_bytes() for path in CORPUS]
    for i in range(NUM_MUTATIONS):  # of values and of bytes, in turn
        data = rng.choice(corpus)
        data = (fuzz["changed"](data, rng) if i % 2 else None) or mutated(data, corpus, rng)
        try:
            fuzz["target"](data)
        except BaseException:
            print(f"the input: {data!r}")
            raise
