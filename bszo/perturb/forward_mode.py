"""Forward-mode differentiation: a loss and its slope along one direction, in one pass."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bszo.errors import OptimError, one_line
from bszo.perturb.engines.hooks import every_module_runs

# attention of transformers: sdpa has a kernel with a rule, the others do not
WITH_A_RULE = (None, "eager", "sdpa")
log = logging.getLogger(__name__)


class ForwardMode:
    """L(theta) and the slope d L(theta + t v) / dt at t = 0, from one pass of a closure.

    The closure's module runs with dual numbers in place of its parameters, which are not written.
    PyTorch's fused attention kernels have no forward-mode rule, so its math kernel runs in their
    place, and its encoder layers run without their fused path.

    Args:
        params: the parameters that have tangents.
        module: the module that the closure runs.

    Raises:
        OptimError: a parameter that is not the module's, or an attention kernel without a
            forward-mode rule; from a call, an operation without a rule, or a closure that returns
            no differentiable tensor of one element.
    """

    def __init__(self, params: Sequence[Tensor], module: nn.Module) -> None:
        self.module = module
        self._names(params)
        kernels = {
            getattr(getattr(m, "config", None), "_attn_implementation", None)
            for m in module.modules()
        }
        if others := sorted(map(str, kernels - set(WITH_A_RULE))):
            raise OptimError(
                f"module: its attention kernel {others[0]} has no forward-mode rule; a model loaded"
                " with attn_implementation='sdpa' or 'eager' is valid"
            )
        if "sdpa" in kernels:
            log.info(
                "forward mode: attention runs PyTorch's math kernel, for the fused ones have no"
                " forward-mode rule"
            )

    def __call__(
        self, closure: Callable[[], Any], params: Sequence[Tensor], tangents: Iterable[Tensor]
    ) -> tuple[float, float]:
        runs = _Runs(self.module, closure)
        names = self._names(params)  # anew: layers and groups may have been added since

        def loss(values: Sequence[Tensor]) -> Tensor:
            named = {name: v for p, v in zip(params, values, strict=True) for name in names[id(p)]}
            return torch.func.functional_call(runs, named, tie_weights=False)

        primal = [p.detach() for p in params]
        tangent = [v.to(p.dtype) for p, v in zip(params, tangents, strict=True)]
        try:
            with sdpa_kernel(SDPBackend.MATH), every_module_runs():
                value, slope = torch.func.jvp(loss, (primal,), (tangent,))  # pyright: ignore[reportAssignmentType]
        # An operation without a rule raises NotImplementedError, an autograd.Function without one a
        # plain RuntimeError; a closure that differentiates by itself is refused by functorch.
        except RuntimeError as error:
            known = any(word in str(error) for word in ("jvp", "functorch"))
            if not isinstance(error, NotImplementedError) and not known:
                raise
            reason = one_line(error).rstrip(".")
            raise OptimError(
                f"closure(): {reason}; a method that takes differences, such as MeZO, is valid"
            ) from error
        return float(value), float(slope)

    def _names(self, params: Sequence[Tensor]) -> dict[int, list[str]]:
        """Return the names of the module's parameters by `id`, one for each module that owns it.

        A module that has two names is taken by one of them: `functional_call` would put the
        parameter in its place twice, and the second time take the first value for the parameter.

        Raises:
            OptimError: one of `params` is not the module's.
        """
        names: dict[int, list[str]] = {}
        for path, part in self.module.named_modules(prefix="module"):
            for name, p in part.named_parameters(recurse=False, remove_duplicate=False):
                names.setdefault(id(p), []).append(f"{path}.{name}")
        if missing := sum(id(p) not in names for p in params):
            raise OptimError(
                f"params: {missing} of {len(params)} are not parameters of module=, which is run"
            )
        return names


class _Runs(nn.Module):
    """The closure as the forward of a module that holds the other, so that `functional_call` can
    put values in its place."""

    def __init__(self, module: nn.Module, closure: Callable[[], Any]) -> None:
        super().__init__()
        # a closure that is a module must not become a part
        self.module, self.closure = module, partial(closure)

    def forward(self) -> Tensor:
        result = self.closure()
        if not isinstance(result, Tensor) or result.numel() != 1:
            raise OptimError(
                f"closure() returned {type(result).__name__} {result!r:.80}; forward mode needs a"
                " tensor of one element that was computed by the module in this process"
            )
        return result.reshape(())
