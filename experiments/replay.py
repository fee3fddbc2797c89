"""`python -m experiments.replay TRAJECTORY --base MODEL --to STEP --out DIR`: a fine-tuned model from its log.

No forward pass is made. DIR appears whole or not at all. Exit codes: 0 ok, 1 a log, model or folder that cannot be
used, 130 interrupted.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tqdm import tqdm

from bszo.errors import BszoError, ConfigError, TrajectoryError
from bszo.models import LanguageModel, load_model, weights_fingerprint
from bszo.trajectory import Trajectory, read, replay
from experiments.build import make_optimizer, resolve_device
from experiments.schema import SUPPLIED, Directions
from experiments.typed import check_arguments, check_targets, typed


def rebuild(trajectory: Trajectory, base: str, to_step: int | None, device: str) -> LanguageModel:
    """The base model after the steps of a trajectory.

    Args:
        trajectory: as read.
        base: path or name of the model that the run started from.
        to_step: steps to take; None takes all.
        device: cpu, cuda, or auto for the kind that the run was on, where there is one.

    Raises:
        BszoError: base or device cannot be used, the log names no optimizer that may be built, or they do not match.
    """
    header = trajectory.header
    _check_config(header.config)
    device = "cpu" if device == "auto" and header.device == "cpu" else resolve_device(device)
    if device != header.device:
        print(f"the run was on {header.device}, this is {device}: equal but for rounding, not bitwise", file=sys.stderr)
    model = load_model(base, dtype=header.dtype, device=device)  # type: ignore[arg-type]
    optimizer = make_optimizer(header.config, model)
    steps = len(trajectory.steps) if to_step is None else to_step
    with tqdm(total=steps, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        replay(trajectory, optimizer, base=weights_fingerprint(model.module), to_step=to_step, on_step=bar.update)
    return model


def _check_config(config: dict[str, Any]) -> None:
    """Refuse all but an optimizer with plain arguments: whoever wrote the file may not run code here."""
    if not config:
        raise TrajectoryError("the log does not say how its optimizer is built: bszo.trajectory.replay takes one")
    config = dict(config)
    if "directions" in config:
        typed(Directions, config.pop("directions"), "directions")
    if strange := [key for key in config if not key.isidentifier()]:
        raise ConfigError(f"optimizer: {strange[0][:80]!r} is no name of an argument")
    nested = [key for key, value in config.items() for part in (value if isinstance(value, list) else [value])
              if isinstance(part, (dict, list))]
    if nested:
        raise ConfigError(f"optimizer.{nested[0]}: must be a plain value or a list of them")
    check_targets(config, "optimizer")
    check_arguments(config, "optimizer", SUPPLIED["optimizer"])


def save(model: LanguageModel, out: Path) -> None:
    """Weights, configuration and tokenizer under a temporary name, which then becomes `out`.

    Raises:
        TrajectoryError: `out` cannot be written; nothing is left behind.
    """
    from transformers.utils import logging  # loaded with the model; a wrong log is told before it

    logging.disable_progress_bar()
    module: Any = model.module
    module.config._name_or_path = ""  # the base's path is its owner's
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".tmp", dir=out.parent))
        try:
            module.save_pretrained(temporary)
            model.tokenizer.save_pretrained(temporary)
            temporary.chmod(0o755)  # mkdtemp makes it accessible to its owner alone
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise TrajectoryError(f"{out}: cannot be written ({' '.join(str(error).split())})") from error


def run(arguments: argparse.Namespace) -> None:
    """All that the command does, in the order in which it can fail soonest."""
    trajectory, out = read(arguments.trajectory), Path(arguments.out)
    if out.exists() or not out.parent.is_dir():
        raise TrajectoryError(f"{out}: is there already" if out.exists() else f"{out.parent}: is no folder")
    header, many = trajectory.header, len(trajectory.steps)
    end = "" if trajectory.finished else ", not marked as finished"
    print(f"read {many} steps of {header.optimizer} in {header.dtype}, {trajectory.num_bytes} bytes{end}")
    if trajectory.problem:
        print(f"{arguments.trajectory}: {trajectory.problem}", file=sys.stderr)
    model = rebuild(trajectory, arguments.base, arguments.to, arguments.device)
    save(model, out)
    steps = many if arguments.to is None else arguments.to
    print(f"wrote {out}: {steps} steps, weights {weights_fingerprint(model.module)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.replay", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("trajectory", metavar="TRAJECTORY", help="the log of a run")
    parser.add_argument("--base", required=True, metavar="MODEL", help="the model that the run started from")
    parser.add_argument("--to", type=int, metavar="STEP", help="steps to take (default: all)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the model; must not exist")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the run's kind")
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
