"""Where rows come from: the hub, the user's own files, or the grammar. The same columns
everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from bszo.errors import ConfigError, DataError, needs, one_line
from bszo.tasks.rows import Row, read_jsonl
from bszo.tasks.task import Task

SplitName = Literal["train", "test"]
# the hub keeps a plain-file copy of sets that are programs, which `datasets` 4 and later refuse to
# run
PARQUET_REVISION = "refs/convert/parquet"
MOST_MINI_ROWS = 100_000


class Source(Protocol):
    """Gives a task's official rows, in their own order."""

    @property
    def seed(self) -> int:
        """The data seed: of the split and of what is generated; not the run's."""
        ...

    def rows(self, task: Task, split: SplitName) -> Sequence[Row]:
        """The official train split, or the one that we test on. DataError where there is none."""
        ...


@dataclass(frozen=True)
class HubSource:
    """Rows from the Hugging Face hub or its local cache (`data=hub`)."""

    seed: int = 0

    def rows(self, task: Task, split: SplitName) -> list[Row]:
        with needs("lm"):
            from datasets.exceptions import DatasetsError

        known = task.splits[split]
        at = "/".join(part for part in (task.hub.path, task.hub.name, known) if part)
        try:
            table = self._load(task, known)
        except (OSError, RuntimeError, ValueError, DatasetsError) as error:
            raise DataError(
                f"{at}: the hub gave no rows ({type(error).__name__}: {one_line(error)}); "
                "without a network use data=local data.root=DIR or data=mini"
            ) from error
        return [
            Row(values, f"{at}:{number}") for number, values in enumerate(table.to_list(), start=1)
        ]

    def _load(self, task: Task, split: str) -> Any:
        import datasets

        hub = task.hub
        try:
            return datasets.load_dataset(hub.path, hub.name, split=split, revision=hub.revision)
        except RuntimeError as error:
            if "script" not in str(error).lower():
                raise
        # files are named one by one because the copy knows no configurations: its folders are their
        # names
        files = {split: f"{hub.name or 'default'}/{split}/*.parquet"}
        return datasets.load_dataset(
            hub.path, split=split, revision=PARQUET_REVISION, data_files=files
        )


@dataclass(frozen=True)
class LocalSource:
    """Rows from `<root>/<task>/<split>.jsonl`, UTF-8, a JSON object a line (`data=local
    data.root=DIR`)."""

    root: str | None
    seed: int = 0

    def rows(self, task: Task, split: SplitName) -> list[Row]:
        name = f"{task.name}/{task.splits[split]}.jsonl"
        if not self.root:
            raise ConfigError(
                f"data.root is not set: data=local needs data.root=DIR, a folder with {name}"
            )
        try:
            path = Path(self.root).expanduser() / name
        except RuntimeError as error:
            raise ConfigError(f"data.root={self.root}: {error}") from error
        if not path.parents[1].is_dir():
            raise DataError(
                f"data.root={self.root}: there is no such folder; one with {name} is needed"
            )
        rows = read_jsonl(path)
        if not rows:
            raise DataError(f"{path}: no rows; the {split} split of task {task.name} is empty")
        return rows


@dataclass(frozen=True)
class MiniSource:
    """`num_train` and `num_test` rows made by a small grammar, a function of `seed`
    (`data=mini`)."""

    seed: int
    num_train: int
    num_test: int

    def rows(self, task: Task, split: SplitName) -> list[Row]:
        from bszo.tasks import mini

        num_rows = self.num_train if split == "train" else self.num_test
        if num_rows > MOST_MINI_ROWS:
            raise ConfigError(
                f"data.num_{split}={num_rows}: the grammar makes at most {MOST_MINI_ROWS} rows"
            )
        values = mini.generate(task.name, split, num_rows, self.seed)
        return [
            Row(row, f"mini/{task.name}/{split}:{number}")
            for number, row in enumerate(values, start=1)
        ]
