"""Fixtures that every test may use."""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# no case may fail because the machine is busy
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
settings.register_profile("deep", max_examples=4000)  # pytest --hypothesis-profile=deep
# tests run beside each other; one thread each also makes sums reproducible
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_sessionstart() -> None:
    """What is imported to collect the tests is no garbage, and looking for some takes seconds."""
    gc.disable()


# what takes longest, a test or its fixture, and waits for processes of its own
LONG = ("notebooks", "test_launchers", "test_parallel", "test_artefacts", "test_own_optimizer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: at the end a process that is done takes over short ones of another."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command run in this process has Hydra set the root logger up; its handlers must not outlive
    their streams."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = [handler for handler in root.handlers if handler in handlers]
    root.setLevel(level)


@pytest.fixture
def shared() -> Path:
    """The folder of real rows and real small models beside the project; a user does not have it."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs the real rows and models in ../shared, which is not part of the project")
    return SHARED
