"""Several processes that agree on losses: the numbers of one process, the same bits in all, an end
that all hear of."""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hydra._internal.hydra import Hydra
from torch import Tensor, nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import bszo
from bszo.errors import ConfigError, ModelError, NonFiniteLoss, OptimError
from bszo.models import Score
from experiments.config.schema import Parallel
from experiments.records import signing, store
from experiments.run import main as command
from experiments.training.parallel import VARIABLES, Group, join
from experiments.training.runner import Runner
from tests.experiments.runs import FEW
from tests.forked import Forked, in_group, module, no_mode
from tests.killing import FORK, PATIENCE

ROOT = Path(__file__).resolve().parents[2]
METHODS: dict[str, Callable[..., Any]] = {
    "bszo": partial(bszo.BSZO, lr=0.05, eps=1e-3, prior_var=1.0, noise_var=1.0),
    "bszo-b": partial(
        bszo.BSZO, lr=0.05, eps=1e-3, prior_var=1.0, noise_var=1.0, m=4, reuse_observations=False
    ),
    "mezo": partial(bszo.MeZO, lr=0.02, eps=1e-3, num_directions=2),
    "mezo-adam": partial(bszo.MeZOAdam, lr=1e-3, eps=1e-3),
    "hizoo": partial(bszo.HiZOO, lr=0.02, eps=1e-3, smoothing=1e-6),
    "lozo": partial(bszo.LOZO, lr=0.02, eps=1e-3, interval=5),
}


class Net(nn.Module):
    """Looks words up; the output weights are the embedding's, used while no owner of them runs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(7, width)
        self.mix = nn.Linear(width, width)
        self.body = nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.mix(self.words(ids))) @ self.words.weight.T


class Model:
    """What the group needs of a language model; `poison` is the number of an example whose loss is
    NaN."""

    def __init__(
        self, width: int = 5, dtype: torch.dtype = torch.float64, poison: int | None = None
    ) -> None:
        torch.manual_seed(0)
        self.module, self.poison = Net(width).to(dtype), poison

    def collate(self, examples: list[Any]) -> list[Any]:
        assert examples
        return examples

    def loss(self, batch: list[Any]) -> Tensor:
        logits = self.module(torch.tensor([e.word for e in batch])).float()
        loss = nn.functional.cross_entropy(logits, torch.tensor([e.label for e in batch]))
        return loss * float("nan") if self.poison in [e.number for e in batch] else loss


EXAMPLES = [SimpleNamespace(number=i, word=i % 7, label=(3 * i + 1) % 7) for i in range(40)]


def together(
    size: int, body: Callable[[Group], Any], *, queries: bool = False, timeout: float = PATIENCE
) -> list[Any]:
    """body(group) in `size` processes; see `in_group`."""

    def joined(_: int) -> Any:
        return body(join(Parallel(queries=queries, timeout_seconds=timeout), "cpu"))

    return in_group(size, joined)


def closure_of(group: Group, model: Model, examples: Sequence[Any]) -> Callable[[], Any]:
    """As the runner makes it."""
    batch = model.collate(list(group.part(examples)))
    return group.wrap(lambda: model.loss(batch), len(examples))


def train(
    group: Group,
    make: Callable[..., Any],
    *,
    steps: int = 20,
    batch: int = 8,
    width: int = 5,
    dtype: torch.dtype = torch.float64,
) -> SimpleNamespace:
    """The losses of some steps, and all that should be alike afterwards."""
    model = Model(width, dtype)
    optimizer = make(model.module.parameters(), module=model.module, seed=3)
    group.attach(optimizer)
    losses = []
    for step in range(steps):
        examples = [EXAMPLES[(step * batch + i) % len(EXAMPLES)] for i in range(batch)]
        losses.append(float(optimizer.step(closure_of(group, model, examples))))
    digest = hashlib.sha256(
        b"".join(p.detach().view(torch.uint8).numpy().tobytes() for p in model.module.parameters())
    ).hexdigest()
    facts = group.facts()
    return SimpleNamespace(
        losses=losses, digest=digest, num_forwards=optimizer.num_forwards, facts=facts
    )


# an odd batch of eight and its even share of queries: the other sizes are in `make test-all`
@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.exhaustive), 3])
def test_slices_of_a_batch_train_as_one_process_does(size: int):
    """To rounding: a slice's loss is float32. Every method in turn, in the same processes."""
    alone = {name: train(Group(), make) for name, make in METHODS.items()}
    results = together(
        size, lambda group: {name: train(group, make) for name, make in METHODS.items()}
    )
    for name, one in alone.items():
        for many in results:
            assert many[name].losses == pytest.approx(one.losses, rel=2e-3), name
            assert many[name].losses[0] == pytest.approx(one.losses[0], rel=1e-6), name
            assert many[name].num_forwards == one.num_forwards, name
        assert len({many[name].digest for many in results}) == 1, name
        assert one.losses[0] != one.losses[-1]


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_queries_of_a_step_are_shared_with_the_numbers_of_one_process(size: int):
    methods = {**METHODS, "agzo": partial(bszo.AGZO, lr=0.02, eps=1e-3)}
    alone = {name: train(Group(), make, steps=10) for name, make in methods.items()}
    results = together(
        size,
        lambda group: {name: train(group, make, steps=10) for name, make in methods.items()},
        queries=True,
    )
    for name, one in alone.items():
        for many in results:
            assert (many[name].losses, many[name].digest) == (one.losses, one.digest), name
            assert many[name].num_forwards == one.num_forwards, name


