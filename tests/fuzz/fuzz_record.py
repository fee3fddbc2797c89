"""Coverage-guided fuzzing of the record reader: `make fuzz`, or
`python -m tests.fuzz.fuzz_record tests/fuzz/corpus/record`.

Needs atheris; `tests/hostile/test_fuzz_record.py` runs the same target over the corpus and
mutations without it.
"""

import importlib
import json
import random
import sys
from typing import Any

VALUES = (
    None,
    True,
    -1,
    0.5,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "ok",
    "../x",
    "a\0b",
    "\ud800",
    "x" * 300,
    {},
    [],
    {"task": "../x"},
    [[[[]]]],
)


def target(data: bytes) -> bool:
    """Whether the reader believes the bytes. It refuses in one line, or returns a record that is
    written and read again alike."""
    from experiments.records import record

    try:
        found = record.parse(data, "x.json")
    except record.RecordError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 400, str(error)
        return False
    assert set(found) == set(record.FIELDS) and found["status"] in record.STATUSES
    name = record.file_name(found)
    assert "/" not in name and "\0" not in name and len(name) < 256
    again = json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert record.parse(again, "x.json") == found
    return True


def changed(data: bytes, rng: random.Random) -> bytes | None:
    """The same JSON with one value replaced, removed or moved; None for what is no JSON of several
    values."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return None
    node, places = whole, []
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        places.append((node, key))
        node = node[key]
    if not places:
        return None
    parent, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice([k for k in VALUES if isinstance(k, str)])] = parent.pop(key)
    else:
        parent[key] = rng.choice(VALUES)
    return json.dumps(whole).encode()


def main() -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["experiments.records", "json"]):
        import experiments.records.record  # noqa: F401

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """Of the values, else of the bytes, which alone hardly ever leave JSON that is whole."""
        rng = random.Random(seed)
        new = changed(data, rng) if rng.random() < 0.7 else None
        return new if new is not None and len(new) <= max_size else atheris.Mutate(data, max_size)

    def run(data: bytes) -> None:  # libFuzzer would take a result for a code of its own
        target(data)

    atheris.Setup(sys.argv, run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
