"""The three sources give the same columns, and say clearly why they give none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bszo.errors import ConfigError, DataError
from bszo.tasks import HubSource, LocalSource, MiniSource, Task

CONF = Path(__file__).resolve().parents[2] / "conf"
VALUES = [{"sentence": "good", "label": 1, "idx": 0}, {"sentence": "bad", "label": 0, "idx": 1}]


class FakeHub:
    """Stands for datasets.load_dataset: refuses what it is told to, and remembers what it was
    asked."""

    def __init__(
        self, refusal: Exception | None = None, also_parquet: Exception | None = None
    ) -> None:
        self.refusal, self.also_parquet = refusal, also_parquet
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> datasets.Dataset:
        self.calls.append((args, kwargs))
        error = self.also_parquet if kwargs.get("data_files") else self.refusal
        if error:
            raise error
        return datasets.Dataset.from_list(VALUES)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeHub]:
    def install(*args: Any) -> FakeHub:
        hub = FakeHub(*args)
        monkeypatch.setattr(datasets, "load_dataset", hub)
        return hub

    return install


def test_hub_rows(fake_hub: Callable[..., FakeHub], load_task: Callable[..., Task]) -> None:
    hub = fake_hub()
    rows = HubSource().rows(load_task("sst2"), "test")
    assert hub.calls == [(("nyu-mll/glue", "sst2"), {"split": "validation", "revision": None})]
    assert [row.values for row in rows] == VALUES
    assert rows[1].where == "nyu-mll/glue/sst2/validation:2"
    assert (
        load_task("sst2").example(rows[1].values, "causal", where=rows[1].where).id
        == "validation:1"
    )


@pytest.mark.parametrize(
    ("task_name", "path", "folder"),
    [
        ("wsc", "aps/super_glue", "wsc.fixed"),
        ("trec", "CogComp/trec", "default"),
    ],
)
def test_sets_that_are_programs_come_from_their_parquet_copy(
    task_name: str,
    path: str,
    folder: str,
    fake_hub: Callable[..., FakeHub],
    load_task: Callable[..., Task],
) -> None:
    hub = fake_hub(RuntimeError("Dataset scripts are no longer supported, but found x.py"))
    assert len(HubSource().rows(load_task(task_name), "train")) == 2
    files = {"train": f"{folder}/train/*.parquet"}
    assert hub.calls[1:] == [
        ((path,), {"split": "train", "revision": "refs/convert/parquet", "data_files": files})
    ]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub\n(LocalEntryNotFoundError)"),
        DatasetNotFoundError("Dataset doesn't exist"),
        ValueError("Unknown split"),
        RuntimeError("out of luck"),
        DatasetGenerationError("broken"),
    ],
)
def test_hub_failure_is_one_line_with_the_way_out(
    error: Exception, fake_hub: Callable[..., FakeHub], load_task: Callable[..., Task]
) -> None:
    hub = fake_hub(error)
    with pytest.raises(DataError) as caught:
        HubSource().rows(load_task("sst2"), "train")
    message = str(caught.value)
    assert message.startswith(
        "nyu-mll/glue/sst2/train: the hub gave no rows (" + type(error).__name__
    )
    assert message.endswith("without a network use data=local data.root=DIR or data=mini")
    assert "\n" not in message and len(hub.calls) == 1


def test_parquet_failure_is_one_line_too(
    fake_hub: Callable[..., FakeHub], load_task: Callable[..., Task]
) -> None:
    fake_hub(RuntimeError("Dataset scripts are no longer supported"), FileNotFoundError("no copy"))
    with pytest.raises(DataError, match="no copy"):
        HubSource().rows(load_task("rte"), "train")


def test_a_programmers_error_is_not_swallowed(
    fake_hub: Callable[..., FakeHub], load_task: Callable[..., Task]
) -> None:
    fake_hub(TypeError("unexpected keyword"))
    with pytest.raises(TypeError):
        HubSource().rows(load_task("sst2"), "train")


def test_local_rows(tmp_path: Path, load_task: Callable[..., Task]) -> None:
    (tmp_path / "sst2").mkdir()
    path = tmp_path / "sst2" / "validation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in VALUES), encoding="utf-8")
    rows = LocalSource(str(tmp_path)).rows(load_task("sst2"), "test")
    assert [row.values for row in rows] == VALUES
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:2"]


def test_local_test_split_of_trec_is_test(tmp_path: Path, load_task: Callable[..., Task]) -> None:
    with pytest.raises(DataError, match=r"trec/test\.jsonl: no such file"):
        LocalSource(str(tmp_path)).rows(load_task("trec"), "test")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_local_file(content: str, tmp_path: Path, load_task: Callable[..., Task]) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.jsonl").write_text(content)
    with pytest.raises(
        DataError, match=r"train\.jsonl: no rows; the train split of task sst2 is empty"
    ):
        LocalSource(str(tmp_path)).rows(load_task("sst2"), "train")


@pytest.mark.parametrize("root", [None, ""])
def test_local_without_a_root(root: str | None, load_task: Callable[..., Task]) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=DIR, a folder with rte/train\.jsonl$"):
        LocalSource(root).rows(load_task("rte"), "train")


def test_mini_passes_its_sizes_and_seed_on(
    load_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bszo.tasks import mini

    calls = []
    monkeypatch.setattr(mini, "generate", lambda *args: calls.append(args) or VALUES)
    source, task = MiniSource(seed=5, num_train=30, num_test=20), load_task("sst2")
    rows = source.rows(task, "train") + source.rows(task, "test")
    assert calls == [("sst2", "train", 30, 5), ("sst2", "test", 20, 5)]
    assert [row.where for row in rows] == [
        f"mini/sst2/{part}:{n}" for part in ("train", "test") for n in (1, 2)
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("hub", HubSource), ("local", LocalSource), ("mini", MiniSource)]
)
def test_file_builds(name: str, kind: type) -> None:
    source = instantiate(OmegaConf.load(CONF / "data" / f"{name}.yaml"))
    assert type(source) is kind and source.seed == 0


def test_mini_file_holds_rows_enough(task_name: str, load_task: Callable[..., Task]) -> None:
    source, task = instantiate(OmegaConf.load(CONF / "data" / "mini.yaml")), load_task(task_name)
    assert source.num_train >= task.num_train + task.num_validation
