"""Records: what names them, that they survive, and that damage is said."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.config.schema import Paths
from experiments.records import record as records
from experiments.records import signing, store
from experiments.training.folders import Folders


def test_signature_is_stable_across_versions():
    # written down once: a change here orphans every record in git
    assert (
        signing.signature({"seed": 0, "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]}})
        == "b4183404b3ece444"
    )


def test_signature_ignores_order_and_the_way_a_number_is_written():
    a = {"seed": 1, "optimizer": {"lr": 0.0001, "eps": 1.0}}
    b = {"optimizer": {"eps": 1, "lr": 1e-4}, "seed": 1}
    assert signing.signature(a) == signing.signature(b)


@pytest.mark.parametrize("group", signing.NOT_SCIENTIFIC)
def test_signature_leaves_out_what_moves_no_number(group: str):
    assert signing.signature({"seed": 0, group: {"x": 1}}) == signing.signature({"seed": 0})


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"task": {"version": 2}}, {"precision": {"dtype": "float16"}}]
)
def test_signature_moves_with_anything_else(change: dict[str, Any]):
    assert signing.signature({"seed": 0} | change) != signing.signature({"seed": 0})


def test_round_trip(tmp_path: Path, some_record: dict[str, Any]):
    path = store.write(some_record, tmp_path)
    assert path.name == f"sst2-tiny-roberta-bszo-{some_record['signature']}.json"
    assert store.load(path) == some_record
    found = store.find(some_record["signature"], tmp_path)
    assert found is not None and (found.record, found.file) == (some_record, path)
    assert store.find("0" * 16, tmp_path) is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no temporary file stays


def test_nan_becomes_null(tmp_path: Path, some_record: dict[str, Any]):
    some_record["curve"][1]["train_loss"] = math.nan
    some_record["step_ms"] = math.inf
    loaded = store.load(store.write(some_record, tmp_path))
    assert loaded["curve"][1]["train_loss"] is None
    assert loaded["step_ms"] is None


def test_choices_cannot_leave_the_folder(tmp_path: Path, some_record: dict[str, Any]):
    some_record["choices"]["model"] = "../../etc/x y"
    assert store.write(some_record, tmp_path / "runs").parent == tmp_path / "runs"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_failed_write_leaves_the_old_record(tmp_path: Path, some_record: dict[str, Any]):
    path = store.write(some_record, tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        store.write(some_record | {"data": {"x": object()}}, tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "not whole JSON"),
        (lambda text: "", "not whole JSON"),
        (lambda text: "[]", "not a run's record"),
        (lambda text: '{"a": 1}', "not a run's record"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 99'),
            "schema_version 99",
        ),
        (lambda text: text.replace('"status": "ok"', '"status": "fine"'), "'fine'"),
        (lambda text: text.replace('"best_step"', '"best_stop"'), "misses best_step"),
        (
            lambda text: text.replace('"test_accuracy": 0.7', '"test_accuracy": "0.7"'),
            "test_accuracy is str",
        ),
        (
            lambda text: text.replace('"test_accuracy": 0.7', '"test_accuracy": true'),
            "test_accuracy is bool",
        ),
        (lambda text: text.replace('"test_accuracy": 0.7', '"test_accuracy": NaN'), "NaN"),
        (lambda text: "[" * 100_000, "x.json"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, some_record: dict[str, Any], damage: Any, says: str):
    path = tmp_path / "x.json"
    path.write_text(damage(json.dumps(some_record)))
    with pytest.raises(records.RecordError, match=says) as caught:
        store.load(path)
    assert "x.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(records.RecordError, match="UTF-8"):
        store.load(tmp_path / "x.json")


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(records.RecordError, match="cannot be read"):
        store.load(tmp_path / "none.json")
    with pytest.raises(records.RecordError, match="no such"):
        store.load_all([tmp_path / "none"])


def test_reading_records_loads_neither_torch_nor_hydra():
    code = (
        "import sys, experiments.records.store, experiments.records.pack;"
        " print([m for m in ('torch', 'hydra', 'pydantic', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_signature_has_one_record_under_whatever_names_it_ran(
    tmp_path: Path, some_record: dict[str, Any]
):
    place = Folders(
        Paths(str(tmp_path), str(tmp_path / "runs"), str(tmp_path)), some_record["signature"]
    )
    for name in ("bszo", "mine"):  # a file of the user's own that says what the project's says
        path = place.write(
            some_record
            | {
                "status": "crashed",
                "reason": "it crashed",
                "choices": some_record["choices"] | {"optimizer": name},
            }
        )
    assert list((tmp_path / "runs").iterdir()) == [path]


def test_arguments_that_came_later_leave_earlier_signatures_as_they_were():
    def signed(optimizer: str, fidelity: str) -> dict[str, Any]:
        config = compose([f"optimizer={optimizer}", f"fidelity={fidelity}", "tracker=none"])
        return signing.scientific(config)

    for optimizer, key, as_run in (
        ("lozo-m", "start", "first"),
        ("fzoo", "deviation", "population"),
    ):
        assert signed(optimizer, "official")["optimizer"][key] == as_run
        for fidelity in ("corrected", "paper", "official"):
            plain = signed(optimizer, fidelity)
            assert (key in plain["optimizer"]) is (fidelity == "official")
            later = signing.NOT_SCIENTIFIC_KEYS["fidelity"]
            assert {"lozo_m_start", "fzoo_deviation", "loren_score"} <= set(later)
            assert not plain["fidelity"].keys() & later


def test_a_momentum_that_came_later_is_one_method_s_own():
    """SubZero's 0 is in its signatures; own directions had no such key when theirs were made."""

    def signed(*words: str) -> dict[str, Any]:
        return signing.scientific(compose([*words, "tracker=none"]))["optimizer"]

    assert signed("optimizer=subzero")["momentum"] == 0.0
    for name in ("mezo-each", "bszo-each"):
        assert "momentum" not in signed(f"optimizer={name}")
        assert signed(f"optimizer={name}", "optimizer.momentum=0.5")["momentum"] == 0.5


def test_a_window_is_part_of_the_signature_and_a_dense_mean_is_not():
    def signed(*more: str) -> dict[str, Any]:
        return signing.scientific(compose(["optimizer=zo-ldsd", *more, "tracker=none"]))[
            "optimizer"
        ]

    assert "mean_window" not in signed()
    assert signed("optimizer.mean_window=4") == {**signed(), "mean_window": 4}


def test_an_estimator_is_part_of_the_signature_where_it_is_not_the_old_one():
    def signed(*more: str) -> dict[str, Any]:
        return signing.scientific(compose(["optimizer=mezo", *more, "tracker=none"]))["optimizer"]

    later = {"estimator", "law", "law_ratio", "law_exponent", "law_terms"}
    assert not later & signed().keys()
    assert signed("optimizer.estimator=p4", "optimizer.law_terms=6").keys() & later == {
        "estimator",
        "law_terms",
    }
