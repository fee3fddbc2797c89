"""Replay of a run's log: `bszo replay`, where the base may be a name of conf/model too.

    python -m experiments.replay TRAJECTORY --base MODEL --to STEP --out DIR

Exit codes as `bszo` has them.
"""

import sys
from collections.abc import Callable, Sequence

from bszo.cli import replay
from bszo.cli.main import Parser, exit_code
from experiments.sweeps.matching import model_node


def _parsed(argv: Sequence[str]) -> Callable[[], int]:
    parser = Parser(prog="python -m experiments.replay", description=(__doc__ or "").split("\n")[0])
    replay.add_arguments(parser)
    arguments = parser.parse_args(argv)
    arguments.base = str(model_node(arguments.base).get("path", arguments.base))
    return lambda: replay.run(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: _parsed(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
