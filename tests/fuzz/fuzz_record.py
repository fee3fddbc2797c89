"""Coverage-guided fuzzing of the record reader: `python fuzz_record.py corpus/record`, in this folder.

Needs atheris; `tests/hostile/test_fuzz_record.py` runs the same target over the corpus and mutations without it.
"""

import importlib
import json
import sys
from typing import Any


def target(data: bytes) -> None:
    """The reader refuses in one line, or returns a record that is written and read again alike."""
    from experiments import record

    try:
        found = record.parse(data, "x.json")
    except record.RecordError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 400, str(error)
        return
    assert set(found) == set(record.FIELDS) and found["status"] in record.STATUSES
    name = record.file_name(found)
    assert "/" not in name and "\0" not in name and len(name) < 256
    again = json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert record.parse(again, "x.json") == found


def main() -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["experiments.record", "json"]):
        import experiments.record  # noqa: F401
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
