"""The command line on something hostile, and what must be left of it: one line, a code, and no
file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiments.conftest import Cli, cli  # noqa: F401 (a fixture)
from tests.experiments.runs import make_model

SMALL = (
    "protocol=smoke",
    "tracker=none",
    "optimizer=mezo",
    "task.num_train=16",
    "task.num_validation=8",
    "device=cpu",
)
MINI = ("data.num_train=32", "data.num_test=8")


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., str]:  # noqa: F811
    """Run it; the one line that it says, after a look at what it left."""

    def call(*arguments: str) -> str:
        mini = () if any(argument.startswith("data=") for argument in arguments) else MINI
        done = cli(*SMALL, *mini, f"paths.results={tmp_path / 'results'}", *arguments)
        lines = done.err.strip().splitlines()
        assert (done.code, len(lines)) == (1, 1), done.err
        left = [
            path
            for path in (tmp_path / "results").rglob("*")
            if path.is_file() and path.suffix != ".lock"
        ]
        assert left == []
        return lines[0]

    return call


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a few thousand weights."""
    return make_model(tmp_path_factory.mktemp("hostile") / "model")
