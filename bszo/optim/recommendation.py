"""What a range test has seen at each rate, which rate it tries next, and which it recommends."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_RATES = 20  # that a search tries: ten decades


@dataclass(frozen=True)
class Probe:
    """What the steps at one learning rate did to the loss.

    Attributes:
        lr: the learning rate.
        change: D, the mean change of the loss over the repeats; NaN where one of them diverged
            or ended with the same loss for all held batches.
        error: the standard error of D, by the spread of the repeats.
    """

    lr: float
    change: float
    error: float

    @property
    def diverged(self) -> bool:
        return math.isnan(self.change)

    @property
    def score(self) -> float:
        """D / error: far below 0 where the loss falls whatever directions are drawn."""
        if self.error == 0:
            return math.copysign(math.inf, self.change) if self.change else 0.0
        return self.change / self.error

    @property
    def sure(self) -> float:
        """D + 2 error, which the true change rarely exceeds. Rates are compared by it: the
        mean of a rate that is nearly too large rests on a few lucky repeats."""
        return self.change + 2 * self.error

    def __str__(self) -> str:
        if self.diverged:
            return f"{self.lr:>9.3g}{'diverged':>13}"
        return f"{self.lr:>9.3g}{self.change:>+13.4g}{self.error:>12.2g}{self.score:>+14.1f}"


@dataclass(frozen=True)
class RangeTest:
    """A recommendation and what it rests on. Printed, it is a table.

    Attributes:
        lr: the learning rate that is recommended; None where there is no ground for any.
        reason: why, in one sentence.
        probes: one a rate, the smallest rate first.
        loss: of the held batches before any step.
        num_forwards: of all steps and held batches; what `alive` runs is not counted.
    """

    lr: float | None
    reason: str
    probes: tuple[Probe, ...]
    loss: float
    num_forwards: int

    HEADING = f"{'lr':>9}{'change':>13}{'error':>12}{'change/error':>14}"

    def __str__(self) -> str:
        rows = (f"{probe}{' <' if probe.lr == self.lr else ''}" for probe in self.probes)
        return "\n".join([self.HEADING, *rows, self.reason])


def next_rates(lr: float, found: dict[float, Probe], least_score: float) -> Iterator[float]:
    """Half decades from lr: up while the greatest is the best so far, then down while the smallest
    is, or all diverge."""
    low = high = round(2 * math.log10(lr))
    yield _half_decade(low)
    while len(found) < MOST_RATES:
        probes = [found[_half_decade(i)] for i in range(low, high + 1)]
        sound = [probe for probe in probes if not probe.diverged]
        best = min(sound, key=lambda probe: (probe.sure, -probe.lr), default=None)
        if best is probes[-1] and not _is_chance(probes[-3:], least_score):
            high += 1
            yield _half_decade(high)
        elif best in (probes[0], None) and not _is_chance(probes[:3], least_score):
            low -= 1
            yield _half_decade(low)
        else:
            return


def _is_chance(probes: Sequence[Probe], least_score: float) -> bool:
    """Whether three rates in turn change the loss by chance alone and in proportion to the rate:
    smaller ones would do so too, and greater ones no better."""
    spreads = [probe.error / probe.lr for probe in probes]
    return (
        len(probes) == 3
        and all(abs(probe.score) < least_score for probe in probes)
        and max(spreads) < 2 * min(spreads)
    )


def _half_decade(i: int) -> float:
    """1, 3, 10, 30, ... for i = 0, 1, 2, 3, ..."""
    return float(f"{3 if i % 2 else 1}e{i // 2}")


def recommended(
    probes: Sequence[Probe], steps: int, least_score: float
) -> tuple[float | None, str]:
    """The rate and the reason."""
    sound = [probe for probe in probes if not probe.diverged]
    if not sound:
        return None, "no rate is recommended: every one diverged; smaller ones are to be tried"
    significant = [probe for probe in sound if probe.score <= -least_score]
    if not significant:
        nearest = min(sound, key=lambda probe: probe.score)
        return None, (
            f"no rate is recommended: at none does the loss fall by {least_score:g} standard errors"
            f" (at {nearest.lr:g}: {nearest.change:+.3g}, which is {nearest.score:+.1f} of them);"
            " more repeats, more steps or more held batches say more"
        )
    best = min(significant, key=lambda probe: probe.sure)
    at = list(probes).index(best)
    why = (
        f"{best.lr:g} is recommended: the loss falls by {-best.change:.3g} +- {best.error:.2g} in"
        f" {steps} steps"
    )
    if at + 1 == len(probes):
        return best.lr, f"{why}; no greater rate was tried, and one may be better"
    after = probes[at + 1]
    if after.diverged:
        then = f"at {after.lr:g} it diverges"
    elif after.change < best.change:
        then = f"at {after.lr:g} by {-after.change:.3g} +- {after.error:.2g}, which is less sure"
    elif after.change < 0:
        then = f"at {after.lr:g} it falls less, by {-after.change:.3g}"
    else:
        then = f"at {after.lr:g} it rises by {after.change:.3g}"
    if at == 0:
        then += "; no smaller rate was tried"
    return best.lr, f"{why}; {then}"
