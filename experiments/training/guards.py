"""Guards of a training run: what goes wrong with the numbers while nothing crashes.

Each kind is seen, said once with its step, and counted in the record."""

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from bszo.errors import NonFiniteLoss
from bszo.models import has_risen

MIN_SPACINGS = 4  # a difference of fewer float32 spacings of the loss has hardly one digit
LOOK_EVERY = 10  # steps between two looks at a sample of the parameters
WINDOW = 100  # steps of which more than half must be coarse
MOST_SKIPPED = 100  # steps in a row
SAMPLE = 4096  # elements, spread over all parameters
SWALLOWED = 0.99
# share of the weights: tiny models learn where a fifth stays and no longer where three quarters do
UNMOVED = 0.5
STATE = ("warnings", "num_skipped_in_row", "coarse", "num_compared", "num_equal", "start", "mute")

Sample = list[tuple[Tensor, torch.dtype]]

log = logging.getLogger("experiments")


class Diverged(Exception):
    """The parameters give losses or scores that are not finite."""


class Guards:
    """Guards watch an optimizer's steps and look at what they did to the numbers.

    Args:
        optimizer: steps, skips, and reports its last step.
        parameters: those that train.
        policy: what to do about a loss that is not finite. stop: the error goes on. skip: the
            parameters stay bit for bit and the next batch is tried, until more than 100 steps in a
            row were skipped. A walk does not come back to the same bits by itself, so that skip
            costs it a copy of the parameters.

    Attributes:
        warnings: kind -> count, first_step (steps done before it) and detail (of the first), for
            the record.
        mute: the model says the same of every row before it is trained.
    """

    def __init__(
        self, optimizer: Any, parameters: Sequence[Tensor], policy: Literal["stop", "skip"]
    ) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.policy: Literal["stop", "skip"] = policy
        self.warnings: dict[str, dict[str, Any]] = {}
        self.num_skipped_in_row = 0
        self.coarse: list[bool] = []  # of the last WINDOW steps
        self.num_compared = self.num_equal = 0  # steps of several losses; all of them equal
        self.mute = False
        self.start: str | None = None  # digest of the sample before the first step
        self._walks = not getattr(optimizer, "exact", True)

    @contextmanager
    def watch(self, number: int, *, thorough: bool) -> Iterator[None]:
        """Around one `optimizer.step`: sees what it does to the numbers, and skips it where it may.

        Under the policy skip the block ends quietly where the step found no finite loss.

        Args:
            number: of the step, counted from 0.
            thorough: compare a sample of the parameters before and after, which costs a little.

        Raises:
            NonFiniteLoss: with the policy stop.
            Diverged: more than 100 steps in a row were skipped.
        """
        backup = self._backup()
        if self.start is None:
            self.start = self._digest()
        before = self._sample() if thorough else None
        if before is not None:
            self._check_eps(before, number)
        try:
            yield
        except NonFiniteLoss as error:
            overflow = error.perturbed and error.at_theta is not None
            self._note("perturbed_overflow" if overflow else "nonfinite_loss", number, str(error))
            if self.policy == "stop":
                raise
            self._skip(backup, number)
            return
        self.num_skipped_in_row = 0
        self._check_posterior(number)
        self._check_spacing(number)
        if before is not None:
            self._check_rounding(before, number)

    def check_rise(self, number: int, what: str, first: float | None, last: float | None) -> None:
        """Note a loss that is far above what it was at the start (`has_risen`).

        Args:
            what: names the loss.
            first, last: in nats; None where there is none.
        """
        if first is not None and last is not None and has_risen(first, last):
            self._note("loss_rose", number, f"the {what} is {last:.6g}, at the start {first:.6g}")

    def conclude(self, number: int) -> None:
        """Note at the end of training, after `number` steps, that nothing was learnt.

        It catches what the checks of single steps leave out: runs of fewer steps than WINDOW, and
        of fewer than there are between two thorough looks.
        """
        if self.num_compared and self.num_equal == self.num_compared:
            kind = "equal_losses"
            detail = (
                f"in each of {self.num_compared} steps all losses were equal, so that nothing was"
                " learnt: the loss does not depend on these parameters, or eps is too small"
            )
        elif len(self.coarse) < WINDOW and 2 * sum(self.coarse) > len(self.coarse):
            kind = "coarse_loss"
            detail = (
                f"{sum(self.coarse)} of {len(self.coarse)} steps measured differences below"
                f" {MIN_SPACINGS} float32 spacings of the loss: eps is too small"
            )
        elif number and self._has_rate() and self.start == self._digest():
            kind = "unchanged_parameters"
            detail = (
                f"{number} steps have left the parameters as they were: the learning rate is too"
                " small for their precision"
            )
        else:
            return
        if kind not in self.warnings:  # a run that goes on after its last step ends once more
            self._note(kind, max(0, number - 1), detail)

    def state(self) -> dict[str, Any]:
        """What a later step depends on, for a checkpoint."""
        return {name: getattr(self, name) for name in STATE}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`; a checkpoint of an earlier version lacks some of it."""
        for name in STATE:
            setattr(self, name, state.get(name, getattr(self, name)))

    def _note(self, kind: str, number: int, detail: str) -> None:
        if kind not in self.warnings:
            self.warnings[kind] = {"count": 0, "first_step": number, "detail": detail}
            log.warning("step %d: %s: %s (said once, counted in the record)", number, kind, detail)
        self.warnings[kind]["count"] += 1

    def _backup(self) -> list[Tensor]:
        """A copy of the parameters where a skipped step would not come back to the same bits."""
        needed = self._walks and self.policy == "skip"
        return [p.detach().clone() for p in self.parameters] if needed else []

    @torch.no_grad()
    def _skip(self, backup: list[Tensor], number: int) -> None:
        for parameter, value in zip(self.parameters, backup, strict=bool(backup)):
            parameter.copy_(value)
        self.optimizer.skip()
        self.num_skipped_in_row += 1
        if self.num_skipped_in_row > MOST_SKIPPED:
            raise Diverged(
                f"step {number}: the last {self.num_skipped_in_row} steps had no finite loss"
            )

    def _check_posterior(self, number: int) -> None:
        cov = self.optimizer.last.cov  # (k, k), float64
        if cov is None or (cov.isfinite().all() and int(torch.linalg.cholesky_ex(cov).info) == 0):
            return
        least = float(torch.linalg.eigvalsh(cov)[0]) if cov.isfinite().all() else math.nan
        self._note(
            "posterior_not_positive_definite",
            number,
            f"the least eigenvalue of the covariance is {least:.3g}",
        )

    def _check_spacing(self, number: int) -> None:
        losses, count = self.optimizer.last.losses, self.optimizer.last.examples
        if len(losses) < 2:
            return
        # losses are compared with others of their own example, where each example has its own
        found = [
            (max(abs(loss - first) for loss in others), float32_spacing(first))
            for first, *others in (losses[example::count] for example in range(count))
        ]
        most, spacing = max(found, key=lambda pair: pair[0] / pair[1])
        self.num_compared += 1
        self.num_equal += most == 0
        self.coarse = [*self.coarse[1 - WINDOW :], most < MIN_SPACINGS * spacing]
        if len(self.coarse) == WINDOW and 2 * sum(self.coarse) > WINDOW:
            detail = (
                f"{sum(self.coarse)} of the last {WINDOW} steps measured differences below"
                f" {MIN_SPACINGS} float32 spacings of the loss; here {most:.3g} at a spacing of"
                f" {spacing:.3g}: eps is too small"
            )
            self._note("coarse_loss", number, detail)

    def _check_rounding(self, before: Sample, number: int) -> None:
        observations = self.optimizer.last.observations
        if not self._has_rate() or (observations and not any(observations)):
            return  # there was no update to swallow
        pairs = zip(before, self._sample(), strict=True)
        # stochastic rounding moves few weights, each as often as keeps the update on average
        kept = torch.bfloat16 if getattr(self.optimizer, "rounding", "") == "stochastic" else None
        reached = [
            (old == new, share)
            for ((old, dtype), (new, _)), share in zip(pairs, self._reach(), strict=True)
            if share > 0 and dtype != kept
        ]
        if not reached:
            return
        moving = sum(share * len(part) for part, share in reached)
        all_equal = torch.cat([part for part, _ in reached])
        share, count = float(all_equal.double().mean()), len(all_equal)
        if share > 1 - (1 - SWALLOWED) * moving / count:
            detail = f"{100 * share:.2f} % of {count} sampled weights did not change"
            self._note("swallowed_update", number, detail)

    def _check_eps(self, sample: Sample, number: int) -> None:
        eps = getattr(self.optimizer, "eps", None)
        if eps is None or self.optimizer.per_example or self.optimizer.perturbation == "factored":
            return  # layers answer for z, and no eps z is rounded into a weight
        shares = [share_unmoved(part, dtype, eps) for part, dtype in sample]
        share = torch.cat(shares).mean().item()
        if share > UNMOVED:
            detail = (
                f"eps={eps:g}: {100 * share:.0f} % of theta + eps z rounds back to theta; try a"
                " larger eps"
            )
            self._note("swallowed_perturbation", number, detail)

    def _reach(self) -> list[float]:
        """The share of each parameter's elements that the last step could move: a mask, or a block
        whose turn it was not, is no rounding."""
        reach = self.optimizer.last.reach
        found = (
            {id(p): share for p, share in zip(self.optimizer.trainable(), reach, strict=True)}
            if reach
            else {}
        )
        return [found.get(id(p), 1.0) for p in self.parameters]

    def _has_rate(self) -> bool:
        return any(group["lr"] != 0 for group in self.optimizer.param_groups)

    def _digest(self) -> str:
        """SHA-256 of the sample, in hex."""
        return hashlib.sha256(_joined(self._sample()).numpy().tobytes()).hexdigest()

    def _sample(self) -> Sample:
        """Some elements of each parameter, in float64, and the type that the parameter has."""
        stride = max(1, sum(p.numel() for p in self.parameters) // SAMPLE)
        return [
            (p.detach().reshape(-1)[::stride].cpu().double().clone(), p.dtype)
            for p in self.parameters
        ]


def _joined(sample: Sample) -> Tensor:
    return torch.cat([part for part, _ in sample])


def share_unmoved(theta: Tensor, dtype: torch.dtype, eps: float) -> Tensor:
    """P(|eps z| < spacing / 2) = erf(spacing / (2 sqrt(2) eps)), z ~ N(0, 1).

    It is the probability that theta + eps z rounds back to theta, of the shape of theta.

    Args:
        theta: numbers of type `dtype` in a wider type, any shape.
        dtype: its neighbours of theta are `spacing` apart, 2^-7 to 2^-8 of |theta| in bf16.
    """
    kind = torch.finfo(dtype)
    # numbers below it, and zero, are spaced as it is
    normal = theta.abs().clamp_min(kind.smallest_normal)
    spacing = kind.eps * torch.ldexp(torch.ones_like(theta), torch.frexp(normal).exponent - 1)
    return torch.erf(spacing / (2 * math.sqrt(2) * eps))


def float32_spacing(loss: float) -> float:
    """Distance between a loss in float32 and the next larger number."""
    exponent = math.frexp(loss)[1] if loss else -125  # zero is spaced as the least numbers are
    return 2.0 ** (max(exponent, -125) - 24)
