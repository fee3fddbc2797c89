"""The fuzz target of the trajectory reader, over its corpus and thousands of mutations of it,
without atheris."""

import random
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
CORPUS = sorted((FUZZ / "corpus" / "trajectory").iterdir())
NUM_MUTATIONS = 3000


@pytest.fixture(scope="module")
def target() -> Callable[[bytes], None]:
    return runpy.run_path(str(FUZZ / "fuzz_trajectory.py"))["target"]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A few of what fuzzers do: flips, edits of one byte to its limits, cuts, insertions,
    splices."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1 and at < len(data):
            data = data[:at] + bytes([rng.choice((0, 1, 127, 128, 255))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + data[to:]
        elif kind == 3:
            data = data[:at] + rng.randbytes(rng.randrange(9)) + data[at:]
        else:
            data = data[:at] + rng.choice(others)[at:]
    return data


def test_the_corpus_is_there(target: Callable[[bytes], None]) -> None:
    assert len(CORPUS) >= 5
    for path in CORPUS:
        target(path.read_bytes())


@pytest.mark.parametrize("seed", range(3))
def test_mutations_of_the_corpus(target: Callable[[bytes], None], seed: int) -> None:
    rng = random.Random(seed)
    corpus = [path.read_bytes() for path in CORPUS]
    for _ in range(NUM_MUTATIONS // 3):
        data = mutated(rng.choice(corpus), corpus, rng)
        try:
            target(data)
        except BaseException:
            print(f"the input: {data.hex()}")
            raise