@pytest.mark.parametrize("walk", ["two-leg", "three-leg", "in-place"])
def test_walks_round_alike_in_every_process(walk: str):
    make = partial(METHODS["bszo"], perturbation=walk)
    first, second = together(2, lambda group: train(group, make, dtype=torch.bfloat16))
    assert first.digest == second.digest
    assert (
        first.digest
        != together(1, lambda group: train(Group(), METHODS["bszo"], dtype=torch.bfloat16))[
            0
        ].digest
    )


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_batch_need_not_divide_by_the_processes(batch: int):
    one = train(Group(), METHODS["bszo"], batch=batch, steps=10)
    results = together(3, lambda group: train(group, METHODS["bszo"], batch=batch, steps=10))
    for many in results:
        assert many.losses == pytest.approx(one.losses, rel=1e-4)
        assert many.num_forwards == one.num_forwards
    assert len({many.digest for many in results}) == 1


def test_only_the_losses_cross():
    """8 bytes a loss, k + 1 losses a step, whatever the model's size: counted below the group's own
    count."""

    def measured(group: Group) -> list[tuple[float, float]]:
        crossed: list[int] = []
        plain = dist.all_gather

        def all_gather(out: list[Tensor], mine: Tensor) -> Any:
            crossed.append(mine.numel() * mine.element_size())
            return plain(out, mine)

        dist.all_gather = all_gather
        found = []
        for width, k in ((5, 2), (200, 2), (5, 7)):
            crossed.clear()
            group.loss_bytes = group.num_steps = 0
            done = train(
                group,
                partial(METHODS["bszo"], k=k, m=k + 1, perturbation="copy"),
                width=width,
                steps=10,
            )
            found.append((sum(crossed) / 10, done.facts["bytes_sent_per_step"]))
        return found

    for result in together(2, measured):
        assert result == [(24.0, 24.0), (24.0, 24.0), (64.0, 64.0)]


def test_a_loss_that_is_not_finite_in_one_slice_stops_all():
    def body(group: Group) -> tuple[int, bool]:
        model = Model(poison=5)  # of the second process's slice of the second batch
        optimizer = METHODS["mezo"](model.module.parameters(), module=model.module)
        optimizer.step(closure_of(group, model, EXAMPLES[:4]))
        before = [p.detach().clone() for p in model.module.parameters()]
        with pytest.raises(NonFiniteLoss):
            optimizer.step(closure_of(group, model, EXAMPLES[4:8]))
        kept = all(
            torch.equal(a, b) for a, b in zip(before, model.module.parameters(), strict=True)
        )
        return optimizer.num_steps, kept

    assert together(2, body) == [(1, True)] * 2


