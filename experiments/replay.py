"""Replay of a run's log: the fine-tuned model from its base, without a forward pass.

    python -m experiments.replay TRAJECTORY --base MODEL --to STEP --out DIR

If the run trained an adapter, DIR holds the adapter, else the model. DIR
appears whole or not at all. Exit codes: 0 ok, 1 a log, model or folder that cannot be used, 130
interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bszo.errors import BszoError, ConfigError, TrajectoryError
from bszo.models import LanguageModel, load_model, resolve_device, weights_fingerprint
from bszo.models.quantized import Quantization
from bszo.models.saved import save_tuned
from bszo.trajectory import Trajectory, read, replay
from experiments.config.schema import SUPPLIED, Directions
from experiments.config.tunings import Attached
from experiments.config.typed import check_arguments, check_targets, check_values, typed
from experiments.config.yaml_files import exists
from experiments.sweeps.matching import model_node
from experiments.training.build import make_optimizer

MAX_COUNT = 1_000_000  # directions, observations, ranks: a log from anyone must not take all memory
UNCOUNTED = ("seed", "interval")  # a large one costs nothing


def rebuild(trajectory: Trajectory, base: str, to_step: int | None, device: str) -> LanguageModel:
    """The base model after the steps of a trajectory.

    Args:
        trajectory: as read.
        base: path or name of the model that the run started from.
        to_step: steps to take; None takes all.
        device: cpu, cuda, or auto for the kind that the run was on, where there is one.

    Raises:
        BszoError: base or device cannot be used, the log names no optimizer that may be built, or
            they do not match.
    """
    header = trajectory.header
    node, adapter, quantization = _checked(header.config)
    device = "cpu" if device == "auto" and header.device == "cpu" else resolve_device(device)
    if device != header.device:
        print(
            f"the run was on {header.device}, this is {device}: equal but for rounding, not"
            " bitwise",
            file=sys.stderr,
        )
    model = load_model(
        base,
        dtype=header.dtype,  # type: ignore[arg-type]
        device=device,
        quantization=quantization,
    )
    model = model if adapter is None else adapter.model(model)
    optimizer = make_optimizer(node, model)
    steps = len(trajectory.steps) if to_step is None else to_step
    with tqdm(total=steps, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        replay(
            trajectory,
            optimizer,
            base=weights_fingerprint(model.module),
            to_step=to_step,
            on_step=bar.update,
        )
    return model


def _checked(whole: dict[str, Any]) -> tuple[dict[str, Any], Attached | None, Quantization]:
    """The optimizer's node, the adapter that it trains or None for the model's own parameters, and
    what the base is quantised to.

    Only an optimizer with plain arguments is taken, since whoever wrote the log may not run code
    here (docs/threats.md, "A log that would build a model of nothing").
    """
    if not whole:
        raise TrajectoryError(
            "the log does not say how its optimizer is built: bszo.trajectory.replay takes one"
        )
    check_values(whole, "optimizer")
    node = dict(whole)
    adapter = typed(Attached, node.pop("tuning"), "tuning") if "tuning" in node else None
    quantization = typed(Quantization, node.pop("quantization", "none"), "quantization")
    config = dict(node)
    if "directions" in config:
        typed(Directions, config.pop("directions"), "directions")
    if strange := [key for key in config if not key.isidentifier()]:
        raise ConfigError(f"optimizer: {strange[0][:80]!r} is no name of an argument")
    nested = [
        key
        for key, value in config.items()
        for part in (value if isinstance(value, list) else [value])
        if isinstance(part, (dict, list))
    ]
    if nested:
        raise ConfigError(f"optimizer.{nested[0]}: must be a plain value or a list of them")
    for key, value in config.items():
        if key not in UNCOUNTED and isinstance(value, int) and value > MAX_COUNT:
            raise ConfigError(f"optimizer.{key}={value}: at most {MAX_COUNT} is taken from a log")
    check_targets(config, "optimizer")
    check_arguments(config, "optimizer", SUPPLIED["optimizer"])
    return node, adapter, quantization


def run(arguments: argparse.Namespace) -> None:
    """Do what the command says, in the order in which it can fail soonest."""
    trajectory, out = read(arguments.trajectory), Path(arguments.out)
    base = str(model_node(arguments.base).get("path", arguments.base))
    if exists(out.exists) or not exists(out.parent.is_dir):
        raise TrajectoryError(
            f"{out}: is there already" if exists(out.exists) else f"{out.parent}: is no folder"
        )
    header, many = trajectory.header, len(trajectory.steps)
    end = "" if trajectory.finished else ", not marked as finished"
    print(
        f"read {many} steps of {header.optimizer} in {header.dtype}, {trajectory.num_bytes}"
        f" bytes{end}, digest {trajectory.digest}"
    )
    if trajectory.problem:
        print(f"{arguments.trajectory}: {trajectory.problem}", file=sys.stderr)
    model = rebuild(trajectory, base, arguments.to, arguments.device)
    save_tuned(model, out)
    steps = many if arguments.to is None else arguments.to
    print(f"wrote {out}: {steps} steps, weights {weights_fingerprint(model.module)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.replay", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("trajectory", metavar="TRAJECTORY", help="the log of a run")
    parser.add_argument(
        "--base",
        required=True,
        metavar="MODEL",
        help="what the run started from: a name of conf/model, a folder, or a name on the hub",
    )
    parser.add_argument("--to", type=int, metavar="STEP", help="steps to take (default: all)")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the model; must not exist"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the run's kind"
    )
    try:
        run(parser.parse_args(argv))
    except BszoError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
