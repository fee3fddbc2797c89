"""What `scripts/tableN.py` does: read records and the paper's numbers, write files, say what was
left out."""

import argparse
import re
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bszo.files import written_whole
from experiments.records.store import files, places
from experiments.sweeps.grid import PROFILES, GridError, load, read
from experiments.sweeps.selection import Record
from experiments.tables.accuracy import Block, Kind, blocks, section
from experiments.tables.budgets import BUDGETS
from experiments.tables.layout import TABLES, Section, write
from experiments.tables.sources import RUNS, gather, left_out

Build = Callable[["Inputs"], tuple[str, list[Section]]]
Parts = Mapping[str, Callable[[], Kind]]  # artefact -> what its table shows


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

    def footer(self) -> tuple[str, ...]:
        """A line for each profile that was read and has files that cannot be used."""
        return tuple(
            line
            for profile, (_, problems) in self._read.items()
            for line in left_out(problems, f" of profile {profile}")
        )

    def files(self) -> list[Path]:
        """The files of the records that were used, and the folders where new ones would appear."""
        folders = [place for profile in self._read for place in places(self.runs / profile)]
        found = [
            file
            for folder in folders
            for file in files(folder)
            if file.suffix == ".jsonl" or file.stem.rpartition("-")[2] in self.used
        ]
        return [folder for folder in folders if folder.is_dir()] + found


def run(stem: str, build: Build, script: str, arguments: Sequence[str] | None = None) -> int:
    """Build a table and write it beside a list of what it was made of, for make."""
    parser = argparse.ArgumentParser(
        description=f"Render {stem} from records and the paper's numbers."
    )
    parser.add_argument(
        "--runs", type=Path, default=RUNS, help="folder with a folder of records a profile"
    )
    parser.add_argument("--out", type=Path, default=TABLES, help="folder for the files")
    options = parser.parse_args(arguments)
    inputs = Inputs(options.runs)
    try:
        title, sections = build(inputs)
    except GridError as error:
        print(error, file=sys.stderr)
        return 1
    sections[-1] = replace(sections[-1], notes=(*sections[-1].notes, *inputs.footer()))
    for note in dict.fromkeys(
        note for made in sections for note in made.notes if note.startswith("Left out")
    ):
        print(f"{stem}: {note}", file=sys.stderr)
    paths = write(stem, title, sections, script, options.out)
    write_dependencies(paths[0], inputs.files(), options.out / ".made" / f"{stem}.d")
    announce(title, paths)
    return 0


def announce(title: str, paths: Iterable[Path]) -> None:
    """The one line that a script says about the files that it has written."""
    print(f"{title}: {', '.join(str(_short(path)) for path in paths) or 'nothing to show yet'}")


def figure_command(stem: str, draw: Callable[[Inputs, Path], list[Path]], folder: Path) -> int:
    """Draw a figure a profile, and note for make what they were drawn from."""
    parser = argparse.ArgumentParser(description=f"Draw {stem} from records.")
    parser.add_argument(
        "--runs", type=Path, default=RUNS, help="folder with a folder of records a profile"
    )
    parser.add_argument("--out", type=Path, default=folder, help="folder for the files")
    options = parser.parse_args()
    inputs = Inputs(options.runs)
    try:
        paths = draw(inputs, options.out)
    except GridError as error:
        print(error, file=sys.stderr)
        return 1
    for note in inputs.footer():
        print(f"{stem}: {note}", file=sys.stderr)
    write_dependencies(
        options.out / ".made" / stem, inputs.files(), options.out / ".made" / f"{stem}.d"
    )
    announce(titled(stem), paths)
    return 0


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_dependencies(target: Path, files: Iterable[Path], out: Path) -> None:
    """A makefile's line: the target is older than any of these -> make it again; one that is gone
    is no error."""
    names = [str(_short(file)) for file in files]
    text = f"{_short(target)}: {' '.join(names)}\n" + "".join(f"{name}:\n" for name in names)
    with written_whole(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def accuracy_command(stem: str, what: str, parts: Parts) -> int:
    """Write <stem> and <stem>_equal from the grids in `parts` and what each shows; `what` is the
    table's title."""
    script = f"scripts/{stem}.py"
    title = f"{titled(stem)}: {what}"
    equal = f"{titled(stem)} at equal budgets: validation accuracy (%)"
    return run(stem, lambda inputs: (title, _sections(parts, inputs)), script) or run(
        f"{stem}_equal", lambda inputs: (equal, _equal_sections(parts, inputs)), script
    )


def titled(stem: str) -> str:
    """ "Table 5" of "table5"."""
    return re.sub(r"(\D+)(\d+)", lambda found: f"{found[1].capitalize()} {found[2]}", stem)


def _found(
    parts: Parts, inputs: Inputs, changed: Callable[[Kind], Kind]
) -> Iterator[tuple[str, Block]]:
    """(profile, block) of every part, profile and setting; a part of several is named in its
    blocks' titles."""
    for letter, (artefact, kind) in zip(string.ascii_lowercase, parts.items(), strict=False):
        node = read(artefact)
        for profile in (name for name in PROFILES if name in node["profiles"]):
            for block in blocks(load(artefact, profile), inputs.records(profile), changed(kind())):
                block.title = (
                    f"({letter}) {node['title']}. {block.title}" if len(parts) > 1 else block.title
                )
                inputs.used |= block.used
                if block.doubles:
                    block.notes.append(
                        "Replaced by a later run of the same configuration:"
                        f" {len(block.doubles)} ({', '.join(sorted(block.doubles))})."
                    )
                yield profile, block


def _sections(parts: Parts, inputs: Inputs) -> list[Section]:
    """What was run, and the paper's numbers whether or not anything was run beside them."""
    found = _found(parts, inputs, lambda kind: kind)
    return [section(block) for profile, block in found if profile == "paper" or block.used]


def _equal_sections(parts: Parts, inputs: Inputs) -> list[Section]:
    """The same tables at an equal number of forward passes, and at equal wall-clock; only of what
    was run."""
    made = []
    for budget in BUDGETS:
        scored = partial(
            replace, published=lambda point: None, scoring=budget.scoring, notes=(budget.note,)
        )
        for _, block in _found(parts, inputs, scored):
            if block.used:
                block.title += f", {budget.words}"
                made.append(section(block))
    return made or [Section("Not run yet", ("how",), (("make run-tableN",),))]
