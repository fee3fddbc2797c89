"""Packing: fresh records become lines of `results/records/<profile>/<model>.jsonl`.

    python -m experiments.records.pack             # every profile under outputs/runs
    python -m experiments.records.pack mini        # one; `single`: runs that no sweep started

A file that is full goes on in `<model>~2.jsonl`, and so on, so that none grows too large to be
looked at.

A record is packed once its run has settled. Its own file goes once the line is on the disk, and
only while nobody runs its configuration. Any number of processes may pack, run and read at a time:
a lock lets one write, each packed file is replaced whole, and packing again changes nothing. The
exit code is 1 where something could not be packed; it stays where it is.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from bszo.files import written_whole
from experiments.records.locks import Busy, claimed
from experiments.records.record import SETTLED, RecordError, parse, safe_name
from experiments.records.store import FRESH, SINGLE, Found, line_of, lines, load, places

LOCK = ".lock"
FULL = 4_000_000  # bytes


def pack(fresh: Path) -> tuple[int, list[str]]:
    """Pack the settled records of a folder; return their number, and a line for each that stays.

    A record that differs from a packed one of the same signature takes its line where it counts
    more (`Found.rank`), and stays a file where it counts less.

    Args:
        fresh: `DIR/runs/<profile>`; `store.places` says what it is packed into.

    Raises:
        OSError: the packed folder cannot be written.
    """
    packed, candidates = places(fresh)[1], sorted(fresh.glob("*.json"))
    if not candidates:
        return 0, []
    problems: list[str] = []
    by_model: defaultdict[str, list[Found]] = defaultdict(list)
    with _lock(packed):
        for file in candidates:
            try:
                record = load(file)
            except RecordError as error:
                problems.append(str(error))
                continue
            if record["status"] in SETTLED:
                by_model[safe_name(record["choices"]["model"])].append(Found(record, file))
        done: list[Found] = []
        for model, found in sorted(by_model.items()):
            try:
                done += _merge(packed, model, found, problems)
            except RecordError as error:
                problems.append(f"{error}; mend that line to pack {len(found)} more records")
        for entry in done:
            _remove(entry, _locks_of(fresh))
    return len(done), problems


def _lock(packed: Path) -> FileLock:
    packed.mkdir(parents=True, exist_ok=True)
    return FileLock(packed / LOCK)


def _merge(packed: Path, model: str, found: Sequence[Found], problems: list[str]) -> list[Found]:
    """Put the records into the packed files of a model; return those that these hold now.

    Raises:
        RecordError: a line that is there is no sound record; nothing is written.
    """
    parts = {path: _held(path) for path in _parts(packed, model)}
    there = {entry.record["signature"]: path for path, held in parts.items() for entry in held}
    merged = {
        path: {entry.record["signature"]: entry for entry in held} for path, held in parts.items()
    }
    room = {path: FULL - (path.stat().st_size if path.exists() else 0) for path in parts}
    done: list[Found] = []
    for entry in found:
        signature = entry.record["signature"]
        path = there.get(signature) or _with_room(room, packed, model, len(line_of(entry.record)))
        other = merged.setdefault(path, {}).get(signature)
        if other is None or other.record == entry.record or entry.rank > other.rank:
            if other is None or other.record != entry.record:
                merged[path][signature] = entry
                there[signature] = path
            done.append(entry)
        else:
            problems.append(
                f"{entry.file.name}: {path.name} holds a record of the same signature that is later"
            )
    for path, entries in merged.items():
        before = {entry.record["signature"]: entry for entry in parts.get(path, [])}
        if entries != before:
            with written_whole(path) as temporary:
                temporary.write_text(
                    "".join(f"{line_of(entries[key].record)}\n" for key in sorted(entries)),
                    encoding="utf-8",
                )
    return done


def _parts(packed: Path, model: str) -> list[Path]:
    """The packed files of a model, in order; the first need not be there yet."""
    parts = [packed / f"{model}.jsonl"]
    while (more := packed / f"{model}~{len(parts) + 1}.jsonl").exists():
        parts.append(more)
    return parts


def _with_room(room: dict[Path, int], packed: Path, model: str, size: int) -> Path:
    """The last part, or the next one where it is full; its room gets smaller."""
    path = list(room)[-1]
    if room[path] < size + 1:
        path = packed / f"{model}~{len(room) + 1}.jsonl"
        room[path] = FULL
    room[path] -= size + 1
    return path


def _held(path: Path) -> list[Found]:
    if not path.exists():
        return []
    held = [Found(parse(line, where), path) for where, line in lines(path)]
    counts = Counter(entry.record["signature"] for entry in held)
    if twice := [signature for signature, count in counts.items() if count > 1]:
        raise RecordError(f"{path.name}: two records with the signature {twice[0]}")
    return held


def _remove(entry: Found, locks: Path) -> None:
    """Remove the file, unless a run of its configuration is under way or has replaced it."""
    try:
        with claimed(entry.record["signature"], locks):
            if load(entry.file) == entry.record:
                entry.file.unlink()
    except (Busy, RecordError):
        pass


def _locks_of(fresh: Path) -> Path:
    """Where the runs that write into this folder hold their signatures."""
    return (fresh if fresh.name == "runs" else fresh.parent).parent / "locks"


def profiles(root: Path) -> list[str]:
    """The profiles that have fresh records below a folder."""
    return sorted(folder.name for folder in root.glob("*") if folder.is_dir())


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.records.pack",
        description="Pack fresh records into results/records.",
    )
    parser.add_argument(
        "profiles",
        nargs="*",
        metavar="PROFILE",
        help=f"default: every folder of fresh records; {SINGLE}: the runs that no sweep started",
    )
    parser.add_argument(
        "--runs", type=Path, default=FRESH, metavar="DIR", help="default: outputs/runs"
    )
    options = parser.parse_args(arguments)
    root, failed = options.runs, False
    if root.name != "runs":
        parser.error(f"--runs {root}: must be a folder named runs")
    for profile in options.profiles or profiles(root):
        fresh = root if profile == SINGLE else root / profile
        try:
            count, problems = pack(fresh)
        except OSError as error:
            count, problems = 0, [f"{places(fresh)[1]}: cannot be written ({error.strerror})"]
        if count:
            records = "records" if count > 1 else "record"
            print(f"{profile}: {count} {records} packed into {_short(places(fresh)[1])}")
        for problem in problems:
            print(f"{profile}: not packed: {problem}", file=sys.stderr)
        failed |= bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
