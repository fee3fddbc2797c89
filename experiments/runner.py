"""The training loop: one for every method, which it does not know by name."""

import logging
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bszo.errors import ModelError
from bszo.tasks import batches
from experiments.build import Parts
from experiments.evaluate import evaluate
from experiments.meters import Meters
from experiments.schema import Protocol
from experiments.signals import Signals
from experiments.tracking import RunTracker

log = logging.getLogger("experiments")


class Diverged(Exception):
    """The parameters give scores that are not finite."""


@dataclass
class Result:
    """What is known so far: filled while the run goes on, so that an early end loses nothing."""

    zero_shot_accuracy: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    num_steps: int = 0
    best_step: int | None = None
    num_stale: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


class Runner:
    """Trains, evaluates, selects, and scores the selected parameters once.

    Validation accuracy selects among the evaluations after training began; of equals the earlier stays. The
    selected parameters are held as a copy in CPU memory. The test split is scored twice: zero-shot, and
    for the selected parameters.

    Args:
        parts: model, optimizer and encoded examples.
        protocol: budgets and intervals.
        seed: of the order of the batches; the same for every method.
        tracker: gets a copy of the numbers, every `log_every` steps.
        signals: hold Ctrl-C back while a step moves the parameters.
        progress: "auto" (a bar on a terminal), "always" or "never".
    """

    def __init__(
        self,
        parts: Parts,
        protocol: Protocol,
        *,
        seed: int,
        tracker: RunTracker,
        signals: Signals,
        log_every: int,
        progress: str,
    ) -> None:
        self.parts, self.protocol = parts, protocol
        self.tracker, self.signals, self.log_every, self.progress = tracker, signals, log_every, progress
        self.optimizer: Any = parts.optimizer  # every method here counts its forwards
        self.meters = Meters(parts.model.device)
        self.result = Result()
        self._selected: list[Tensor] = []
        self._losses: list[float] = []  # since the last evaluation
        self._lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._batches = batches(len(parts.train), protocol.batch_size, seed)
        self._last_cost = 0  # forward passes of the last step

    def run(self) -> None:
        """Zero-shot scores, training, the selected parameters' test score; fills `result` and `meters`."""
        self.result.zero_shot_accuracy = self._accuracy(self.parts.test)
        zero_shot = self._accuracy(self.parts.validation)
        self._add_point(zero_shot)
        log.info(
            "step 0: validation %.1f %%, test %.1f %% (zero-shot)",
            100 * zero_shot,
            100 * self.result.zero_shot_accuracy,
        )
        hidden = {"auto": not sys.stderr.isatty(), "always": False, "never": True}[self.progress]
        with tqdm(disable=hidden, dynamic_ncols=True, **self._length()) as bar, logging_redirect_tqdm():
            self._train(bar)
        if self.result.best_step is not None:
            self._restore()
            self.result.test_accuracy = self._accuracy(self.parts.test)
            log.info(
                "step %d selected: validation %.1f %%, test %.1f %%",
                self.result.best_step,
                100 * (self.result.validation_accuracy or 0.0),
                100 * self.result.test_accuracy,
            )

    def _length(self) -> dict[str, Any]:
        if self.protocol.max_forwards is None:
            return {"total": self.protocol.num_steps, "unit": "step"}
        return {"total": self.protocol.max_forwards, "unit": "forward"}

    def _train(self, bar: tqdm) -> None:
        while not self._spent():
            with self.meters.training():
                for _ in range(self._until_evaluation()):
                    if self._spent():
                        break
                    self._step(next(self._batches))
                    bar.update(1 if self.protocol.max_forwards is None else self._last_cost)
            bar.set_postfix_str(f"loss {self._mean_loss():.3f}", refresh=False)
            self._evaluate()
            patience = self.protocol.patience
            if patience is not None and self.result.num_stale >= patience:
                log.info("step %d: none of %d evaluations was better", self.result.num_steps, patience)
                return

    def _until_evaluation(self) -> int:
        return self.protocol.eval_every - self.result.num_steps % self.protocol.eval_every

    def _spent(self) -> bool:
        most = self.protocol.max_forwards
        beyond = most is not None and self.optimizer.num_forwards + max(1, self._last_cost) > most
        return beyond or self.result.num_steps >= self.protocol.num_steps

    def _step(self, indices: list[int]) -> None:
        """One optimizer step on one batch: the one line that is the same for every method."""
        model, before = self.parts.model, self.optimizer.num_forwards
        self._set_lr()
        with self.meters.step(), self.signals.held():
            batch = model.collate([self.parts.train[index] for index in indices])
            loss = self.optimizer.step(lambda: model.loss(batch))
            self.result.num_steps += 1
            self._last_cost = self.optimizer.num_forwards - before
            self._losses.append(float(loss))
        if self.result.num_steps % self.log_every == 0:
            self._track()

    def _set_lr(self) -> None:
        """The rate as a function of what is done alone, so that a resumed run needs no scheduler's state."""
        if self.protocol.lr_schedule == "linear":
            done = self.result.num_steps / self.protocol.num_steps
            if self.protocol.max_forwards:
                done = max(done, self.optimizer.num_forwards / self.protocol.max_forwards)
            for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
                group["lr"] = lr * (1 - done)

    def _track(self) -> None:
        values = {
            "loss": sum(self._losses[-self.log_every :]) / len(self._losses[-self.log_every :]),
            "num_forwards": self.optimizer.num_forwards,
            "step_ms": self.meters.step_ms[-1],
        }
        noise_var, gain = self._noise()
        values |= {} if noise_var is None else {"sigma_e": math.sqrt(noise_var)}
        values |= {} if gain is None else {"gain": gain}
        self.tracker.log(values, self.result.num_steps)

    def _noise(self) -> tuple[float | None, float | None]:
        last = self.optimizer.last
        return (None, None) if last is None else (last.noise_var, last.gain)

    def _mean_loss(self) -> float:
        return sum(self._losses) / len(self._losses) if self._losses else math.nan

    def _accuracy(self, encoded: list[Any]) -> float:
        with self.meters.evaluation():
            return evaluate(self.parts.model, encoded, self.protocol.eval_max_tokens)

    def _evaluate(self) -> None:
        """Score the validation rows, add a point to the curve, keep the parameters if they are the best."""
        try:
            score = self._accuracy(self.parts.validation)
        except ModelError as error:  # zero-shot the same rows had finite scores
            raise Diverged(str(error)) from error
        self._add_point(score)
        log.info(
            "step %d: loss %.4f, validation %.1f %%, %d forward passes",
            self.result.num_steps,
            self._mean_loss(),
            100 * score,
            self.optimizer.num_forwards,
        )
        self._losses.clear()
        best = self.result.validation_accuracy
        if best is None or score > best:
            self._keep()
            self.result.validation_accuracy, self.result.best_step = score, self.result.num_steps
            self.result.num_stale = 0
        else:
            self.result.num_stale += 1

    def _add_point(self, score: float) -> None:
        noise_var, gain = self._noise()
        self.result.curve.append(
            {
                "step": self.result.num_steps,
                "num_forwards": self.optimizer.num_forwards,
                "train_loss": self._mean_loss() if self._losses else None,
                "validation_accuracy": score,
                "noise_var": noise_var,
                "gain": gain,
                "train_seconds": self.meters.train_seconds,
            }
        )
        memory = self.meters.peak_memory_bytes
        values = {"validation_accuracy": score} | ({} if memory is None else {"peak_memory_bytes": memory})
        self.tracker.log(values, self.result.num_steps)

    def _trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.parts.model.module.parameters() if parameter.requires_grad]

    def _keep(self) -> None:
        if not self._selected:
            self._selected = [torch.empty_like(parameter, device="cpu") for parameter in self._trainable()]
        for kept, parameter in zip(self._selected, self._trainable(), strict=True):
            kept.copy_(parameter.detach())

    @torch.no_grad()
    def _restore(self) -> None:
        for kept, parameter in zip(self._selected, self._trainable(), strict=True):
            parameter.copy_(kept)
