"""Rooms of `experiments/`, counted: what lies on its top floor, and which room imports which.

    python -m scripts.maintain.rooms [COMMIT]

A room is what lies directly in `experiments/`: a module (a command), or a package with all that is
in it. An edge is a pair of rooms of which the first imports the second, once however often it does.
An edge points up where it goes to a room that FLOORS has higher, or to a command. Of a COMMIT the
files are read from git. The exit code is 1 where a limit of the design is passed.
"""

import argparse
import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "experiments"
FLOORS = ("records", "config", "training", "sweeps", "tables")  # from the ground; commands on top
MOST_MODULES = 12
MOST_EDGES = 30
Edge = tuple[str, str]


def here() -> dict[str, str]:
    """Path -> text of every module of the working tree."""
    paths = (ROOT / PACKAGE).rglob("*.py")
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def at(commit: str) -> dict[str, str]:
    """Path -> text of every module at a commit."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"rooms: {done.stderr.strip()}")
        return done.stdout

    paths = git("ls-tree", "-r", "--name-only", commit, f"{PACKAGE}/").splitlines()
    return {path: git("show", f"{commit}:{path}") for path in paths if path.endswith(".py")}


def room_of(dotted: str, rooms: set[str]) -> str | None:
    """The room of an imported name; None where it is not of `experiments`, or only its package."""
    package, _, rest = dotted.partition(".")
    room = rest.partition(".")[0]
    return room if package == PACKAGE and room in rooms else None


def imported(text: str) -> set[str]:
    """Every name that a module imports, also within functions, dotted."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_floor(files: Mapping[str, str]) -> list[str]:
    """The modules directly in `experiments/`."""
    return sorted(path for path in files if path.count("/") == 1 and "__init__" not in path)


def edges(files: Mapping[str, str]) -> set[Edge]:
    """(room, room that it imports), each pair once."""
    home = {path: path.split("/")[1].removesuffix(".py") for path in files}
    rooms = set(home.values()) - {"__init__"}
    found = {
        (home[path], room)
        for path in files
        for name in imported(files[path])
        if (room := room_of(name, rooms)) is not None
    }
    return {(room, other) for room, other in found if room != other and room != "__init__"}


def points_up(edge: Edge) -> bool:
    """Whether a room imports one that is not below it."""
    room, other = (FLOORS.index(name) if name in FLOORS else len(FLOORS) for name in edge)
    return other > room


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit", nargs="?", help="default: the working tree")
    commit = parser.parse_args(argv).commit
    files = at(commit) if commit else here()
    modules, found = top_floor(files), edges(files)
    up = sorted(filter(points_up, found))
    print(f"{len(modules)} modules on the top floor (at most {MOST_MODULES}), {len(files)} in all")
    print(f"{len(found)} edges between rooms (at most {MOST_EDGES})")
    for room in sorted({room for room, _ in found}):
        print(f"  {room} -> {', '.join(sorted(other for a, other in found if a == room))}")
    print(f"{len(up)} edges point up{': ' if up else ''}" + ", ".join(" -> ".join(e) for e in up))
    return int(len(modules) > MOST_MODULES or len(found) > MOST_EDGES or bool(up))


if __name__ == "__main__":
    sys.exit(main())
