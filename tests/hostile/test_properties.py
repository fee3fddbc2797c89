"""Anything at all as configuration, row, record or trajectory: a valid result, or one line of ours;
never a file.

At least 2,000 cases as they are; `pytest --hypothesis-profile=deep tests/hostile` makes it 100,000.
"""

import copy
import io
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bszo.errors import BszoError
from bszo.tasks import Row, Splits, Task, make_splits, overlaps, read_jsonl
from bszo.trajectory import Header, Step
from bszo.trajectory.reader import parse as parse_trajectory
from bszo.trajectory.writer import encode
from experiments.config import schema
from experiments.records import record as records
from experiments.records import signing
from experiments.records.privacy import scrub_all
from experiments.training import build
from tests.compositions import OPTIMIZERS, with_files

TASKS = ("sst2", "copa", "trec", "wsc")
TIMES = settings().max_examples / 100  # of the profile that was chosen

NUMBERS = (
    st.integers() | st.integers(-3, 3) | st.sampled_from([10**30, -(2**63), 2**63]) | st.floats()
)
TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        "auto",
        "../../x",
        "a\0b",
        "a\nb",
        "\ud800",
        "~x",
        "os.system",
        "{x}",
        "<mask>",
        "bszo.BSZO",
        "x" * 3000,
    ]
)
TARGETS = st.fixed_dictionaries({"_target_": TEXTS | NUMBERS | st.none()})
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS | TARGETS
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
Plain = dict[str, Any]


def cases(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=math.ceil(count * TIMES),
        derandomize=TIMES == 1,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )


def one_line(error: Exception) -> None:
    assert len(str(error).splitlines()) == 1, repr(str(error))
    assert len(str(error)) < 2010


@pytest.fixture(scope="module", autouse=True)
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tests run, and where nothing may be written."""
    folder = tmp_path_factory.mktemp("properties")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    assert list(folder.iterdir()) == []


@cache
def configurations() -> list[Plain]:
    small = ["paths.results=results", "task.num_train=4", "task.num_validation=2"]
    pairs = [(name, TASKS[i % len(TASKS)]) for i, name in enumerate(OPTIMIZERS)]
    return [with_files(*small, f"task={task}", optimizer=name) for name, task in pairs]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into nested plain data."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn, bases: Callable[[], list[Plain]]) -> Plain:
    """One of the bases with one to three of its values replaced, keys removed or keys added."""
    value = copy.deepcopy(draw(st.sampled_from(bases())))
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(value))
        if not found:
            break
        *above, last = draw(st.sampled_from(found))
        node: Any = value
        for key in above:
            node = node[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if kind == "replace" or isinstance(node, list):
            node[last] = draw(ANYTHING)
        elif kind == "remove":
            del node[last]
        else:
            node[draw(TEXTS)] = draw(ANYTHING)
    return value


MODEL: Any = SimpleNamespace(module=nn.Linear(4, 3))


@cases(400)
@given(spoilt(configurations))
def test_configurations(config: Plain):
    try:
        run = schema.parse(config)
        public = scrub_all(signing.scientific(build.by_content(run)))
        assert len(signing.signature(public)) == 16
        assert isinstance(build._make(run.task), Task)
        build._make(run.data)
        build.make_optimizer(run.optimizer, MODEL)
    except BszoError as error:
        one_line(error)


@cache
def tasks() -> list[Task]:
    return [build._make(config["task"]) for config in configurations()[: len(TASKS)]]


ROWS = st.fixed_dictionaries(
    {},
    optional={
        key: ANYTHING for key in ("sentence", "text", "premise", "label", "coarse_label", "idx")
    },
)
LIKELY = st.fixed_dictionaries(
    {"sentence": TEXTS, "label": st.integers(-1, 2) | st.booleans()},
    optional={"idx": st.integers(0, 9)},
)


@cases(300)
@given(
    st.lists(LIKELY | ROWS, min_size=1, max_size=12), st.deferred(lambda: st.sampled_from(tasks()))
)
def test_rows(rows: list[Plain], task: Task):
    whole = [Row(row, f"x/train.jsonl:{number}") for number, row in enumerate(rows, start=1)]
    source: Any = SimpleNamespace(rows=lambda task, split: whole)
    try:
        splits = make_splits(task, source, order="permuted", seed=0)
    except BszoError as error:
        one_line(error)
        return
    assert isinstance(splits, Splits) and len(splits.train) == 4
    assert overlaps(task, splits)["test"] >= 4  # both official splits are the same rows here
    for row in whole:
        try:
            assert task.example(row.values, "masked", where=row.where).prompt.count("<mask>") == 1
        except BszoError as error:
            one_line(error)


LINES = st.binary(max_size=40) | st.builds(lambda value: json.dumps(value).encode(), ANYTHING)


@cases(400)
@given(st.lists(LINES, max_size=5))
def test_files_of_rows(file_of: Any, lines: list[bytes]):
    try:
        assert all(isinstance(row.values, dict) for row in read_jsonl(file_of(b"\n".join(lines))))
    except BszoError as error:
        one_line(error)


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Path]:
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    return lambda content: (path.write_bytes(content), path)[1]


def _record() -> Plain:
    plain = {
        str: "x",
        int: 1,
        float: 0.5,
        dict: {"task": "sst2"},
        list: [{"step": 0}],
        type(None): None,
    }
    filled = {key: copy.copy(plain[kinds[0]]) for key, kinds in records.FIELDS.items()}
    return filled | {"schema_version": records.SCHEMA_VERSION, "status": "ok"}


@cases(600)
@given(spoilt(lambda: [_record()]) | ANYTHING)
def test_records(value: Any):
    for text in (json.dumps(value), json.dumps(value, allow_nan=True).replace("1", "1e999")):
        try:
            found = records.parse(text.encode(), "x.json")
        except records.RecordError as error:
            one_line(error)
            continue
        assert "/" not in records.file_name(found)
        assert records.parse(json.dumps(found, allow_nan=False).encode(), "x.json") == found


FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 1e-4, 1e300])
STEPS = st.builds(
    lambda losses, c, rates, n: Step(tuple(losses), tuple(c), tuple(rates), (0.0,) * len(rates), n),
    st.lists(FLOATS, max_size=4),
    st.lists(FLOATS, max_size=3),
    st.lists(FLOATS, min_size=1, max_size=2),
    st.integers(0, 2**32 - 1),
)
HEADER = Header(
    base="0" * 64,
    optimizer="X",
    settings={},
    parameters="0" * 64,
    names=None,
    dtype="float32",
    device="cpu",
    noise_version=1,
    config={},
)


@cases(300)
@given(st.lists(STEPS, max_size=9), st.integers(1, 4), st.data())
def test_trajectories(steps: list[Step], block: int, data: st.DataObject):
    whole, chain = encode(HEADER, steps, block)
    found = parse_trajectory(io.BytesIO(whole))
    assert (repr(found.steps), found.problem, found.chain) == (repr(steps), None, chain)
    at = data.draw(st.integers(0, len(whole) - 1))
    hit = whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
    for damaged in (whole[:at], hit):
        try:
            cut = parse_trajectory(io.BytesIO(damaged))
        except BszoError as error:
            one_line(error)
            continue
        assert repr(cut.steps) == repr(steps[: len(cut.steps)])  # never a step that was not taken
        assert cut.problem is None or len(cut.problem.splitlines()) == 1
