"""Which learning rate to begin with: a range test of a run's model, rows and optimizer.

    python -m experiments.find_lr model=... task=... optimizer=... [--rates 1e-5,3e-5,1e-4]

Steps are taken at one rate after another, always from the same weights, and judged by validation
rows (`bszo.find_lr`); nothing stays trained. Other arguments are overrides as for
`experiments.run`. Without --rates it goes up and down in half decades from the configuration's
own rate until it has found the best. Exit codes: 0 a rate is recommended, 1 wrong arguments, 2
there is no ground for a recommendation, 130 interrupted.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bszo.errors import BszoError, ConfigError
from bszo.files import written_whole
from experiments import ROOT
from experiments.config.compose import compose

PLOTS = ROOT / "outputs" / "find_lr"


def tested(
    config: dict[str, Any],
    *,
    rates: Sequence[float] | None = None,
    steps: int = 20,
    repeats: int = 8,
    held: int = 128,
    on_probe: Callable[[Any], None] | None = None,
) -> Any:
    """The `bszo.RangeTest` of a run: on the batches with which the run would begin, judged by
    some of its validation rows.

    Args:
        config: the resolved configuration.
        held: the number of validation rows, drawn by the run's seed.
        rates, steps, repeats, on_probe: as `bszo.find_lr` has them.

    Raises:
        BszoError: what a run of this configuration would be refused for, or what cannot be judged.
    """
    # loads torch and transformers, for a configuration that composes
    from bszo import find_lr
    from bszo.cli.find_lr import heard, judges
    from bszo.models import EachLoss
    from bszo.tasks import batches
    from experiments.config.schema import parse
    from experiments.training.build import build

    if held < 1:
        raise ConfigError(f"--held {held}: one row or more is valid")
    run = parse(config)
    parts = build(run)
    model, size = parts.model, run.protocol.batch_size
    loss: Callable[[Any], Any] = (
        (lambda batch: EachLoss(model, batch))
        if getattr(parts.optimizer, "per_example", False)
        else (lambda batch: lambda: model.loss(batch))
    )
    order = batches(len(parts.train), size, run.seed)
    taken = [
        model.collate([parts.train[index] for index in next(order)], step=step)
        for step in range(max(0, steps) * max(0, repeats))
    ]
    judging = judges(parts.validation, held, size, run.seed)
    judged = [model.collate(rows, step=0) for rows in judging]
    return find_lr(
        parts.optimizer,
        [loss(batch) for batch in taken],
        held=[lambda batch=batch: model.loss(batch) for batch in judged],
        alive=heard(model, [row for rows in judging for row in rows]),
        rates=rates,
        steps=steps,
        repeats=repeats,
        on_probe=on_probe,
    )


def draw(found: Any, title: str, path: Path) -> None:
    """The change of the loss over the rates, with two standard errors; rises that would dwarf the
    falls stand at the upper edge."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sound = [probe for probe in found.probes if not probe.diverged]
    low = min([probe.change - 2 * probe.error for probe in sound if probe.change < 0], default=-1.0)
    low, high = 1.1 * low, -0.6 * low
    inside = [probe for probe in sound if probe.change <= high]
    above = [probe.lr for probe in found.probes if probe not in inside]
    figure, panel = plt.subplots(figsize=(5, 3.2), layout="constrained")
    panel.axhline(0, color="#000000", lw=0.8)
    panel.errorbar(
        [probe.lr for probe in inside],
        [probe.change for probe in inside],
        yerr=[2 * probe.error for probe in inside],
        fmt="o-",
        color="#0072B2",
        label="mean, 2 standard errors",
    )
    panel.plot(above, [0.97 * high] * len(above), "^", color="#D55E00", label="more, or diverged")
    if found.lr is not None:
        panel.axvline(found.lr, color="#009E73", ls="--", label=f"recommended: {found.lr:g}")
    panel.set(xscale="log", ylim=(low, high), title=title)
    panel.set(xlabel="learning rate", ylabel="change of the held loss")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code.

    Raises:
        BszoError: in one line, what cannot be tested or written.
    """
    from bszo import RangeTest
    from bszo.cli.find_lr import numbers

    config = compose(arguments.overrides, folders=arguments.config_dir)
    rates = None if arguments.rates is None else numbers(arguments.rates)
    target = str(config["optimizer"].get("_target_", "")).rpartition(".")[2]
    model = config["model"].get("name") or Path(str(config["model"].get("path"))).name
    names = [str(config["task"].get("name")), str(model)]
    title = ", ".join([*names, target])
    out = Path(arguments.out or PLOTS / f"{'-'.join([*names, target])}.png")
    print(f"{title}: {arguments.repeats} x {arguments.steps} steps at each rate", flush=True)
    print(RangeTest.HEADING, flush=True)
    start = time.perf_counter()
    found = tested(
        config,
        rates=rates,
        steps=arguments.steps,
        repeats=arguments.repeats,
        held=arguments.held,
        on_probe=lambda probe: print(probe, flush=True),
    )
    print(found.reason)
    try:
        draw(found, title, out)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from error
    seconds = time.perf_counter() - start
    print(f"{found.num_forwards:,} forward passes, {seconds:.0f} s; {out}")
    return 0 if found.lr is not None else 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.find_lr", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for experiments.run")
    parser.add_argument(
        "--config-dir", metavar="DIR", action="append", default=[], help="as for experiments.run"
    )
    parser.add_argument("--rates", metavar="A,B,...", help="learning rates (default: a search)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of a repeat (20)")
    parser.add_argument("--repeats", type=int, default=8, metavar="N", help="of a rate (8)")
    parser.add_argument(
        "--held", type=int, default=128, metavar="ROWS", help="validation rows that judge (128)"
    )
    parser.add_argument("--out", metavar="FILE", help="the plot (default: in outputs/find_lr)")
    try:
        return run(parser.parse_intermixed_args(argv))
    except BszoError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
