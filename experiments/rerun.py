"""`python -m experiments.rerun RECORD [--model DIR] [--data DIR] [--out DIR]`: run a record again, and compare.

The configuration is the record's own; what it names by content is looked up by content. Exit codes: 0 equal,
1 it cannot be run here, 3 different, 130 interrupted.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

import bszo.models
from bszo.errors import BszoError, ConfigError
from experiments import record as records
from experiments.locks import Busy
from experiments.provenance import content_id
from experiments.run import CONF, execute, hydra_errors, resolve

ASSETS = Path(bszo.models.__file__).parent / "assets"
EXACT = ("status", "num_steps", "num_forwards", "num_backwards")  # on every machine
DEFAULTED = ("directions", "fidelity", "precision", "protocol")  # groups that later versions have added keys to
SCORES = ("zero_shot_accuracy", "validation_accuracy", "test_accuracy")
POINT = ("train_loss", "validation_accuracy", "noise_var", "gain")
MACHINE = ("device", "cpu", "gpu", "torch_threads")
# where code, versions or hardware differ, losses differ in their last bits, and a few rows near a tie change sides
SCORE_TOLERANCE, LOSS_TOLERANCE = 0.02, 0.02


@dataclass(frozen=True)
class Line:
    """One line of the comparison."""

    what: str
    there: str
    here: str
    equal: bool


def configuration(record: Mapping[str, Any], *, model: str | None, data: str | None, out: Path) -> dict[str, Any]:
    """The resolved configuration of a record, with this machine's folders where it names content.

    Args:
        record: as loaded.
        model, data: folders for what the record names by content and this package does not hold.
        out: where the run writes.

    Raises:
        ConfigError: a folder is needed, or holds something else.
    """
    hardware, parallel = record["provenance"]["hardware"], record["provenance"].get("parallel", {})
    overrides = ["tracker=none", f"device={str(hardware['device']).partition(':')[0]}", f"paths.results='{out}'",
                 f"fidelity={record['choices'].get('fidelity', 'corrected')}"]  # fmt: skip
    with hydra_errors(), initialize_config_dir(str(CONF), version_base="1.3"):
        config = resolve(compose("config", overrides=overrides))
    config["threads"] = hardware["torch_threads"]
    config["parallel"] |= {"queries": parallel.get("queries", False)}
    there = record["config"]
    for key, value in there.items():
        config[key] = (config[key] if key in DEFAULTED else {}) | value if isinstance(value, dict) else value
    config["protocol"]["checkpoint_every"] = None
    config["model"]["path"] = _model(there["model"]["path"], model)
    if root := there["data"].get("root"):
        config["data"]["root"] = _data(root, there["task"]["name"], data)
    return config


def lacking(record: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Keys that the record's version did not have and the present one signs."""
    there, signed = record["config"], records.scientific(config)
    keys = [(key, name) for key in DEFAULTED if key in there for name in signed[key]]
    return [key for key in signed if key not in there] + [f"{k}.{name}" for k, name in keys if name not in there[k]]


def _model(named: str, given: str | None) -> str:
    if "@" not in named:
        return named  # of the hub
    for folder in sorted(ASSETS.iterdir()):
        if folder.is_dir() and content_id(folder) == named:
            return f"asset:{folder.name}"
    return _same(named, given, Path(given or "."), "--model DIR")


def _data(named: str, task: str, given: str | None) -> str:
    return _same(named, given, Path(given or ".") / task, f"--data DIR (with a folder {task} in it)")


