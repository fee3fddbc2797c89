"""The store of records: where they lie, and how they are found, written and gathered.

A run writes a file of its own under `outputs/runs/<profile>/`. `experiments.records.pack` moves it
into `results/records/<profile>/<model>.jsonl`, one compact line a run, which git keeps. A record is
the same in both places, and every reader looks in both.
"""

import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bszo.files import written_whole
from experiments import RESULTS, ROOT
from experiments.records.record import (
    SETTLED,
    Record,
    RecordError,
    file_name,
    parse,
    validate,
    without_nan,
)

FRESH = ROOT / "outputs" / "runs"
PACKED = RESULTS / "records"
SINGLE = "single"  # the profile of runs that no sweep started
MOST_BYTES = 64 << 20  # of one record
MOST_PACKED_BYTES = 1 << 30  # of a file of them


@dataclass(frozen=True)
class Found:
    """A record, and the file that holds it."""

    record: Record
    file: Path

    @property
    def packed(self) -> bool:
        return self.file.suffix == ".jsonl"

    @property
    def rank(self) -> tuple[bool, str]:
        """Of two records of one configuration, the one of higher rank counts: one that has settled,
        then the later one."""
        return self.record["status"] in SETTLED, self.record["provenance"]["started"]


def places(folder: Path) -> tuple[Path, ...]:
    """Where the records of a profile lie: the fresh ones, then the packed ones.

    A record that is packed while a reader looks is found in this order, in one place at least.

    `results/records/mini` and `outputs/runs/mini` belong together. Where `paths.results=DIR` has
    moved all outputs, `DIR/records/mini` and `DIR/runs/mini` do. `DIR/runs` itself holds the runs
    that no sweep started; they are packed as the profile `single`. Any other folder is alone.

    Args:
        folder: one of the two.
    """
    folder = folder.absolute()
    if folder.name == "runs":
        return folder, _packed_root(folder) / SINGLE
    if folder.parent.name == "runs":
        return folder, _packed_root(folder.parent) / folder.name
    if folder.parent.name == "records":
        root = folder.parent
        fresh = FRESH if root == PACKED else root.with_name("runs")
        return fresh if folder.name == SINGLE else fresh / folder.name, folder
    return (folder,)


def _packed_root(fresh: Path) -> Path:
    return PACKED if fresh == FRESH else fresh.with_name("records")


def write(record: Mapping[str, object], folder: Path) -> Path:
    """Write a record as a file of its own, and return its path.

    A reader sees the old file or the new one, never a part.

    Raises:
        RecordError: it is no sound record.
        OSError: the folder cannot be written.
    """
    sound = validate(without_nan(record), "record")
    path = folder / file_name(sound)
    text = json.dumps(sound, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def line_of(record: Mapping[str, object]) -> str:
    """The record as a line of a packed file, without the line's end."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def load(path: Path) -> Record:
    """The record in a file of its own.

    Raises:
        RecordError: the file is missing, no regular file, or holds no sound record.
    """
    return parse(_read(path, MOST_BYTES), path.name)


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a packed file, each with its place in it (`tiny-opt.jsonl:17`).

    Raises:
        RecordError: the file is missing, or no regular file.
    """
    for number, line in enumerate(_read(path, MOST_PACKED_BYTES).splitlines(), start=1):
        yield f"{path.name}:{number}", line


def _read(path: Path, most: int) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe would never end
            raise RecordError(f"{path.name}: no regular file")
        if facts.st_size > most:
            raise RecordError(f"{path.name}: more than {most} bytes; no record is that long")
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path.name:.80}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in its name
        raise RecordError(f"{path.name:.80}: cannot be read ({error})") from error


def read(path: Path) -> Iterator[Found | RecordError]:
    """The records of a file of either kind; for each that is not sound, the reason.

    A file that has been packed since it was listed holds nothing.
    """
    try:
        if path.suffix != ".jsonl":
            yield Found(load(path), path)
            return
        entries = list(lines(path))
    except RecordError as error:
        if os.path.lexists(path):
            yield error
        return
    for where, line in entries:
        try:
            yield Found(parse(line, where), path)
        except RecordError as error:
            yield error


