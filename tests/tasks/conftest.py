"""The task files as a user of plain Python would read them: YAML, then the constructor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bszo.tasks import Row, Task

CONF = Path(__file__).resolve().parents[2] / "conf"
TASK_NAMES = ("boolq", "cb", "copa", "multirc", "rte", "sst2", "trec", "wic", "winogrande", "wsc")


@pytest.fixture
def arguments() -> Callable[[str], dict[str, Any]]:
    """task name -> the arguments in its file."""

    def read(name: str) -> dict[str, Any]:
        node = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert node.pop("_target_") == "bszo.tasks.Task"
        return node

    return read


@pytest.fixture
def load_task(arguments: Callable[[str], dict[str, Any]]) -> Callable[..., Task]:
    """(task name, changed arguments) -> the task."""
    return lambda task_name, **changes: Task(**(arguments(task_name) | changes))


class ListSource:
    """A source that holds its rows."""

    seed = 0

    def __init__(self, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
        self.values = {"train": train, "test": test}

    def rows(self, task: Task, split: str) -> list[Row]:
        return [
            Row(row, f"list/{split}:{number}")
            for number, row in enumerate(self.values[split], start=1)
        ]


@pytest.fixture
def list_source() -> type[ListSource]:
    return ListSource


@pytest.fixture(params=TASK_NAMES)
def task_name(request: pytest.FixtureRequest) -> str:
    return request.param