def _same(named: str, given: str | None, folder: Path, key: str) -> str:
    if given is None:
        raise ConfigError(f"the record was made with {named}, which is not here: give its folder with {key}")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; {key} must hold {named}")
    if (found := content_id(folder)) != named:
        raise ConfigError(f"{folder} is {found}, the record was made with {named} (name and content both count)")
    return given


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what code, versions, hardware or number of processes two runs differ."""
    pairs = [(f"version of {name}", there["versions"].get(name), here["versions"].get(name))
             for name in sorted(there["versions"].keys() | here["versions"].keys())]  # fmt: skip
    pairs += [(name, there["hardware"].get(name), here["hardware"].get(name)) for name in MACHINE]
    sizes = [side.get("parallel", {}).get("world_size", 1) for side in (there, here)]
    commits = [f"{str(side.get('commit'))[:10]}{' (dirty)' if side.get('dirty') else ''}" for side in (there, here)]
    pairs += [("commit", *commits)]
    pairs += [("processes", *sizes), ("byte order", there["byte_order"], here["byte_order"])]
    return [f"{name}: {a} there, {b} here" for name, a, b in pairs if a != b]


def comparison(there: Mapping[str, Any], here: Mapping[str, Any], *, bitwise: bool) -> Iterator[Line]:
    """A line for each thing that two records of one configuration should agree in.

    Args:
        bitwise: every number must be the same, since nothing differs in code, versions and hardware; otherwise counts
            must, and scores and losses must agree within their tolerances.
    """
    def line(what: str, a: Any, b: Any, tolerance: float = 0.0) -> Line:
        return Line(what, _short(a), _short(b), a == b or (not bitwise and _near(a, b, tolerance)))

    for key in EXACT:
        yield line(key, there[key], here[key])
    yield line("rows", there["data"].get("fingerprints"), here["data"].get("fingerprints"))
    yield line("base weights", there["model"].get("fingerprint"), here["model"].get("fingerprint"))
    for key in SCORES:
        yield line(key, there[key], here[key], SCORE_TOLERANCE)
    yield line("points of the curve", _column(there, "step"), _column(here, "step"))
    for key in POINT:
        tolerance = SCORE_TOLERANCE if key in SCORES else LOSS_TOLERANCE
        yield line(f"curve: {key}", _column(there, key), _column(here, key), tolerance)
    if bitwise:
        yield line("best_step", there["best_step"], here["best_step"])


def _column(record: Mapping[str, Any], key: str) -> list[Any]:
    return [point.get(key) for point in record["curve"]]


def _near(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_near(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return a == b


def _short(value: Any) -> str:
    text = f"{value[0]} ... {value[-1]}" if isinstance(value, list) and len(value) > 2 else str(value)
    return text if len(text) <= 44 else f"{text[:41]}..."


def rerun(path: Path, *, model: str | None, data: str | None, out: Path | None) -> bool:
    """Run a record's configuration again and print how the two compare; True if they are equal.

    Raises:
        BszoError: it cannot be run here. RecordError: the file is no record.
    """
    there = records.load(path)
    place = out or Path("outputs") / "rerun" / there["signature"]
    config = configuration(there, model=model, data=data, out=place)
    if older := lacking(there, config):
        print(f"the record's version had no {', '.join(older)}: as by default now, under another signature")
    here = execute(config, there["choices"], [])
    differ = differences(there["provenance"], here["provenance"])
    for difference in differ:
        print(f"differs: {difference}")
    if differ:
        print(f"compared within {SCORE_TOLERANCE:g} in scores and {LOSS_TOLERANCE:.0%} in losses; counts exactly")
    lines = list(comparison(there, here, bitwise=not differ))
    if not older:
        a, b = there["signature"], here["signature"]
        lines.insert(0, Line("signature", a, b, a == b))
    print(f"{'':<28}{'record':<46}{'again':<46}")
    for line in lines:
        print(f"{line.what:<28}{line.there:<46}{line.here:<46}{'' if line.equal else 'DIFFERENT'}".rstrip())
    equal = all(line.equal for line in lines)
    how = ("equal, within the tolerances" if differ else "equal, bit for bit") if equal else "different"
    print(f"{path.name}: {how}")
    return equal


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.rerun", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("record", type=Path, metavar="RECORD", help="the JSON file of a run")
    parser.add_argument("--model", metavar="DIR", help="the model's folder, where the record names one by content")
    parser.add_argument("--data", metavar="DIR", help="the rows' root folder, where the record names it by content")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: outputs/rerun/SIGNATURE")
    arguments = parser.parse_args(argv)
    try:
        equal = rerun(arguments.record, model=arguments.model, data=arguments.data, out=arguments.out)
    except (BszoError, records.RecordError, Busy) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if equal else 3


if __name__ == "__main__":
    sys.exit(main())
