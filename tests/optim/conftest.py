"""The table of optimizers: one entry earns a method the whole contract suite."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import (
    AGZO,
    BSZO,
    ES,
    FZOO,
    LOREN,
    LOZO,
    LOZOM,
    ZOLDSD,
    ConMeZO,
    EachBSZO,
    EachMeZO,
    FirstOrder,
    ForwardGrad,
    HiZOO,
    Hybrid,
    MeZO,
    MeZOAdam,
    MeZOAdamHistory,
    MeZOBCD,
    SubZero,
    SubZeroPlus,
    ZOMuon,
    ZOSGDConservative,
    ZOSGDMomentum,
    ZOSGDSign,
)


class Problem(nn.Module):
    """0.5 |theta - target|^2 over a matrix, a vector, a scalar and a nested layer, summed in
    float64."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.scalar = nn.Parameter(torch.randn((), generator=generator))
        self.layer = nn.Linear(3, 2)
        with torch.no_grad():
            for p in self.layer.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        self.to(dtype)
        for p in self.parameters():
            p.owner = self  # type: ignore[attr-defined]

    def forward(self) -> Tensor:
        eye = torch.eye(3, dtype=self.matrix.dtype)
        outputs = self.layer(eye) - self.layer.bias  # the rows of the layer's weight
        bias = self.layer(torch.zeros(3, dtype=self.matrix.dtype))
        parts = [self.matrix, self.scalar, outputs, bias]
        return sum(
            (0.5 * (part.double() - 0.5).square().sum() for part in parts),
            torch.zeros((), dtype=torch.float64),
        )


