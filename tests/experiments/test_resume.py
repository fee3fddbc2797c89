"""A run that is stopped, by whatever and wherever, ends as one that never was: bit for bit."""

import errno
import json
import os
import random
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from tqdm import tqdm

import bszo
from bszo import files
from bszo.errors import BszoError
from bszo.models import weights_fingerprint
from bszo.trajectory import TrajectoryWriter, read
from experiments.config.schema import Protocol
from experiments.records import store
from experiments.training.build import Parts
from experiments.training.checkpoints.serialize import CheckpointError, pack, unpack
from experiments.training.checkpoints.trajectory import TrajectoryCheckpoints
from experiments.training.checkpoints.weights import Checkpoints
from experiments.training.runner import Runner
from experiments.training.session import Session
from experiments.training.signals import Signals
from experiments.training.tracking import NoTracker, WandbTracker
from tests.compositions import OPTIMIZERS, few_probes, with_files
from tests.experiments.conftest import Cli, Lines, points
from tests.experiments.runs import Processes, configuration, make_model, numbers, run_here, wait_for
from tests.killing import PATIENCE, kill, profiled

LOUD = ["optimizer.lr=1e-2"]  # every step moves every weight


class Kill(BaseException):
    """Ends a run in this process where nothing may be written any more."""


# --- in this process: every border of steps, for every optimizer and precision ---


class Tabled(nn.Module):
    """Points of a plane, each moved by its quadrant's entry in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.quadrants = nn.Embedding(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.quadrants((x > 0).long() @ torch.tensor([1, 2]))


class Net(Lines):
    """Two layers of a plane's separation, in any precision, behind a table where embeddings take
    part; one parameter is used outside its owner."""

    def __init__(self, dtype: torch.dtype, tabled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(2, 4), nn.Linear(4, 2)
        self.module = nn.Sequential(*[Tabled()] * tabled, *layers).to(dtype)  # type: ignore[assignment]
        self.dtype = dtype
        self.by_modules = False  # a direction for each example is seen by modules alone

    def _logits(self, x: Tensor) -> Tensor:
        module: Any = self.module
        if self.by_modules:
            return module(x.to(self.dtype)).float()
        a, b = module
        return nn.functional.linear(torch.tanh(a(x.to(self.dtype))), b.weight, b.bias).float()

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self._logits(batch.x), batch.labels)

    def losses(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self._logits(batch.x), batch.labels, reduction="none")

    def examples(self, batch: Any) -> tuple[Tensor, ...]:
        return ()

    @torch.no_grad()
    def logits(self, encoded: list[Any], *, max_tokens: int) -> Tensor:
        return self._logits(torch.stack([e.point for e in encoded]))


@pytest.fixture(scope="module")
def nodes() -> dict[str, dict[str, Any]]:
    """Every optimizer's configuration, and that of directions in all parts inside a subspace."""
    found = {name: few_probes(with_files(optimizer=name)["optimizer"]) for name in OPTIMIZERS}
    parts = {"vectors": "perturb", "embeddings": "perturb"}
    kept = {"subspace": "lozo", "subspace_interval": 2}
    seen = {"prior_var": 1.0, "noise_var": 1.0}  # steps that 16 bits do not swallow
    return found | {SUBSPACE: found["bszo-each"] | parts | kept | seen}


def unlogged(node: dict[str, Any]) -> str:
    """Why a log of losses is not enough for a method; empty where it is."""
    if "algorithm" in node:
        return "follows true gradients"
    return "inputs of layers" if node["_target_"] == "bszo.AGZO" else ""


