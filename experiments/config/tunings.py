"""Tunings: what trains. Each choice of conf/tuning is a class here, which makes of a model the one
that trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config

from bszo.errors import ConfigError
from bszo.models import LanguageModel
from bszo.models.adapters import attach
from bszo.tasks import Example, choose

_FORBID = ConfigDict(extra="forbid")


class Choice:
    """One tuning: it says which model trains, and which examples stand in front of its prompts."""

    def attach(self, model: LanguageModel, num_labels: int, seed: int) -> LanguageModel:
        """The model as the choice has it train, for a task of so many labels; ModelError where it
        cannot."""
        given = dict(vars(self))
        return attach(model, given.pop("method"), num_labels=num_labels, seed=seed, **given)

    def shots(self, examples: Sequence[Example], seed: int) -> list[Example]:
        """The training examples that stand in front of each question."""
        return []


@with_config(_FORBID)
@dataclass(frozen=True)
class Full(Choice):
    """Every parameter trains."""

    method: Literal["full"]


@with_config(_FORBID)
@dataclass(frozen=True)
class Named(Choice):
    """The parameters whose names match one of the patterns train."""

    method: Literal["named"]
    parameters: tuple[str, ...]


@with_config(_FORBID)
@dataclass(frozen=True)
class Lora(Choice):
    """W + (alpha / rank) B A on query and value projections, or on `target_modules` where they are
    said; A and B train."""

    method: Literal["lora"]
    rank: int
    alpha: float
    target_modules: tuple[str, ...] | None = None


@with_config(_FORBID)
@dataclass(frozen=True)
class Prefix(Choice):
    """Keys and values of virtual tokens in front of every layer's own train."""

    method: Literal["prefix"]
    num_tokens: int


@with_config(_FORBID)
@dataclass(frozen=True)
class Prompt(Choice):
    """Embeddings of virtual tokens in front of the text's own train."""

    method: Literal["prompt"]
    num_tokens: int


@with_config(_FORBID)
@dataclass(frozen=True)
class LinearProbe(Choice):
    """A head over the last hidden state at the option's position trains, alone or with the model;
    it starts at 0, or fitted to the training rows (`bszo.models.fit_probe`)."""

    method: Literal["linear-probe"]
    start: Literal["zero", "fitted"] = "zero"
    trains: Literal["head", "all"] = "head"


@with_config(_FORBID)
@dataclass(frozen=True)
class Scales(Choice):
    """The scales of a quantised base train."""

    method: Literal["scales"]


@with_config(_FORBID)
@dataclass(frozen=True)
class InContext(Choice):
    """Nothing trains; `num_shots` training rows with their answers stand in front of every
    prompt."""

    method: Literal["in-context"]
    num_shots: int

    def __post_init__(self) -> None:
        if self.num_shots < 0:
            raise ConfigError(f"tuning.num_shots={self.num_shots}: must be at least 0")

    def attach(self, model: LanguageModel, num_labels: int, seed: int) -> LanguageModel:
        return model

    def shots(self, examples: Sequence[Example], seed: int) -> list[Example]:
        return choose(examples, self.num_shots, seed)


Tuning = Annotated[
    Full | Named | Lora | Prefix | Prompt | LinearProbe | Scales | InContext,
    Field(discriminator="method"),
]


def drop_unsaid(choice: dict[str, Any]) -> None:
    """Take out of a choice's plain form what records and logs from before the key do not have."""
    for key, earlier in (("target_modules", None), ("start", "zero"), ("trains", "head")):
        if choice.get(key, ()) == earlier:
            del choice[key]