def files(folder: Path) -> list[Path]:
    """The files of records in a folder: fresh ones, then packed ones, each in order of its name."""
    return [file for ending in ("json", "jsonl") for file in sorted(folder.glob(f"*.{ending}"))]


def gather(folder: Path) -> tuple[list[Record], list[str]]:
    """The sound records of a profile's `places`, and one line for each that is left out.

    A record that is packed and fresh counts once; of two that differ, the one of higher rank. Two
    fresh files of one signature, or two packed lines, are all left out: nobody can say which of
    them is the run.
    """
    found: defaultdict[str, list[Found]] = defaultdict(list)
    problems: list[str] = []
    for file in (file for place in places(folder) for file in files(place)):
        for entry in read(file):
            if isinstance(entry, RecordError):
                problems.append(str(entry))
            else:
                found[entry.record["signature"]].append(entry)
    records = []
    for signature, entries in found.items():
        if len({entry.packed for entry in entries}) < len(entries):
            names = ", ".join(entry.file.name for entry in entries)
            problems.append(f"{names}: {len(entries)} records with the signature {signature}")
        else:
            records.append(max(entries, key=lambda entry: entry.rank).record)
    return sorted(records, key=file_name), problems


def load_all(paths: Iterable[Path]) -> list[Record]:
    """The records of files and folders of either kind, in the order of their names.

    Raises:
        RecordError: the first that cannot be read, or a path that does not exist.
    """
    found: list[Record] = []
    for path in paths:
        try:
            is_folder = path.is_dir()
            path.stat()
        except (OSError, ValueError):
            raise RecordError(f"{path!s:.80}: no such file or folder") from None
        for file in files(path) if is_folder else [path]:
            for entry in read(file):
                if isinstance(entry, RecordError):
                    raise entry
                found.append(entry.record)
    return found


def left_out(problems: Sequence[str], of: str = "") -> tuple[str, ...]:
    """The line about records that are left out; none where there are none."""
    return (f"Left out{of}: {len(problems)} ({'; '.join(problems)}).",) if problems else ()


def find(signature: str, folder: Path) -> Found | None:
    """The record with this signature in a profile's `places`; of two, the one of higher rank.

    Raises:
        RecordError: what is there under this signature is no sound record, or is another's.
    """
    found: list[Found] = []
    for place in places(folder):
        for file in sorted(place.glob(f"*-{signature}.json")):
            for entry in read(file):
                if isinstance(entry, RecordError):
                    raise entry
                if entry.record["signature"] != signature:
                    raise RecordError(f"{file.name}: holds the run {entry.record['signature']}")
                found.append(entry)
        found += _packed(signature, sorted(place.glob("*.jsonl")))
    return max(found, key=lambda entry: entry.rank, default=None)


def starting_with(prefix: str, roots: Sequence[Path] = (FRESH, PACKED)) -> list[Found]:
    """The records below the folders whose signatures begin with these hex digits, each once.

    Raises:
        RecordError: one that seems to be among them is no sound record.
    """
    found: dict[str, Found] = {}
    for folder in roots:
        entries = _packed(prefix, sorted(folder.rglob("*.jsonl")))
        entries += [
            Found(load(file), file)
            for file in sorted(folder.rglob(f"*-{prefix}*.json"))
            if file.stem.rpartition("-")[2].startswith(prefix)
        ]
        for entry in entries:
            other = found.setdefault(entry.record["signature"], entry)
            if entry.rank > other.rank:
                found[entry.record["signature"]] = entry
    return list(found.values())


def _packed(prefix: str, paths: Iterable[Path]) -> list[Found]:
    """The records of packed files whose signatures begin so; only their lines are parsed."""
    names = re.compile(rb'"signature"\s*:\s*"' + prefix.encode())
    return [
        Found(record, path)
        for path in paths
        for where, line in lines(path)
        if names.search(line)
        for record in [parse(line, where)]
        if record["signature"].startswith(prefix)
    ]