class Apart(nn.Module):
    """The losses 0.5 |y_e - 0.5|^2 of three examples, which one linear layer answers."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(3, 2)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator))
            p.owner = self  # type: ignore[attr-defined]
        self.to(dtype)

    def forward(self) -> Tensor:
        outputs = self.layer(torch.eye(3, dtype=self.layer.weight.dtype))
        return 0.5 * (outputs.double() - 0.5).square().sum(1)


@dataclass(frozen=True)
class Method:
    """A class, arguments that descend on its problem, and what a step costs and reports."""

    make: Callable[..., Any]
    kwargs: dict[str, Any]
    forwards: int
    backwards: int = 0
    observations: int = 1
    state: set[str] = field(default_factory=set)
    compact: set[str] = field(
        default_factory=set
    )  # of the state: smaller than a matrix that has it
    gaussian: bool = True  # its own directions are what directions=Gaussian(...) says
    sweep: int = 1  # steps in which it comes to every parameter of the tests' models
    per_tensor: bool = False  # `forwards` is for the four parameters of `Problem`
    # of the last forwards: points that it may move to, and does not where they have no finite loss
    candidates: int = 0
    needs_module: bool = False
    differentiates: bool = False  # the module, and takes no differences
    drawn: bool = False  # a step draws how many of `forwards` it takes
    noisy: bool = False  # its estimate: a run as short as a test's need not descend
    problem: Callable[..., nn.Module] = Problem  # what it descends on

    def __call__(self, params: Iterable[Any], **more: Any) -> Any:
        params = list(params)
        if self.needs_module and "module" not in more:
            first = (params[0]["params"] if isinstance(params[0], dict) else params)[0]
            more["module"] = getattr(first, "owner", None) or nn.ParameterList(params)
            # else a first pass by hooks is taken again; where layers answer, nothing is copied
            if not self.differentiates and self.problem is Problem:
                more.setdefault("perturbation", "copy")
        return self.make(params, **{**self.kwargs, **more})

    @property
    def zeroth_order(self) -> bool:
        return self.backwards == 0 and not self.differentiates


def restricted(make: Any, **restriction: Any) -> Callable[..., Any]:
    """The method, told before its first step what is done to its directions."""
    return lambda params, **kwargs: make(params, **kwargs).restrict(**restriction)


BELIEF = {"eps": 1e-3, "prior_var": 100.0, "noise_var": 1.0}
ADAMW = {"algorithm": functools.partial(torch.optim.AdamW, lr=0.05, eps=1e-4)}
METHODS = {
    "bszo": Method(BSZO, {"lr": 0.02, **BELIEF}, 3, observations=3),
    "bszo-b": Method(BSZO, {"lr": 0.02, "reuse_observations": False, **BELIEF}, 4, observations=3),
    "bszo-k3-m7": Method(BSZO, {"lr": 0.02, "k": 3, "m": 7, **BELIEF}, 4, observations=7),
    "bszo-printed": Method(
        BSZO,
        {"lr": 0.02, "adapt_noise": "beyond-k", "noise_floor": 0.0, **BELIEF},
        3,
        observations=3,
    ),
    "bszo-low-rank": Method(
        BSZO, {"lr": 0.02, "law": "low-rank", **BELIEF}, 3, observations=3, gaussian=False
    ),
    "mezo": Method(MeZO, {"lr": 0.03, "eps": 1e-3}, 2),
    "mezo-q3": Method(MeZO, {"lr": 0.05, "eps": 1e-3, "num_directions": 3}, 6, observations=3),
    "mezo-adam": Method(MeZOAdam, {"lr": 0.03, "eps": 1e-3}, 2, state={"m", "v"}),
    "mezo-adam-as-run": Method(
        MeZOAdam,
        {"lr": 0.03, "eps": 1e-3, "state_dtype": "parameter", "adam_eps": 1e-4},
        2,
        state={"m", "v"},
    ),
    "hizoo": Method(HiZOO, {"lr": 0.02, "eps": 1e-2, "smoothing": 1e-7}, 3, state={"curvature"}),
    "lozo": Method(LOZO, {"lr": 0.03, "eps": 1e-3, "interval": 3}, 2, gaussian=False),
    "lozo-as-run": Method(
        LOZO,
        {"lr": 0.01, "eps": 1e-3, "interval": 3, "scale": "none", "redraw_stream": "as-run"},
        2,
        gaussian=False,
    ),
    "lozo-m": Method(
        LOZOM,
        {"lr": 0.03, "eps": 1e-3, "interval": 3},
        2,
        state={"momentum"},
        compact={"momentum"},
        gaussian=False,
    ),
    "subzero": Method(
        SubZero, {"lr": 0.03, "eps": 1e-3, "rank": 2, "interval": 3}, 2, gaussian=False
    ),
    "subzero-m": Method(
        SubZero,
        {"lr": 3e-3, "eps": 1e-3, "rank": 2, "interval": 3, "momentum": 0.9},
        2,
        state={"momentum"},
        compact={"momentum"},
        gaussian=False,
    ),
    "fzoo": Method(
        FZOO, {"lr": 0.05, "eps": 1e-3, "num_directions": 4}, 5, observations=4, gaussian=False
    ),
    "es": Method(
        ES,
        {
            "lr": 0.03,
            "eps": 1e-3,
            "num_directions": 2,
            "law": "low-rank",
            "antithetic": True,
            "weight": "1/sqrt(N)",
        },
        4,
        observations=2,
        gaussian=False,
    ),
    "zo-muon": Method(
        ZOMuon,
        {"lr": 0.03, "eps": 1e-3, "num_directions": 3, "rank": 2, "interval": 3},
        4,
        observations=3,
        gaussian=False,
    ),
    "subzero-plus": Method(
        SubZeroPlus,
        {"lr": 0.1, "eps": 1e-3, "num_directions": 3, "rank": 2, "interval": 3},
        4,
        observations=3,
        state={"m", "v"},
        compact={"m", "v"},
        gaussian=False,
    ),
    "loren": Method(
        LOREN,
        {"lr": 5e-3, "eps": 1e-3},
        6,
        observations=6,
        state={"momentum", "curvature"},
        compact={"curvature"},
    ),
    "zo-ldsd": Method(ZOLDSD, {"lr": 0.03, "eps": 1e-3, "num_directions": 3}, 4, state={"mean"}),
    "conmezo": Method(ConMeZO, {"lr": 0.03, "eps": 1e-3, "momentum": 0.9}, 2, state={"momentum"}),
    "agzo": Method(AGZO, {"lr": 0.03, "eps": 1e-3}, 2, gaussian=False, needs_module=True),
    "agzo-two-sided": Method(
        AGZO,
        {"lr": 0.03, "eps": 1e-3, "sides": "two", "rank": 2},
        3,
        gaussian=False,
        needs_module=True,
    ),
    "zo-sgd-sign": Method(ZOSGDSign, {"lr": 0.04, "eps": 1e-3}, 2),
    "zo-sgd-sign-as-run": Method(ZOSGDSign, {"lr": 0.02, "eps": 1e-3, "sign": "scalar"}, 2),
    "zo-sgd-mmt": Method(ZOSGDMomentum, {"lr": 3e-3, "eps": 1e-3}, 2, state={"momentum"}),
    "zo-sgd-cons": Method(ZOSGDConservative, {"lr": 0.03, "eps": 1e-3}, 5, candidates=2),
    "mezo-adam-history": Method(MeZOAdamHistory, {"lr": 0.03, "eps": 1e-3, "window": 5}, 2),
    "mezo-bcd": Method(MeZOBCD, {"lr": 0.1, "eps": 1e-2, "blocks": "tensor"}, 2, sweep=6),
    "forward-grad": Method(ForwardGrad, {"lr": 0.03}, 1, needs_module=True, differentiates=True),
    "mezo-sparse": Method(
        restricted(MeZO, sparsity=0.5, mask_interval=4), {"lr": 0.03, "eps": 1e-3}, 2
    ),
    "bszo-sparse": Method(
        restricted(BSZO, sparsity=0.5, mask_interval=4), {"lr": 0.02, **BELIEF}, 3, observations=3
    ),
    "mezo-blocks": Method(
        restricted(MeZO, blocks="tensor"),
        {"lr": 0.1, "eps": 0.03},
        8,
        observations=4,
        per_tensor=True,
    ),
    "hybrid": Method(
        Hybrid,
        {
            "zeroth_order": functools.partial(MeZO, lr=0.03, eps=0.1),
            **ADAMW,
            "blocks": "tensor",
            "num_blocks": 2,
        },
        3,
        1,
    ),
    "first-order": Method(FirstOrder, ADAMW, 1, 1, observations=0),
    "sgd": Method(
        FirstOrder, {"algorithm": functools.partial(torch.optim.SGD, lr=0.05)}, 1, 1, observations=0
    ),
}


# Settings of a method above that take other steps than its row does: they meet the tests of what
# these steps alone could break. So do methods that want a loss of each example, which `Problem` has
# not.
SETTINGS = {
    "mezo-forward": Method(MeZO, {"lr": 0.03, "eps": 1e-3, "estimator": "forward"}, 2),
    "mezo-p1": Method(MeZO, {"lr": 1e-4, "eps": 0.1, "estimator": "p1"}, 1, drawn=True, noisy=True),
    "mezo-p2": Method(
        MeZO, {"lr": 1e-3, "eps": 1e-3, "estimator": "p2"}, 2, drawn=True, noisy=True
    ),
    "mezo-p3": Method(MeZO, {"lr": 0.02, "eps": 1e-3, "estimator": "p3"}, 3, drawn=True),
    "mezo-p4": Method(MeZO, {"lr": 0.03, "eps": 1e-3, "estimator": "p4"}, 4, drawn=True),
    "mezo-adam-momentum": Method(
        MeZOAdam, {"lr": 0.03, "eps": 1e-3, "second": "momentum"}, 2, state={"m", "v"}
    ),
    "mezo-each": Method(
        EachMeZO,
        {"lr": 0.05, "eps": 1e-2, "vectors": "perturb"},
        2,
        needs_module=True,
        problem=Apart,
    ),
    "mezo-each-momentum": Method(
        EachMeZO,
        {"lr": 0.01, "eps": 1e-2, "momentum": 0.8},
        2,
        needs_module=True,
        problem=Apart,
        state={"momentum"},
    ),
    "bszo-each": Method(
        EachBSZO, {"lr": 0.05, "vectors": "perturb", **BELIEF}, 3, needs_module=True, problem=Apart
    ),
    "zo-ldsd-window": Method(
        ZOLDSD, {"lr": 0.03, "eps": 1e-3, "num_directions": 3, "mean_window": 3}, 4
    ),
}
ZEROTH_ORDER = [name for name, method in METHODS.items() if method.zeroth_order]


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


@pytest.fixture(params=ZEROTH_ORDER)
def zeroth_order(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


@pytest.fixture(params=[*METHODS, *SETTINGS])
def method_or_setting(request: pytest.FixtureRequest) -> Method:
    return {**METHODS, **SETTINGS}[request.param]


@pytest.fixture
def methods() -> dict[str, Method]:
    return METHODS


@pytest.fixture
def problem() -> Callable[..., Problem]:
    return Problem
