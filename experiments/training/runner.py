"""Runner: the training loop, the same for every method; it knows none by name."""

import logging
import math
import sys
from dataclasses import asdict
from typing import Any

from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bszo.errors import Collapsed, ModelError
from bszo.models import EachLoss, Encoded, Score, evaluate
from bszo.tasks import batches
from experiments.config.schema import Protocol
from experiments.records.passes import taken
from experiments.training.build import Parts
from experiments.training.checkpoints.weights import Checkpoints
from experiments.training.guards import LOOK_EVERY, Diverged, Guards
from experiments.training.meters import Meters
from experiments.training.parallel import Closure, Group
from experiments.training.result import Result, Selection
from experiments.training.schedule import Schedule
from experiments.training.signals import Signals
from experiments.training.tracking import RunTracker

# a run ends where so many steps between two evaluations had no finite loss, and no other had one
SKIPPED_INTERVAL = 10

log = logging.getLogger("experiments")


class Runner:
    """Trains, evaluates, selects, and scores the selected parameters once.

    Validation accuracy selects among the evaluations after training began; of equals the earlier
    stays. The test split is scored twice: zero-shot, and for the selected parameters. What to do
    next follows from `result` alone, so that a run goes on from any step's border as if it had
    never stopped.

    Args:
        parts: model, optimizer and encoded examples.
        protocol: budgets and intervals.
        seed: of the order of the batches; the same for every method.
        tracker: gets a copy of the numbers, every `log_every` steps.
        signals: hold Ctrl-C back while a step moves the parameters.
        progress: "auto" (a bar on a terminal), "always" or "never".
        group: the processes that split the work; a group of one does all of it.
        checkpoints: written every `protocol.checkpoint_every` steps and when a signal ends the run;
            None writes none.
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
        group: Group | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.parts, self.protocol, self.seed, self.group = parts, protocol, seed, group or Group()
        self.tracker = tracker
        self.signals = signals
        self.log_every = log_every
        self.progress = progress
        self.optimizer: Any = parts.optimizer  # every method here counts its forwards
        self.checkpoints = checkpoints
        first = parts.model.device
        self.meters = Meters(
            first, *({p.device for p in parts.model.module.parameters()} - {first})
        )
        self.result = Result()
        self.selection = Selection(p for p in parts.model.module.parameters() if p.requires_grad)
        self.guards = Guards(self.optimizer, self.selection.parameters, protocol.on_nonfinite)
        self.schedule = Schedule(protocol, self.optimizer)
        self._batches = batches(len(parts.train), protocol.batch_size, seed)
        self._saved_step = 0  # of the last checkpoint
        self._between_steps = True

    def run(self) -> None:
        """Score zero-shot, train, and score the selected parameters on the test split.

        Fills `result` and `meters`.
        """
        try:
            if not self.result.curve:
                self._score_zero_shot()
            hidden = {"auto": not sys.stderr.isatty(), "always": False, "never": True}[
                self.progress
            ]
            length = self.schedule.length(self.result)
            with tqdm(disable=hidden, dynamic_ncols=True, **length) as bar, logging_redirect_tqdm():
                self._train(bar)
            self.guards.conclude(self.result.num_steps)
            if self.result.best_step is not None:
                self._score_selected(self.result.best_step)
        except KeyboardInterrupt:
            if self._between_steps and self.result.num_steps > self._saved_step:
                with self.signals.held():
                    self._save()
            raise

    def resume(self, state: dict[str, Any], best: list[Tensor]) -> None:
        """Take over the state of a checkpoint, whose parameters are in place already."""
        self.result = Result(**state["result"])
        self.result.num_parts += 1
        self.meters.load(state["meters"])
        self.guards.load(state["guards"])
        self.schedule.lrs = state["lrs"]
        self.selection.best = best
        self._saved_step = self.result.num_steps
        self._batches = batches(
            len(self.parts.train), self.protocol.batch_size, self.seed, self._saved_step
        )
        log.info("goes on at step %d (part %d)", self._saved_step, self.result.num_parts)

    def _save(self) -> None:
        if self.checkpoints is not None:
            result = self.result
            state = {
                "result": asdict(result),
                "meters": self.meters.state(),
                "guards": self.guards.state(),
                "lrs": self.schedule.lrs,
                "tracker_id": self.tracker.run_id,
            }
            self.checkpoints.save(state, result.num_steps, result.best_step, self.selection.best)
            self._saved_step = result.num_steps

    def _train(self, bar: tqdm) -> None:
        while True:
            if self.schedule.evaluation_is_due(self.result):
                bar.set_postfix_str(f"loss {self.result.mean_loss:.3f}", refresh=False)
                self._evaluate()
            if self.schedule.checkpoint_is_due(self.result, self._saved_step):
                with self.signals.held():
                    self._save()
            if self.schedule.spent(self.result) or self.schedule.stale(self.result):
                return
            with self.meters.training():
                for _ in range(self.schedule.until_border(self.result)):
                    if self.schedule.spent(self.result):
                        break
                    self._step(next(self._batches))
                    bar.update(1 if self.protocol.max_forwards is None else self.result.last_cost)

    def _step(self, indices: list[int]) -> None:
        """One step of the optimizer on one batch; the same lines for every method."""
        result, before = self.result, taken(self.optimizer)
        number, loss = result.num_steps, None
        logged = (number + 1) % self.log_every == 0
        self.schedule.set_lr(result)
        with self.signals.held(), self.meters.step():
            self._between_steps = False
            closure = self._closure([self.parts.train[index] for index in indices], number)
            with self.guards.watch(number, thorough=(number + 1) % LOOK_EVERY == 0):
                loss = float(self.optimizer.step(closure))
            result.num_steps += 1
            cost = taken(self.optimizer) - before
            # the guards may have skipped a step whose loss is not finite, and with it some passes
            result.last_cost = cost if loss is not None else max(cost, result.last_cost)
            if loss is not None:
                result.losses.append(loss)
                result.first_loss = loss if result.first_loss is None else result.first_loss
                result.noise_var = self.optimizer.last.noise_var
                result.gain = self.optimizer.last.gain
            self._between_steps = True
        if logged:
            self._track()

    def _closure(self, examples: list[Encoded], step: int) -> Closure:
        """() -> the mean loss of the examples at the model's present parameters."""
        model = self.parts.model
        batch = model.collate(self.group.part(examples), step=step)
        if self.optimizer.per_example:
            return EachLoss(model, batch)
        return self.group.wrap(lambda: model.loss(batch), len(examples))

    def _track(self) -> None:
        result, last = self.result, self.result.losses[-self.log_every :]
        values = {"num_forwards": self.optimizer.num_forwards, "step_ms": self.meters.step_ms[-1]}
        values |= {"loss": sum(last) / len(last)} if last else {}
        values |= {} if result.noise_var is None else {"sigma_e": math.sqrt(result.noise_var)}
        values |= {} if result.gain is None else {"gain": result.gain}
        self.tracker.log(values, result.num_steps)

    def _score(self, encoded: list[Any]) -> Score:
        with self.meters.evaluation():
            return self.group.score(
                lambda part: evaluate(self.parts.model, part, self.protocol.eval_max_tokens),
                encoded,
            )

    def _score_zero_shot(self) -> None:
        test = self.result.zero_shot_accuracy = self._score(self.parts.test).accuracy
        validation = self._score(self.parts.validation)
        self.guards.mute = validation.mute
        self._add_point(validation)
        log.info(
            "step 0: validation %.1f %%, test %.1f %% (%s)",
            100 * validation.accuracy,
            100 * test,
            self.parts.begins_with,
        )

    def _score_selected(self, step: int) -> None:
        self.selection.restore()
        test = self.result.test_accuracy = self._score(self.parts.test).accuracy
        validation = self.result.validation_accuracy or 0.0
        log.info(
            "step %d selected: validation %.1f %%, test %.1f %%", step, 100 * validation, 100 * test
        )

    def _evaluate(self) -> None:
        """Score the validation rows, add a point to the curve, keep the parameters if they are the
        best."""
        result, last = self.result, self.result.curve[-1]["step"]
        never = result.first_loss is None
        if not result.losses and (never or result.num_steps - last >= SKIPPED_INTERVAL):
            raise Diverged(
                f"step {result.num_steps}: no step since the evaluation at step {last} had a finite"
                " loss"
            )
        try:
            score = self._score(self.parts.validation)
        except ModelError as error:  # zero-shot the same rows had finite scores
            raise Diverged(str(error)) from error
        if score.mute and not self.guards.mute:
            raise Collapsed(result.num_steps, len(self.parts.validation))
        with self.signals.held():  # a run stops before all of this or after it
            self._add_point(score)
            log.info(
                "step %d: loss %s, validation %.1f %%, %d forward passes",
                result.num_steps,
                f"{result.mean_loss:.4f}" if result.losses else "not finite",
                100 * score.accuracy,
                self.optimizer.num_forwards,
            )
            self._check_rise(score)
            result.losses.clear()
            result.num_stale += 1
            if result.validation_accuracy is None or score.accuracy > result.validation_accuracy:
                self.selection.keep()
                result.validation_accuracy = score.accuracy
                result.best_step = result.num_steps
                result.num_stale = 0

    def _check_rise(self, score: Score) -> None:
        """Of the validation rows, or of the training batches where scores have no loss."""
        result, number = self.result, self.result.num_steps - 1
        first = result.curve[0].get("validation_loss")
        if first is not None:
            self.guards.check_rise(number, "validation loss", first, score.loss)
        else:
            mean = result.mean_loss if result.losses else None
            self.guards.check_rise(number, "loss", result.first_loss, mean)

    def _add_point(self, score: Score) -> None:
        result = self.result
        result.curve.append(
            {
                "step": result.num_steps,
                "num_forwards": self.optimizer.num_forwards,
                "train_loss": result.mean_loss if result.losses else None,
                "validation_accuracy": score.accuracy,
                "validation_loss": score.loss if math.isfinite(score.loss) else None,
                "noise_var": result.noise_var,
                "gain": result.gain,
                "train_seconds": self.meters.train_seconds,
            }
        )
        memory = self.meters.peak_memory_bytes
        values = {"validation_accuracy": score.accuracy} | (
            {} if memory is None else {"peak_memory_bytes": memory}
        )
        self.tracker.log(values, result.num_steps)
