"""`bszo replay`: a run's weights again from its base model and its log, without a forward pass. Of
several runs' logs, the mean of their weights."""

import argparse
import inspect
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from bszo import optim
from bszo.cli.adapters import MOST, attached
from bszo.cli.methods import OWN
from bszo.cli.parts import MOST_THREADS
from bszo.cli.tune import REPORT, check_out
from bszo.errors import OptimError, TrajectoryError, needs
from bszo.models import (
    LanguageModel,
    load_model,
    parameter_groups,
    resolve_device,
    weights_fingerprint,
)
from bszo.models.load import KINDS
from bszo.models.mean import Mean
from bszo.models.saved import save_tuned
from bszo.trajectory import Trajectory, read, replay

AVERAGED = ("full", "named", "linear-probe", "scales")  # they train parameters of the model itself
SAME = {
    "base": "another base, or the same base in another type,",
    "parameters": "other parameters",
    "names": "other parameters",
}
AROUND = ("tuning", "quantization", "directions", "dtype", "threads")
SCALARS = (bool, int, float, str, type(None))
UNCOUNTED = ("seed", "interval")  # a large one costs nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log",
        metavar="LOG",
        nargs="+",
        help="trajectory.bszo of a run, or of the suite's; of several, the mean of their weights",
    )
    parser.add_argument("--base", required=True, metavar="MODEL", help="that the run started from")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="must not exist")
    parser.add_argument("--to", type=int, metavar="STEP", help="steps to take (default: all)")
    parser.add_argument(
        "--kind", default="auto", choices=KINDS, help="what the base is, where its files do not say"
    )
    parser.add_argument(
        "--device", metavar="NAME", help="default: the run's kind, where there is one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the logs, take their steps and write the model, of several logs the mean of their
    weights; returns the exit code.

    Raises:
        BszoError: in one line, what cannot be used or written.
    """
    check_out(arguments.out)
    logs = {path: _opened(path) for path in arguments.log}
    if len(logs) < len(arguments.log):
        raise TrajectoryError("a log is named twice, and would count twice in the mean")
    if len(logs) > 1:
        _require_alike(logs)
        _require_different(logs, arguments.to)
    (path, trajectory), *others = logs.items()
    again = partial(
        replayed,
        base=arguments.base,
        kind=arguments.kind,
        to=arguments.to,
        device=arguments.device,
    )
    model = again(path, trajectory)
    steps = len(trajectory.steps) if arguments.to is None else arguments.to
    what = f"the mean of {len(logs)} runs" if others else f"{steps} steps"
    if others:
        mean = Mean()
        mean.add(model.module)
        for path, trajectory in others:
            del model  # one at a time in memory
            model = again(path, trajectory)
            mean.add(model.module)
        mean.put(model.module)
    save_tuned(model, arguments.out)
    weights = weights_fingerprint(model.module)
    print(f"wrote {arguments.out}: {what}, weights {weights}")
    after = None if others else _weights_after(Path(path), steps)
    if after == weights:
        print(f"the same to the bit as after the run ({Path(path).with_name(REPORT)})")
    elif after:
        print(
            f"{Path(path).with_name(REPORT)} has {after} after the run: equal but for rounding, as"
            " another machine, or one without a C compiler, makes directions",
            file=sys.stderr,
        )
    return 0


def _weights_after(log: Path, steps: int) -> str | None:
    """The fingerprint that the report beside a log has of the weights after so many steps; None
    where there is no such report, or it is of other steps."""
    try:
        report = json.loads(log.with_name(REPORT).read_text(encoding="utf-8"))
        found = report["weights"]["after"] if report["num_steps"] == steps else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _opened(path: str) -> Trajectory:
    """The log, with a line of what it holds."""
    trajectory = read(path)
    header, many = trajectory.header, len(trajectory.steps)
    end = "" if trajectory.finished else ", not marked as finished"
    print(
        f"read {many} steps of {header.optimizer} in {header.dtype}, {trajectory.num_bytes}"
        f" bytes{end}, digest {trajectory.digest}"
    )
    if trajectory.problem:
        print(f"{path}: {trajectory.problem}", file=sys.stderr)
    return trajectory


def _require_alike(logs: Mapping[str, Trajectory]) -> None:
    """Several logs must be of runs that trained the same parameters of the same base."""
    (first, one), *others = logs.items()
    for path, other in others:
        for key, what in SAME.items():
            if getattr(one.header, key) != getattr(other.header, key):
                raise TrajectoryError(f"{path}: it trained {what} than {first}; they have no mean")
        tuning = _mapping(other.header.config.get("tuning", {}))
        method = _mapping(tuning.get("choice", {})).get("method", "full")
        if method not in AVERAGED:
            raise TrajectoryError(
                f"{path}: it trained {method:.80}, and the mean of such parameters is not the mean"
                f" of what they do; of {', '.join(AVERAGED)} it is"
            )


def _require_different(logs: Mapping[str, Trajectory], to: int | None) -> None:
    """They must be of different runs, with as many steps of each; that their directions differ is
    said where it is not so."""
    steps = {path: len(log.steps) for path, log in logs.items()}
    short, long = (pick(steps, key=lambda path: steps[path]) for pick in (min, max))
    if steps[short] < (steps[long] if to is None else to):
        fits = f"; --to {steps[short]}, or less, takes as many of each" if steps[short] else ""
        raise TrajectoryError(
            f"{short}: has {steps[short]} steps, where {long} has {steps[long]}{fits}"
        )
    taken: dict[str, str] = {}
    for path, log in logs.items():
        what = repr(log.steps[:to])
        if (other := taken.setdefault(what, path)) != path:
            raise TrajectoryError(f"{other}, {path}: are of one run, which would count twice")
    seeds: dict[Any, str] = {}
    for path, log in logs.items():
        seed = log.header.settings.get("seed")
        if (other := seeds.setdefault(seed, path)) != path:
            print(
                f"{other}, {path}: have one seed, {seed}, and so the same directions: their mean"
                " has less of their noise only where directions differ",
                file=sys.stderr,
            )


def replayed(
    path: str,
    trajectory: Trajectory,
    *,
    base: str,
    kind: Literal["auto", "masked", "causal"] = "auto",
    to: int | None = None,
    device: str | None = None,
) -> LanguageModel:
    """The base model after the log's steps.

    Args:
        path: of the log, for messages.
        trajectory: what it holds.
        base: the model that the run started from, as `load_model` takes it.
        kind: of that model.
        to: steps to take; None takes all.
        device: None takes the run's kind, where there is one.

    Raises:
        BszoError: in one line, what cannot be used.
    """
    header, many = trajectory.header, len(trajectory.steps)
    cls, found, adapter = checked(header.config)
    if isinstance(threads := adapter.get("threads"), int) and 0 < threads <= MOST_THREADS:
        torch.set_num_threads(threads)  # sums depend on it in their last bits
    usual = "cpu" if header.device == "cpu" else "auto"
    place = resolve_device(device or usual)
    # the header's is of what trains, which may be a wide part of a narrow model
    dtype = said if isinstance(said := adapter.get("dtype"), str) else header.dtype
    model = load_model(
        base,
        kind=kind,
        dtype=dtype,  # type: ignore[arg-type]
        device=place,
        quantization=adapter.get("quantization", "none"),  # type: ignore[arg-type]
    )
    if place.partition(":")[0] != header.device:
        print(
            f"the run was on {header.device}, this is {place}: equal but for rounding, not bitwise",
            file=sys.stderr,
        )
    if "tuning" in adapter:
        model = _attached(model, adapter["tuning"])
    try:
        groups = parameter_groups(model.module, found.get("weight_decay") or 0.0)
        optimizer = cls(groups, module=model.module, **found)
        if "directions" in adapter:
            optimizer.restrict(**adapter["directions"])
    except (OptimError, TypeError) as error:
        raise TrajectoryError(f"{path}: its optimizer cannot be built: {error}") from error
    with needs("lm"):
        from tqdm import tqdm

    steps = many if to is None else to
    with tqdm(total=steps, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        replay(
            trajectory,
            optimizer,
            base=weights_fingerprint(model.module),
            to_step=to,
            on_step=bar.update,
        )
    return model


def checked(config: Mapping[str, Any]) -> tuple[type, dict[str, Any], dict[str, Any]]:
    """Class and arguments of the optimizer, and what is around it (AROUND).

    Only a method of this library with plain arguments is taken, since whoever wrote the log may not
    run code here (docs/threats.md, "A log that would build a model of nothing").
    """
    if not config:
        raise TrajectoryError(
            "the log does not say how its optimizer is built: bszo.trajectory.replay takes one"
        )
    target = config.get("_target_")
    package, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    cls = getattr(optim, name) if package == "bszo" and name in optim.__all__ else None
    if not (isinstance(cls, type) and issubclass(cls, optim.ZerothOrderOptimizer)):
        raise TrajectoryError(f"optimizer {target!r:.80}: not one of this library's methods")
    around = {k: config[k] for k in AROUND if k in config}
    found = {k: v for k, v in config.items() if k not in ("_target_", "_partial_", *around)}
    valid = [name for name in inspect.signature(cls).parameters if name not in OWN]
    for key, value in [*found.items(), *_mapping(around.get("directions", {})).items()]:
        if key in found and key not in valid:
            raise TrajectoryError(f"optimizer.{key!r:.80}: {name} has no such argument")
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, SCALARS) for part in parts):
            raise TrajectoryError(f"optimizer.{key}: a plain value or a list of them is valid")
        if key not in UNCOUNTED and any(isinstance(part, int) and part > MOST for part in parts):
            raise TrajectoryError(f"optimizer.{key}={value!r:.80}: at most {MOST} is taken")
    return cls, found, around


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TrajectoryError(f"{value!r:.80}: a mapping of names to values is valid")
    return value


def _attached(model: LanguageModel, tuning: Any) -> LanguageModel:
    """The base with what the run trained attached."""
    plain = _mapping(tuning)
    seed, num_labels = plain.get("seed", 0), plain.get("num_labels", 0)
    for name, value, most in (("seed", seed, 2**63 - 1), ("num_labels", num_labels, MOST)):
        if not isinstance(value, int) or not 0 <= value <= most:
            raise TrajectoryError(f"tuning.{name}={value!r:.80}: 0 to {most} is valid")
    return attached(model, _mapping(plain.get("choice")), num_labels=num_labels, seed=seed)
