"""The fuzz target of the record reader, over its corpus and mutations of it, without atheris."""

import random
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_trajectory_fuzz import mutated

FUZZ = Path(__file__).parents[1] / "fuzz"
CORPUS = sorted((FUZZ / "corpus" / "record").iterdir())
NUM_MUTATIONS = 2000


@pytest.fixture(scope="module")
def target() -> Callable[[bytes], None]:
    return runpy.run_path(str(FUZZ / "fuzz_record.py"))["target"]


def test_the_corpus_is_there(target: Callable[[bytes], None]):
    assert len(CORPUS) >= 5
    for path in CORPUS:
        target(path.read_bytes())


def test_mutations_of_the_corpus(target: Callable[[bytes], None]):
    rng = random.Random(0)
    corpus = [path.read_bytes() for path in CORPUS]
    for _ in range(NUM_MUTATIONS):
        data = mutated(rng.choice(corpus), corpus, rng)
        try:
            target(data)
        except BaseException:
            print(f"the input: {data!r}")
            raise