def make_runner(
    folder: Path, node: dict[str, Any], dtype: torch.dtype, kind: str, **protocol: Any
) -> Runner:
    """A part of a run: from the checkpoint in `folder`, or from the beginning."""
    model: Any = Net(dtype, tabled=node.get("embeddings") == "perturb")
    rate = {"lr": 0.05} if "lr" in node else {"algorithm": {**node["algorithm"], "lr": 0.05}}
    node = node | rate | ({"eps": 1e-2} if "eps" in node else {})
    optimizer = instantiate(node, _convert_="all")(
        list(model.module.parameters()), module=model.module
    )
    model.by_modules = optimizer.per_example
    facts = {"fingerprint": weights_fingerprint(model.module)}
    parts = Parts(model, optimizer, points(64, 0), points(32, 1), points(32, 2), {}, facts)
    checkpoints = (
        Checkpoints(folder, "s", parts)
        if kind == "full"
        else TrajectoryCheckpoints(folder, "s", parts, node, writes=True)
    )
    found = checkpoints.load()
    plain = {
        "label_bias": "none",
        "num_steps": 14,
        "max_forwards": None,
        "batch_size": 8,
        "eval_every": 4,
        "patience": None,
        "lr_schedule": "linear",
        "max_eval_examples": None,
        "eval_max_tokens": 64,
        "checkpoint_every": 3,
        "on_nonfinite": "stop",
    }
    runner = Runner(
        parts,
        Protocol(**(plain | protocol)),
        seed=0,
        tracker=NoTracker(),
        signals=Signals(),
        log_every=5,
        progress="never",
        checkpoints=checkpoints,
    )
    if found:
        runner.resume(*found)
    else:
        checkpoints.start()
    return runner


def outcome(runner: Runner) -> dict[str, Any]:
    """All that must be equal, parameters and optimizer state as bits."""
    result = runner.result
    curve = [{k: v for k, v in point.items() if k != "train_seconds"} for point in result.curve]
    tensors: dict[str, Tensor] = {}
    packed = pack(runner.optimizer.state_dict(), tensors)
    as_lists: Any = {name: tensor.tolist() for name, tensor in tensors.items()}
    return {
        "weights": weights_fingerprint(runner.parts.model.module),
        "curve": curve,
        "state": unpack(packed, as_lists),
        "steps": result.num_steps,
        "forwards": runner.optimizer.num_forwards,
        "backwards": runner.optimizer.num_backwards,
        "best": (result.best_step, result.validation_accuracy),
        "stale": result.num_stale,
        "scores": (result.zero_shot_accuracy, result.test_accuracy),
        "warnings": runner.guards.warnings,
        "step_count": len(runner.meters.step_ms),
    }


def break_after(runner: Runner, steps: int, stop: BaseException) -> None:
    """Have the part end once it has made so many steps."""
    step, last = runner._step, runner.result.num_steps + steps

    def breaking(indices: list[int]) -> None:
        step(indices)
        if runner.result.num_steps == last:
            raise stop

    runner._step = breaking  # type: ignore[method-assign]


# a state of each kind: a belief, moments, a basis, low-rank momentum, a curvature, backpropagation,
# both, none
KINDS = ("bszo", "mezo-adam", "subzero", "lozo-m", "hizoo", "adamw", "hybrid", "mezo-each")
PAIRS = ((torch.float32, "full"), (torch.bfloat16, "trajectory"))
SUBSPACE = "bszo-each-lozo"
BOTH = (*KINDS, SUBSPACE, "sgd", "agzo")  # the last two refuse the second
# every method with one of the two in `make test`, in turns, and one of each kind of state with both
STOPPED = [
    pytest.param(
        name,
        *pair,
        id=f"{name}-{('fp32', 'bf16')[i]}-{pair[1]}",
        marks=() if name in BOTH or i == number % 2 else pytest.mark.exhaustive,
    )
    for number, name in enumerate([*OPTIMIZERS, SUBSPACE])
    for i, pair in enumerate(PAIRS)
]


@pytest.mark.parametrize(("name", "dtype", "kind"), STOPPED)
def test_stopped_at_every_border_of_steps(
    tmp_path: Path, nodes: Any, name: str, dtype: torch.dtype, kind: str
):
    def make(folder: str) -> Runner:
        return make_runner(tmp_path / folder, nodes[name], dtype, kind, num_steps=6)

    if kind == "trajectory" and (reason := unlogged(nodes[name])):
        with pytest.raises(BszoError, match=reason):
            make("whole")
        return
    whole = make("whole")
    whole.run()
    for part in range(1, 7):  # a part a step
        runner = make("parts")
        assert (runner.result.num_steps, runner.result.num_parts) == (part - 1, part)
        break_after(runner, 1, KeyboardInterrupt("SIGTERM"))
        with pytest.raises(KeyboardInterrupt):
            runner.run()
    runner = make("parts")
    runner.run()
    assert outcome(runner) == outcome(whole)
    for steps in (2, 5):  # nothing is saved at the end: back to the last interval
        runner = make(str(steps))
        break_after(runner, steps, Kill())
        with pytest.raises(Kill):
            runner.run()
        runner = make(str(steps))
        assert runner.result.num_steps == steps - steps % 3
        runner.run()
        assert outcome(runner) == outcome(whole)


