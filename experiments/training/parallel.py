"""Group of processes that train one model together: each scores its part, and all take the same
step.

Only losses and scores are exchanged. Parameters, gradients and directions are not: every process
draws the same directions from the same seeds.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bszo.errors import ConfigError, ModelError, ParallelError, one_line
from bszo.models import Score
from experiments.config.schema import Parallel
from experiments.training.gpus import claim

Closure = Callable[[], Tensor | float]

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Group:
    """Processes that run the same configuration. A group of one, the default, exchanges nothing.

    Args:
        rank: the number of this process. Process 0 alone writes records, logs and shows progress.
        size: the number of processes.
        queries: says what is split. False: each process scores its slice of every batch. True: each
            takes some of the points of a step, on the full batch.
        device: the device on which numbers must lie to be exchanged.

    Attributes:
        loss_bytes: the payload that this process has sent for losses of training steps, 8 bytes a
            number.
        num_steps: the training steps that this process has taken in the group.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, *, queries: bool = False, device: str = "cpu"
    ) -> None:
        self.rank, self.size, self.queries, self.device = rank, size, queries, device
        self.loss_bytes = self.num_steps = 0

    def gather(self, values: Sequence[float] | Tensor) -> list[list[float]]:
        """The numbers of every process, in the order of their ranks.

        They are the same bits everywhere, whatever algorithm the backend has for sums.

        Raises:
            ParallelError: a process is gone, or has been silent for parallel.timeout_seconds.
        """
        mine = torch.as_tensor(values, dtype=torch.float64, device=self.device)
        if self.size == 1:
            return [mine.tolist()]
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(everyone, mine)
            return torch.stack(everyone).tolist()
        except RuntimeError as error:  # what gloo and NCCL raise
            raise ParallelError(
                f"process {self.rank} of {self.size}: another process of the group is gone, or"
                " silent beyond parallel.timeout_seconds; its own output says why"
                f" ({_brief(error)})"
            ) from error

    def part(self, examples: Sequence[Any]) -> Sequence[Any]:
        """The examples of a batch that this process scores: all of them, or its slice.

        A process whose slice is empty scores one example nevertheless, which `wrap` gives no
        weight: all processes have to make the same calls.
        """
        if self.size == 1 or self.queries:
            return examples
        return examples[self.rank :: self.size] or examples[:1]

    def wrap(self, closure: Closure, num_examples: int) -> Closure:
        """Make the closure of the whole batch from one that scores the part of this process.

        In a group of one process, and where processes share the points of a step, that is the same
        closure. Otherwise each process sends one number at every call. A NaN survives the sum, so
        that all processes stop together.

        Args:
            closure: () -> the mean loss of the examples that `part` has chosen.
            num_examples: the size of the whole batch.
        """
        self.num_steps += 1
        if self.size == 1 or self.queries:
            return closure
        count = len(range(self.rank, num_examples, self.size))

        def mean() -> float:
            total = torch.as_tensor(closure()).detach().double().reshape(1) * count
            sums = self._gather_losses(total if count else [0.0])
            return sum(value for (value,) in sums) / num_examples

        return mean

    def share(self, points: Sequence[Any], loss_at: Callable[[Any], float]) -> list[float]:
        """The losses at all points, in the order of the points; one process takes each of them."""
        mine = [loss_at(point) for point in points[self.rank :: self.size]]
        most = -(-len(points) // self.size)
        table = self._gather_losses(mine + [0.0] * (most - len(mine)))
        return [table[i % self.size][i // self.size] for i in range(len(points))]

    def score(self, score: Callable[[list[Any]], Score], encoded: list[Any]) -> Score:
        """The score over all examples, of which this process scores its part.

        Each process sends a count and a sum.

        Raises:
            ModelError: on every process, where a score of any process was not finite.
        """
        if self.size == 1:
            return score(encoded)
        mine, failure, right, loss = encoded[self.rank :: self.size], None, 0.0, 0.0
        spoken = 0.0  # processes of whose rows the model does not say the same
        try:
            if mine:
                found = score(mine)
                right = round(found.accuracy * len(mine), 6)  # a count, or a sum of token F1
                loss = found.loss * len(mine)
                spoken = float(not found.mute)
        except ModelError as error:
            failure, right = error, float("nan")
        sums = [sum(column) for column in zip(*self.gather([right, loss, spoken]), strict=True)]
        right, loss = sums[0] / len(encoded), sums[1] / len(encoded)
        if right != right:
            raise failure or ModelError("another process has option scores that are not finite")
        return Score(right, loss, mute=sums[2] == 0)

    def attach(self, optimizer: Any) -> None:
        """Hand the optimizer what it needs to share its queries.

        Raises:
            ConfigError: it needs derivatives, which do not cross, or walks in place while queries
                are shared.
        """
        if self.size == 1:
            return
        if not hasattr(optimizer, "share"):
            raise ConfigError(
                f"optimizer={type(optimizer).__name__}: needs gradients, and only losses cross"
                " between processes; run it without torchrun"
            )
        if not optimizer.losses_suffice and not self.queries:
            raise ConfigError(
                f"optimizer={type(optimizer).__name__}: differentiates the loss of the whole batch,"
                " of which each process has a slice; run it without torchrun"
            )
        if optimizer.per_example:
            raise ConfigError(
                f"optimizer={type(optimizer).__name__}: has a direction for each example of the"
                " batch, and one number crosses between processes; run it without torchrun"
            )
        if optimizer.reads_inputs and not self.queries:
            raise ConfigError(
                f"optimizer={type(optimizer).__name__}: finds its directions in the whole batch, of"
                " which each process has a slice; parallel.queries=true is valid"
            )
        if self.queries:
            if not optimizer.exact:
                raise ConfigError(
                    f"parallel.queries=true: perturbation={optimizer.perturbation} leaves its own"
                    " rounding in each process; exact, streaming, copy are valid"
                )
            optimizer.share = self.share

    def first(self, flag: bool) -> bool:
        """Give every process the flag that process 0 has."""
        return bool(self.gather([float(flag)])[0][0])

    def require_same(self, what: str, value: str) -> None:
        """Raise ParallelError unless `value` is the same text in every process."""
        # 48 bits: exact in a float64
        digest = int(hashlib.sha256(value.encode()).hexdigest()[:12], 16)
        if len({row[0] for row in self.gather([float(digest)])}) > 1:
            raise ParallelError(
                f"process {self.rank} of {self.size}: the processes differ in {what}"
            )

    def facts(self) -> dict[str, Any]:
        """What a record says about the group."""
        return {
            "world_size": self.size,
            "queries": self.queries,
            "bytes_sent_per_step": self.loss_bytes / self.num_steps if self.num_steps else 0.0,
        }

    def _gather_losses(self, values: Sequence[float] | Tensor) -> list[list[float]]:
        table = self.gather(values)
        self.loss_bytes += 8 * len(values)
        return table


def join(
    parallel: Parallel,
    device: str,
    device_map: Any = None,
    environment: Mapping[str, str] = os.environ,
) -> Group:
    """Enter the group that torchrun's variables describe; without these it is a group of one.

    Args:
        parallel: says how the work is split, and how long a process waits for the others.
        device: cpu (over gloo) or cuda (over NCCL; the GPU whose number is LOCAL_RANK becomes the
            current one).
        device_map: the model's. A model that is spread over all GPUs excludes several processes.

    Raises:
        ConfigError: a variable is missing or no number, there are more processes than GPUs, or a
            device_map.
        ParallelError: the others did not come in time.
    """
    if _number(environment, "WORLD_SIZE", "1") == 1:
        if device == "cuda" and device_map is None:
            claim()
        return Group()
    if missing := [name for name in VARIABLES if name not in environment]:
        raise ConfigError(
            f"WORLD_SIZE is set but {missing[0]} is not: torchrun sets {', '.join(VARIABLES)}"
        )
    if device_map is not None:
        raise ConfigError(
            "model.device_map: each process of torchrun has one device; run it without torchrun"
        )
    local = _number(environment, "LOCAL_RANK")
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"device=cuda: process {local} of this machine has no GPU of its own;"
                f" at most --nproc-per-node {torch.cuda.device_count()} here"
            )
        torch.cuda.set_device(local)
        # a lost process then raises instead of aborting
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    if not dist.is_initialized():
        _enter(device, parallel.timeout_seconds)
    if dist.get_rank() > 0:
        logging.disable(logging.INFO)
    return Group(dist.get_rank(), dist.get_world_size(), queries=parallel.queries, device=device)


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    text = environment.get(name, default)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r} in the environment: torchrun sets a number there")
    return int(text)


def _enter(device: str, timeout_seconds: float) -> None:
    try:
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    except (RuntimeError, ValueError) as error:
        raise ParallelError(
            f"the processes of torchrun did not find each other: {_brief(error)}"
        ) from error


def _brief(error: Exception) -> str:
    """The backend's message in one line, without the place in the backend's source at its
    beginning."""
    return re.sub(r"^\[\S+\]\s*", "", one_line(error))[:120]
