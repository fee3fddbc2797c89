"""A record names all that is needed to run it again, and running it again gives it again."""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.records import record as records
from experiments.records import signing, store
from experiments.records.comparison import comparison, differences
from experiments.records.pack import pack
from experiments.rerun import configuration, found, main
from experiments.training.runner import Runner
from tests.experiments.conftest import Cli
from tests.experiments.runs import make_model
from tests.models.gguf_files import Q8_0, write_gguf

SMALL = (
    "protocol=smoke",
    "tracker=none",
    "task.num_train=16",
    "task.num_validation=8",
    "device=cpu",
    "threads=1",
    "protocol.checkpoint_every=2",
)
MINI = ("data.num_train=32", "data.num_test=8")
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("rerun") / "model")


def one(folder: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = (folder / "runs").iterdir()
    return path, store.load(path)


def test_a_shipped_model_needs_the_record_alone(cli: Cli, tmp_path: Path, capfd: Said):
    assert (
        cli(
            *SMALL,
            *MINI,
            "optimizer=bszo",
            "precision=bf16",
            "seed=3",
            f"paths.results={tmp_path / 'r'}",
        ).code
        == 0
    )
    path, record = one(tmp_path / "r")
    assert main([str(path), "--out", str(tmp_path / "again")]) == 0
    said = capfd.readouterr().out
    assert "equal, bit for bit" in said and "DIFFERENT" not in said
    _, again = one(tmp_path / "again")
    assert again["signature"] == record["signature"] and again["config"] == record["config"]
    assert [p["train_loss"] for p in again["curve"]] == [p["train_loss"] for p in record["curve"]]
    assert "not run now" not in said
    # a number that was changed by hand is found
    record["curve"][-1]["train_loss"] += 1e-6
    (tmp_path / "edited.json").write_text(json.dumps(record))
    assert main([str(tmp_path / "edited.json"), "--out", str(tmp_path / "again")]) == 3
    said = capfd.readouterr().out
    assert "curve: train_loss" in next(line for line in said.splitlines() if "DIFFERENT" in line)
    assert f"not run now: {tmp_path / 'again' / 'runs'}" in said


def test_folders_are_asked_for_and_held_to_their_content(
    cli: Cli, tmp_path: Path, model: Path, capfd: Said
):
    (tmp_path / "data" / "sst2").mkdir(parents=True)
    for name, count in (("train", 30), ("validation", 8)):
        rows = [{"sentence": f"{name} film {i}", "label": i % 2} for i in range(count)]
        (tmp_path / "data" / "sst2" / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    local = ["model=local", f"model.path={model}", "data=local", f"data.root={tmp_path / 'data'}"]
    assert cli(*SMALL, *local, "optimizer=mezo", f"paths.results={tmp_path / 'r'}").code == 0
    path, _ = one(tmp_path / "r")
    out = ["--out", str(tmp_path / "again")]
    tries = [
        ([], "give its folder with --model DIR"),
        (["--model", str(tmp_path / "none")], "no such folder"),
        (["--model", str(tmp_path / "data")], "the record was made with model@"),
        (["--model", str(model)], "give its folder with --data DIR"),
        (["--model", str(model), "--data", str(model)], "no such folder"),
    ]
    for arguments, says in tries:
        assert main([str(path), *arguments, *out]) == 1
        said = capfd.readouterr().err.strip()
        assert says in said and "\n" not in said
    assert not (tmp_path / "again").exists()
    assert main([str(path), "--model", str(model), "--data", str(tmp_path / "data"), *out]) == 0
    assert "equal, bit for bit" in capfd.readouterr().out


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 99}'])
def test_what_is_no_record(tmp_path: Path, text: str, capfd: Said):
    (tmp_path / "x.json").write_text(text)
    assert main([str(tmp_path / "x.json")]) == 1
    assert "x.json" in capfd.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        {"provenance": {"started": ""}},
        {"hardware": {"device": "cpu", "torch_threads": 10**9}},
        {"hardware": {"device": "cpu,cuda", "torch_threads": 1}},
        {"fidelity": "none"},
        {"fidelity": "[x"},
        {"fidelity": "../tracker/wandb"},
        {},  # its configuration is a toy
    ],
)
def test_a_record_of_no_run_is_one_line(
    tmp_path: Path, some_record: dict[str, Any], damage: Any, capfd: Said
):
    hardware = damage.get("hardware", {"device": "cpu", "torch_threads": 1})
    there = {"hardware": hardware, "versions": {}, "byte_order": "little", "started": ""}
    record = some_record | {"provenance": damage.get("provenance", there)}
    record["choices"] |= {"fidelity": damage.get("fidelity", "corrected")}
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert main([str(tmp_path / "x.json"), "--out", str(tmp_path / "again")]) == 1
    said = capfd.readouterr().err.strip()
    assert said.startswith("x.json: holds no run that could be run again") and "\n" not in said
    assert not (tmp_path / "again").exists()


def test_a_stranger_s_record_chooses_no_tracker_no_folder_and_no_checkpoint(
    tmp_path: Path, cli: Cli
):
    assert cli(*SMALL, *MINI, "optimizer=mezo", f"paths.results={tmp_path / 'r'}").code == 0
    _, record = one(tmp_path / "r")
    record["config"] |= {
        "tracker": {"kind": "wandb", "mode": "online", "project": "theirs"},
        "paths": {name: str(tmp_path / "theirs") for name in ("results", "runs", "wandb")},
        "checkpoint": {"kind": "full", "weights": str(tmp_path / "theirs")},
        "threads": 64,
    }
    assert records.validate(record, "x.json") is record  # the signature does not cover them
    made = configuration(record, model=None, data=None, out=tmp_path / "again")
    assert made["tracker"]["kind"] == "none" and made["threads"] == 1
    assert "theirs" not in json.dumps(made)
    assert made["paths"]["runs"] == str(tmp_path / "again" / "runs")


