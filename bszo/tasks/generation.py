"""A task whose answers a model writes itself, held against gold answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bszo.errors import ConfigError
from bszo.tasks import rewards
from bszo.tasks.fields import answers_field
from bszo.tasks.task import Example, Task, example_id, joined
from bszo.tasks.template import Style, Template, Words, parse, render


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Task):
    """Rows -> prompts with gold answers. Scored by token F1; only causal models write.

    Args:
        label: the column of the gold answers: a list of texts, or SQuAD's {"text": [...]}.
        causal: the prompt, and as its one option what training has the model say, in which {answer}
            is the first gold answer.
        objective: what training looks at: "likelihood" of the first gold answer; "f1",
            "accuracy" (to the letter) or "exact_match" of what is written; "reward:NAME", one of
            `bszo.tasks.REWARDS`; or any function of the texts (`bszo.tasks.Reward`). All but the
            first have no gradient: training maximises their mean over a batch.
        num_samples: N answers a question, drawn at each step, whose mean reward is the objective; 0
            takes that of the greedy answer. Evaluation is greedy.
        temperature: T, of samples: a token has the probability softmax(logits / T).
        max_new_tokens: longest answer.
        stop: the character that ends an answer.

    Raises:
        ConfigError: as Task, and an argument above that is none of these.
    """

    label_names: tuple[str, ...] = ("answer",)
    masked: Template | None = field(default=None)  # type: ignore[assignment]
    objective: str | rewards.Reward | None = "likelihood"
    num_samples: int = 0
    temperature: float = 1.0
    max_new_tokens: int = 50
    stop: str = "\n"

    LEAST_LABELS: ClassVar[int] = 1
    LIKELIHOOD: ClassVar[str | None] = "likelihood"
    OBJECTIVES: ClassVar[Mapping[str, rewards.Reward]] = {
        "f1": rewards.f1,
        "accuracy": rewards.accuracy,
        "exact_match": rewards.exact,
    }

    def _bare(self, columns: Sequence[str], num_labels: int) -> dict[str, Template]:
        raise ConfigError(f"task.prompt={self.prompt!r:.80}: written answers need a prompt; null")

    def example(
        self, row: Mapping[str, Any], style: Style, words: Words = "corrected", *, where: str = ""
    ) -> Example:
        """The row's prompt, the answer to learn as its one option, and all gold answers. Raises as
        Task."""
        if style not in self.styles:
            raise ConfigError(
                f"task={self.name}: answers are written, which a {style} model cannot; take a"
                " causal one"
            )
        values, label = self.check(row, where)
        answers = self._answers(row, where)
        options = [
            render(option, {**values, "answer": answers[0]}) for option in self.causal.words(words)
        ]
        prompt = render(self.causal.prompt, values)
        return Example(example_id(row, where), *joined(prompt, options), label, answers)

    def _label(self, row: Mapping[str, Any], where: str) -> int:
        self._answers(row, where)
        return 0

    def _answers(self, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
        return answers_field(row[self.label], f"{where or self.name}: field {self.label!r}")

    @property
    def styles(self) -> tuple[Style, ...]:
        return ("causal",)

    def _check_names_and_counts(self) -> None:
        super()._check_names_and_counts()
        if self.masked is not None or tuple(self.label_names) != ("answer",):
            key = "masked" if self.masked is not None else "label_names"
            raise ConfigError(f"task.{key}: a written answer has none; without it is valid")
        most = self.max_new_tokens
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ConfigError(
                f"task.max_new_tokens={self.max_new_tokens!r}: must be a whole number, 1 or more"
            )
        if not isinstance(self.stop, str) or len(self.stop) != 1 or self.stop == " ":
            raise ConfigError(
                f"task.stop={self.stop!r}: must be one character, and no blank, with which most"
                " answers begin"
            )

    def _check_objective(self) -> None:
        super()._check_objective()
        count, temperature = self.num_samples, self.temperature
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ConfigError(f"task.num_samples={count!r}: must be a whole number, 0 or more")
        if (
            not isinstance(temperature, (int, float))
            or isinstance(temperature, bool)
            or not 0 < temperature < math.inf
        ):
            raise ConfigError(
                f"task.temperature={temperature!r}: must be a positive, finite number;"
                " task.num_samples=0 takes the greedy answer"
            )
        if count and self.reward is None:
            raise ConfigError(
                f"task.num_samples={count}: task.objective={self.LIKELIHOOD} is of the gold answer"
                " and samples none; 0 is valid, or a reward as the objective"
            )
        if not count and temperature != 1:
            raise ConfigError(
                f"task.temperature={temperature}: task.num_samples=0 takes the greedy answer, which"
                " has none; task.num_samples=1 or more is valid"
            )

    def _usable_columns(self) -> set[str]:
        return super()._usable_columns() | {"answer"}

    def _check_template(self, style: str, template: Template) -> None:
        super()._check_template(style, template)
        if "answer" not in self.columns and _mentions(template.prompt, "answer"):
            raise ConfigError(
                f"task.{style}.prompt mentions {{answer}}, which the model has to write; only"
                f" task.{style}.options may"
            )
        for option in (*template.options, *template.options_as_run):
            if not _mentions(option, "answer"):
                raise ConfigError(
                    f"task.{style}.options has {option!r} without {{answer}}, so that training"
                    ' would teach the same text for every row; options: [" {answer}"] is valid'
                )


def _mentions(template: str, column: str) -> bool:
    return any(name == column for _, name, _ in parse(template))
