"""Rerun of a record, and how the two compare.

    python -m experiments.rerun RECORD [--model DIR] [--data DIR] [--out DIR]

RECORD is a file of one record, or the signature of a packed or fresh one; its first digits do. The
configuration is the record's own (docs/threats.md, "A record that would rule the run"); what it
names by content is looked up by content. The exit code is 0 where the two are equal, 1 where the
record cannot be run here, 3 where they differ, 130 after an interrupt.
"""

import argparse
import re
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import bszo.models
from bszo.errors import BszoError, ConfigError
from experiments import CONF
from experiments.config.compose import compose, quoted
from experiments.config.schema import MOST_THREADS
from experiments.records import record as records
from experiments.records import signing, store
from experiments.records.comparison import (
    LOSS_TOLERANCE,
    SCORE_TOLERANCE,
    Line,
    comparison,
    differences,
)
from experiments.records.content import ROWS, content_id
from experiments.records.locks import Busy
from experiments.run import execute

ASSETS = Path(bszo.models.__file__).parent / "assets"
SIGNATURE = re.compile("[0-9a-f]{4,16}")
# groups that later versions have added keys to
DEFAULTED = ("directions", "fidelity", "precision", "protocol")


def configuration(
    record: Mapping[str, Any], *, model: str | None, data: str | None, out: Path
) -> dict[str, Any]:
    """The resolved configuration of a record, with this machine's folders where it names content.

    Args:
        record: as loaded.
        model, data: folders, or a GGUF file, for what the record names by content and this package
            does not hold.
        out: where the run writes.

    Raises:
        ConfigError: a folder is needed, or holds something else.
    """
    hardware, parallel = record["provenance"]["hardware"], record["provenance"].get("parallel", {})
    device, fidelity = str(hardware["device"]), record["choices"].get("fidelity", "corrected")
    # whoever made the record chooses nothing else by these
    _require("device", device.partition(":")[0], ("cpu", "cuda"))
    _require("fidelity", fidelity, sorted(file.stem for file in (CONF / "fidelity").glob("*.yaml")))
    _require("torch_threads", hardware["torch_threads"], range(1, MOST_THREADS + 1))
    overrides = [
        "tracker=none",
        f"device={device.partition(':')[0]}",
        f"paths.results={quoted(str(out))}",
        f"fidelity={fidelity}",
    ]
    try:
        config = compose(overrides)
    except ConfigError as error:  # what the record chose is no choice here
        raise ValueError(str(error)) from error
    config["threads"] = hardware["torch_threads"]
    config["parallel"] |= {"queries": parallel.get("queries", False) is True}
    # what the signature does not cover (tracker, paths, checkpoint) is this machine's
    there = signing.scientific(record["config"])
    for key, value in there.items():
        config[key] = (
            (config[key] if key in DEFAULTED else {}) | value if isinstance(value, dict) else value
        )
    config["protocol"]["checkpoint_every"] = None
    config["model"]["path"] = _model(there["model"]["path"], model)
    if root := there["data"].get("root"):
        config["data"]["root"] = _data(root, there["task"]["name"], data)
    return config


def _require(key: str, value: Any, valid: Container[Any]) -> None:
    if isinstance(value, bool) or value not in valid:
        raise ValueError(f"{key} {value!r:.80}: must be within {valid}")


def lacking(record: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Keys that the record's version did not have and the present one signs."""
    there, signed = signing.scientific(record["config"]), signing.scientific(config)
    keys = [(key, name) for key in DEFAULTED if key in there for name in signed[key]]
    return [key for key in signed if key not in there] + [
        f"{k}.{name}" for k, name in keys if name not in there[k]
    ]


def _model(named: str, given: str | None) -> str:
    if "@" not in named:
        return named  # of the hub
    for folder in sorted(ASSETS.iterdir()):
        if folder.is_dir() and content_id(folder) == named:
            return f"asset:{folder.name}"
    return _same(named, given, Path(given or "."), "--model DIR")


def _data(named: str, task: str, given: str | None) -> str:
    key = f"--data DIR (with a folder {task} in it)"
    return _same(named, given, Path(given or ".") / task, key, ROWS)


def _same(named: str, given: str | None, folder: Path, key: str, only: str = "*") -> str:
    if given is None:
        raise ConfigError(
            f"the record was made with {named}, which is not here: give its folder with {key}"
        )
    if not folder.exists():
        raise ConfigError(f"{folder}: there is no such folder; {key} must hold {named}")
    if (found := content_id(folder, only)) != named:
        raise ConfigError(
            f"{folder} is {found}, the record was made with {named} (name and content both count)"
        )
    return given


def prepared(
    path: Path, there: Mapping[str, Any], **places: Any
) -> tuple[dict[str, Any], list[str]]:
    """`configuration`, and what it has that the record lacks; whether all can be compared is tried
    before hours of run.

    Raises:
        ConfigError: naming the file, in whatever way the record is none of a run.
    """
    try:
        config = configuration(there, **places)
        older = lacking(there, config)
        differences(there["provenance"], there["provenance"])
        list(comparison(there, there, bitwise=False))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path.name}: holds no run that could be run again ({why})") from error
    return config, older


