"""Coverage-guided fuzzing of the trajectory reader: `make fuzz`, or
`python -m tests.fuzz.fuzz_trajectory tests/fuzz/corpus/trajectory`.

Needs atheris; `tests/test_trajectory_fuzz.py` runs the same target over the corpus and random
mutations without it.
"""

import importlib
import io
import sys
from typing import Any


def target(data: bytes) -> None:
    """The reader refuses in one line, or returns steps that are written and read again alike.

    The bytes are read as they are, and as what follows a sound header with every checksum made
    right: else no mutation would pass the first of them.
    """
    from bszo.trajectory.block import SHAPE, body_bytes
    from bszo.trajectory.header import PREFIX, digest

    check(data)
    _, version, length = PREFIX.unpack(data[: PREFIX.size].ljust(PREFIX.size, b"\0"))
    text = data[PREFIX.size : PREFIX.size + min(length, 1 << 16)]
    resealed = PREFIX.pack(data[:8], version, len(text)) + text
    resealed += digest(resealed)
    rest, first = data[PREFIX.size + len(text) + 32 :], 0
    while len(rest) >= SHAPE.size:
        head = rest[: SHAPE.size]
        body = rest[SHAPE.size : SHAPE.size + (body_bytes(head, first) or 0)]
        resealed += head + body + digest(resealed[-32:], head, body)
        rest, first = rest[SHAPE.size + len(body) + 32 :], first + SHAPE.unpack(head)[1]
    check(resealed)


def check(data: bytes) -> None:
    from bszo.errors import TrajectoryError
    from bszo.trajectory.reader import parse
    from bszo.trajectory.writer import encode

    try:
        found = parse(io.BytesIO(data))
    except TrajectoryError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return
    assert found.num_bytes <= len(data) and (found.problem is None) == (
        found.num_bytes == len(data)
    )
    assert "\n" not in (found.problem or "")
    whole, chain = encode(found.header, found.steps, 7)
    again = parse(io.BytesIO(whole))
    assert again.problem is None and again.chain == chain and again.header == found.header
    assert repr(again.steps) == repr(found.steps)  # NaN is equal to itself in print


def main() -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["bszo.trajectory"]):
        import bszo.trajectory  # noqa: F401
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
