"""Inputs of the tables: the records of every profile, and which of them were shown."""

from pathlib import Path

from experiments.records.record import Record
from experiments.records.store import files, gather, left_out, places


class Inputs:
    """The records of every profile, and which of them a table used.

    Args:
        runs: the folder with a folder of records a profile.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.used: set[str] = set()
        self._read: dict[str, tuple[list[Record], list[str]]] = {}
        self._gathered: dict[str, tuple[list[Record], list[str]]] = {}  # by any artefact so far

    def for_another(self) -> "Inputs":
        """The same records, of which nothing is read or used yet; no file is parsed twice."""
        other = Inputs(self.runs)
        other._gathered = self._gathered
        return other

    def records(self, profile: str) -> list[Record]:
        if profile not in self._gathered:
            self._gathered[profile] = gather(self.runs / profile)
        self._read[profile] = self._gathered[profile]
        return self._read[profile][0]

    def problems(self, profile: str) -> list[str]:
        self.records(profile)
        return self._read[profile][1]

    def footer(self) -> tuple[str, ...]:
        """Return one line for each profile that was read and has files that cannot be used."""
        return tuple(
            line
            for profile, (_, problems) in self._read.items()
            for line in left_out(problems, f" of profile {profile}")
        )

    def files(self) -> list[Path]:
        """Return the files of the records that were used, and the folders where new ones would
        appear."""
        folders = [place for profile in self._read for place in places(self.runs / profile)]
        found = [
            file
            for folder in folders
            for file in files(folder)
            if file.suffix == ".jsonl" or file.stem.rpartition("-")[2] in self.used
        ]
        return [folder for folder in folders if folder.is_dir()] + found