def found(text: str) -> tuple[Path, dict[str, Any]]:
    """The record that a command line names, and its file: a file, or the digits that a signature
    begins with.

    Raises:
        RecordError: there is none, there are several, or it is not sound.
    """
    if not SIGNATURE.fullmatch(text) or Path(text).exists():
        return Path(text), store.load(Path(text))
    fitting = store.starting_with(text)
    if not fitting:
        raise records.RecordError(
            f"{text}: no file, and no record's signature in results/records or outputs/runs begins"
            " so"
        )
    if len(fitting) > 1:
        names = ", ".join(entry.record["signature"] for entry in fitting[:5])
        more = ", ..." if len(fitting) > 5 else ""
        raise records.RecordError(f"{text}: {len(fitting)} signatures begin so: {names}{more}")
    return fitting[0].file, fitting[0].record


def rerun(text: str, *, model: str | None, data: str | None, out: Path | None) -> bool:
    """Run a record's configuration again and print how the two compare; True if they are equal.

    `text` is what `found` takes.

    Raises:
        BszoError: it cannot be run here. RecordError: the file is no record. KeyboardInterrupt: a
            signal ended the run.
    """
    path, there = found(text)
    place = out or Path("outputs") / "rerun" / there["signature"]
    config, older = prepared(path, there, model=model, data=data, out=place)
    if older:
        print(
            f"the record's version had no {', '.join(older)}: as by default now, under another"
            " signature"
        )
    before = {file: file.stat().st_mtime_ns for file in (place / "runs").glob("*.json")}
    here = execute(config, there["choices"], [])
    if here["status"] == "interrupted":
        raise KeyboardInterrupt(here["reason"])
    made = place / "runs" / records.file_name(here)
    if made.stat().st_mtime_ns == before.get(made):
        print(f"not run now: {made} was there; move it away to run once more")
    return compared(path, there, here, signed=not older)


def compared(
    path: Path, there: Mapping[str, Any], here: Mapping[str, Any], *, signed: bool
) -> bool:
    """Print the comparison; True if the two are equal. `signed`: their signatures should be,
    too."""
    differ = differences(there["provenance"], here["provenance"])
    for difference in differ:
        print(f"differs: {difference}")
    if differ:
        print(
            f"compared within {SCORE_TOLERANCE:g} in scores and {LOSS_TOLERANCE:.0%} in losses;"
            " counts exactly"
        )
    lines = list(comparison(there, here, bitwise=not differ))
    if signed:
        a, b = there["signature"], here["signature"]
        lines.insert(0, Line("signature", a, b, a == b))
    print(f"{'':<28}{'record':<46}{'again':<46}")
    for line in lines:
        print(
            f"{line.what:<28}{line.there:<46}{line.here:<46}"
            f"{'' if line.equal else 'DIFFERENT'}".rstrip()
        )
    equal = all(line.equal for line in lines)
    how = (
        ("equal, within the tolerances" if differ else "equal, bit for bit")
        if equal
        else "different"
    )
    print(f"{path.name}: {how}")
    return equal


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rerun", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("record", metavar="RECORD", help="the JSON file of a run, or its signature")
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="the model's folder or GGUF file, where the record names one by content",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="the rows' root folder, where the record names it by content"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: outputs/rerun/SIGNATURE")
    arguments = parser.parse_args(argv)
    try:
        equal = rerun(
            arguments.record, model=arguments.model, data=arguments.data, out=arguments.out
        )
    except (BszoError, records.RecordError, Busy) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"{str(stop) or 'interrupted'}; the same command goes on", file=sys.stderr)
        return 130
    return 0 if equal else 3


if __name__ == "__main__":
    sys.exit(main())
