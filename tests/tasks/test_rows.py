"""JSONL files read with care, and the fingerprint of what was read."""

import hashlib
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bszo.errors import DataError
from bszo.tasks import Row, fingerprint, read_jsonl, rows

GOOD = b'{"sentence": "x", "label": 0}\n'


def read_bytes(tmp_path: Path, content: bytes) -> list[Row]:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    return read_jsonl(path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{bad}\n", "not JSON (Expecting property name enclosed in double quotes at character 1)"),
        (b'[\n {"sentence": "x"}\n]\n', "a JSON array over several lines; one object a line is"),
        (b'{"label": 0, "label": 1}\n', "JSON that cannot be read (the key 'label' twice)"),
        (b'{"sentence": "x"', "not JSON (Expecting ',' delimiter at character 16)"),
        (b'["x", 0]\n', "a JSON array; one object a line is needed"),
        (b"3\n", "JSON, but a int, not an object with the row's fields"),
        (b'{"sentence": "a\0b"}\n', "NUL bytes; a UTF-8 text file is needed"),
        (b'{"sentence": "caf\xe9"}\n', "not UTF-8 (byte 17 is 0xe9)"),
        (b"\xff\xfe{\0\n", "NUL bytes; a UTF-8 text file is needed"),
        (b"[" * 100_000 + b"\n", "JSON that cannot be read"),
        (b'{"label": ' + b"9" * 5000 + b"}\n", "JSON that cannot be read"),
    ],
)
def test_bad_line_is_named(line: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_bytes(tmp_path, GOOD + b"\n" + line)
    assert str(caught.value).startswith(f"{tmp_path.as_posix()}/train.jsonl:3: {says}")
    assert "\n" not in str(caught.value)


def test_line_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_BYTES", 100)
    filler = b" " * (100 - len(GOOD)) + GOOD
    assert len(read_bytes(tmp_path, filler + filler)) == 2
    with pytest.raises(DataError, match=r"train.jsonl:2: more than 100 bytes in a line"):
        read_bytes(tmp_path, filler + b" " + filler)


def test_an_endless_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with path.open("wb") as file:
        file.truncate(20 * rows.MAX_LINE_BYTES)  # sparse: takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r":1: more than 10,000,000 bytes"):
            read_jsonl(path)
        assert tracemalloc.get_traced_memory()[1] < 5 * rows.MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


def test_what_editors_leave_behind_is_read(tmp_path: Path) -> None:
    last = '{"sentence": "\u4f60\u2028!"}'.encode()
    found = read_bytes(tmp_path, b"\xef\xbb\xbf" + GOOD[:-1] + b"\r\n\r\n" + last)
    assert [row.values for row in found] == [
        {"sentence": "x", "label": 0},
        {"sentence": "\u4f60\u2028!"},
    ]
    assert [row.where.rpartition(":")[2] for row in found] == ["1", "3"]


def test_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, b"") == []


def test_absent_file_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "dev.jsonl").touch()
    with pytest.raises(DataError) as caught:
        read_jsonl(tmp_path / "sst2" / "train.jsonl")
    assert (
        str(caught.value)
        == f"{tmp_path}/sst2/train.jsonl: no such file; {tmp_path}/sst2 has dev.jsonl"
    )
    with pytest.raises(DataError, match=r"no such file; .* has sst2/$"):
        read_jsonl(tmp_path / "rte" / "train.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a file"):
        read_jsonl(tmp_path)


def test_no_more_than_twenty_names_are_listed(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}").touch()
    with pytest.raises(DataError, match=r"18, 19 and 5 more$"):
        read_jsonl(tmp_path / "x.jsonl")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_impossible_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_jsonl(tmp_path / name)


def test_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").touch()
    monkeypatch.setattr(Path, "open", forbidden)  # not by the file's mode, which does not bind root
    with pytest.raises(DataError, match=r"x: cannot be read \(Permission denied\)"):
        read_jsonl(tmp_path / "x")


VALUES = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text())


@given(st.lists(VALUES, max_size=5))
def test_fingerprint_is_of_the_content(values: list[dict[str, Any]]) -> None:
    here = [Row(row, f"a:{number}") for number, row in enumerate(values)]
    there = [Row(dict(reversed(row.items())), "b") for row in values]
    assert fingerprint(here) == fingerprint(there)
    assert fingerprint([*here, Row({"x": 1}, "")]) != fingerprint(here)


def test_fingerprint_is_stable_and_minds_order_and_type() -> None:
    one, two = Row({"a": "é", "b": 1}, ""), Row({"a": "é", "b": True}, "")
    lines = '{"a":"\\u00e9","b":1}\n{"a":"\\u00e9","b":true}\n'
    assert fingerprint([one, two]) == hashlib.sha256(lines.encode()).hexdigest()
    assert len({fingerprint(chosen) for chosen in ([one, two], [two, one], [one], [two], [])}) == 5


def test_fingerprint_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(DataError, match=r"^x:3: a value has no JSON form"):
        fingerprint([Row({"a": b"bytes"}, "x:3")])


def test_twenty_thousand_rows_take_seconds_at_most(tmp_path: Path) -> None:
    rows = (
        {"sentence": f"row {number} " * 10, "label": 0, "idx": number} for number in range(20_000)
    )
    content = "\n".join(map(json.dumps, rows)).encode()
    begin = time.process_time()
    assert len(read_bytes(tmp_path, content)) == 20_000
    assert time.process_time() - begin < 5
