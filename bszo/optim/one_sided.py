"""One-sided estimates: the mean over probes that share the loss at theta."""

from collections.abc import Sequence

from bszo.core import forward_difference
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Terms


def mean_of_probes(
    seeds: Sequence[int], f_0: float, losses: Sequence[float], eps: float
) -> tuple[Terms, StepReport]:
    """1/N sum_i y_i z_i with y_i = (L(theta + eps z_i) - L(theta)) / eps, from the N + 1 losses."""
    ys = tuple(forward_difference(loss, f_0, eps) for loss in losses)
    gradient = {seed: y / len(seeds) for seed, y in zip(seeds, ys, strict=True)}
    return gradient, StepReport(f_0, ys)


def probe(oracle: LossOracle, seeds: Sequence[int], eps: float) -> tuple[Terms, StepReport]:
    """Measure at theta and at each theta + eps z_i: N + 1 forward passes, and their mean."""
    f_0, *losses = oracle.measure([{}, *({seed: eps} for seed in seeds)])
    return mean_of_probes(seeds, f_0, losses, eps)
