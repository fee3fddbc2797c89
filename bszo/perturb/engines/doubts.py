"""Doubts: signs that a difference of two losses says nothing about the parameters.

They are looked for in the passes that a step takes anyway, and each is logged once, as a warning.
"""

import logging
import random
import sys
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

log = logging.getLogger(__name__)

# Two losses at one theta may differ by this share of them: a GPU's sums have no fixed order.
SLACK = 1e-3
WIDE = 0.2  # a share of the loss that one small step of theta does not change it by
FIRST = 16  # steps of which more than half must be that wide
OFTEN = 64  # steps between two looks at the random generators, after steps 0, 1, 2, 4, ..
_RANDOM_FUNCTIONS = (
    nn.functional.dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.alpha_dropout,
    nn.functional.feature_alpha_dropout,
    nn.functional.rrelu,
)


class Doubts:
    """What one engine's losses have given reason to doubt so far."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.answered = False  # has a loss ever followed the parameters?
        self._looking = False  # are the passes of this step compared?
        self._wide: dict[int, bool] = {}  # of each of the first steps, how far its losses are apart
        self._random: Any = None  # state of the random generators after this step's first pass
        self._at: dict[Hashable, float] = {}  # this step's losses by their points

    def begin(self, step: int) -> None:
        """Forget what the step before was seen to do; a new step begins."""
        self._looking = step & (step - 1) == 0 or step % OFTEN == 0
        self._random = None
        self._at.clear()

    def passed(self) -> None:
        """The closure has run. Two passes that leave the generators in different states have drawn
        numbers, and did not seed them."""
        if not self._looking or self.said & {"random", "training"}:
            return
        before, self._random = self._random, _random_state()
        if before is not None and before != self._random:
            self._say(
                "random",
                "closure() draws random numbers (dropout, a new batch): its losses differ by more"
                " than the parameters; evaluation mode and one batch a step are valid",
            )

    def returned(self, dtype: torch.dtype) -> None:
        """The closure's loss has this type."""
        if dtype in (torch.bfloat16, torch.float16):
            spacing = torch.finfo(dtype).eps
            self._say(
                "coarse",
                f"closure() returned a loss in {str(dtype).removeprefix('torch.')}, whose numbers"
                f" from 1 to 2 are {spacing:.2g} apart: most differences of losses are lost; one"
                " made of logits.float() is valid",
            )

    def measured(self, point: Hashable, loss: float) -> None:
        """A loss was taken at a point, on an engine that restores theta exactly."""
        first = self._at.setdefault(point, loss)
        if abs(loss - first) > SLACK * abs(first):
            self._say(
                "twice",
                f"closure() returned {first:.6g} and {loss:.6g} at the same parameters: its losses"
                " differ by more than the parameters; evaluation mode and one batch a step are"
                " valid",
            )

    def ended(self, step: int, losses: list[float], perturbed: bool) -> None:
        """All losses of a step are known."""
        self._compare(step, losses)
        if self.answered or not perturbed or len(losses) < 2:
            return
        if any(loss != losses[0] for loss in losses):
            self.answered = True
            return
        self.unanswered(step, f"all {len(losses)} losses are {losses[0]:.6g}")

    def ended_each(self, step: int, losses: list[list[float]]) -> None:
        """All losses of a step are known: a list a pass, in which each example has its loss."""
        self._compare(step, [sum(each) / max(1, len(each)) for each in losses])
        if self.answered or len(losses) < 2:
            return
        if any(others != losses[0] for others in losses):
            self.answered = True
            return
        self.unanswered(step, f"each example has the same loss in all {len(losses)} passes")

    def _compare(self, step: int, losses: list[float]) -> None:
        """How far are the losses of one step apart? Whether they are so of another batch or by a
        step out of the linear range, their differences are no slopes."""
        if len(losses) < 2 or "wide" in self.said or len(self._wide) == FIRST:
            return
        apart = max(losses) - min(losses)
        self._wide[step] = apart > WIDE * max(map(abs, losses))
        if len(self._wide) == FIRST and 2 * sum(self._wide.values()) > FIRST:
            self._say(
                "wide",
                f"in most of the first {FIRST} steps the losses of one step are more than"
                f" {WIDE:.0%} apart ({min(losses):.4g} to {max(losses):.4g} in the last): does the"
                " closure take a new batch at each call, or is eps too large? One batch a step and"
                " differences far below the loss are valid",
            )

    def unanswered(self, step: int, what: str) -> None:
        """No loss of a step depends on the parameters."""
        self._say(
            "unanswered",
            f"step {step}: {what}, whatever the parameters are, so that nothing is learnt: does the"
            " closure run another copy of the model, is its loss no function of these parameters,"
            " or is eps too small for their type?",
        )

    def training(self, module: nn.Module) -> None:
        """Name the parts of a module that change from pass to pass in training mode."""
        names = [] if "training" in self.said else list(_active(module))
        if names:
            self._say(
                "training",
                f"module is in training mode, in which {len(names)} of its parts change from pass"
                f" to pass ({names[0]}): losses then differ by more than the parameters;"
                " module.eval() is valid",
            )

    def called(self, function: Any, args: Any, kwargs: Any) -> None:
        """An operation has run: is it a dropout that no module of the tree stands for?"""
        if function in _RANDOM_FUNCTIONS and kwargs.get("training") and kwargs.get("p", 1.0) != 0:
            self._say(
                "training",
                f"closure() runs {function.__name__} in training mode: losses then differ by more"
                " than the parameters; module.eval() is valid",
            )

    def _say(self, what: str, line: str) -> None:
        if what not in self.said:
            self.said.add(what)
            log.warning(line)


def _active(module: nn.Module) -> Iterator[str]:
    for name, part in module.named_modules():
        if not part.training:
            continue
        if isinstance(part, _DropoutNd) and part.p > 0:
            yield f"{name or type(part).__name__}: dropout of {part.p:g}"
        elif isinstance(part, _NormBase) and part.track_running_stats:
            yield f"{name or type(part).__name__}: running statistics of a {type(part).__name__}"
        elif isinstance(part, nn.RReLU):
            yield f"{name or type(part).__name__}: random slopes"


def _random_state() -> tuple[Hashable, ...]:
    """The states of the global generators: reading them moves none."""
    state: list[Hashable] = [bytes(torch.get_rng_state().tolist()), random.getstate()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state += [bytes(s.tolist()) for s in torch.cuda.get_rng_state_all()]
    if "numpy" in sys.modules:
        kind, words, *rest = sys.modules["numpy"].random.get_state()
        state += [kind, words.tobytes(), tuple(rest)]
    return tuple(state)