def test_evaluation_is_split():
    encoded = [SimpleNamespace(right=i % 3 == 0, number=i) for i in range(49)]

    def score(part: list[Any]) -> Score:
        if any(e.number == 48 and e.right is None for e in part):
            raise ModelError("example 48 has no finite score")
        return Score(
            sum(e.right for e in part) / len(part), sum(e.number**2 for e in part) / len(part)
        )

    def said(part: list[Any]) -> Score:
        return Score(0.5, 1.0, mute=all(e.right is None for e in part))

    def body(group: Group) -> tuple[Score, Score, str]:
        seen: list[int] = []
        whole = group.score(lambda part: (seen.append(len(part)), score(part))[1], encoded)
        few = group.score(score, encoded[:1])  # fewer rows than processes
        assert seen == [[17, 16, 16][group.rank]]
        part_right = group.score(lambda part: Score(0.3, 1.0), encoded)  # token F1 is no count
        assert part_right.accuracy == pytest.approx(0.3)
        silent = [SimpleNamespace(right=None) for _ in range(7)]
        assert group.score(said, silent).mute and group.score(said, silent[:1]).mute
        assert not group.score(said, [*silent, encoded[0]]).mute
        with pytest.raises(ModelError) as caught:
            group.score(score, [*encoded[:48], SimpleNamespace(right=None, number=48)])
        return whole, few, str(caught.value)

    results = together(3, body)
    assert [result[:2] for result in results] == [(score(encoded), Score(1.0, 0.0))] * 3
    assert [result[2] for result in results] == [
        "example 48 has no finite score",
        *["another process has option scores that are not finite"] * 2,
    ]


def test_a_process_that_is_silent_or_differs_is_heard_of():
    heard = FORK.Event()

    def silent(group: Group) -> None:
        if group.rank == 1:
            heard.wait(PATIENCE)
            return
        try:
            group.gather([1.0])
        finally:
            heard.set()

    # as long as a busy machine may take to bring the two together, which the same limit is for
    assert "gone, or silent" in together(2, silent, timeout=10.0)[0]
    differs = together(2, lambda group: group.require_same("weights", f"of {group.rank}"))
    assert all("the processes differ in weights" in error for error in differs)


def test_a_process_that_dies_ends_the_others():
    def body(group: Group) -> None:
        if group.rank == 1:
            group.gather([0.0])
            os._exit(9)
        group.gather([0.0])
        group.gather([0.0])

    first, second, third = together(3, body)
    assert second is None
    for error in (first, third):
        assert error.startswith("ParallelError: process ") and len(error.splitlines()) == 1


def test_what_cannot_be_split_is_refused():
    weights = [nn.Parameter(torch.ones(2))]
    adamw = bszo.FirstOrder(weights, algorithm=partial(torch.optim.AdamW, lr=0.1))
    with pytest.raises(ConfigError, match="needs gradients"):
        Group(0, 2).attach(adamw)
    Group().attach(adamw)
    forward = bszo.ForwardGrad(weights, module=nn.ParameterList(weights))
    with pytest.raises(
        ConfigError, match="ForwardGrad: differentiates the loss of the whole batch"
    ):
        Group(0, 2).attach(forward)
    Group(0, 2, queries=True).attach(forward)  # every process has the whole batch
    reading = bszo.AGZO(weights, module=nn.ParameterList(weights))
    with pytest.raises(ConfigError, match="AGZO: finds its directions in the whole batch"):
        Group(0, 2).attach(reading)
    Group(0, 2, queries=True).attach(reading)
    walking = bszo.MeZO(weights, perturbation="as-published")
    with pytest.raises(ConfigError, match=r"parallel\.queries=true: perturbation=as-published"):
        Group(0, 2, queries=True).attach(walking)
    walking.share = Group(0, 2).share
    with pytest.raises(OptimError, match="walks cannot share"):
        walking.step(lambda: 0.0)
    parallel = Parallel(queries=False, timeout_seconds=1.0)
    torchrun = {"WORLD_SIZE": "2", "RANK": "0"}
    with pytest.raises(ConfigError, match="WORLD_SIZE is set but LOCAL_RANK is not"):
        join(parallel, "cpu", environment=torchrun)
    with pytest.raises(ConfigError, match="WORLD_SIZE='two' in the environment"):
        join(parallel, "cpu", environment={"WORLD_SIZE": "two"})
    torchrun |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(ConfigError, match="device_map"):
        join(parallel, "cpu", "auto", environment=torchrun)
    with pytest.raises(ConfigError, match="timeout_seconds=0"):
        Parallel(queries=False, timeout_seconds=0)


# --- torchrun itself ---


@pytest.fixture
def torchruns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Torchruns":
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Torchruns(tmp_path)


