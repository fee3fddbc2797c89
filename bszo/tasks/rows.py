"""Rows of a data set, their fingerprint, and JSONL files read with care."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bszo.errors import DataError

MAX_LINE_BYTES = 10_000_000
_ONE_A_LINE = "one object a line is needed (`jq -c '.[]' FILE` makes that of an array)"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One row of a data set; `where` is "path/<split>.jsonl:<row number from 1>", for messages and
    ids."""

    values: Mapping[str, Any]
    where: str


def fingerprint(rows: Iterable[Row]) -> str:
    """sha256 of the rows' values in order, as canonical JSON: a name of data by content (64 hex
    digits)."""
    digest = hashlib.sha256()
    for row in rows:
        try:
            line = json.dumps(dict(row.values), sort_keys=True, separators=(",", ":"))
        except TypeError as error:
            raise DataError(f"{row.where}: a value has no JSON form ({error})") from error
        digest.update(line.encode("ascii") + b"\n")
    return digest.hexdigest()


def read_jsonl(path: Path) -> list[Row]:
    """The JSON objects of a UTF-8 file, one a line; blank lines are left out but counted.

    Raises:
        DataError: no such file (with what lies beside it), unreadable, not UTF-8, NUL bytes, a line
            of more than MAX_LINE_BYTES, a line that is no JSON object.
    """
    try:
        if not path.is_file():
            raise DataError(
                f"{path}: {'not a file' if path.exists() else 'no such file'}; {_beside(path)}"
            )
        with path.open("rb") as file:
            return [
                _row(line, f"{path.as_posix()}:{number}") for number, line in _lines(file, path)
            ]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    # readline with a limit, so that a file without line ends does not fill the memory
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{path.as_posix()}:{number}: more than {MAX_LINE_BYTES:,} bytes in a line; "
                "one JSON object a line is needed"
            )
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.strip():
            yield number, line


def _row(line: bytes, where: str) -> Row:
    if b"\0" in line:
        raise DataError(f"{where}: NUL bytes; a UTF-8 text file is needed")
    try:
        values = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 (byte {error.start} is 0x{line[error.start]:02x})"
        ) from error
    except json.JSONDecodeError as error:
        if line.lstrip().startswith(b"["):
            raise DataError(f"{where}: a JSON array over several lines; {_ONE_A_LINE}") from error
        raise DataError(
            f"{where}: not JSON ({error.msg} at character {error.pos}); {_ONE_A_LINE}"
        ) from error
    # numbers of thousands of digits, very deep nesting
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: JSON that cannot be read ({error})") from error
    if isinstance(values, list):
        raise DataError(f"{where}: a JSON array; {_ONE_A_LINE}")
    if not isinstance(values, dict):
        raise DataError(
            f"{where}: JSON, but a {type(values).__name__}, not an object with the row's fields"
        )
    return Row(values, where)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} twice")
    return values


def _beside(path: Path) -> str:
    folder = next(parent for parent in path.parents if parent.is_dir())
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"{folder} has {listed or 'nothing in it'}"