# the other methods' runs are killed by `make test-all`
@pytest.mark.parametrize(
    "name",
    [
        name if name in KINDS else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in OPTIMIZERS
    ],
)
def test_killed_at_four_moments(tmp_path: Path, nodes: Any, name: str):
    """One in each quarter of the way from the model's making to the record: in a step, an
    evaluation, a checkpoint's write."""
    # the precisions take turns: above, every method is stopped in both
    dtype = (torch.float32, torch.bfloat16)[OPTIMIZERS.index(name) % 2]
    kind = "trajectory" if dtype == torch.bfloat16 and not unlogged(nodes[name]) else "full"
    # its own is shared by forks: one that dies with it would hold it for ever
    tqdm.set_lock(threading.RLock())

    def part(folder: str) -> Runner:
        runner = make_runner(
            tmp_path / folder,
            nodes[name],
            dtype,
            kind,
            num_steps=6,
            checkpoint_every=2,
            eval_every=3,
        )
        runner.run()
        return runner

    expected = outcome(part("whole"))
    calls, moments = profiled(lambda: part("counted")), random.Random(f"{name} {dtype}")
    for i in range(4):
        at = moments.randrange(max(1, i * calls // 4), (i + 1) * calls // 4)
        kill(lambda folder=str(i): part(folder), at=at)
        assert outcome(part(str(i))) == expected


def test_stopped_while_it_evaluates_or_scores(
    tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
):
    whole = make_runner(tmp_path / "whole", nodes["bszo"], torch.float32, "full", patience=2)
    calls = 0
    logits = Net.logits

    def counted(self: Net, encoded: list[Any], *, max_tokens: int) -> Tensor:
        nonlocal calls, fatal
        calls += 1
        if calls == fatal:
            raise KeyboardInterrupt("SIGTERM")
        return logits(self, encoded, max_tokens=max_tokens)

    fatal = 0
    monkeypatch.setattr(Net, "logits", counted)
    whole.run()
    evaluations = calls
    for fatal in range(1, evaluations + 1):
        calls = 0
        folder = tmp_path / str(fatal)
        with pytest.raises(KeyboardInterrupt):
            make_runner(folder, nodes["bszo"], torch.float32, "full", patience=2).run()
        runner = make_runner(folder, nodes["bszo"], torch.float32, "full", patience=2)
        runner.run()
        assert outcome(runner) == outcome(whole)


def test_clocks_add_up_over_the_parts(tmp_path: Path, nodes: Any):
    spent = []
    for _ in range(3):
        runner = make_runner(tmp_path, nodes["mezo"], torch.float32, "full")
        assert [runner.meters.train_seconds, runner.meters.evaluation_seconds] == (
            spent[-1] if spent else [0, 0]
        )
        break_after(runner, 4, KeyboardInterrupt("SIGUSR1"))
        with pytest.raises(KeyboardInterrupt):
            runner.run()
        spent.append([runner.meters.train_seconds, runner.meters.evaluation_seconds])
    assert 0 < spent[0][0] < spent[1][0] < spent[2][0]
    assert 0 < spent[0][1] < spent[1][1]


def test_a_second_ctrl_c_within_a_step_saves_no_half_step(tmp_path: Path, nodes: Any):
    runner = make_runner(tmp_path, nodes["mezo"], torch.float32, "full", checkpoint_every=None)
    step = runner.optimizer.step

    def stuck(closure: Any) -> float:
        if runner.result.num_steps == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(closure)

    runner.optimizer.step = stuck
    with runner.signals, pytest.raises(KeyboardInterrupt):
        runner.run()
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_pre_emption_s_second_signal_does_not_stop_the_save(
    tmp_path: Path, nodes: Any, monkeypatch: Any
):
    runner = make_runner(tmp_path, nodes["mezo"], torch.float32, "full", checkpoint_every=None)
    step, sync = runner.optimizer.step, files._sync

    def told(closure: Any) -> float:
        if runner.result.num_steps == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(closure)

    def told_again(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sync(path)

    runner.optimizer.step = told
    monkeypatch.setattr(files, "_sync", told_again)
    with runner.signals, pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
        runner.run()
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000006.safetensors"]


# --- the files ---


@pytest.fixture
def stopped(tmp_path: Path, nodes: Any) -> Callable[..., Runner]:
    """A run that was stopped after step 11, with checkpoints of 9 and 11."""

    def stop(kind: str = "full") -> Runner:
        runner = make_runner(tmp_path / "run", nodes["mezo-adam"], torch.bfloat16, kind)
        break_after(runner, 11, KeyboardInterrupt("SIGTERM"))
        with pytest.raises(KeyboardInterrupt):
            runner.run()
        return runner

    return stop


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[-1] ^= 1
    path.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "text": b"{}", "flip": bytes(content)}[
            how
        ]
    )


def test_two_are_kept_and_the_best_apart(tmp_path: Path, stopped: Callable[..., Runner]):
    best = stopped().result.best_step
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names[-2:] == ["step-00000009.safetensors", "step-00000011.safetensors"]
    assert f"best-{best:08d}.safetensors" in names and len(names) <= 4


@pytest.fixture(scope="module")
def undisturbed(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What a run ends as that nothing stops; each is made once."""

    @cache
    def whole(name: str, dtype: torch.dtype, kind: str) -> dict[str, Any]:
        runner = make_runner(tmp_path_factory.mktemp("whole"), nodes[name], dtype, kind)
        runner.run()
        return outcome(runner)

    return whole


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "text"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_checkpoint_falls_back(
    tmp_path: Path,
    nodes: Any,
    stopped: Callable[..., Runner],
    undisturbed: Callable[..., Any],
    caplog: Any,
    how: str,
    number: int,
):
    stopped()
    for path in sorted((tmp_path / "run").glob("step-*"))[-number:]:
        damage(path, how)
    runner = make_runner(tmp_path / "run", nodes["mezo-adam"], torch.bfloat16, "full")
    assert runner.result.num_steps == (9 if number == 1 else 0)
    assert "step-00000011.safetensors: not a sound checkpoint" in caplog.text
    assert ("starts from the beginning" in caplog.text) == (number == 2)
    runner.run()
    assert outcome(runner) == undisturbed("mezo-adam", torch.bfloat16, "full")


def test_damaged_best_parameters_are_written_again(tmp_path: Path, nodes: Any):
    def killed() -> int:
        """The step that a part began at, which ends after step 6."""
        runner = make_runner(tmp_path, nodes["mezo"], torch.float32, "full", checkpoint_every=5)
        began = runner.result.num_steps
        break_after(runner, 6 - began, Kill())
        with pytest.raises(Kill):
            runner.run()
        return began

    assert killed() == 0
    (best,) = tmp_path.glob("best-*")  # of step 4, which the checkpoint of step 5 names
    damage(best, "flip")
    assert killed() == 0
    assert killed() == 5


def test_a_damaged_trajectory_falls_back(
    tmp_path: Path, nodes: Any, stopped: Callable[..., Runner], caplog: Any
):
    whole = make_runner(tmp_path / "whole", nodes["mezo-adam"], torch.bfloat16, "trajectory")
    whole.run()
    stopped("trajectory")
    damage(tmp_path / "run" / "trajectory.bszo", "flip")
    runner = make_runner(tmp_path / "run", nodes["mezo-adam"], torch.bfloat16, "trajectory")
    assert runner.result.num_steps == 9
    assert "trajectory.bszo holds 9 steps" in caplog.text
    runner.run()
    assert outcome(runner) == outcome(whole)


def test_a_light_checkpoint_is_light(tmp_path: Path, stopped: Callable[..., Runner]):
    stopped("trajectory")
    assert not list((tmp_path / "run").glob("best-*"))
    assert all(b"parameter." not in path.read_bytes() for path in (tmp_path / "run").iterdir())


def test_another_run_s_checkpoint_is_refused(
    tmp_path: Path, stopped: Callable[..., Runner], caplog: Any
):
    runner = stopped()
    assert Checkpoints(tmp_path / "run", "other", runner.parts).load() is None
    assert "of run s" in caplog.text


@pytest.mark.parametrize("what", ["type", "shape", "header"])
def test_a_checkpoint_that_is_not_what_was_written_is_not_sound(
    tmp_path: Path, stopped: Callable[..., Runner], caplog: Any, what: str
):
    """A parameter of another type or shape alone, or one letter of the header."""
    parts = stopped().parts
    if what == "header":
        for path in (tmp_path / "run").glob("step-*"):
            content = path.read_bytes()
            assert b"num_forwards" in content
            path.write_bytes(content.replace(b"num_forwards", b"num_forwardz"))
    else:
        parameter = next(parts.model.module.parameters())
        parameter.data = parameter.data.float() if what == "type" else parameter.data[:, :1].clone()
    assert Checkpoints(tmp_path / "run", "s", parts).load() is None
    assert caplog.text.count("not a sound checkpoint") == 2
    said = "checksum" if what == "header" else "is torch.bfloat16 (4, 2)"
    assert said in caplog.text


def test_what_a_damaged_part_left_is_deleted_and_the_new_checkpoint_is_not(
    tmp_path: Path, stopped: Callable[..., Runner]
):
    runner = stopped()
    for name in ("step-00000012.safetensors", "step-00000013.safetensors", ".step.x.tmp"):
        (tmp_path / "run" / name).write_bytes(b"")
    runner._save()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    best = f"best-{runner.result.best_step:08d}.safetensors"
    assert names - {best} == {"step-00000009.safetensors", "step-00000011.safetensors"}


def test_a_log_of_more_steps_than_the_checkpoint_is_replayed_to_it_alone(
    tmp_path: Path, nodes: Any, undisturbed: Callable[..., Any]
):
    """A part was killed after step 11, whose log had reached the disk, and its last checkpoint is
    of step 9."""
    setting = nodes["mezo-adam"], torch.bfloat16, "trajectory"
    runner = make_runner(tmp_path, *setting)
    break_after(runner, 11, Kill())
    with pytest.raises(Kill):
        runner.run()
    runner.checkpoints.writer.flush()  # type: ignore[union-attr]
    assert len(read(tmp_path / "trajectory.bszo").steps) == 11
    runner = make_runner(tmp_path, *setting)
    assert (runner.result.num_steps, runner.optimizer.num_steps) == (9, 9)
    assert len(read(tmp_path / "trajectory.bszo").steps) == 9
    runner.run()
    assert outcome(runner) == undisturbed("mezo-adam", torch.bfloat16, "trajectory")


def test_a_log_of_one_step_less_than_the_checkpoint_is_not_enough(
    tmp_path: Path, stopped: Callable[..., Runner], nodes: Any, caplog: Any
):
    header = stopped("trajectory").checkpoints.header  # type: ignore[union-attr]
    TrajectoryWriter.resume(tmp_path / "run" / "trajectory.bszo", header, to_step=10).flush()
    runner = make_runner(tmp_path / "run", nodes["mezo-adam"], torch.bfloat16, "trajectory")
    assert "step-00000011: trajectory.bszo holds 10 steps" in caplog.text
    assert runner.optimizer.num_steps == 9


def test_no_pickle_and_types_come_back():
    value = {
        0: {"step": torch.tensor(3.0), "betas": (0.9, float("inf"))},
        "seed": 2**70,
        "none": None,
        "list": [True],
    }
    tensors: dict[str, Tensor] = {}
    packed = json.dumps(pack(value, tensors), allow_nan=False)  # as the header takes it
    back = unpack(json.loads(packed), tensors)
    assert back == value and type(back[0]["betas"]) is tuple and type(back["list"][0]) is bool
    with pytest.raises(CheckpointError, match="holds function"):
        pack({"x": make_model}, tensors)


@pytest.mark.parametrize("call", range(1, 9))
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, nodes: Any, undisturbed: Callable[..., Any], monkeypatch: Any, call: int
):
    runner = make_runner(tmp_path, nodes["mezo"], torch.float32, "full")
    calls, sync = 0, files._sync

    def full(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(
        CheckpointError, match=r"cannot be written \(No space left on device\)"
    ) as caught:
        runner.run()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr(files, "_sync", sync)
    runner = make_runner(tmp_path, nodes["mezo"], torch.float32, "full")
    runner.run()
    assert outcome(runner) == undisturbed("mezo", torch.float32, "full")


# --- real models ---


def test_sampled_answers_are_drawn_as_if_nothing_had_stopped(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is drawn hangs on seed and step, which a checkpoint has, and on no generator's state."""

    def configured(folder: str, *more: str) -> dict[str, Any]:
        return configuration(
            model,
            tmp_path / folder,
            *("task=squad", "task.objective=reward:brevity", "task.max_new_tokens=3"),
            *("optimizer=mezo", "optimizer.lr=1e-2", "protocol.num_steps=6"),
            *("task.num_samples=2", "task.temperature=2.0", *more),
        )

    record, weights = run_here(configured("whole"))
    other, _ = run_here(configured("other", "task.num_samples=1"))
    assert record["curve"] != other["curve"]
    step = Runner._step

    def stopped(self: Runner, indices: list[int]) -> None:
        step(self, indices)
        if self.result.num_steps in (2, 5):
            raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(Runner, "_step", stopped)
    for steps in (2, 5):
        part, _ = run_here(configured("parts"))
        assert (part["status"], part["num_steps"]) == ("interrupted", steps)
    again, its_weights = run_here(configured("parts"))
    assert again["num_parts"] == 3 and its_weights == weights
    assert numbers(again) == numbers(record)


# --- real processes, really killed ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    yield Processes(tmp_path_factory.mktemp("out"))


def checkpoints(results: Path) -> list[Path]:
    return sorted(results.glob("checkpoints/*/step-*.safetensors"))


@pytest.mark.parametrize(
    "chosen",
    [
        ("bszo", "bf16", "trajectory"),
        ("mezo", "bf16", "full, on a disk"),
        # above, these are killed in this process
        pytest.param(("bszo", "fp32", "full"), marks=pytest.mark.exhaustive),
        pytest.param(("mezo-adam", "bf16", "full"), marks=pytest.mark.exhaustive),
        pytest.param(("adamw", "fp32", "full"), marks=pytest.mark.exhaustive),
    ],
)
def test_killed_at_random_moments(
    tmp_path: Path,
    model: Path,
    processes: Processes,
    chosen: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    name, precision, kind = chosen
    kind, on_disk, _ = kind.partition(", on a disk")  # the run that is not killed is in memory
    rate = "optimizer.algorithm.lr=1e-2" if name == "adamw" else LOUD[0]
    overrides = [f"optimizer={name}", f"precision={precision}", "protocol.num_steps=21", rate]
    train, calls = Runner._train, []
    with monkeypatch.context() as patch:
        patch.setattr(
            Runner, "_train", lambda self, bar: calls.append(profiled(lambda: train(self, bar)))
        )
        whole, weights = run_here(configuration(model, tmp_path / "whole", *overrides))
    place = [f"model.offload={tmp_path / 'disk'}"] if on_disk else []
    config = configuration(model, tmp_path / "killed", *overrides, *place, f"checkpoint={kind}")
    moments = random.Random(f"{name} {precision}")
    for _ in range(3):
        # late enough to leave a checkpoint, which comes every seventh part of the run
        at = moments.randrange(calls[0] // 5, calls[0] // 3)
        process = processes.start(config, die_after=at)
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
    assert checkpoints(tmp_path / "killed")
    record, ended = processes.finish(config)
    assert ended == weights
    assert bool(record["model"].pop("on_disk", False)) == bool(on_disk)
    assert numbers(record) == numbers(whole)
    assert [point["step"] for point in record["curve"]] == [0, 7, 14, 21]
    assert not (tmp_path / "killed" / "checkpoints" / record["signature"]).exists()


def test_killed_before_it_trains(tmp_path: Path, model: Path, processes: Processes):
    config = configuration(model, tmp_path, "optimizer=mezo")
    # rows and model are read, nothing is written
    process = processes.start(config, die_at=1, until="begin")
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    record, _ = processes.finish(config)
    assert (record["status"], record["num_parts"]) == ("ok", 1)


HIZOO = ("optimizer=hizoo", "precision=bf16", "protocol.num_steps=12", *LOUD)


@pytest.fixture(scope="module")
def hizoo(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[dict[str, Any], str]:
    """A run that nothing stops, and its weights."""
    results = tmp_path_factory.mktemp("whole")
    return run_here(configuration(model, results, *HIZOO))


@pytest.mark.parametrize("die_at", [4, 5, 6, 7])
def test_killed_inside_a_checkpoint_write(
    tmp_path: Path, model: Path, processes: Processes, hizoo: Any, die_at: int
):
    """At the sync before a rename (odd) and at the one after it; of the best parameters (5, 6) and
    of the state."""
    config = configuration(model, tmp_path / "run", *HIZOO)
    process = processes.start(config, die_at=die_at)
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    left = [path for path in tmp_path.rglob("*.tmp")]
    assert len(left) == die_at % 2
    record, weights = processes.finish(config)
    assert (numbers(record), weights) == (numbers(hizoo[0]), hizoo[1])
    assert not list(tmp_path.rglob("*.tmp"))


# SIGINT comes to the command in tests/experiments/test_run.py, SIGUSR1 to a run in this file
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.exhaustive),
    ],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    tmp_path: Path, model: Path, processes: Processes, number: signal.Signals
):
    whole, expected = run_here(configuration(model, tmp_path / "whole", "optimizer=bszo", *LOUD))
    config = configuration(model, tmp_path / "run", "optimizer=bszo", *LOUD)
    process = processes.start(config, slow_seconds=0.05)
    wait_for(lambda: checkpoints(tmp_path / "run"))
    os.kill(process.pid, number)
    process.join(PATIENCE)
    (record,) = store.load_all([tmp_path / "run" / "runs"])
    assert record["status"] == "interrupted" and number.name in record["reason"]
    assert checkpoints(tmp_path / "run")[-1].stem == f"step-{record['num_steps']:08d}"
    assert 0 < record["num_steps"] < 40
    record, weights = processes.finish(config)
    assert (numbers(record), weights) == (numbers(whole), expected)
    assert record["num_parts"] == 2
    assert len(store.load_all([tmp_path / "run" / "runs"])) == 1


# --- the session around it ---


def test_a_run_says_that_its_eps_is_not_the_paper_s(tmp_path: Path, model: Path, caplog: Any):
    caplog.set_level("INFO", "experiments")
    choices = {"task": "sst2", "model": "local", "optimizer": "mezo"}
    for given, says in (
        (["precision=bf16"], True),
        (["precision=bf16", "optimizer.eps=1e-3"], False),
        (["precision=bf16", "fidelity=official"], False),
        ([], False),
    ):
        caplog.clear()
        config = configuration(model, tmp_path, "optimizer=mezo", *given)
        Session(config, choices, given)._say_eps()
        assert ("optimizer.eps=0.001: the default in bfloat16" in caplog.text) == says


def test_what_a_kill_left_of_weights_and_log_is_removed_by_the_next_start(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before it trains, and nothing of another run."""
    weights = tmp_path / "weights"
    overrides = ["optimizer=mezo", "checkpoint=trajectory", f"checkpoint.weights={weights}"]
    config = configuration(model, tmp_path, *overrides)
    choices = {"task": "sst2", "model": "local", "optimizer": "mezo"}
    artifacts = Session(config, choices, []).artifacts
    assert artifacts.weights is not None and artifacts.steps is not None
    left = weights / f".{artifacts.weights.name}-abcd_123.tmp"
    other = weights / f".{artifacts.weights.name}-2-abcd_123.tmp"
    for folder in (left, other, artifacts.steps.parent):
        folder.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(bytes(1000))
    log = artifacts.steps.parent / f".{artifacts.steps.name}-abcd_123.tmp"
    log.write_bytes(b"x")
    seen = []
    train = Runner._train

    def looking(self: Runner, bar: Any) -> None:
        seen.append((left.exists(), log.exists(), other.exists()))
        train(self, bar)

    monkeypatch.setattr(Runner, "_train", looking)
    record = Session(config, choices, []).run()
    assert record["status"] == "ok" and seen == [(False, False, True)]
    assert artifacts.weights.is_dir() and artifacts.steps.is_file()


@pytest.mark.parametrize("key", ["results", "runs"])
def test_a_path_from_home_is_the_home_s(
    tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, key: str
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    results = "~/x" if key == "results" else str(tmp_path / "other")
    more = ["paths.runs=~/x/runs"] if key == "runs" else []
    done = cli(*_arguments(model, Path(results)), "protocol.num_steps=1", *more)
    assert done.code == 0, done.err
    assert len(list((tmp_path / "home" / "x" / "runs").glob("*.json"))) == 1
    assert not (tmp_path / "~").exists()
    nobody = cli("paths.results=~nobody-here/x")
    assert nobody.code == 1 and nobody.err.count("\n") == 1 and "paths.results=~nob" in nobody.err


def test_checkpoints_move_no_signature(tmp_path: Path, model: Path):
    def signature(*overrides: str) -> str:
        return Session(configuration(model, tmp_path, *overrides), {}, []).signature

    assert (
        signature()
        == signature("protocol.checkpoint_every=null")
        == signature("checkpoint=trajectory")
    )
    assert signature() != signature("protocol.on_nonfinite=skip")


def test_w_and_b_goes_on_with_the_same_run(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    made: list[Any] = []

    class Tracker(NoTracker):
        def __init__(self, run_id: str | None) -> None:
            self.run_id = run_id or "fresh"

    def make(*arguments: Any) -> Tracker:
        made.append(arguments[-1])
        return Tracker(arguments[-1])

    monkeypatch.setattr("experiments.training.session.make_tracker", make)
    stops = {1: 5, 2: 9}  # part -> step
    step = Runner._step

    def stopping(self: Runner, indices: list[int]) -> None:
        step(self, indices)
        if self.result.num_steps == stops.get(self.result.num_parts):
            raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(Runner, "_step", stopping)
    config = configuration(model, tmp_path, "optimizer=mezo", *LOUD)
    record = [run_here(config)[0] for _ in range(3)][-1]
    assert made == [None, "fresh", "fresh"]
    assert (record["status"], record["num_parts"]) == ("ok", 3)


def test_w_and_b_itself_takes_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ids = []
    for _ in range(2):
        run_id = ids[-1] if ids else None
        tracker = WandbTracker(
            mode="offline", project="x", folder=tmp_path, name="n", config={}, run_id=run_id
        )
        tracker.log({"loss": 1.0}, 1)
        tracker.finish({}, ok=False)
        ids.append(tracker.run_id)
    assert ids[0] is not None and ids[0] == ids[1]


def test_a_full_disk_at_the_record_is_one_line(
    tmp_path: Path, cli: Cli, model: Path, monkeypatch: Any
):
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_sync", full)
    done = cli(*_arguments(model, tmp_path), "protocol.checkpoint_every=null")
    assert done.code == 1
    said = [
        line
        for line in done.err.splitlines()
        if "cannot be written (No space left on device)" in line
    ]
    assert len(said) == 1 and "Traceback" not in done.err
    assert not list((tmp_path / "runs").iterdir())


def _arguments(model: Path, results: Path) -> list[str]:
    small = [
        "task.num_train=16",
        "task.num_validation=8",
        "data.num_train=32",
        "data.num_test=8",
        "optimizer=mezo",
    ]
    return [
        "model=local",
        f"model.path={model}",
        f"paths.results={results}",
        "tracker=none",
        "protocol=smoke",
        *small,
    ]


def test_a_folder_that_is_none_is_one_line(tmp_path: Path, cli: Cli, model: Path):
    (tmp_path / "file").write_text("")
    done = cli(*_arguments(model, tmp_path / "file"))
    assert done.code == 1
    assert len(done.err.strip().splitlines()) == 1 and "cannot be written" in done.err


@pytest.mark.parametrize("what", ["results", "runs"])
def test_a_read_only_folder_is_one_line_and_nothing_runs(
    tmp_path: Path, cli: Cli, model: Path, what: str
):
    if os.geteuid() == 0:
        pytest.skip("root may write in a read-only folder")
    folder = tmp_path / "results" / ("runs" if what == "runs" else "")
    folder.mkdir(parents=True)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = cli(*_arguments(model, tmp_path / "results"))
    folder.chmod(stat.S_IRWXU)
    assert done.code == 1
    assert (
        len(done.err.strip().splitlines()) == 1
        and "cannot be written (Permission denied)" in done.err
    )
    assert not list((tmp_path / "results").rglob("*.json"))


def test_parameters_used_outside_their_owner_cost_one_pass_in_all(tmp_path: Path, nodes: Any):
    whole = make_runner(tmp_path, nodes["mezo"], torch.float32, "full")
    whole.run()
    assert isinstance(whole.optimizer, bszo.MeZO)
    # streaming found b's weights in its first pass and repeated it
    assert whole.optimizer.num_forwards == 2 * 14 + 1
