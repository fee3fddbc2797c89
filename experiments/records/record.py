"""The record of a run: its schema, and what makes it believable.

A record is one JSON object a run. It is believed only where its signature is that of its
configuration, its numbers lie in their ranges, and its status fits what it holds: a file's name
says nothing. Tables and status pages read records without loading torch or Hydra.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bszo.errors import BszoError
from experiments.records.signing import signature

Record = dict[str, Any]

SCHEMA_VERSION = 1
STATUSES = ("ok", "diverged", "out_of_memory", "interrupted", "crashed")
SETTLED = ("ok", "diverged", "out_of_memory")  # running it again would end the same way

_NUMBER = (int, float)
_OPTIONAL_NUMBER = (int, float, type(None))
# key -> the types its value may have; a record has exactly these keys
FIELDS: dict[str, tuple[type, ...]] = {
    "schema_version": (int,),
    "signature": (str,),  # of `config`
    "status": (str,),  # one of STATUSES
    "reason": (str, type(None)),  # why the status is not ok
    "choices": (dict,),  # group of conf/ -> the file that was chosen
    "config": (dict,),  # the part of the configuration that the signature covers
    "zero_shot_accuracy": _OPTIONAL_NUMBER,  # of the test rows before the first step, in [0, 1]
    "validation_accuracy": _OPTIONAL_NUMBER,  # at `best_step`, in [0, 1]
    "test_accuracy": _OPTIONAL_NUMBER,  # at `best_step`, in [0, 1]
    "num_forwards": (int,),
    "num_backwards": (int,),
    "num_steps": (int,),
    "best_step": (int, type(None)),  # of the best validation accuracy
    "peak_memory_bytes": (int, type(None)),
    "peak_memory_kind": (str, type(None)),  # how the peak was measured
    "train_seconds": _NUMBER,
    "evaluation_seconds": _NUMBER,
    "step_ms": _OPTIONAL_NUMBER,  # median
    "curve": (list,),  # a point an evaluation: POINT
    "warnings": (dict,),
    "num_parts": (int,),  # processes that the run took, one after the other
    "data": (dict,),  # fingerprints and counts of the rows
    "model": (dict,),  # fingerprint and size of the weights before the first step
    "provenance": (dict,),  # commit, command, versions, hardware, time
}
# what tables read of the objects inside: path -> type
INSIDE: dict[tuple[str, str], type] = {
    ("config", "model"): dict,
    ("config", "optimizer"): dict,
    ("config", "protocol"): dict,
    ("config", "fidelity"): dict,
    ("config", "seed"): int,
    ("provenance", "started"): str,
}
CHOICES = ("task", "model", "optimizer")  # groups that every record has chosen a file of
POINT: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "num_forwards": (int,),
    "train_seconds": _NUMBER,
    "train_loss": _OPTIONAL_NUMBER,  # mean over the steps since the point before
    "validation_accuracy": _OPTIONAL_NUMBER,
    "gain": _OPTIONAL_NUMBER,
    "noise_var": _OPTIONAL_NUMBER,
}
LATER_POINT = {"validation_loss": _OPTIONAL_NUMBER}  # records of an earlier day do not have it
ACCURACIES = ("zero_shot_accuracy", "validation_accuracy", "test_accuracy")
MOST = 2**63 - 1  # no count of a run is greater
_NEVER_NEGATIVE = (
    "num_forwards",
    "num_backwards",
    "num_steps",
    "best_step",
    "peak_memory_bytes",
    "train_seconds",
    "evaluation_seconds",
    "step_ms",
    "num_parts",
)


class RecordError(BszoError):
    """A file that is not a record which this version can read; the message is one line."""


def file_name(record: Mapping[str, Any]) -> str:
    """`<task>-<model>-<optimizer>-<signature>.json`, from the record's choices."""
    names = [safe_name(record["choices"].get(group, "none")) for group in CHOICES]
    return f"{'-'.join(names)}-{record['signature']}.json"


def safe_name(text: object) -> str:
    """A text as a part of a file's name: letters, digits, dots, dashes and underscores, 60 at
    most."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", str(text)).strip(".")[:60] or "none"


def without_nan(value: Any) -> Any:
    """The value as JSON can hold it: a number that is not finite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def validate(record: Any, where: str) -> Record:
    """The record itself, if it can be believed.

    It must have every key with a value of its type, the signature of its configuration, numbers in
    their ranges, and a status that fits them.

    Args:
        record: what was parsed, or is about to be written.
        where: the file's name, for the message.

    Raises:
        RecordError: naming the file, the key and what would be valid.
    """
    for kind in (_wrong_fields, _wrong_inside, _wrong_numbers, _wrong_status, _wrong_signature):
        if wrong := next(kind(record), None):
            raise RecordError(f"{where}: {wrong}")
    return record


def _wrong_fields(record: Any) -> Iterator[str]:
    if not isinstance(record, dict) or "schema_version" not in record:
        yield "not a run's record (no schema_version)"
        return
    if (version := record["schema_version"]) != SCHEMA_VERSION:
        yield f"schema_version {version!r:.80}, this version reads {SCHEMA_VERSION}"
    yield from (f"misses {key}" for key in FIELDS if key not in record)
    yield from (f"has the unknown key {key!r:.80}" for key in record if key not in FIELDS)
    for key, types in FIELDS.items():
        if not _is(record[key], types):
            yield f"{key} is {type(record[key]).__name__}, not {_named(types)}"
    if record["status"] not in STATUSES:
        yield f"status {record['status']!r:.80} is none of {', '.join(STATUSES)}"


