"""What can go wrong with the numbers while nothing crashes: seen, said once with its step, counted
in the record."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from bszo.errors import NonFiniteLoss

MIN_SPACINGS = 4  # a difference of fewer float32 spacings of the loss has hardly one digit
WINDOW = 100  # steps of which more than half must be coarse
MOST_SKIPPED = 100  # steps in a row
SAMPLE = 4096  # elements, spread over all 16-bit parameters
SWALLOWED = 0.99
# share of the weights: tiny models learn where a fifth stays and no longer where three quarters do
UNMOVED = 0.5

log = logging.getLogger("experiments")


class Diverged(Exception):
    """The parameters give losses or scores that are not finite."""


class Guards:
    """Takes an optimizer's steps and looks at what they did.

    Args:
        optimizer: steps, skips, and reports its last step.
        parameters: those that train.
        policy: of a loss that is not finite. stop: the error goes on. skip: the parameters stay bit
            for bit and the next batch is tried, until more than 100 steps in a row were skipped. A
            walk does not come back to the same bits by itself, so that skip costs it a copy of the
            parameters.

    Attributes:
        warnings: kind -> count, first_step (steps done before it) and detail (of the first), for
            the record.
    """

    def __init__(
        self, optimizer: Any, parameters: Sequence[Tensor], policy: Literal["stop", "skip"]
    ) -> None:
        self.optimizer, self.parameters, self.policy = optimizer, parameters, policy
        self.warnings: dict[str, dict[str, Any]] = {}
        self.num_skipped_in_row = 0
        self.coarse: list[bool] = []  # of the last WINDOW steps
        self._walks = not getattr(optimizer, "exact", True)
        self._half = [p for p in parameters if p.dtype in (torch.float16, torch.bfloat16)]

    @contextmanager
    def watch(self, number: int, *, thorough: bool) -> Iterator[None]:
        """Around one `optimizer.step`: sees what it does to the numbers, and skips it where it may.

        Under the policy skip the block ends quietly where the step found no finite loss.

        Args:
            number: of the step, counted from 0.
            thorough: compare a sample of the 16-bit parameters before and after, which costs a
                little.

        Raises:
            NonFiniteLoss: with the policy stop.
            Diverged: more than 100 steps in a row were skipped.
        """
        backup = self._backup()
        before = self._sample() if thorough and self._half else None
        if before is not None:
            self._check_eps(number)
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

    def state(self) -> dict[str, Any]:
        """What a later step depends on, for a checkpoint."""
        return {
            "warnings": self.warnings,
            "num_skipped_in_row": self.num_skipped_in_row,
            "coarse": self.coarse,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.warnings, self.coarse = state["warnings"], state["coarse"]
        self.num_skipped_in_row = state["num_skipped_in_row"]

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
        losses = self.optimizer.last.losses
        if len(losses) < 2:
            return
        most, spacing = (
            max(abs(loss - losses[0]) for loss in losses[1:]),
            float32_spacing(losses[0]),
        )
        self.coarse = [*self.coarse[1 - WINDOW :], most < MIN_SPACINGS * spacing]
        if len(self.coarse) == WINDOW and 2 * sum(self.coarse) > WINDOW:
            detail = (
                f"{sum(self.coarse)} of the last {WINDOW} steps measured differences below"
                f" {MIN_SPACINGS} float32 spacings of the loss; here {most:.3g} at a spacing of"
                f" {spacing:.3g}: eps"
                " is too small"
            )
            self._note("coarse_loss", number, detail)

    def _check_rounding(self, before: Tensor, number: int) -> None:
        observations = self.optimizer.last.observations
        if all(group["lr"] == 0 for group in self.optimizer.param_groups) or (
            observations and not any(observations)
        ):
            return  # there was no update to swallow
        share = float((before == self._sample()).double().mean())
        if share > SWALLOWED:
            detail = f"{100 * share:.2f} % of {len(before)} sampled 16-bit weights did not change"
            self._note("swallowed_update", number, detail)

    def _check_eps(self, number: int) -> None:
        eps = getattr(self.optimizer, "eps", None)
        if eps is None:
            return  # a method that perturbs nothing
        share = (
            torch.cat([share_unmoved(part, dtype, eps) for part, dtype in self._sampled()])
            .mean()
            .item()
        )
        if share > UNMOVED:
            detail = (
                f"eps={eps:g}: {100 * share:.0f} % of theta + eps z rounds back to theta; try a"
                " larger eps"
            )
            self._note("swallowed_perturbation", number, detail)

    def _sample(self) -> Tensor:
        return torch.cat([part for part, _ in self._sampled()])

    def _sampled(self) -> list[tuple[Tensor, torch.dtype]]:
        """Of each 16-bit parameter some elements, in fp32, and what it is kept in."""
        stride = max(1, sum(p.numel() for p in self._half) // SAMPLE)
        return [
            (p.detach().reshape(-1)[::stride].float().cpu().clone(), p.dtype) for p in self._half
        ]


def share_unmoved(theta: Tensor, dtype: torch.dtype, eps: float) -> Tensor:
    """P(|eps z| < spacing / 2) = erf(spacing / (2 sqrt(2) eps)), z ~ N(0, 1): theta + eps z rounds
    to theta.

    Args:
        theta: fp32, any shape.
        dtype: in which neighbours of theta are `spacing` apart, 2^-7 to 2^-8 of |theta| in bf16.
    """
    kind = torch.finfo(dtype)
    # numbers below it, and zero, are spaced as it is
    normal = theta.abs().clamp_min(kind.smallest_normal)
    spacing = kind.eps * torch.ldexp(torch.ones_like(theta), torch.frexp(normal).exponent - 1)
    return torch.erf(spacing / (2 * math.sqrt(2) * eps))


def float32_spacing(loss: float) -> float:
    """Distance of float32 numbers at a loss."""
    return 2.0 ** (max(math.frexp(abs(loss))[1], -125) - 24)
