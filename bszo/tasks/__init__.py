"""Data sets as text: rows, splits, prompts, options and accuracy. Knows no model."""

from bszo.tasks.arguments import Hub
from bszo.tasks.demonstrations import choose, demonstrated
from bszo.tasks.generation import GenerationTask
from bszo.tasks.metrics import accuracy, exact_match, token_f1
from bszo.tasks.rewards import REWARDS, Reward, scored
from bszo.tasks.rows import Row, fingerprint, read_jsonl
from bszo.tasks.sources import HubSource, LocalSource, MiniSource, Source
from bszo.tasks.splits import Splits, batches, make_splits, overlaps, permutation
from bszo.tasks.task import Example, Task
from bszo.tasks.template import MASK, Style, Template, Words

__all__ = [
    "MASK",
    "REWARDS",
    "Example",
    "GenerationTask",
    "Hub",
    "HubSource",
    "LocalSource",
    "MiniSource",
    "Reward",
    "Row",
    "Source",
    "Splits",
    "Style",
    "Task",
    "Template",
    "Words",
    "accuracy",
    "batches",
    "choose",
    "demonstrated",
    "exact_match",
    "fingerprint",
    "make_splits",
    "overlaps",
    "permutation",
    "read_jsonl",
    "scored",
    "token_f1",
]