class Torchruns:
    """Runs of two processes each, begun by torchrun's agent in a fork of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _arguments(self, name: str, *arguments: str) -> list[str]:
        results = f"paths.results={self.folder / name}"
        return ["protocol=smoke", "tracker=none", *FEW, *arguments, results]

    def typed(self, name: str, *arguments: str) -> Forked:
        """As a user types it: torchrun starts two interpreters."""
        own = ("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2")
        program = ("-m", "experiments.run", *self._arguments(name, *arguments))
        return Forked(partial(module, "torch.distributed.run", *own, *program), self.folder)

    def forked(
        self, name: str, *arguments: str, dies: Callable[[int], object] | None = None
    ) -> Forked:
        """Torchrun's agent forks the two, which have loaded everything already.

        Args:
            dies: is called with a process's rank before its step 3.
        """
        step = Runner._step

        def dying(self: Runner, indices: list[int]) -> None:
            if dies is not None and self.result.num_steps == 3:
                dies(int(os.environ["RANK"]))
            step(self, indices)

        def process() -> None:
            Runner._step, Hydra.get_mode = dying, no_mode
            sys.argv = ["experiments.run", *self._arguments(name, *arguments)]
            command()

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            start_method="fork",
        )
        return Forked(lambda: elastic_launch(config, process)(), self.folder)


@pytest.mark.parametrize("start", ["forked", pytest.param("typed", marks=pytest.mark.exhaustive)])
def test_torchrun_from_the_command_line(start: str, tmp_path: Path, torchruns: Torchruns):
    """A run that ends well, and one whose processes both die without a word at step 3: the same
    command again ends where the undisturbed run does."""
    saving = ("protocol.checkpoint_every=1", "checkpoint=trajectory")
    well = getattr(torchruns, start)("well", *saving)
    killed = torchruns.forked(
        "broken", *saving, dies=lambda rank: os.kill(os.getpid(), signal.SIGKILL)
    )
    said, broken = (run.end() for run in (well, killed))
    assert well.process.exitcode == 0, said.stderr
    (record,) = store.load_all([tmp_path / "well" / "runs"])
    assert record["status"] == "ok"
    assert record["provenance"]["parallel"] == {
        "world_size": 2,
        "queries": False,
        "bytes_sent_per_step": 24.0,
    }
    assert "parallel" not in record["config"]
    assert said.stderr.count("step 4: loss") == 1  # the other process is quiet
    assert record["signature"] == signing.signature(record["config"])
    assert broken.returncode == 1
    assert list((tmp_path / "broken").glob("checkpoints/*/step-*.safetensors"))
    again = torchruns.forked("broken", *saving).end()
    assert again.returncode == 0 and again.stderr.count("goes on at step 3 (part 2)") == 1
    (found,) = store.load_all([tmp_path / "broken" / "runs"])
    assert (record["num_parts"], found["num_parts"]) == (1, 2)
    for key in ("signature", "status", "num_forwards", "num_steps", "best_step", "test_accuracy"):
        assert found[key] == record[key], key
    for one, other in zip(record["curve"], found["curve"], strict=True):
        assert {**one, "train_seconds": 0} == {**other, "train_seconds": 0}


# test_a_process_that_is_silent_or_differs_is_heard_of has it without torchrun
@pytest.mark.exhaustive
def test_under_torchrun_a_process_that_is_gone_ends_the_other(tmp_path: Path, torchruns: Torchruns):
    complaint = torchruns.forked("dies", dies=lambda rank: os._exit(9) if rank == 1 else None).end()
    assert complaint.returncode == 1 and "ok:" not in complaint.stderr
    assert ("process 0 of 2: another process of the group is gone" in complaint.stderr) or (
        "SIGTERM" in complaint.stderr
    )
    left = (
        list((tmp_path / "dies" / "runs").glob("*"))
        if (tmp_path / "dies" / "runs").is_dir()
        else []
    )
    assert all(path.suffix == ".json" for path in left)
    assert all(store.load(path)["status"] in ("crashed", "interrupted") for path in left)


def test_concurrent_writers_lose_and_tear_nothing(tmp_path: Path, some_record: dict[str, Any]):
    """Four processes finish cells in one folder, the last two the same ones, while a reader
    looks."""
    seen = FORK.Event()

    def write(name: str) -> None:
        for i in range(25):
            if i == 5:
                seen.wait(PATIENCE)
            config = some_record["config"] | {"name": name, "number": i}
            signed = {"config": config, "signature": signing.signature(config)}
            store.write(some_record | signed | {"data": {"rows": [i] * 500}}, tmp_path)

    writers = [
        FORK.Process(target=write, args=(name,)) for name in ("one", "two", "three", "three")
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = store.load_all([tmp_path])
        assert all(len(record["data"]["rows"]) == 500 for record in found)
        if found:
            seen.set()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert seen.is_set()
    assert len(store.load_all([tmp_path])) == len(list(tmp_path.iterdir())) == 75