def test_a_signature_names_a_record(
    tmp_path: Path, some_record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    fresh = tmp_path / "runs"
    monkeypatch.setattr(store.starting_with, "__defaults__", ((fresh, tmp_path / "records"),))
    twins = []
    for seed in range(40):  # two of forty share their first hex digit
        config = some_record["config"] | {"seed": seed}
        twin = some_record | {"config": config, "signature": signing.signature(config)}
        store.write(twin, fresh)
        twins.append(twin)
    assert found(twins[0]["signature"])[1] == twins[0]
    assert found(twins[7]["signature"][:8])[1] == twins[7]
    pack(fresh)
    path, again = found(twins[7]["signature"])
    assert again == twins[7] and path.suffix == ".jsonl"
    monkeypatch.setattr("experiments.rerun.SIGNATURE", re.compile("[0-9a-f]+"))
    for text, says in ((twins[0]["signature"][0], "signatures begin so"), ("0" * 16, "no file")):
        with pytest.raises(records.RecordError, match=says) as caught:
            found(text)
        assert "\n" not in str(caught.value)


def test_an_interrupt_is_no_difference(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: Said
):
    assert cli(*SMALL, *MINI, "optimizer=mezo", f"paths.results={tmp_path / 'r'}").code == 0
    path, _ = one(tmp_path / "r")

    def stopped(self: Runner, indices: list[int]) -> None:
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(Runner, "_step", stopped)
    assert main([str(path), "--out", str(tmp_path / "again")]) == 130
    assert "stopped by SIGTERM; the same command goes on" in capfd.readouterr().err


def test_another_machine_is_named_and_compared_within_tolerances(some_record: dict[str, Any]):
    machine = {
        "versions": {"torch": "2.0"},
        "hardware": {"device": "cpu", "cpu": "a"},
        "byte_order": "little",
    }
    other = {
        "versions": {"torch": "2.1"},
        "hardware": {"device": "cuda", "gpu": "b"},
        "byte_order": "little",
        "parallel": {"world_size": 2},
    }
    assert differences(machine, machine) == []
    changed = differences(machine | {"dirty": True}, machine | {"dirty": False})
    assert changed == ["commit: None (dirty) there, None here"]
    found = differences(machine, other)
    assert (
        "version of torch: 2.0 there, 2.1 here" in found and "processes: 1 there, 2 here" in found
    )
    near = copy.deepcopy(some_record)
    near["test_accuracy"] += 0.01
    near["curve"][1]["train_loss"] *= 1.005

    def equal(there: dict[str, Any], here: dict[str, Any], *, bitwise: bool) -> bool:
        return all(line.equal for line in comparison(there, here, bitwise=bitwise))

    assert equal(some_record, near, bitwise=False) and not equal(some_record, near, bitwise=True)
    warned = copy.deepcopy(some_record)
    warned["warnings"] = {"coarse_loss": {"count": 3, "first_step": 1, "detail": ""}}
    assert not equal(some_record, warned, bitwise=True)
    assert equal(some_record, warned, bitwise=False)
    earlier = copy.deepcopy(some_record)
    del earlier["curve"][1]["validation_loss"]  # not written yet then
    assert equal(earlier, some_record, bitwise=True)
    near["curve"] = copy.deepcopy(some_record["curve"])
    for point in (*near["curve"], *(complete := copy.deepcopy(some_record))["curve"]):
        point["validation_loss"] = 0.5
    near["curve"][1]["validation_loss"] = 0.7
    assert not equal(complete, complete | {"curve": near["curve"]}, bitwise=False)
    small = copy.deepcopy(complete)  # 0.001 and 0.02 are no losses that agree within 2 %
    for record, loss in ((complete, 0.001), (small, 0.02)):
        record["curve"][1]["train_loss"] = loss
    assert not equal(complete, small, bitwise=False)
    for key, value in (
        ("num_forwards", 61),
        ("test_accuracy", 0.75),
        ("status", "diverged"),
        ("test_accuracy", None),
        ("curve", some_record["curve"][:1]),
    ):
        assert not equal(some_record, some_record | {key: value}, bitwise=False)


@pytest.mark.parametrize(
    "key", ["device", "cpu", "instructions", "widened", "gpu", "torch_threads"]
)
def test_every_fact_that_moves_a_bit_is_named(key: str):
    there, here = (
        {"versions": {}, "byte_order": "little", "hardware": {key: value}} for value in "ab"
    )
    assert differences(there, here) == [f"{key}: a there, b here"]


def test_a_gguf_file_is_named_by_its_sha_256_and_asked_for(
    cli: Cli, tmp_path: Path, capfd: Said, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    local = ["model=local", f"model.path={file}", "optimizer=mezo", "tuning=lora"]
    assert cli(*SMALL, *MINI, *local, f"paths.results={tmp_path / 'r'}").code == 0
    path, record = one(tmp_path / "r")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["config"]["model"]["path"] == f"tiny.gguf@{digest[:12]}"
    assert record["model"]["origin"]["sha256"] == digest
    assert record["model"]["origin"]["weights"] == "Q4_1 dequantised"
    assert main([str(path), "--model", str(file), "--out", str(tmp_path / "again")]) == 0
    assert "equal, bit for bit" in capfd.readouterr().out
    write_gguf(file, kinds=(Q8_0,))
    assert main([str(path), "--model", str(file), "--out", str(tmp_path / "again")]) == 1
    assert f"the record was made with tiny.gguf@{digest[:12]}" in capfd.readouterr().err
