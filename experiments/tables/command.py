"""What `scripts/tableN.py` does: read records and the paper's numbers, write files, say what was left out."""

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.files import written_whole
from experiments.grid import PROFILES, GridError, load, read
from experiments.selection import Record
from experiments.tables.accuracy import Kind, blocks, section
from experiments.tables.budgets import BUDGETS
from experiments.tables.layout import TABLES, Section, write
from experiments.tables.sources import RUNS, PaperError, gather

Build = Callable[["Inputs"], tuple[str, list[Section]]]


class Inputs:
    """The records of every profile, and which of them a table used.

    Args:
        runs: the folder with a folder of records a profile.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.used: set[str] = set()
        self._read: dict[str, tuple[list[Record], list[str]]] = {}

    def records(self, profile: str) -> list[Record]:
        if profile not in self._read:
            self._read[profile] = gather(self.runs / profile)
        return self._read[profile][0]

    def problems(self, profile: str) -> list[str]:
        self.records(profile)
        return self._read[profile][1]

    def files(self) -> list[Path]:
        """The files of the records that were used, and the folders where new ones would appear."""
        folders = [self.runs / profile for profile in self._read]
        found = [file for folder in folders for file in sorted(folder.glob("*.json"))
                 if file.stem.rpartition("-")[2] in self.used]  # fmt: skip
        return [folder for folder in folders if folder.is_dir()] + found


def run(stem: str, build: Build, script: str, arguments: Sequence[str] | None = None) -> int:
    """Build a table and write it beside a list of what it was made of, for make."""
    parser = argparse.ArgumentParser(description=f"Render {stem} from records and the paper's numbers.")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder with a folder of records a profile")
    parser.add_argument("--out", type=Path, default=TABLES, help="folder for the files")
    options = parser.parse_args(arguments)
    inputs = Inputs(options.runs)
    try:
        title, sections = build(inputs)
    except (GridError, PaperError) as error:
        print(error, file=sys.stderr)
        return 1
    paths = write(stem, title, sections, script, options.out)
    write_dependencies(paths[0], inputs.files(), options.out / ".made" / f"{stem}.d")
    print(f"{title}: {', '.join(map(str, map(_short, paths)))}")
    return 0


def figure_command(stem: str, draw: Callable[[Inputs, Path], list[Path]], folder: Path) -> int:
    """Draw a figure a profile, and note for make what they were drawn from."""
    parser = argparse.ArgumentParser(description=f"Draw {stem} from records.")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder with a folder of records a profile")
    parser.add_argument("--out", type=Path, default=folder, help="folder for the files")
    options = parser.parse_args()
    inputs = Inputs(options.runs)
    try:
        paths = draw(inputs, options.out)
    except GridError as error:
        print(error, file=sys.stderr)
        return 1
    write_dependencies(options.out / ".made" / stem, inputs.files(), options.out / ".made" / f"{stem}.d")
    print(f"{titled(stem)}: {', '.join(map(str, map(_short, paths))) or 'no records yet'}")
    return 0


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_dependencies(target: Path, files: Iterable[Path], out: Path) -> None:
    """A makefile's line: the target is older than any of these -> make it again; one that is gone is no error."""
    names = [str(_short(file)) for file in files]
    text = f"{_short(target)}: {' '.join(names)}\n" + "".join(f"{name}:\n" for name in names)
    with written_whole(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def accuracy_command(stem: str, parts: Mapping[str, Callable[[], Kind]]) -> int:
    """Write <stem> and <stem>_equal from the grids in `parts` and what each shows."""
    script = f"scripts/{stem}.py"
    return run(stem, lambda inputs: _tables(stem, parts, inputs), script) or run(
        f"{stem}_equal", lambda inputs: _equal_tables(stem, parts, inputs), script)  # fmt: skip


def _tables(stem: str, parts: Mapping[str, Callable[[], Kind]], inputs: Inputs) -> tuple[str, list[Section]]:
    """A section a part, profile and setting; profiles without records only for the paper."""
    sections = []
    for artefact, kind in parts.items():
        node = read(artefact)
        for profile in (name for name in PROFILES if name in node["profiles"]):
            for block in blocks(load(artefact, profile), inputs.records(profile), kind()):
                if profile == "paper" or block.used:
                    block.title = f"{node['title']}. {block.title}" if len(parts) > 1 else block.title
                    sections.append(_with_footer(section(block), inputs.problems(profile), block.doubles))
                inputs.used |= block.used
    return titled(stem) + (f": {read(stem)['title']}" if len(parts) == 1 else ""), sections


def titled(stem: str) -> str:
    """ "Table 5" of "table5"."""
    return re.sub(r"(\D+)(\d+)", lambda found: f"{found[1].capitalize()} {found[2]}", stem)


def _equal_tables(stem: str, parts: Mapping[str, Callable[[], Kind]], inputs: Inputs) -> tuple[str, list[Section]]:
    """The same tables at an equal number of forward passes, and at equal wall-clock; only of what was run."""
    sections = []
    for budget, (artefact, kind) in itertools.product(BUDGETS, parts.items()):
        scored = replace(kind(), published=lambda point: None, scoring=budget.scoring)
        node = read(artefact)
        for profile in node["profiles"]:
            for block in blocks(load(artefact, profile), inputs.records(profile), scored):
                if block.used:
                    what = f"{node['title']}. " if len(parts) > 1 else ""
                    block.title = f"{what}{block.title}, {budget.words}"
                    block.notes.append(budget.note)
                    sections.append(section(block))
                inputs.used |= block.used
    return f"{titled(stem)} at equal budgets: validation accuracy (%)", sections


def _with_footer(made: Section, problems: Sequence[str], doubles: set[str]) -> Section:
    notes = list(made.notes)
    if problems:
        notes.append(f"Left out: {len(problems)} ({'; '.join(problems)}).")
    if doubles:
        notes.append(
            f"Replaced by a later run of the same configuration: {len(doubles)} ({', '.join(sorted(doubles))})."
        )
    return replace(made, notes=tuple(notes))
