"""`python -m experiments.render table12`: the files of a table or figure, or of several.

    python -m experiments.render table3 figure1       # `make table3`, which asks whether it must
    python -m experiments.render --list               # every artefact
    python -m experiments.render --sweeps table12     # the sweeps whose runs it shows
    python -m experiments.render --make               # the registry's rules for the Makefile

It reads records, measurements and the paper's numbers, and loads neither torch nor Hydra. The exit
code is 1 where an artefact is unknown or cannot be rendered.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.tables.artefacts import ARTEFACTS, Artefact
from experiments.tables.make_rules import make_lines


class UnknownArtefact(Exception):
    """No table or figure has this name; the message is one line."""


def artefact_of(name: str) -> Artefact:
    """The artefact of a name; make's zo-bench is zo_bench."""
    found = ARTEFACTS.get(name.replace("-", "_"))
    if found is None:
        raise UnknownArtefact(f"{name}: no such artefact; {', '.join(ARTEFACTS)} are valid")
    return found


def render_all(artefacts: Sequence[Artefact], runs: Path | None, out: Path | None) -> None:
    """Render artefacts; of those in the project's own folders make is told what they show."""
    from experiments.records.store import PACKED
    from experiments.tables.inputs import Inputs
    from experiments.tables.rendering import Folders, folders, render

    first = Inputs(runs or PACKED)
    for artefact in artefacts:
        inputs = first.for_another()
        render(artefact, inputs, Folders(out, out) if out else folders(artefact))
        if not out:
            note_for_make(artefact, inputs.files())


def note_for_make(artefact: Artefact, files: Sequence[Path]) -> None:
    """Leave outputs/made/NAME, and NAME.d: it is out of date when any of these files is newer."""
    from bszo.files import written_whole
    from experiments.tables.rendering import OUTPUTS, short

    target = OUTPUTS / "made" / artefact.name
    names = [str(short(file)) for file in files]
    # a file that is gone is no error: a rule without a recipe makes it
    text = f"{short(target)}: {' '.join(names)}\n" + "".join(f"{name}:\n" for name in names)
    with written_whole(target.with_suffix(".d")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    target.touch()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="tables and figures to render")
    parser.add_argument("--list", action="store_true", help="print the names of all artefacts")
    parser.add_argument("--sweeps", metavar="NAME", help="print the sweeps of an artefact")
    parser.add_argument("--make", action="store_true", help="print the rules for the Makefile")
    parser.add_argument("--runs", type=Path, help="folder with a folder of records a profile")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for all files (default: Markdown and PNG to results/, the others to outputs/)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.make:
            print(make_lines(), end="")
        elif options.list:
            print("\n".join(ARTEFACTS))
        elif options.sweeps:
            print(" ".join(artefact_of(options.sweeps).sweeps))
        elif options.names:
            return _rendered([artefact_of(name) for name in options.names], options)
        else:
            parser.error(f"which artefact? {', '.join(ARTEFACTS)} are valid")
    except UnknownArtefact as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _rendered(artefacts: Sequence[Artefact], options: argparse.Namespace) -> int:
    """The exit code of rendering: 1, with one line, where a grid or a measurement is unusable."""
    from experiments.sweeps.grid import GridError
    from experiments.tables.sources import MeasurementError

    try:
        render_all(artefacts, options.runs, options.out)
    except (GridError, MeasurementError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
