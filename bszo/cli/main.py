"""The command line of `bszo`.

    bszo tune MODEL ROWS.jsonl --prompt "{sentence} It was" --options terrible great --out DIR
    bszo find-lr MODEL ROWS.jsonl --prompt "{sentence} It was" --options terrible great
    bszo replay DIR/trajectory.bszo --base MODEL --out OTHER

Exit codes: 0 ok, 1 wrong arguments or input, 2 find-lr has no ground for a recommendation, 3 the
loss is not finite or the model has collapsed, 4 out of memory, 130 interrupted.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from bszo import __version__
from bszo.errors import BszoError, Collapsed, ConfigError, NonFiniteLoss, needs, one_line, printable

COMMANDS = {
    "tune": "fine-tune a model on rows, from losses alone",
    "find-lr": "which learning rate to begin with; nothing stays trained",
    "replay": "a run's weights again, from its base model and its log",
}
NEEDED = ("transformers", "peft", "tqdm")
EXIT_CODES = {"ok": 0, "wrong": 1, "diverged": 3, "out of memory": 4, "interrupted": 130}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; {self.prog} --help says what is valid")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, after one line where it is not 0."""
    return exit_code(lambda: _parsed(list(sys.argv[1:] if argv is None else argv)))


def exit_code(parsed: Callable[[], Callable[[], int]]) -> int:
    """Parse, then run the command that was parsed; returns its exit code, or prints one line and
    returns the code of what stopped it."""
    try:
        command = parsed()
        _require_extra()
        return command()
    except (NonFiniteLoss, Collapsed) as error:
        return _say(
            f"diverged, nothing was written: {error}; a smaller --lr is the usual cure, and bszo"
            " find-lr shows which",
            "diverged",
        )
    except BszoError as error:
        if os.environ.get("BSZO_FULL_ERROR", "0") not in ("", "0"):
            raise
        return _say(_in_flags(str(error)), "wrong")
    except (MemoryError, RuntimeError) as error:
        if not _no_memory(error):
            raise
        return _say(f"no memory left, nothing was written: {one_line(error)}", "out of memory")
    except KeyboardInterrupt:
        return _say("interrupted; nothing was written", "interrupted")


def _in_flags(line: str) -> str:
    """The line with the names that these commands have for the library's arguments."""
    return re.sub(r"\bmodel\.(kind|offload)=", r"--\1 ", line)


def _parsed(arguments: list[str]) -> Callable[[], int]:
    """The subcommand with its arguments, ready to run; only its own module is loaded."""
    parser = Parser(prog="bszo", description="Fine-tune language models by forward passes alone.")
    parser.add_argument("--version", action="version", version=f"bszo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    parts: dict[str, Any] = {}
    for name, line in COMMANDS.items():
        sub = commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.")
        if name == chosen:
            parts[name] = import_module(f"bszo.cli.{name.replace('-', '_')}")
            parts[name].add_arguments(sub)
    found = parser.parse_args(arguments)
    return lambda: parts[found.command].run(found)


def _require_extra() -> None:
    """MissingExtra, before a row is read, unless the packages for language models are there."""
    with needs("lm"):
        for name in NEEDED:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


def _no_memory(error: Exception) -> bool:
    """Whether torch or Python says so; torch.OutOfMemoryError is a RuntimeError."""
    said = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    return said or "can't allocate memory" in str(error)


def _say(line: str, outcome: str) -> int:
    with suppress(OSError):  # a Ctrl-C may have closed stderr
        print(printable(line), file=sys.stderr, flush=True)
    return EXIT_CODES[outcome]