def _wrong_inside(record: Record) -> Iterator[str]:
    for (outer, inner), kind in INSIDE.items():
        if not _is(record[outer].get(inner), (kind,)):
            yield f"{outer}.{inner} is no {kind.__name__}"
    if not all(isinstance(choice, str) for choice in record["choices"].values()):
        yield "a choice is no text"
    yield from (
        f"choices.{group} is not there" for group in CHOICES if group not in record["choices"]
    )
    for number, point in enumerate(record["curve"]):
        if not isinstance(point, dict):
            yield f"curve[{number}] is no mapping"
            continue
        for key, types in POINT.items():
            if not _is(point.get(key, ...), types):
                yield f"curve[{number}] has no sound {key}"
        for key, types in LATER_POINT.items():
            if not _is(point.get(key), types):
                yield f"curve[{number}] has no sound {key}"


def _wrong_numbers(record: Record) -> Iterator[str]:
    for key in ACCURACIES:
        if (value := record[key]) is not None and not 0 <= value <= 1:
            yield f"{key} {value!r:.40} is not within 0 and 1"
    for key in _NEVER_NEGATIVE:
        if (value := record[key]) is not None and not 0 <= value <= MOST:
            yield f"{key} {value!r:.40} is not within 0 and 2^63"
    before: Mapping[str, Any] = {"step": -1, "num_forwards": 0}
    for number, point in enumerate(record["curve"]):
        accuracy = point["validation_accuracy"]
        if accuracy is not None and not 0 <= accuracy <= 1:
            yield f"curve[{number}].validation_accuracy {accuracy!r:.40} is not within 0 and 1"
        for key in ("train_seconds", "train_loss", "validation_loss", "gain", "noise_var"):
            if (value := point.get(key)) is not None and abs(value) > MOST and type(value) is int:
                yield f"curve[{number}].{key} is beyond 2^63"
        if not before["step"] < point["step"] <= record["num_steps"]:
            yield (
                f"curve[{number}].step {point['step']!r:.40} is not between the point before and"
                " num_steps"
            )
        if not before["num_forwards"] <= point["num_forwards"] <= record["num_forwards"]:
            yield (
                f"curve[{number}].num_forwards {point['num_forwards']!r:.40} is not between the"
                " point before and num_forwards"
            )
        before = point


def _wrong_status(record: Record) -> Iterator[str]:
    """Only an ok run is held to its content: whatever ended another one may have come anywhere."""
    if record["status"] != "ok":
        if record["reason"] is None:
            yield f"status {record['status']} without a reason"
        return
    if record["reason"] is not None:
        yield "status ok with a reason why not"
    if record["num_steps"] == 0 and record["best_step"] is None:  # zero-shot: nothing is selected
        if record["zero_shot_accuracy"] is None:
            yield "status ok without steps and without a zero-shot accuracy"
        return
    for split in ("test", "validation"):
        if record[f"{split}_accuracy"] is None:
            yield f"status ok without a {split} accuracy"
    best = [p for p in record["curve"] if p["step"] == record["best_step"]]
    if not best:
        yield f"best_step {record['best_step']!r:.40} is no point of the curve"
    elif best[0]["validation_accuracy"] != record["validation_accuracy"]:
        yield (
            f"validation_accuracy {record['validation_accuracy']!r:.40} is"
            f" {best[0]['validation_accuracy']!r:.40} on the curve, at best_step"
        )


def _wrong_signature(record: Record) -> Iterator[str]:
    try:
        right = signature(record["config"])
    except (ValueError, RecursionError):
        yield "config has no signature (not finite, or nested too deep)"
        return
    if record["signature"] != right:
        yield f"signature {record['signature']!r:.80} is not its configuration's, {right}"


def _is(value: Any, types: tuple[type, ...]) -> bool:
    """True where the value has one of the types; True and False are no numbers."""
    return isinstance(value, types) and not isinstance(value, bool)


def _named(types: tuple[type, ...]) -> str:
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)


def parse(data: bytes, where: str) -> Record:
    """The record in a file's bytes, or in a line of a packed file.

    Args:
        data: UTF-8 text that is one JSON object.
        where: the file's name, for the message.

    Raises:
        RecordError: the bytes are truncated, no JSON, of another schema, or not to be believed.
    """
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            parse_constant=_finite,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
        if _SURROGATE.search(data):  # half a surrogate pair cannot be written again
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: not UTF-8 text") from error
    except UnicodeEncodeError as error:
        raise RecordError(f"{where}: holds half a surrogate pair, which is no character") from error
    except _Twice as error:
        raise RecordError(f"{where}: {error}") from error
    except ValueError as error:
        raise RecordError(f"{where}: not whole JSON ({str(error).splitlines()[0]})") from error
    except RecursionError as error:
        raise RecordError(f"{where}: not a record (nested too deep)") from error
    return validate(parsed, where)


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Twice(Exception):
    """A JSON object has one key twice, of which readers would take one or the other."""


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(f"the key {max(keys, key=keys.count)!r:.80} stands twice in one object")
    return made


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number:.40} is no JSON number")
    return value
