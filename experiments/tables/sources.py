"""Sources of the tables: sound records, and one line for each file that is damaged and left out."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments import RESULTS
from experiments.records.record import RecordError, load
from experiments.sweeps.matching import Record

RUNS = RESULTS / "runs"
MEASURED = RESULTS / "measured"

# what tables read inside a record, beyond what a record must be to be one: path -> type
_INSIDE = {
    ("config", "model"): dict,
    ("config", "optimizer"): dict,
    ("config", "protocol"): dict,
    ("config", "fidelity"): dict,
    ("config", "seed"): int,
    ("provenance", "started"): str,
}
_POINT = {
    "step": int,
    "num_forwards": int,
    "train_seconds": (int, float),
    "train_loss": (int, float, type(None)),
    "validation_accuracy": (int, float, type(None)),
    "gain": (int, float, type(None)),
    "noise_var": (int, float, type(None)),
}
_LATER = {"validation_loss": (int, float, type(None))}  # which records of an earlier day have not
_CHOICES = ("task", "model", "optimizer")


class MeasurementError(Exception):
    """A measurement's file that is absent or cannot be used; the message is one line."""


def gather(folder: Path) -> tuple[list[Record], list[str]]:
    """The folder's sound records, and one line for each file that is left out.

    Files with one signature are all left out: nobody can say which of them is the run.
    """
    records: defaultdict[str, list[tuple[str, Record]]] = defaultdict(list)
    problems: list[str] = []
    for file in sorted(folder.glob("*.json")):
        try:
            record = load(file)
        except RecordError as error:
            problems.append(str(error))
            continue
        if wrong := next(_unreadable(record), None):
            problems.append(f"{file.name}: {wrong}")
        else:
            records[record["signature"]].append((file.name, record))
    for signature, found in records.items():
        if len(found) > 1:
            problems.append(
                f"{', '.join(name for name, _ in found)}: {len(found)} records with the signature"
                f" {signature}"
            )
    return [found[0][1] for found in records.values() if len(found) == 1], problems


def _unreadable(record: Record) -> Iterator[str]:
    """What no table can read of a record."""
    for (outer, inner), kind in _INSIDE.items():
        if not isinstance(record[outer].get(inner), kind):
            yield f"{outer}.{inner} is no {kind.__name__}"
    if not all(isinstance(choice, str) for choice in record["choices"].values()):
        yield "a choice is no text"
    if absent := [group for group in _CHOICES if group not in record["choices"]]:
        yield f"choices.{absent[0]} is not there"
    for split in ("test", "validation"):
        if record["status"] == "ok" and record[f"{split}_accuracy"] is None:
            yield f"status ok without a {split} accuracy"
    for number, point in enumerate(record["curve"]):
        if not isinstance(point, Mapping):
            yield f"curve[{number}] is no mapping"
        elif wrong := [
            key
            for key, kind in (_POINT | _LATER).items()
            if not isinstance(point.get(key, None if key in _LATER else ...), kind)
        ]:
            yield f"curve[{number}] has no sound {wrong[0]}"


def left_out(problems: Sequence[str], of: str = "") -> tuple[str, ...]:
    """Return the line of a footer about files that are left out of a table; none where there are
    none."""
    return (f"Left out{of}: {len(problems)} ({'; '.join(problems)}).",) if problems else ()
