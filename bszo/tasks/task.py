"""A task: what a data set's rows ask, as text with the answers that a language model may give."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, get_args

from bszo.errors import ConfigError, DataError
from bszo.tasks import arguments, rewards
from bszo.tasks.arguments import Hub
from bszo.tasks.fields import gap_field, label_field, lookup_field, shorten, text_field
from bszo.tasks.template import MASK, Style, Template, Words, render

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Example:
    """One question with its possible answers, as text.

    Attributes:
        id: "<split>:<idx>", or "<split>:<row number>" where the row has no integer idx.
        prompt: causal: the text before the option. Masked: a text that holds `<mask>` once.
        options: in label order, leading blank included where there is one.
        label: index of the right one.
        answers: gold answers, where the task has the model write one.
    """

    id: str
    prompt: str
    options: tuple[str, ...]
    label: int
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Rows -> examples, for one data set. conf/task/<name>.yaml holds exactly these arguments.

    Args:
        name: also the folder's name under a local root.
        version: raised whenever the text of any example would change.
        hub: path, name and revision on the hub, as `Hub` or a mapping.
        splits: the set's own names of our `train` and `test`.
        columns: text columns that a row must have.
        label: the label's column; its value is an index, or one of `label_names`.
        label_names: in label order.
        num_train: rows that train (paper, Table 6).
        num_validation: rows that select.
        causal: prompt and options for causal models, as `Template` or a mapping.
        masked: the same for masked models.
        lookup: {column: {value: text}}, replaces a column's value before templates see it.
        objective: what training looks at: None, the softmax cross entropy of the options' scores;
            "accuracy" of the best option; "reward:NAME", one of `bszo.tasks.REWARDS`; or any
            function of the chosen labels' names (`bszo.tasks.Reward`). All but the first have no
            gradient: training maximises their mean over a batch.
        prompt: None for the templates above; "none" for a row's text columns alone, one blank
            between them, and the labels' numbers as options. What a method learns with and without
            words that say what is asked tells how much of it was in the words (2605.15622).

    Raises:
        ConfigError: arguments that contradict each other, or a name that is no plain file name.
    """

    name: str
    version: int
    hub: Hub
    splits: Mapping[str, str]
    columns: tuple[str, ...]
    label: str
    label_names: tuple[str, ...]
    num_train: int
    num_validation: int
    causal: Template
    masked: Template
    lookup: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    objective: str | rewards.Reward | None = None
    prompt: str | None = None

    LEAST_LABELS: ClassVar[int] = 2
    LIKELIHOOD: ClassVar[str | None] = None  # the objective that has a gradient
    OBJECTIVES: ClassVar[Mapping[str, rewards.Reward]] = {"accuracy": rewards.accuracy}

    def __post_init__(self) -> None:
        normal = {
            "hub": arguments.hub(self.hub, "task.hub"),
            "splits": arguments.text_map(self.splits, "task.splits"),
            "columns": arguments.texts(self.columns, "task.columns"),
            "label": arguments.texts([self.label], "task.label")[0],
            "label_names": arguments.texts(self.label_names, "task.label_names"),
            "causal": arguments.template(self.causal, "task.causal"),
            "lookup": {
                column: arguments.text_map(words, f"task.lookup.{column}")
                for column, words in arguments.mapping(self.lookup, "task.lookup").items()
            },
        }
        if "masked" in self.styles:
            normal["masked"] = arguments.template(self.masked, "task.masked")
        if self.prompt is not None:
            normal |= self._bare(normal["columns"], len(normal["label_names"]))
        for key, value in normal.items():
            object.__setattr__(self, key, value)
        self._check_names_and_counts()
        self._check_objective()
        for style in self.styles:
            self._check_template(style, getattr(self, style))

    def _bare(self, columns: Sequence[str], num_labels: int) -> dict[str, Template]:
        """Both templates with nothing but the text and the labels' numbers."""
        if self.prompt != "none":
            raise ConfigError(f"task.prompt={self.prompt!r:.80}: not one of null, none")
        text = " ".join(f"{{{column}}}" for column in columns)
        options = tuple(f" {label}" for label in range(num_labels))
        return {"causal": Template(text, options), "masked": Template(f"{text} {MASK}", options)}

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    @property
    def reward(self) -> rewards.Reward | None:
        """The function behind the objective; None where that is the likelihood."""
        if not isinstance(self.objective, str):
            return self.objective
        return self._rewards().get(self.objective)

    def _rewards(self) -> dict[str, rewards.Reward]:
        named = {f"{rewards.PREFIX}{name}": made for name, made in rewards.REWARDS.items()}
        return {**self.OBJECTIVES, **named}

    def _check_objective(self) -> None:
        if self.objective == self.LIKELIHOOD or callable(self.objective):
            return
        if not isinstance(self.objective, str) or self.objective not in self._rewards():
            usual = "null" if self.LIKELIHOOD is None else self.LIKELIHOOD
            raise ConfigError(
                f"task.objective={self.objective!r:.80}: not one of"
                f" {', '.join([usual, *self._rewards()])}"
            )

    @property
    def styles(self) -> tuple[Style, ...]:
        """The kinds of model that the task has a template for."""
        return get_args(Style)

    def example(
        self, row: Mapping[str, Any], style: Style, words: Words = "corrected", *, where: str = ""
    ) -> Example:
        """The row as a question for a causal or a masked model.

        Args:
            row: column -> value.
            style: which of the task's two templates.
            words: label words as the method needs them, or as the published code ran (masked only).
            where: "path/<split>.jsonl:<row number>", for messages and the example's id.

        Raises:
            DataError: a column is missing, no text, empty or holds the mask; the label is out of
                range.
            ConfigError: unknown style or words.
        """
        if style not in get_args(Style):
            raise ConfigError(f"style {style!r}: not one of {', '.join(get_args(Style))}")
        values, label = self.check(row, where)
        template: Template = getattr(self, style)
        prompt = render(template.prompt, values)
        if style == "masked" and prompt.count(MASK) != 1:
            held = ", ".join(column for column in self.columns if MASK in values[column].lower())
            raise DataError(
                f"{where or self.name}: field {held!r} holds {MASK}, which only the prompt may"
            )
        options = [render(option, values) for option in template.words(words)]
        if style == "masked":  # options are read at the mask
            return Example(example_id(row, where), prompt.strip(" "), tuple(options), label)
        return Example(example_id(row, where), *joined(prompt, options), label)

    def check(self, row: Mapping[str, Any], where: str = "") -> tuple[dict[str, str], int]:
        """The row's text columns (outer blanks cut, lookups done) and its label. DataError as
        `example`."""
        where = where or f"task {self.name}, a row"
        for column in (*self.columns, self.label):
            if column not in row:
                needs = ", ".join((*self.columns, self.label))
                raise DataError(
                    f"{where}: no field {column!r}; task {self.name} needs {needs}; the row has "
                    f"{shorten(', '.join(map(str, row)) or 'none', 120)}"
                )
        values = {
            column: text_field(row[column], f"{where}: field {column!r}") for column in self.columns
        }
        for column, texts in self.lookup.items():
            values[column] = lookup_field(values[column], texts, f"{where}: field {column!r}")
        for column in sorted(self._gapped):
            gap_field(values[column], f"{where}: field {column!r}")
        return values, self._label(row, where)

    def _label(self, row: Mapping[str, Any], where: str) -> int:
        return label_field(row[self.label], self.label_names, f"{where}: field {self.label!r}")

    @cached_property
    def _gapped(self) -> frozenset[str]:
        """Columns that a template cuts in two at their gap."""
        return frozenset().union(*(getattr(self, style).gapped for style in self.styles))

    def _check_names_and_counts(self) -> None:
        if set(self.splits) != {"train", "test"}:
            raise ConfigError(
                f"task.splits names {', '.join(self.splits)}; valid: train and test, both"
            )
        names = {"name": self.name} | {f"splits.{key}": name for key, name in self.splits.items()}
        for key, name in names.items():
            if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
                raise ConfigError(
                    f"task.{key}={name!r}: not a plain name (letters, digits, . _ -, no path)"
                )
        for key in ("version", "num_train", "num_validation"):
            count = getattr(self, key)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigError(f"task.{key}={count!r}: must be a whole number, 1 or more")
        if self.num_labels < self.LEAST_LABELS or len(set(self.label_names)) < self.num_labels:
            raise ConfigError(
                f"task.label_names={list(self.label_names)}: two or more, all different"
            )

    def _usable_columns(self) -> set[str]:
        return set(self.columns)

    def _check_template(self, style: str, template: Template) -> None:
        at = f"task.{style}"
        if (column := template.literal(self._usable_columns())) is not None:
            raise ConfigError(
                f"{at} has {{{{{column}}}}}, which is the text {{{column}}} and not the column; a"
                f" column is written {{{column}}}"
            )
        if strange := (template.columns | set(self.lookup)) - self._usable_columns():
            has = ", ".join(self.columns)
            raise ConfigError(f"{at} uses {', '.join(sorted(strange))}; task.columns has {has}")
        if self.label in self.columns and self.label in template.columns:
            raise ConfigError(f"{at} mentions {{{self.label}}}, which is the right answer")
        for options in (template.options, template.options_as_run or template.options):
            if len(options) != self.num_labels or len(set(options)) < len(options):
                raise ConfigError(
                    f"{at} has options {list(options)}; {self.num_labels} different ones are "
                    f"needed, one a label ({', '.join(self.label_names)})"
                )
        if template.prompt.count(MASK) != (style == "masked"):
            raise ConfigError(
                f"{at}.prompt must hold {MASK} {'once' if style == 'masked' else 'nowhere'}"
            )
        if not template.columns:
            raise ConfigError(
                f"{at} mentions no column, so that every row asks the same; task.columns has"
                f" {', '.join(self.columns)}, written {{{self.columns[0] if self.columns else ''}}}"
            )


def joined(prompt: str, options: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The prompt without its outer blanks, and the options; a blank at the prompt's end goes to the
    front of every option that begins without one, so that no words are glued."""
    if prompt.endswith(" "):
        options = [option if option[:1].isspace() else f" {option}" for option in options]
    return prompt.strip(" "), tuple(options)


def example_id(row: Mapping[str, Any], where: str) -> str:
    """ "<split>:<idx>", or "<split>:<row number>" where the row has no integer idx."""
    split, _, number = where.rsplit("/", 1)[-1].rpartition(":")
    index = row.get("idx")
    if isinstance(index, int) and not isinstance(index, bool):
        number = str(index)
    return f"{split.removesuffix('.jsonl') or 'row'}:{number or 0}"
