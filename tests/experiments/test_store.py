"""The store: records are found, gathered and packed wherever they lie, and none is lost."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from bszo.files import written_whole
from experiments.records import record as records
from experiments.records import signing, store
from experiments.records.locks import claimed
from experiments.records.pack import main, pack

Made = dict[str, Any]


def of_seed(some_record: Made, seed: int, **changes: Any) -> Made:
    config = some_record["config"] | {"seed": seed}
    return some_record | {"config": config, "signature": signing.signature(config)} | changes


def test_packing_loses_nothing_and_again_changes_nothing(tmp_path: Path, some_record: Made):
    fresh = tmp_path / "runs" / "mini"
    made = [of_seed(some_record, seed) for seed in range(6)]
    for record in made:
        store.write(record, fresh)
    assert pack(fresh) == (6, [])
    packed = tmp_path / "records" / "mini" / "tiny-roberta.jsonl"
    lines = packed.read_text().splitlines()
    assert [json.loads(line) for line in lines] == sorted(made, key=lambda r: r["signature"])
    assert list(fresh.iterdir()) == []
    before = packed.stat().st_mtime_ns
    assert pack(fresh) == (0, []) and packed.stat().st_mtime_ns == before
    for folder in (fresh, packed.parent):  # whichever of the two places is asked
        found, problems = store.gather(folder)
        assert sorted(map(str, found)) == sorted(map(str, made)) and problems == []
        entry = store.find(made[3]["signature"], folder)
        assert entry is not None and entry.record == made[3] and entry.packed


def test_a_full_file_goes_on_in_another(
    tmp_path: Path, some_record: Made, monkeypatch: pytest.MonkeyPatch
):
    """New records go to the last part that has room; one that is there stays where it is."""
    size = len(store.line_of(some_record)) + 1
    monkeypatch.setattr("experiments.records.pack.FULL", int(2.5 * size))
    fresh, packed = tmp_path / "runs" / "mini", tmp_path / "records" / "mini"
    made = [of_seed(some_record, seed) for seed in range(5)]
    for begin, end in ((0, 1), (1, 5)):  # and those that come later
        for record in made[begin:end]:
            store.write(record, fresh)
        assert pack(fresh) == (end - begin, [])
    names = ["tiny-roberta.jsonl", "tiny-roberta~2.jsonl", "tiny-roberta~3.jsonl"]
    assert sorted(path.name for path in packed.glob("*.jsonl")) == names
    assert [len((packed / name).read_text().splitlines()) for name in names] == [2, 2, 1]
    found, problems = store.gather(packed)
    assert sorted(map(str, found)) == sorted(map(str, made)) and problems == []
    store.write(made[0], fresh)
    assert pack(fresh) == (1, [])  # it has its line already
    assert [len((packed / name).read_text().splitlines()) for name in names] == [2, 2, 1]


def test_a_killed_packer_leaves_a_record_twice_and_the_next_one_once(
    tmp_path: Path, some_record: Made
):
    fresh = tmp_path / "runs" / "mini"
    path = store.write(some_record, fresh)
    data = path.read_bytes()
    pack(fresh)
    path.write_bytes(data)  # the line was written, the file not yet removed
    assert store.gather(fresh) == ([some_record], [])
    assert pack(fresh) == (1, []) and not path.exists()
    assert store.gather(fresh) == ([some_record], [])


def test_what_has_not_settled_or_runs_stays(tmp_path: Path, some_record: Made):
    fresh = tmp_path / "runs" / "mini"
    stopped = store.write(of_seed(some_record, 1, status="interrupted", reason="SIGTERM"), fresh)
    running = store.write(some_record, fresh)
    with claimed(some_record["signature"], tmp_path / "locks"):
        pack(fresh)
        assert stopped.exists() and running.exists()
    assert pack(fresh) == (1, []) and stopped.exists() and not running.exists()


def test_of_two_runs_of_a_configuration_the_later_one_counts(tmp_path: Path, some_record: Made):
    fresh = tmp_path / "runs" / "mini"
    later = some_record | {"provenance": {"started": "2026-02-01T00:00:00Z"}}
    store.write(some_record, fresh)
    pack(fresh)
    store.write(later, fresh)
    assert store.gather(fresh) == ([later], [])
    assert pack(fresh) == (1, []) and store.gather(fresh) == ([later], [])
    path = store.write(some_record, fresh)  # an earlier one comes back: it is kept, and said
    count, (problem,) = pack(fresh)
    assert count == 0 and path.exists() and "later" in problem
    assert store.gather(fresh) == ([later], [])


def test_a_run_that_has_settled_counts_before_a_later_one_that_has_not(
    tmp_path: Path, some_record: Made
):
    fresh = tmp_path / "runs" / "mini"
    store.write(some_record, fresh)
    pack(fresh)
    started = {"started": "2026-02-01T00:00:00Z"}
    stopped = {"status": "interrupted", "reason": "SIGTERM", "provenance": started}
    store.write(some_record | stopped, fresh)
    assert store.gather(fresh) == ([some_record], [])
    entry = store.find(some_record["signature"], fresh)
    assert entry is not None and entry.record == some_record


def test_a_record_that_was_replaced_while_it_was_packed_stays(
    tmp_path: Path, some_record: Made, monkeypatch: pytest.MonkeyPatch
):
    fresh = tmp_path / "runs" / "mini"
    later = some_record | {"provenance": {"started": "2026-02-01T00:00:00Z"}}
    path = store.write(some_record, fresh)

    def written(file: Path) -> Any:
        store.write(later, fresh)  # before the line is on the disk
        return written_whole(file)

    monkeypatch.setattr("experiments.records.pack.written_whole", written)
    pack(fresh)
    assert store.load(path) == later and store.gather(fresh) == ([later], [])


def test_a_damaged_packed_file_is_left_as_it_is(
    tmp_path: Path, some_record: Made, capsys: pytest.CaptureFixture[str]
):
    fresh, packed = tmp_path / "runs" / "mini", tmp_path / "records" / "mini"
    packed.mkdir(parents=True)
    file = packed / "tiny-roberta.jsonl"
    file.write_text("<<<<<<< HEAD\n")
    path = store.write(some_record, fresh)
    assert main(["mini", "--runs", str(tmp_path / "runs")]) == 1
    assert "tiny-roberta.jsonl:1: not whole JSON" in capsys.readouterr().err
    assert file.read_text() == "<<<<<<< HEAD\n" and path.exists()
    found, (problem,) = store.gather(fresh)
    assert found == [some_record] and problem.startswith("tiny-roberta.jsonl:1: ")


def test_a_packed_file_with_a_run_twice_is_left_as_it_is(tmp_path: Path, some_record: Made):
    fresh = tmp_path / "runs" / "mini"
    store.write(some_record, fresh)
    pack(fresh)
    file = tmp_path / "records" / "mini" / "tiny-roberta.jsonl"
    file.write_text(twice := 2 * file.read_text())
    path = store.write(of_seed(some_record, 1), fresh)
    count, (problem,) = pack(fresh)
    assert count == 0 and "two records with the signature" in problem
    assert file.read_text() == twice and path.exists()


def _write_and_pack(folder: Path, made: list[Made]) -> None:
    for record in made:
        store.write(record, folder)
        pack(folder)


def test_any_number_of_writers_and_packers(tmp_path: Path, some_record: Made):
    fresh = tmp_path / "runs" / "mini"
    made = [of_seed(some_record, seed) for seed in range(24)]
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_and_pack, args=(fresh, made[i::4])) for i in range(4)]
    for writer in writers:
        writer.start()
    least = 0
    while any(writer.is_alive() for writer in writers):
        found, problems = store.gather(fresh)
        assert problems == [] and len(found) >= least
        least = len(found)
    assert [writer.exitcode for writer in writers] == [0] * 4
    pack(fresh)
    found, problems = store.gather(fresh)
    assert problems == [] and list(fresh.iterdir()) == []
    assert {r["signature"] for r in found} == {r["signature"] for r in made}


def test_a_prefix_of_a_signature_finds_its_record(tmp_path: Path, some_record: Made):
    fresh = tmp_path / "runs"
    made = [of_seed(some_record, seed) for seed in range(3)]
    for record in made[:2]:
        store.write(record, fresh / "mini")
    pack(fresh / "mini")
    store.write(made[2], fresh)
    roots = (fresh, tmp_path / "records")
    for record in made:
        (entry,) = store.starting_with(record["signature"][:8], roots)
        assert entry.record == record
    assert len(store.starting_with("", roots)) == 3
    later = made[0] | {"provenance": {"started": "2026-02-01T00:00:00Z"}}
    store.write(later, fresh / "mini")
    for order in (roots, roots[::-1]):
        assert later in [entry.record for entry in store.starting_with("", order)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"signature": "0" * 16}, "is not its configuration's"),
        ({"test_accuracy": 7.77}, "test_accuracy 7.77 is not within 0 and 1"),
        ({"zero_shot_accuracy": -0.1}, "zero_shot_accuracy -0.1"),
        ({"num_steps": -1}, "num_steps -1"),
        ({"num_forwards": 10**30}, "num_forwards 1000"),
        ({"train_seconds": -1.0}, "train_seconds -1.0"),
        ({"test_accuracy": None}, "status ok without a test accuracy"),
        ({"reason": "it was stopped"}, "status ok with a reason"),
        ({"status": "diverged"}, "status diverged without a reason"),
        ({"validation_accuracy": 0.9}, "validation_accuracy 0.9 is 0.75 on the curve"),
        ({"best_step": 10}, "best_step 10 is no point"),
        ({"num_steps": 10}, r"curve\[1\].step 20"),
        ({"num_forwards": 50}, r"curve\[1\].num_forwards 60"),
    ],
)
def test_a_record_that_cannot_be_believed_is_left_out(
    tmp_path: Path, some_record: Made, change: Made, says: str
):
    with pytest.raises(records.RecordError, match=says):
        records.validate(some_record | change, "x.json")
    name = records.file_name(some_record)
    (tmp_path / name).write_text(json.dumps(some_record | change))
    found, (problem,) = store.gather(tmp_path)
    assert found == [] and name in problem


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"validation_accuracy": 1.5}, r"curve\[0\].validation_accuracy 1.5 is not within"),
        ({"step": 20, "validation_accuracy": 0.75}, r"curve\[1\].step 20 is not between"),
    ],
)
def test_a_point_that_cannot_be_believed(some_record: Made, change: Made, says: str):
    first, best = some_record["curve"]
    with pytest.raises(records.RecordError, match=says):
        records.validate(some_record | {"curve": [first | change, best]}, "x.json")


def test_a_record_under_another_s_name_is_not_found(tmp_path: Path, some_record: Made):
    other = of_seed(some_record, 1)
    (tmp_path / records.file_name(some_record)).write_text(json.dumps(other))
    with pytest.raises(records.RecordError, match=other["signature"]):
        store.find(some_record["signature"], tmp_path)


def test_a_pipe_a_long_name_and_a_name_without_text(tmp_path: Path, some_record: Made):
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / os.fsdecode(b"b\xff\x1b.json")).write_text("{")
    (tmp_path / "c.json").mkdir()
    store.write(some_record, tmp_path)
    found, problems = store.gather(tmp_path)
    assert found == [some_record] and len(problems) == 3
    assert "a.json: no regular file" in problems[0] and "c.json: no regular" in problems[2]
    assert problems[1].isprintable() and problems[1].startswith("b\\udcff\\x1b.json: not whole")
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(records.RecordError, match="cannot be read"):
            store.load(Path(name))


def test_a_key_twice_is_refused(some_record: Made):
    text = json.dumps(some_record)
    for twice in (
        text.replace('"test_accuracy": 0.7', '"test_accuracy": 0.7, "test_accuracy": 0.9'),
        text.replace('"seed": 0', '"seed": 0, "seed": 0'),
    ):
        with pytest.raises(records.RecordError, match="stands twice in one object"):
            records.parse(twice.encode(), "x.json")


def test_every_record_in_git_is_sound():
    for folder in sorted(store.PACKED.iterdir()):
        found, problems = store.gather(folder)
        assert found and problems == []
        for file in folder.glob("*.jsonl"):
            names = [json.loads(line)["signature"] for line in file.read_text().splitlines()]
            assert names == sorted(set(names)), file
