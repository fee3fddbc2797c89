"""The command `bszo`: the weights of a plain loop, scores by the formula, one line for what is
wrong, and nothing half-written."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import bszo
from bszo.cli.find_lr import judges
from bszo.cli.main import main
from bszo.cli.methods import METHODS
from bszo.cli.replay import checked
from bszo.cli.rows import read_rows
from bszo.errors import ModelError, TrajectoryError
from bszo.models import load_model, parameter_groups, weights_fingerprint
from bszo.models.mean import Mean
from bszo.models.saved import load_tuned, save_tuned
from bszo.tasks import batches, mini
from bszo.tasks.prompted import prompted
from bszo.trajectory import read
from bszo.trajectory.writer import encode

ROOT = Path(__file__).resolve().parents[2]
PROMPT, OPTIONS = "{sentence} It was", ("terrible", "great")
MODEL = "asset:tiny-opt"


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("rows")
    return (
        written(folder / "rows.jsonl", mini.generate("sst2", "train", 12, 0)),
        written(folder / "test.jsonl", mini.generate("sst2", "test", 6, 0)),
    )


def command(name: str, *arguments: object) -> int:
    return main([name, *map(str, arguments)])


def tune(rows: Path, *more: object, model: str = MODEL) -> int:
    given = ["--prompt", PROMPT, "--options", *OPTIONS, "--batch-size", 4]
    return command("tune", model, rows, *given, *more)


def dense(model: Any, path: Path) -> tuple[float, float]:
    """Accuracy and mean cross entropy of the options' mean log-probabilities, in float64, token by
    token."""
    right, loss = [], 0.0
    data = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in data:
        prompt = f"{row['sentence'].strip()} It was"
        scores = []
        for option in OPTIONS:
            start = len(model.tokenizer(prompt).input_ids)
            ids = model.tokenizer(f"{prompt} {option}", return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model.module(input_ids=ids).logits.double().log_softmax(-1)[0]
            found = [float(logits[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])]
            scores.append(sum(found) / len(found))
        right.append(scores.index(max(scores)) == row["label"])
        total = sum(math.exp(score) for score in scores)
        loss -= scores[row["label"]] - math.log(total)
    return sum(right) / len(data), loss / len(data)


def test_it_leaves_the_model_of_a_plain_loop_its_log_and_its_scores(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the log leads to the same bits, to those of an earlier step, and in the suite's replay
    too."""
    from experiments.replay import main as suite

    train, test = rows
    out, steps = tmp_path / "out", 4
    more = ("--test", test, "--lr", 0.05, "--eps", 0.001, "--steps", steps, "--score-every", 2)
    assert tune(train, *more, "--seed", 3, "--set", "k=3", "--out", out) == 0

    base = load_model(MODEL, dtype="float32", packed=None)
    before = dense(base, test)
    task = prompted(PROMPT, OPTIONS)
    data = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
    encoded = base.encode([task.example(row, "causal") for row in data])
    groups = parameter_groups(base.module, 0.0)
    plain = bszo.BSZO(groups, lr=0.05, eps=0.001, k=3, seed=3, module=base.module)
    prints = [weights_fingerprint(base.module)]
    for _, indices in zip(range(steps), batches(12, 4, 3), strict=False):
        batch = base.collate([encoded[i] for i in indices])
        plain.step(lambda batch=batch: base.loss(batch))
        prints.append(weights_fingerprint(base.module))

    tuned = load_model(str(out), dtype="float32")
    report = json.loads((out / "bszo.json").read_text(encoding="utf-8"))
    assert weights_fingerprint(tuned.module) == report["weights"]["after"] == prints[-1]
    assert report["status"] == "ok" and report["num_forwards"] == plain.num_forwards
    assert report["packed"] is True
    assert [score["step"] for score in report["scores"]] == [0, 2, 4]
    for score, (accuracy, loss) in (
        (report["scores"][0], before),
        (report["scores"][-1], dense(tuned, test)),
    ):
        assert score["accuracy"] == accuracy
        assert score["loss"] == pytest.approx(loss, rel=1e-4)

    log = out / "trajectory.bszo"
    for name, replayed, to in (
        ("a", lambda *a: command("replay", *a), 4),
        ("b", lambda *a: command("replay", *a), 2),
        ("c", lambda *a: suite([*map(str, a)]), 4),
    ):
        assert replayed(log, "--base", MODEL, "--to", to, "--out", tmp_path / name) == 0
        found = load_model(str(tmp_path / name), dtype="float32")
        assert weights_fingerprint(found.module) == prints[to]
    text, errors = capsys.readouterr()
    assert "'hide" not in errors and "+ ' terrible' | ' great'" in text
    assert sorted(tmp_path.iterdir()) == [tmp_path / name for name in ("a", "b", "c", "out")]
    for file in out.iterdir():  # the folders are their owner's
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_an_adapter_and_its_replay(rows: tuple[Path, Path], tmp_path: Path) -> None:
    out, more = tmp_path / "out", ("--tuning", "lora", "--rank", 2, "--method", "mezo")
    assert tune(rows[0], *more, "--lr", 1, "--steps", 2, "--held-out", 2, "--out", out) == 0
    assert (out / "adapter_model.safetensors").is_file() and not (out / "config.json").exists()
    replayed = tmp_path / "again"
    log = out / "trajectory.bszo"
    assert command("replay", log, "--base", MODEL, "--out", replayed) == 0
    prints = {
        weights_fingerprint(load_tuned(load_model(MODEL, dtype="float32"), folder).module)
        for folder in (out, replayed)
    }
    report = json.loads((out / "bszo.json").read_text(encoding="utf-8"))
    assert prints == {report["weights"]["after"]}
    assert report["weights"]["before"] != report["weights"]["after"]
    assert (report["rows"]["num_train"], report["rows"]["num_held_out"]) == (10, 2)


