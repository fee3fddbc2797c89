"""Header of a trajectory: what a replay must start from, as the file's first bytes.

magic (8)  format version, length of the text (u32 each)
canonical JSON of `Header`  SHA-256 of all before it
"""

import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from bszo.errors import TrajectoryError, one_line

# like PNG's: a transfer that took the file for text has changed these bytes
MAGIC = b"\x89BSZO\r\n\x1a"
FORMAT_VERSION = 1
DIGEST_BYTES = 32
MAX_BYTES = 1 << 20
HEX = "[0-9a-f]{64}"
PATTERNS = {
    "base": HEX,
    "parameters": HEX,
    "names": HEX,
    "optimizer": r"\w{1,80}",
    "dtype": r"[\w+]{1,80}",
    "device": r"[\w+]{1,80}",
}
PREFIX = struct.Struct("<8sII")


@dataclass(frozen=True)
class Header:
    """What a replay must start from.

    Attributes:
        base: SHA-256 of the parameters before the first step, in hex
            (`bszo.models.weights_fingerprint`).
        optimizer: name of the method's class.
        settings: the method's plain settings before the first step, among them the seed of the
            directions.
        parameters: SHA-256 of the trainable parameters' groups, shapes and types, in the
            optimizer's order.
        names: SHA-256 of their names; None where the optimizer was given no module.
        dtype: type of the trainable parameters, such as "bfloat16"; several are joined by "+".
        device: kind of device that they were on, such as "cpu".
        noise_version: of `bszo.perturb`; it says which direction a seed names.
        config: plain data that builds the optimizer again; empty where only its caller can.

    Raises:
        TrajectoryError: an attribute has another type or form.
    """

    base: str
    optimizer: str
    settings: dict[str, Any]
    parameters: str
    names: str | None
    dtype: str
    device: str
    noise_version: int
    config: dict[str, Any]

    def __post_init__(self) -> None:
        kinds = {"settings": dict, "config": dict, "noise_version": int, "names": (str, type(None))}
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, kinds.get(field.name, str)) or isinstance(value, bool):
                raise TrajectoryError(
                    f"trajectory header: {field.name} is of type {type(value).__name__}"
                )
            pattern = PATTERNS.get(field.name)
            if pattern and value is not None and not re.fullmatch(pattern, value):
                raise TrajectoryError(
                    f"trajectory header: {field.name}={value[:80]!r} is not of the form {pattern}"
                )

    def difference(self, other: "Header") -> str | None:
        """The first thing in which a run that starts from `other` differs from this run, in words.

        `config` is not compared. A setting that one of the two lacks counts as None: a later
        version has a new argument, and does not use it.
        """
        ours, theirs = (
            {**asdict(h), **{f"setting {key}": value for key, value in h.settings.items()}}
            for h in (self, other)
        )
        for key in sorted(
            ours.keys() | theirs.keys(), key=lambda name: (name.startswith("setting "), name)
        ):
            there, here = ours.get(key), theirs.get(key)
            if key in ("settings", "config") or canonical(there) == canonical(here):
                continue
            if key == "names" and None in (there, here):
                with_it, without = ("here", "there") if there is None else ("there", "here")
                return f"module= names the parameters {with_it} and not {without}"
            # a name in a damaged or hostile file may hold anything
            key = key.encode("unicode_escape").decode()
            return f"{key:.80} is {there!r:.80} there and {here!r:.80} here"
        return None


def digest(*parts: bytes) -> bytes:
    """SHA-256 of the parts one after the other."""
    return hashlib.sha256(b"".join(parts)).digest()


def canonical(value: Any) -> bytes:
    """The canonical JSON text of a value: equal values have equal bytes.

    Raises:
        TrajectoryError: JSON has no form for something in it, such as NaN or infinity.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode(
            "ascii"
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise TrajectoryError(f"trajectory header: {one_line(error)}") from error


def encode_header(header: Header) -> bytes:
    """The header's bytes, then their digest, to which the first block is chained."""
    text = canonical(asdict(header))
    if len(text) > MAX_BYTES:
        raise TrajectoryError(
            f"trajectory header: {len(text)} bytes, at most {MAX_BYTES} are valid"
        )
    whole = PREFIX.pack(MAGIC, FORMAT_VERSION, len(text)) + text
    return whole + digest(whole)


def decode_header(read: Callable[[int], bytes]) -> tuple[Header, bytes]:
    """The header and its digest.

    Args:
        read: count -> up to that many of the next bytes.

    Raises:
        TrajectoryError: the bytes are no trajectory, have another format, or are damaged.
    """
    prefix = read(PREFIX.size)
    if len(prefix) < PREFIX.size or prefix[: len(MAGIC)] != MAGIC:
        raise TrajectoryError("not a trajectory: its first bytes are others")
    _, version, length = PREFIX.unpack(prefix)
    if version != FORMAT_VERSION:
        raise TrajectoryError(
            f"format version {version}; this version of bszo reads {FORMAT_VERSION}"
        )
    text = read(length) if length <= MAX_BYTES else b""
    found = read(DIGEST_BYTES)
    if len(text) < length or found != digest(prefix, text):
        raise TrajectoryError("its header is damaged, so that nothing after it has a meaning")
    try:
        plain = json.loads(text.decode("ascii"))
        header = Header(**plain)
        whole = canonical(asdict(header)) == text
    except (ValueError, TypeError, RecursionError) as error:
        raise TrajectoryError("its header is no header of this version") from error
    if not whole:
        raise TrajectoryError("its header is not in the one form that it is written in")
    return header, found
