"""Setting of the benchmark: a model with random weights, a batch and its loss, and a clock for runs
that take turns."""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from bszo.half import fast_products
from bszo.models import Batch, EachLoss, collate, option_logits, random_model
from bszo.models.encode import Encoded, OptionTokens
from bszo.models.shapes import MASKED


class Setting:
    """A model with random weights, a batch, and its loss as this library and as the published code
    compute it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = args.device
        self.model = random_model(args.model, dtype=args.dtype, device=args.device)
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        config: Any = self.model.config
        self.causal = config.model_type not in MASKED
        self.encoded = examples(args.batch, args.length)
        self.batch = collate(self.encoded, pad_id=1, device=args.device)
        self.each = EachLoss(self, self.batch)

    @torch.no_grad()
    def loss(self) -> float:
        """Compute the logits of the options' words where they stand; the bare forward passes do so
        too."""
        return finite(F.cross_entropy(self._logits(self.batch), self.batch.labels))

    @torch.no_grad()
    def losses(self, batch: Batch) -> torch.Tensor:
        """Compute the loss of each example, (B,), from the same logits."""
        return F.cross_entropy(self._logits(batch), batch.labels, reduction="none")

    def _logits(self, batch: Batch) -> torch.Tensor:
        with fast_products(self.model):
            return option_logits(self.model, batch, causal=self.causal)

    def examples(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which example a position is of: of all positions, and of those that the output
        layer is asked for."""
        rows = torch.arange(len(batch.input_ids), device=self.device)
        return rows[:, None].expand_as(batch.input_ids), rows[batch.rows][None]

    @torch.no_grad()
    def published_loss(self) -> float:
        """Compute the logits at every position, as a model returns them."""
        return finite(F.cross_entropy(self._full(self.batch), self.batch.labels))

    def _full(self, batch: Batch) -> torch.Tensor:
        logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        log_prob = logits[batch.rows, batch.columns].float().log_softmax(-1)
        return log_prob[batch.position[..., 0], batch.tokens[..., 0]]

    @torch.no_grad()
    def evaluate(self, batched: bool) -> None:
        """Score all examples at once with both options on one row, or one option of one example in
        each pass."""
        if batched:
            self._logits(self.batch)
            return
        for example in self.encoded:
            for _ in example.options:
                self._full(collate([example], pad_id=1, device=self.device))

    def ready(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def finite(loss: torch.Tensor) -> float:
    """Return the loss, or an arbitrary number where it is not finite.

    MeZO-Adam as published divides by zero in fp16, where its 1e-8 is 0. What is timed does not
    depend on values.
    """
    value = float(loss)
    return value if math.isfinite(value) else 0.7


def examples(count: int, length: int) -> list[Encoded]:
    """Return rows of two one-token options behind prompts of `length` random tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(5, 30000, (count, length), generator=generator).tolist()
    options = tuple(OptionTokens(0, (length - 1,), (token,)) for token in (1372, 6587))
    return [Encoded(str(i), i % 2, (tuple(row),), options, False) for i, row in enumerate(rows)]


def alternate(
    setting: Any,
    runs: dict[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each run; the runs take turns `repeats` times, after one round to warm
    up. `setting.ready` waits for the device. Of one thread, `time.process_time` is a clock that
    other work on the machine hardly moves."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            setting.ready()
            start = clock()
            run()
            setting.ready()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Return the median and the spread."""
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "n": len(seconds),
    }