def test_parameters_by_name_and_their_replay(rows: tuple[Path, Path], tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    more = ("--tuning", "named", "--parameters", "*fc1.weight", "*norm.bias", "--method", "mezo")
    assert tune(rows[0], *more, "--lr", 1, "--steps", 2, "--held-out", 2, "--out", out) == 0
    assert command("replay", out / "trajectory.bszo", "--base", MODEL, "--out", again) == 0
    before, made, replayed = (
        load_model(str(place), dtype="float32").module.state_dict() for place in (MODEL, out, again)
    )
    moved = {name for name, value in made.items() if not torch.equal(value, before[name])}
    assert moved == {n for n in made if n.endswith(("fc1.weight", "norm.bias"))}
    assert all(torch.equal(replayed[name], value) for name, value in made.items())


def test_several_logs_make_the_mean_of_their_weights(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last bit that of the models that each log makes; no mean where there is none to
    take."""
    outs = [tmp_path / name for name in ("mezo", "bszo", "bf16", "lora", "other")]
    more = ("--lr", 0.05, "--eps", 0.001, "--steps", 2, "--held-out", 2)
    kinds: list[tuple[object, ...]] = [("--method", "mezo"), ("--seed", 1)]
    kinds += [("--dtype", "bfloat16"), ("--tuning", "lora", "--rank", 2)]
    for out, kind in zip(outs, kinds, strict=False):
        assert tune(rows[0], *more, *kind, "--out", out) == 0
    assert tune(rows[0], *more, "--out", outs[4], model=str(outs[0])) == 0
    logs = [out / "trajectory.bszo" for out in outs]
    capsys.readouterr()
    mean = tmp_path / "mean"
    assert command("replay", *logs[:2], "--base", MODEL, "--out", mean) == 0
    assert f"wrote {mean}: the mean of 2 runs, weights " in capsys.readouterr().out
    one, other, found = (
        load_model(str(place), dtype="float32").module.state_dict() for place in (*outs[:2], mean)
    )
    assert all(torch.equal(found[name], (one[name] + other[name]) / 2) for name in found)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])

    # in 16 bits the sum is of 32, and rounded once
    sums, half = Mean(), load_model(MODEL, dtype="bfloat16").module
    for value in (1.0, 1.0, 1.0078125):  # 1 and the next bf16: the mean rounds to 1
        with torch.no_grad():
            _ = [p.fill_(value) for p in half.parameters()]
        sums.add(half)
    sums.put(half)
    assert all(bool((p == 1).all()) for p in half.parameters())
    with pytest.raises(ModelError, match="trained other parameters, so that they have no mean"):
        sums.add(torch.nn.Linear(2, 2))

    base = "it trained another base, or the same base in another type, than"
    for given, says in (
        ((logs[0], logs[0]), "a log is named twice, and would count twice in the mean"),
        ((logs[0], logs[2]), f"{logs[2]}: {base}"),
        ((logs[0], logs[3]), f"{logs[3]}: {base}"),
        ((logs[0], logs[4]), f"{logs[4]}: {base}"),
        ((logs[0], copied(logs[0])), "are of one run, which would count twice"),
        ((logs[3], copied(logs[3])), "it trained lora, and the mean of such parameters is not"),
    ):
        assert command("replay", *given, "--base", MODEL, "--out", tmp_path / "none") == 1
        assert says in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_longer_copy_of_a_run_or_a_cut_one_is_no_other_run(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--lr", 0.05, "--held-out", 2, "--method", "mezo")
    for name, kind in (
        ("short", ("--steps", 2)),
        ("long", ("--steps", 3)),
        ("same", ("--steps", 2, "--lr", 0.01)),
    ):
        assert tune(rows[0], *more, *kind, "--out", tmp_path / name) == 0
    short, long, same = (tmp_path / n / "trajectory.bszo" for n in ("short", "long", "same"))
    capsys.readouterr()

    def said(*given: object) -> str:
        assert command("replay", *given, "--base", MODEL, "--out", tmp_path / "none") == 1
        assert not (tmp_path / "none").exists()
        return capsys.readouterr().err

    assert f"{short}: has 2 steps, where {long} has 3; --to 2, or less, takes" in said(short, long)
    assert "are of one run" in said(short, long, "--to", 2)
    long.write_bytes(long.read_bytes()[:-70])  # its last block is damaged
    assert f"{long}: has 0 steps, where {same} has 2" in said(same, long)
    mean = ("--base", MODEL, "--out", tmp_path / "mean")
    assert command("replay", short, same, *mean) == 0  # other batches, or another rate
    assert "have one seed, 0, and so the same directions" in capsys.readouterr().err


def test_a_replay_says_whether_its_weights_are_the_run_s(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert tune(rows[0], "--lr", 0.05, "--steps", 2, "--held-out", 2, "--out", out) == 0
    report = json.loads((out / "bszo.json").read_text(encoding="utf-8"))
    began = read(out / "trajectory.bszo").header.settings["noise_var"]
    assert report["arguments"]["noise_var"] == began and report["max_length"] == 256
    assert report["truncated"] == 0
    replay = ("replay", out / "trajectory.bszo", "--base", MODEL, "--out")
    capsys.readouterr()
    assert command(*replay, tmp_path / "a") == 0
    assert "the same to the bit as after the run" in capsys.readouterr().out
    assert command(*replay, tmp_path / "b", "--to", 1) == 0  # of which the report says nothing
    text, errors = capsys.readouterr()
    assert "after the run" not in text + errors
    report["weights"]["after"] = "0" * 64
    (out / "bszo.json").write_text(json.dumps(report), encoding="utf-8")
    assert command(*replay, tmp_path / "c") == 0
    assert "after the run: equal but for rounding, as another machine" in capsys.readouterr().err


def copied(log: Path) -> Path:
    """A second run of the same numbers."""
    other = log.with_name("copied.bszo")
    other.write_bytes(log.read_bytes())
    return other


def test_a_run_that_moves_nothing_says_so(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--method", "mezo", "--lr", "1e-30", "--steps", 1, "--held-out", 2, "--out", out)
    assert tune(rows[0], *more) == 0
    (warning,) = json.loads((out / "bszo.json").read_text(encoding="utf-8"))["warnings"]
    assert warning.startswith("100.0 % of the weights are what they were: lr is too small")
    assert capsys.readouterr().err == f"warning: {warning}\n"


@pytest.mark.parametrize(
    ("model", "factor", "said"),
    [
        (MODEL, math.nan, "the loss is nan"),
        # a norm divides by an infinite sum of squares, so that all scores are 0 and finite
        (
            "asset:tiny-mistral",
            1e30,
            "the model has collapsed: it says the same of all 2 rows",
        ),
    ],
)
def test_a_model_that_its_last_step_broke_is_not_written(
    model: str,
    factor: float,
    said: str,
    rows: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The step's own losses were taken before."""
    break_after(monkeypatch, factor)
    more = ("--method", "mezo", "--steps", 1, "--held-out", 2, "--out", tmp_path / "out")
    assert tune(rows[0], *more, model=model) == 3
    assert f"diverged, nothing was written: step 1: {said}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def break_after(monkeypatch: pytest.MonkeyPatch, factor: float, lr: float | None = None) -> None:
    """Every step of MeZO, or every one at this rate, ends with its parameters times a factor."""
    step = bszo.MeZO.step

    def breaking(self: Any, closure: Any) -> float:
        loss = step(self, closure)
        with torch.no_grad():
            for p in self.trainable() if lr in (None, self.param_groups[0]["lr"]) else ():
                p.mul_(factor)
        return loss

    monkeypatch.setattr(bszo.MeZO, "step", breaking)


def test_a_held_out_loss_that_has_risen_is_said(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its accuracy may have risen too: a model blown up gives one answer, which may be the most
    frequent one."""
    more = ("--method", "mezo", "--lr", 0.3, "--steps", 6, "--seed", 1, "--out", tmp_path / "out")
    assert tune(rows[0], *more, "--test", rows[1]) == 0
    report = json.loads((tmp_path / "out" / "bszo.json").read_text(encoding="utf-8"))
    first, *_, last = (score["loss"] for score in report["scores"])
    assert last > 2 * first + 1
    (warning,) = report["warnings"]
    assert warning.startswith(f"the held-out loss has risen from {first:.4g} to {last:.4g}")
    out, err = capsys.readouterr()
    assert f"warning: {warning}\n" in err
    assert f"(loss {first:.4g}) before" in out and f"(loss {last:.4g}) after 6 steps" in out


def test_what_a_bias_of_each_label_has_is_said_and_a_run_that_has_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two thirds of the rows have one label, whatever their texts say."""
    many = [{"sentence": f"the film {i}", "label": int(i % 3 == 0)} for i in range(60)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
    more = ("--method", "mezo", "--lr", 1e-5, "--steps", 1, "--out", tmp_path / "out")
    assert tune(file, *more) == 0
    report = json.loads((tmp_path / "out" / "bszo.json").read_text(encoding="utf-8"))
    floor, last = report["label_bias"], report["scores"][-1]
    assert floor["loss"] < last["loss"] and len(floor["values"]) == 2 and floor["rows"] == 48
    out, err = capsys.readouterr()
    said = f"accuracy {100 * floor['accuracy']:5.1f} %, loss {floor['loss']:.4f}"
    assert f"a bias of each label alone: held-out {said}\n" in out
    (warning,) = report["warnings"]
    assert warning.startswith("a bias of each label alone has a held-out loss of")
    assert f"warning: {warning}\n" in err


def test_a_linear_probe_needs_no_step_and_is_a_floor_under_those_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a text ends with is its label; a step of 1e-5 learns nothing of it."""
    ends = ("bad", "good")
    many = [{"sentence": f"the film {i} is {ends[i % 2]}", "label": i % 2} for i in range(40)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
    out, other = tmp_path / "out", tmp_path / "other"
    probe = ("--tuning", "linear-probe", "--start", "fitted")
    assert tune(file, "--method", "mezo", *probe, "--steps", 0, "--out", out) == 0
    report = json.loads((out / "bszo.json").read_text(encoding="utf-8"))
    (score,) = report["scores"]
    assert report["num_steps"] == report["num_forwards"] == 0 and report["warnings"] == []
    assert score["accuracy"] == 1.0 and report["probe"]["loss"] == pytest.approx(
        score["loss"], 1e-3
    )
    assert "a linear probe of tiny-opt, fitted; 32 rows train, 8 score" in capsys.readouterr().out
    assert (out / "probe.safetensors").is_file() and not (out / "model.safetensors").exists()
    capsys.readouterr()
    replayed = ["replay", str(out / "trajectory.bszo"), "--base", "asset:tiny-opt"]
    assert main([*replayed, "--out", str(other)]) == 1
    assert "tuning.start=fitted: begins with a head that was fitted" in capsys.readouterr().err
    assert not other.exists()

    assert tune(file, "--method", "mezo", "--lr", 1e-5, "--steps", 1, "--out", other) == 0
    report = json.loads((other / "bszo.json").read_text(encoding="utf-8"))
    (warning,) = report["warnings"]
    assert warning.startswith("a linear probe, fitted at once has a held-out loss of")
    assert warning.endswith("--start fitted --steps 0 gives a better model at once")
    assert report["probe"]["accuracy"] == 1.0 > report["scores"][-1]["accuracy"]

    capsys.readouterr()
    new = tmp_path / "new"
    assert tune(file, "--start", "fitted", "--out", new) == 1
    assert "--start fitted: it goes with --tuning linear-probe" in capsys.readouterr().err
    assert tune(file, "--steps", 0, "--out", new) == 1
    assert "--steps 0: 1 or more is valid" in capsys.readouterr().err and not new.exists()


def test_a_model_whose_files_do_not_say_its_kind_is_told_with_a_flag(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out, again = tmp_path / "base", tmp_path / "out", tmp_path / "again"
    save_tuned(load_model(MODEL, dtype="float32"), base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    written = json.dumps({**config, "architectures": ["OPTThing"]})
    (base / "config.json").write_text(written, encoding="utf-8")
    more = ("--method", "mezo", "--lr", 0.01, "--steps", 1, "--out", out)
    assert tune(rows[0], *more, model=str(base)) == 1
    said = "say which: --kind masked or --kind causal\n"
    assert capsys.readouterr().err.endswith(said) and not out.exists()
    assert tune(rows[0], *more, "--kind", "causal", model=str(base)) == 0
    replayed = (out / "trajectory.bszo", "--base", base, "--out", again)
    assert command("replay", *replayed) == 1 and capsys.readouterr().err.endswith(said)
    assert command("replay", *replayed, "--kind", "causal") == 0


def test_ctrl_c_keeps_the_steps_that_are_done(
    rows: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = bszo.MeZO.step

    def interrupted(self: Any, closure: Any) -> float:
        if self.num_steps == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, closure)

    monkeypatch.setattr(bszo.MeZO, "step", interrupted)
    out, before = tmp_path / "out", signal.getsignal(signal.SIGINT)
    assert tune(rows[0], "--method", "mezo", "--lr", 0.01, "--steps", 9, "--out", out) == 130
    assert signal.getsignal(signal.SIGINT) is before
    report = json.loads((out / "bszo.json").read_text(encoding="utf-8"))
    assert report["status"] == "interrupted" and report["num_steps"] == 2
    log = read(out / "trajectory.bszo")
    assert len(log.steps) == 2 and log.finished


def test_what_is_wrong_is_one_line_and_nothing_is_written(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, out = rows[0], tmp_path / "out"
    data = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
    data[6] = {"text": "x", "label": 0}
    broken = written(tmp_path / "broken.jsonl", data)
    empty = written(tmp_path / "empty.jsonl", [])
    there = sorted(tmp_path.iterdir())
    usual = ("--prompt", PROMPT, "--options", *OPTIONS, "--batch-size", 4, "--out", out)
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((MODEL, broken, *usual), 1, "broken.jsonl:7: no field 'sentence'; task broken.jsonl"),
        ((MODEL, empty, *usual), 1, "empty.jsonl: no rows"),
        ((MODEL, tmp_path / "no.jsonl", *usual), 1, "no.jsonl: no such file"),
        ((MODEL, train, *usual, "--method", "adamw"), 1, "--method adamw: is none; valid: bszo,"),
        ((MODEL, train, *usual, "--options", *OPTIONS, "fine"), 1, "no row's 'label' is 2 or"),
        ((MODEL, train, *usual, "--out", tmp_path), 1, "is there already"),
        ((MODEL, train, *usual, "--out", tmp_path / "a" / "b"), 1, "is no folder"),
        ((tmp_path / "no", train, *usual), 1, "there is no such folder"),
        ((MODEL, train, *usual, "--prompt", "{sentence} <mask>"), 1, "is for a masked model"),
        ((MODEL, train, *usual, "--set", "q=1"), 1, "--set q=1: bszo takes NAME=VALUE"),
        ((MODEL, train, *usual, "--set", "lr=1"), 1, "--lr says it"),
        ((MODEL, train, *usual, "--set", "k=0"), 1, "bszo: k=0"),
        ((MODEL, train, *usual, "--lr", "x"), 1, "argument --lr: invalid float value: 'x'"),
        ((MODEL, train, *usual, "--threads", 0), 1, "--threads 0: 1 to 1024"),
        ((MODEL, train, *usual, "--threads", 10**11), 1, "--threads 100000000000: 1 to 1024"),
        ((MODEL, train, *usual, "--seed", -1), 1, "--seed -1: 0 to"),
        ((MODEL, train, *usual, "--device", "meta"), 1, "device meta: holds no values"),
        ((MODEL, train, *usual, "--steps", 0), 1, "--steps 0: 1 or more"),
        ((MODEL, train, *usual, "--held-out", 12), 1, "--held-out 12: 1 to 11"),
        ((MODEL, train, *usual, "--batch-size", 11), 1, "batch size 11: must be 1 to 10"),
        ((MODEL, train, *usual, "--quantization", "nf4"), 1, "--tuning lora"),
        ((MODEL, train, *usual, "--tuning", "named"), 1, "--tuning named: --parameters NAME"),
        ((MODEL, train, *usual, "--parameters", "*bias"), 1, "--tuning full: --parameters NAME"),
        (
            (MODEL, train, *usual, "--method", "lozo", "--rank", 8),
            1,
            "--rank 8: it goes with --tuning lora, here it is full; that of --method is --set rank",
        ),
        ((MODEL, train, *usual, "--alpha", 2), 1, "--alpha 2: it goes with --tuning lora, here"),
        (
            (MODEL, train, *usual, "--tuning", "lora", "--num-tokens", 20),
            1,
            "--num-tokens 20: it goes with --tuning prefix or prompt, here it is lora",
        ),
        (
            (MODEL, train, *usual, "--quantization", "int8", "--tuning", "named"),
            1,
            "--quantization int8: the base is frozen",
        ),
        ((MODEL, train, *usual, "--lr", "1e30"), 3, "diverged, nothing was"),
    ]
    for arguments, code, line in cases:
        assert command("tune", *arguments) == code, line
        said = capsys.readouterr().err
        assert line in said and said.count("\n") == 1, said
        assert sorted(tmp_path.iterdir()) == there, line
    assert main([]) == 1 and main(["tone"]) == 1
    assert capsys.readouterr().err.count("\n") == 2


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"bszo {bszo.__version__}\n"


def test_find_lr_prints_its_table_and_says_whether_there_is_ground(
    rows: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--prompt", PROMPT, "--options", *OPTIONS, "--batch-size", 4, "--method", "mezo")
    short = ("--steps", 1, "--repeats", 2)
    still = ("--rates", "1e-31,1e-30")  # no weight moves
    code = command("find-lr", MODEL, rows[0], *given, *short, *still)
    lines = capsys.readouterr().out.splitlines()
    assert code == 2 and lines[-2].startswith("no rate is recommended")
    assert [line.split()[0] for line in lines[2:5]] == ["lr", "1e-31", "1e-30"]
    assert command("find-lr", MODEL, rows[0], *given, "--rates", "a") == 1
    assert "--rates a: numbers with commas" in capsys.readouterr().err


def test_find_lr_recommends_no_rate_that_kills_the_model(
    rows: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its loss is log 2 on every row, which may be lower than before. One batch of judges cannot
    tell by its losses."""
    break_after(monkeypatch, 1e30, lr=1)
    given = ("--prompt", PROMPT, "--options", *OPTIONS, "--batch-size", 4, "--method", "mezo")
    short = ("--steps", 1, "--repeats", 2, "--rates", "1e-5,1", "--judges", 4)
    command("find-lr", "asset:tiny-mistral", rows[0], *given, *short)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.strip().startswith("1 ")] == [
        ["1", "diverged"]
    ]
    assert "1 is recommended" not in lines[-2]


def test_the_methods_are_conf_s() -> None:
    """All but those whose steps no log of losses holds."""
    found = {}
    for path in (ROOT / "conf" / "optimizer").glob("*.yaml"):
        target = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"].rpartition(".")[2]
        cls = getattr(bszo, target)
        if issubclass(cls, bszo.ZerothOrderOptimizer) and not cls.reads_inputs:
            found[path.stem] = target
    left_out = {"forward-grad", "hybrid"}  # they differentiate
    assert {name: cls for name, (cls, _) in METHODS.items()} == {
        name: cls for name, cls in found.items() if name not in left_out
    }


def test_a_log_builds_a_method_of_this_library_and_nothing_else(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = {"_target_": "bszo.MeZO", "_partial_": True}
    for config, line in (
        ({}, "does not say how"),
        ({**node, "_target_": "os.system"}, "not one of this library's"),
        ({**node, "_target_": "bszo.find_lr"}, "not one of this library's"),
        ({**node, "_target_": 3}, "not one of this library's"),
        ({**node, "module": "x"}, "no such argument"),
        ({**node, "eps": {"_target_": "bszo.BSZO"}}, "a plain value"),
        ({**node, "num_directions": 10**9}, "at most 1000000"),
        ({**node, "directions": {"sparsity": [[1]]}}, "a plain value"),
        ({**node, "directions": 3}, "a mapping"),
    ):
        with pytest.raises(TrajectoryError) as error:
            checked(config)
        assert line in str(error.value)
    more = ("--method", "mezo", "--steps", 1, "--held-out", 2)
    assert tune(rows[0], *more, "--out", tmp_path / "out") == 0
    log = read(tmp_path / "out" / "trajectory.bszo")
    for change, line in (
        ({"seed": 8}, "setting seed is 0 there and 8 here"),
        ({"tuning": {"choice": {"method": "lora", "rank": 10**9, "alpha": 1}}}, "tuning.rank="),
        ({"tuning": {"choice": {"method": "lora", "rank": 8}}}, "needs rank, alpha"),
        ({"tuning": {"choice": {"method": "named", "parameters": "*"}}}, "a list of names"),
        ({"tuning": {"choice": {"method": "exec"}}}, "tuning='exec'"),
        ({"quantization": "exec"}, "model.quantization=exec"),
    ):
        header = replace(log.header, config={**log.header.config, **change})
        (tmp_path / "hostile.bszo").write_bytes(encode(header, log.steps, 4)[0])
        capsys.readouterr()
        given = ("--base", MODEL, "--out", tmp_path / "no")
        assert command("replay", tmp_path / "hostile.bszo", *given) == 1
        assert line in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_judges_are_drawn_and_count_alike() -> None:
    """A sorted file's first rows are all of one label; a last batch of one row would count as
    much as one of four."""
    drawn = judges(list(range(100)), 17, 4, seed=0)
    assert [len(rows) for rows in drawn] == [4] * 4
    together = [row for rows in drawn for row in rows]
    assert max(together) > 50 and len(set(together)) == 16
    assert judges([7, 8], 128, 4, seed=0) == [[7, 8]]


def test_held_out_rows_that_train_are_said(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--method", "mezo", "--lr", 1e-3, "--steps", 1, "--out", tmp_path / "out")
    assert tune(rows[0], *more, "--test", rows[0]) == 0
    assert "12 of 12 held-out rows have the text of a row that trains" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "bszo.json").read_text(encoding="utf-8"))
    assert report["rows"]["num_repeated"] == 12


def test_every_seed_holds_out_the_same_rows(rows: tuple[Path, Path], tmp_path: Path) -> None:
    """Or the mean of two runs, and a run that starts from it, would be scored on rows that trained.
    More held-out rows are those and others."""
    held = {}
    for seed, count in ((0, 3), (7, 3), (7, 5)):
        out = tmp_path / f"{seed}-{count}"
        more = ("--method", "mezo", "--lr", 1e-3, "--steps", 1, "--seed", seed, "--out", out)
        assert tune(rows[0], *more, "--held-out", count) == 0
        report = json.loads((out / "bszo.json").read_text(encoding="utf-8"))
        held[seed, count] = report["rows"]["sha256"]["held_out"]
    assert held[0, 3] == held[7, 3] != held[7, 5]

    def texts(count: int) -> set[str]:
        found = read_rows(
            rows[0],
            prompt=PROMPT,
            options=OPTIONS,
            label="label",
            label_names=None,
            test=None,
            num_held=count,
        )
        return {example.prompt for example in found.held}

    assert texts(3) < texts(5)
