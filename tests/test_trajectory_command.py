"""`python -m experiments.replay`: a run in this process, its log, and the same weights from base
and log alone."""

import getpass
import json
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from bszo.models import load_model, weights_fingerprint
from bszo.tasks import Example
from bszo.trajectory import TrajectoryWriter, describe, read, record
from bszo.trajectory.writer import encode
from experiments.replay import main
from experiments.sweeps.matching import model_node
from experiments.training.build import make_optimizer
from tests.forked import run_module

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "good", "bad", "film", "it", "was"]
BSZO: dict[str, Any] = {
    "_target_": "bszo.BSZO",
    "_partial_": True,
    "lr": 1e-3,
    "prior_var": 1.0,
    "seed": 7,
    "weight_decay": 0.1,
}
NUM_STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model of a few thousand parameters."""
    folder = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
        pad_token_id=1,
        bos_token_id=0,
    )
    OPTForCausalLM(config).save_pretrained(folder)
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    return folder


RESTRICTED = {"sparsity": 0.5, "mask_scope": "global", "mask_interval": 2, "blocks": "transformer"}


def train(base: Path, log: Path, node: dict[str, Any], dtype: Any = "float32") -> list[str]:
    """A run with its log; the fingerprint of the weights after 0, 1, 2, ... steps."""
    model = load_model(str(base), dtype=dtype)
    optimizer: Any = make_optimizer(node, model)
    seen = [weights_fingerprint(model.module)]
    batch = model.collate(model.encode([Example("0", "film it was", (" good", " bad"), 0)]))
    with TrajectoryWriter(
        log, describe(optimizer, base=seen[0], config=node), flush_every=4
    ) as writer:
        record(optimizer, writer)
        for _ in range(NUM_STEPS):
            optimizer.step(lambda: model.loss(batch))
            seen.append(weights_fingerprint(model.module))
        writer.finish()
    return seen


@pytest.fixture
def run(base: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "run.log", train(base, tmp_path / "run.log", BSZO)


def command(log: Path, base: Path, out: Path, *more: str) -> int:
    return main([str(log), "--base", str(base), "--out", str(out), *more])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "node",
    [
        BSZO,
        {"_target_": "bszo.MeZOAdam", "_partial_": True, "betas": [0.5, 0.9]},
        {"_target_": "bszo.MeZO", "_partial_": True, "directions": RESTRICTED},
    ],
)
def test_weights_come_back_bit_for_bit(
    base: Path, tmp_path: Path, dtype: Any, node: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    seen = train(base, log, node, dtype)
    assert len(set(seen)) == NUM_STEPS + 1
    for more, step in ((), NUM_STEPS), (("--to", "3"), 3), (("--to", "0"), 0):
        out = tmp_path / f"out-{step}"
        assert command(log, base, out, *more) == 0
        assert weights_fingerprint(load_model(str(out), dtype=dtype).module) == seen[step]
        text, errors = capsys.readouterr()
        assert f"{step} steps, weights {seen[step]}" in text and errors == ""
        assert f"digest {read(log).digest}" in text
        assert f"read {NUM_STEPS} steps of" in text and f"{log.stat().st_size} bytes" in text


def test_as_a_command_of_its_own(base: Path, tmp_path: Path, run: tuple[Path, list[str]]) -> None:
    arguments = [str(run[0]), "--base", str(base), "--to", "2", "--out", str(tmp_path / "out")]
    done = run_module("experiments.replay", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run[1][2] in done.stdout and (tmp_path / "out" / "model.safetensors").is_file()


def test_a_model_is_named_as_for_a_run(
    base: Path, tmp_path: Path, run: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(f"path: {base}\n")
    monkeypatch.setattr("experiments.sweeps.matching.CONF", tmp_path)
    assert command(run[0], Path("mine"), tmp_path / "out") == 0
    assert model_node("local") == model_node("../secret") == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what a machine without a GPU does")
def test_the_log_of_a_gpu_s_run_is_replayed_where_there_is_none(
    base: Path, tmp_path: Path, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found, elsewhere = read(run[0]), tmp_path / "cuda.log"
    elsewhere.write_bytes(encode(replace(found.header, device="cuda"), found.steps, 4)[0])
    assert command(elsewhere, base, tmp_path / "out") == 0
    text, errors = capsys.readouterr()
    assert run[1][NUM_STEPS] in text
    assert errors == "the run was on cuda, this is cpu: equal but for rounding, not bitwise\n"


def test_nothing_private_is_written(
    base: Path, tmp_path: Path, run: tuple[Path, list[str]]
) -> None:
    assert command(run[0], base, tmp_path / "out") == 0
    for path in [run[0], *(tmp_path / "out").iterdir()]:
        data = path.read_bytes()
        for private in (
            str(tmp_path.parent),
            str(base),
            str(Path.home()) + "/",
            f"/{getpass.getuser()}/",
            str(ROOT),
        ):
            assert private.encode() not in data, path.name


def test_a_damaged_tail_is_said_and_the_rest_replayed(
    base: Path, tmp_path: Path, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    log, seen = run
    log.write_bytes(log.read_bytes()[:-70])
    assert command(log, base, tmp_path / "out") == 0
    text, errors = capsys.readouterr()
    assert f"4 steps, weights {seen[4]}" in text and "not marked as finished" in text
    assert "bytes are lost, the 4 steps before them are sound" in errors and errors.count("\n") == 1
    assert command(log, base, tmp_path / "more", "--to", "5") == 1
    assert "step 5: the trajectory goes from 0 to 4" in capsys.readouterr().err


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line of a command that fails, having left the folder as it was."""
    before = sorted(folder.rglob("*"))
    assert command(*arguments) == 1
    assert sorted(folder.rglob("*")) == before
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Traceback" not in line
    return line


