"""A task of one prompt, for rows that somebody has at hand."""

import unicodedata
from collections.abc import Sequence

from bszo.errors import ConfigError
from bszo.tasks.task import Task
from bszo.tasks.template import MASK, Style, Template, parse

_ENDS_A_WORD = ".,:;?!)}]"  # and a letter or digit; "}" ends a field
_WITHOUT_BLANKS = "\u2e80"  # scripts from here on put none between words, but for Korean
_KOREAN = ("\uac00", "\ud7a3")


class PromptedTask(Task):
    """A task whose prompt is for one kind of model: masked ones where it holds `<mask>`, causal
    ones where it does not. `causal` and `masked` are the same template."""

    @property
    def styles(self) -> tuple[Style, ...]:
        return ("masked",) if MASK in self.causal.prompt else ("causal",)


def prompted(
    prompt: str,
    options: Sequence[str],
    *,
    label: str = "label",
    label_names: Sequence[str] | None = None,
    name: str = "rows",
) -> PromptedTask:
    """The task of a prompt such as "{sentence} It was" and one option a label.

    The columns are those that prompt and options mention. An option that would be glued to the
    prompt's last word gets a blank in front.

    Args:
        prompt: as `Template` has it; a masked model's holds `<mask>` once.
        options: the answers, in label order.
        label: the rows' field with the right answer: its index from 0, or its name.
        label_names: in the order of the options; None means the options without blanks.
        name: of the task in messages.

    Raises:
        ConfigError: options that are too few or alike, names that do not fit them, or a prompt that
            is none.

    Example:
        >>> from bszo.tasks.prompted import prompted
        >>> task = prompted("{text} It was", ["bad", "good"])
        >>> task.example({"text": "a fine film", "label": "good"}, "causal").options
        (' bad', ' good')
    """
    names = tuple(option.strip() for option in options) if label_names is None else label_names
    if len(options) < 2 or len(set(options)) < len(options) or not all(map(str.strip, options)):
        raise ConfigError(f"options {list(options)}: two or more are valid, all different")
    if len(names) != len(options) or len(set(names)) < len(names):
        raise ConfigError(
            f"labels {list(names)}: one each is valid for the options {list(options)}, all"
            " different"
        )
    template = Template(prompt, tuple(spaced(prompt, option) for option in options))
    fields = [piece[1] for text in (prompt, *options) for piece in parse(text)]
    columns = tuple(dict.fromkeys(field for field in fields if field is not None))
    if not template.columns:
        raise ConfigError(
            f"prompt {prompt!r}: mentions no field of the rows, so that every row would ask the"
            " same; {text} stands for the field text"
        )
    if label in columns:
        raise ConfigError(
            f"prompt {prompt!r}, options {list(options)}: mention {{{label}}}, which is the right"
            " answer; the other fields of the rows are valid"
        )
    if prompt.count(MASK) > 1:
        raise ConfigError(
            f"prompt {prompt!r}: holds {MASK} {prompt.count(MASK)} times; once is"
            " valid, for a masked model, or nowhere for a causal one"
        )
    return PromptedTask(
        name=name,
        version=1,
        hub={"path": "none"},  # type: ignore[arg-type]
        splits={"train": "train", "test": "test"},
        columns=columns,
        label=label,
        label_names=tuple(names),
        num_train=1,
        num_validation=1,
        causal=template,
        masked=template,
    )


def spaced(prompt: str, option: str) -> str:
    """The option, with a blank in front where it would be glued to the word before it."""
    before, mask, _ = prompt.partition(MASK)
    if not _begins_a_word(option[:1]):
        return option
    if mask:  # read at the mask, where the blank belongs to the word
        return f" {option}" if before.endswith(" ") else option
    last = before[-1:]
    closes = last == '"' and before.count('"') % 2 == 0
    ends_a_word = last in _ENDS_A_WORD or closes or (last.isalnum() and _has_blanks(last))
    return f" {option}" if last and ends_a_word else option


def _begins_a_word(first: str) -> bool:
    """Whether a blank belongs before it: a letter, digit or picture, or a field, whose text is a
    word in all likelihood."""
    is_picture = bool(first) and unicodedata.category(first) == "So"
    return first == "{" or is_picture or (first.isalnum() and _has_blanks(first))


def _has_blanks(letter: str) -> bool:
    """Whether the letter's script puts blanks between words."""
    return letter < _WITHOUT_BLANKS or _KOREAN[0] <= letter <= _KOREAN[1]
