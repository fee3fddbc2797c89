"""Runs small enough to be killed by the dozen: a model of a few thousand weights, in processes that
start fast."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm
from transformers import OPTConfig, OPTForCausalLM

from bszo import files
from bszo.models import weights_fingerprint
from experiments.config.compose import compose
from experiments.training.runner import Runner
from experiments.training.session import Session
from tests.killing import FORK, PATIENCE, profiled
from tests.models.conftest import opt_tokenizer

# two runs of one configuration may differ in these
MEASURED = (
    "train_seconds",
    "evaluation_seconds",
    "step_ms",
    "peak_memory_bytes",
    "provenance",
    "num_parts",
)
# encoding a thousand rows would be most of a short run
FEW = ("data.num_train=64", "data.num_test=16", "task.num_train=32", "task.num_validation=16")
SMALL = [
    "model=local",
    "task=sst2",
    "data=mini",
    "data.num_train=64",
    "data.num_test=16",
    "task.num_train=24",
    "task.num_validation=16",
    "tracker=none",
    "tracker.progress=never",
    "tracker.log_every=2",
    "protocol=smoke",
    "protocol.num_steps=40",
    "protocol.eval_every=7",
    "protocol.checkpoint_every=3",
    "protocol.lr_schedule=linear",
    "device=cpu",
]
Plain = dict[str, Any]


def make_model(folder: Path) -> Path:
    """A random model with its tokenizer, saved."""
    torch.manual_seed(0)
    tokenizer = opt_tokenizer()
    size: Plain = {
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = OPTConfig(
        vocab_size=len(tokenizer), word_embed_proj_dim=16, max_position_embeddings=128, **size
    )
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def configuration(model: Path, results: Path, *overrides: str) -> Plain:
    """A resolved configuration of a small run."""
    own = [f"model.path={model}", f"paths.results={results}"]
    return compose([*SMALL, *own, *overrides])


def run_here(config: Plain) -> tuple[Plain, str]:
    """The record of a run in this process, and a digest of the weights that it ended with."""
    session = Session(config, {"task": "sst2", "model": "local", "optimizer": "x"}, [])
    record = session.run()
    assert session.parts is not None
    return record, weights_fingerprint(session.parts.model.module)


def numbers(record: Plain) -> Plain:
    """A record without what the clock and the machine say."""
    plain = {key: value for key, value in record.items() if key not in MEASURED}
    plain["curve"] = [
        {k: v for k, v in point.items() if k not in MEASURED} for point in record["curve"]
    ]
    return plain


def _child(
    config: Plain,
    out: str,
    slow_seconds: float,
    die_at: int | None,
    die_after: int | None,
    ready: Any,
    training: Any,
) -> None:
    """What a process does: slowed at every sync to disk, or dead at one of them, or after so many
    calls of training."""
    torch.set_num_threads(1)
    # the tests' own is shared by forks: one that dies with it would hold it for ever
    tqdm.set_lock(threading.RLock())
    count, sync = 0, files._sync

    def slow(path: Path) -> None:
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(slow_seconds)
        sync(path)

    def train(self: Runner, bar: Any) -> None:
        training.set()
        profiled(lambda: whole(self, bar), die_after) if die_after else whole(self, bar)

    files._sync, whole = slow, Runner._train
    Runner._train = train  # type: ignore[method-assign]
    ready.set()
    record, weights = run_here(config)
    Path(out).write_text(json.dumps([record, weights]))


class Processes:
    """Real processes, forked from this one, which has torch loaded."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out.json"

    def start(
        self,
        config: Plain,
        *,
        slow_seconds: float = 0.0,
        die_at: int | None = None,
        die_after: int | None = None,
        until: Literal["begin", "train"] = "begin",
    ) -> Any:
        """Begin a run; returns when the process has come to it, or to its training."""
        ready, training = FORK.Event(), FORK.Event()
        arguments = (config, str(self.out), slow_seconds, die_at, die_after, ready, training)
        process = FORK.Process(target=_child, args=arguments)
        process.start()
        assert (ready if until == "begin" else training).wait(PATIENCE)
        return process

    def finish(self, config: Plain) -> tuple[Plain, str]:
        """Run to the end; the record and the digest of the weights."""
        self.out.unlink(missing_ok=True)
        process = self.start(config)
        process.join(PATIENCE)
        assert process.exitcode == 0
        record, weights = json.loads(self.out.read_text())
        return record, weights


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