def test_inputs_that_cannot_be_used(
    base: Path, tmp_path: Path, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = run[0], tmp_path / "out"
    other = tmp_path / "other"
    shutil.copytree(base, other)
    module: Any = load_model(str(base), dtype="float32").module
    with torch.no_grad():
        next(module.parameters()).view(-1)[3] += 1e-3
    module.save_pretrained(other)
    capsys.readouterr()
    assert "base is '" in refused(tmp_path, capsys, log, other, out)
    assert "there is no such folder" in refused(tmp_path, capsys, log, tmp_path / "no", out)
    assert "no.log: cannot be read" in refused(tmp_path, capsys, tmp_path / "no.log", base, out)
    assert "not a trajectory" in refused(tmp_path, capsys, base / "config.json", base, out)
    assert "is there already" in refused(tmp_path, capsys, log, base, other)
    assert "is no folder" in refused(tmp_path, capsys, log, base, tmp_path / "a" / "b")
    assert "name too long" in refused(tmp_path, capsys, log, base, tmp_path / ("x" * 300))
    assert "step 99: the trajectory goes from 0 to 6" in refused(
        tmp_path, capsys, log, base, out, "--to", "99"
    )
    future = tmp_path / "future.log"
    future.write_bytes(log.read_bytes()[:8] + b"\x09" + log.read_bytes()[9:])
    assert "format version 9; this version" in refused(tmp_path, capsys, future, base, out)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({}, "does not say how its optimizer is built"),
        ({**BSZO, "_target_": "os.system"}, "'os.system': not one of this library's methods"),
        ({**BSZO, "_target_": "bszo.tasks.os.system"}, "not one of this library's methods"),
        ({**BSZO, "_target_": "bszo.optim.base.require"}, "not one of this library's methods"),
        ({"_target_": "bszo.trajectory.TrajectoryWriter", "path": "x"}, "not one of this library"),
        ({"_target_": ["bszo.BSZO"]}, "not one of this library's methods"),
        ({**BSZO, "lr": {"_target_": "bszo.BSZO"}}, "optimizer.lr: a plain value"),
        ({**BSZO, "k": [{"_target_": "bszo.BSZO"}]}, "optimizer.k: a plain value"),
        ({**BSZO, "kk": 3}, "optimizer.'kk': BSZO has no such argument"),
        ({**BSZO, "module": 3}, "optimizer.'module': BSZO has no such argument"),
        ({**BSZO, "a\nb": 3}, "optimizer.'a\\nb': BSZO has no such argument"),
        ({**BSZO, "seed": "${oc.env:HOME}"}, "seed="),
        ({**BSZO, "directions": {"blocks": "no"}}, "blocks"),
        ({**BSZO, "directions": {"rows": 1}}, "rows"),
        ({**BSZO, "directions": 3}, "3: a mapping of names to values is valid"),
        (
            {**BSZO, "tuning": {"choice": {"method": "lora", "rank": 8}, "num_labels": 2}},
            "tuning=lora: has 'rank'; needs rank, alpha",
        ),
        ({**BSZO, "tuning": {"choice": {"method": "full"}, "num_labels": 10**9}}, "num_labels=1"),
        ({**BSZO, "tuning": {"choice": {"method": "full"}, "seed": 2**70}}, "tuning.seed="),
        ({**BSZO, "quantization": "int3"}, "int3"),
        ({**BSZO, "seed": 8}, "setting seed is 7 there and 8 here"),
        ({**BSZO, "eps": -1.0}, "eps=-1.0"),
        ({**BSZO, "k": 10**9, "m": 10**9}, "optimizer.k=1000000000: at most 1000000 is taken"),
        ({**BSZO, "m": 10**9}, "optimizer.m=1000000000: at most 1000000 is taken"),
    ],
)
def test_a_log_cannot_run_code_or_build_another_optimizer(
    base: Path,
    tmp_path: Path,
    run: tuple[Path, list[str]],
    config: dict[str, Any],
    error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = read(run[0])
    (tmp_path / "hostile.log").write_bytes(
        encode(replace(found.header, config=config), found.steps, 4)[0]
    )
    assert error in refused(tmp_path, capsys, tmp_path / "hostile.log", base, tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_log_that_would_give_nan_is_refused(
    base: Path,
    tmp_path: Path,
    run: tuple[Path, list[str]],
    value: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = read(run[0])
    steps = [*found.steps[:3], replace(found.steps[3], weight_decay=(value, 0.0)), *found.steps[4:]]
    (tmp_path / "nan.log").write_bytes(encode(found.header, steps, 4)[0])
    line = refused(tmp_path, capsys, tmp_path / "nan.log", base, tmp_path / "out")
    assert line == f"step 3: weight_decay[0]={value}: a finite number of at least 0 is valid\n"
    assert command(tmp_path / "nan.log", base, tmp_path / "out", "--to", "3") == 0


def test_a_full_disk_leaves_nothing(
    base: Path, tmp_path: Path, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        assert "out: cannot be written" in refused(tmp_path, capsys, run[0], base, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_the_config_in_the_header_is_the_one_given(run: tuple[Path, list[str]]) -> None:
    assert read(run[0]).header.config == json.loads(json.dumps(BSZO))
