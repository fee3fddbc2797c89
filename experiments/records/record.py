"""A number is a record: one JSON file a run, written whole or not at all.

Standard library only, so that tables and status pages load neither torch nor Hydra.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bszo.files import written_whole

SCHEMA_VERSION = 1
MOST_BYTES = 64 << 20
STATUSES = ("ok", "diverged", "out_of_memory", "interrupted", "crashed")

# Where a run logs, how it shows itself and what machine it got: provenance says it, the signature
# does not.
NOT_SCIENTIFIC = ("checkpoint", "device", "hydra", "parallel", "paths", "threads", "tracker")

# group -> keys, in groups that count otherwise
NOT_SCIENTIFIC_KEYS = {
    "protocol": ("checkpoint_every",),
    # switches that came later: they act through the optimizer's own keys, which are below
    "fidelity": ("lozo_m_start", "fzoo_deviation"),
}

# Arguments that came later, with the value that says what the method did before: with it they leave
# the signatures of earlier runs, and what is recorded of their configurations, as they were.
LATER_KEYS = {"optimizer": {"start": "zero", "deviation": "sample"}}

_NUMBER = (int, float)
_OPTIONAL_NUMBER = (int, float, type(None))
# key -> the types its value may have; a record has exactly these keys
FIELDS: dict[str, tuple[type, ...]] = {
    "schema_version": (int,),
    "signature": (str,),
    "status": (str,),
    "reason": (str, type(None)),
    "choices": (dict,),
    "config": (dict,),
    "zero_shot_accuracy": _OPTIONAL_NUMBER,
    "validation_accuracy": _OPTIONAL_NUMBER,
    "test_accuracy": _OPTIONAL_NUMBER,
    "num_forwards": (int,),
    "num_backwards": (int,),
    "num_steps": (int,),
    "best_step": (int, type(None)),
    "peak_memory_bytes": (int, type(None)),
    "peak_memory_kind": (str, type(None)),
    "train_seconds": _NUMBER,
    "evaluation_seconds": _NUMBER,
    "step_ms": _OPTIONAL_NUMBER,
    "curve": (list,),
    "warnings": (dict,),
    "num_parts": (int,),
    "data": (dict,),
    "model": (dict,),
    "provenance": (dict,),
}


class RecordError(Exception):
    """A file that is not a record which this version can read; the message is one line."""


def scientific(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that moves a number."""
    left = {key: value for key, value in config.items() if key not in NOT_SCIENTIFIC}
    for group, keys in NOT_SCIENTIFIC_KEYS.items():
        if isinstance(left.get(group), Mapping):
            left[group] = {key: value for key, value in left[group].items() if key not in keys}
    for group, later in LATER_KEYS.items():
        if isinstance(left.get(group), Mapping):
            left[group] = {
                key: value
                for key, value in left[group].items()
                if key not in later or value != later[key]
            }
    return left


def _canonical(value: Any) -> Any:
    """The same value in the one form that is hashed: 1.0 and 1 are equal, tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def signature(config: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the scientific configuration's canonical JSON."""
    text = json.dumps(
        _canonical(scientific(config)), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_name(record: Mapping[str, Any]) -> str:
    """`<task>-<model>-<optimizer>-<signature>.json`, from the record's choices."""
    names = [str(record["choices"].get(group, "none")) for group in ("task", "model", "optimizer")]
    stem = "-".join(
        re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".")[:60] or "none" for name in names
    )
    return f"{stem}-{record['signature']}.json"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: a number that is not finite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def validate(record: Any, where: str) -> dict[str, Any]:
    """The record itself, if it has every key with a value of its type.

    Args:
        record: what was parsed, or is about to be written.
        where: the file's name, for the message.

    Raises:
        RecordError: naming the file, the key and what would be valid.
    """
    if not isinstance(record, dict) or "schema_version" not in record:
        raise RecordError(f"{where}: not a run's record (no schema_version)")
    version = record["schema_version"]
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{where}: schema_version {version!r:.80}, this version reads {SCHEMA_VERSION}"
        )
    wrong = [f"misses {key}" for key in FIELDS if key not in record]
    wrong += [f"has the unknown key {key!r:.80}" for key in record if key not in FIELDS]
    for key, types in FIELDS.items():
        value = record.get(key)
        if key in record and (not isinstance(value, types) or isinstance(value, bool)):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            wrong.append(f"{key} is {type(value).__name__}, not {names}")
    if not wrong and record["status"] not in STATUSES:
        wrong.append(f"status {record['status']!r:.80} is none of {', '.join(STATUSES)}")
    # it is part of the file's name
    if not wrong and not re.fullmatch(r"\w{1,64}", record["signature"]):
        wrong.append(f"signature {record['signature']!r:.80} is no plain word")
    if wrong:
        raise RecordError(f"{where}: {wrong[0]}")
    return record


def write(record: Mapping[str, Any], folder: Path) -> Path:
    """Write a record under `folder`, return its path; a reader sees the old file or the new, never
    a part."""
    record = validate(_plain(record), "record")
    path = folder / file_name(record)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def load(path: Path) -> dict[str, Any]:
    """Read one record.

    Raises:
        RecordError: the file is missing, truncated, no JSON, of another schema or damaged.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecordError(f"{path.name}: more than {MOST_BYTES} bytes; no record is that long")
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path.name}: cannot be read ({error.strerror})") from error
    return parse(data, path.name)


def parse(data: bytes, where: str) -> dict[str, Any]:
    """The record in a file's bytes; `where` is the file's name. RecordError as `load`."""
    try:
        parsed = json.loads(data.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
        # half a surrogate pair cannot be written again
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: not UTF-8 text") from error
    except UnicodeEncodeError as error:
        raise RecordError(f"{where}: holds half a surrogate pair, which is no character") from error
    except ValueError as error:
        raise RecordError(f"{where}: not whole JSON ({str(error).splitlines()[0]})") from error
    except RecursionError as error:
        raise RecordError(f"{where}: not a record (nested too deep)") from error
    return validate(parsed, where)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number:.40} is no JSON number")
    return value


def find(signature: str, folder: Path) -> Path | None:
    """The file of the record with this signature, or None."""
    return next(iter(sorted(folder.glob(f"*-{signature}.json"))), None)


def load_all(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The records of files and folders (their `*.json`), in the order of their names.

    Raises:
        RecordError: the first that cannot be read, or a path that does not exist.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise RecordError(f"{path}: no such file or folder")
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [load(file) for file in files]
