"""Mean of the weights of several runs that started from the same base."""

import torch
from torch import Tensor, nn

from bszo.errors import ModelError


class Mean:
    """theta = (theta_1 + .. + theta_n) / n over the trained parameters of n runs.

    A step of a zeroth-order method is mostly noise along its random directions. Runs with other
    seeds have other noise, so that their mean keeps what they have in common and loses most of the
    rest. The sums are in fp32 or wider, and the mean is rounded once; they take 4 bytes a trained
    parameter.

    Source: the mean of fine-tuned models, Wortsman et al. (2022), arXiv 2203.05482.

    Example:
        >>> import torch
        >>> one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> mean = Mean()
        >>> mean.add(one)
        >>> mean.add(other)
        >>> mean.put(one)  # halfway between the two
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[Tensor] = []

    def add(self, module: nn.Module) -> None:
        """Add the trained parameters of a run.

        Raises:
            ModelError: they have other shapes than those of the first run.
        """
        found = [p.detach() for p in module.parameters() if p.requires_grad]
        if not self._sums:
            wide = [torch.promote_types(p.dtype, torch.float32) for p in found]
            self._sums = [torch.zeros_like(p, dtype=t) for p, t in zip(found, wide, strict=True)]
        if [p.shape for p in found] != [total.shape for total in self._sums]:
            raise ModelError("the runs trained other parameters, so that they have no mean")
        for total, parameter in zip(self._sums, found, strict=True):
            total += parameter
        self.count += 1

    @torch.no_grad()
    def put(self, module: nn.Module) -> None:
        """Write the mean into the trained parameters of a model, rounded to their type."""
        trained = (p for p in module.parameters() if p.requires_grad)
        for parameter, total in zip(trained, self._sums, strict=True):
            parameter.copy_(total / self.count)
