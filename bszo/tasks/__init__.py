"""Data sets as text: rows, splits, prompts, options and accuracy. Knows no model."""

from bszo.tasks.arguments import Hub
from bszo.tasks.metrics import accuracy
from bszo.tasks.rows import Row, fingerprint, read_jsonl
from bszo.tasks.sources import HubSource, LocalSource, MiniSource, Source
from bszo.tasks.splits import Splits, batches, make_splits
from bszo.tasks.task import Example, Task
from bszo.tasks.template import MASK, Style, Template, Words

__all__ = [
    "MASK", "Example", "Hub", "HubSource", "LocalSource", "MiniSource", "Row", "Source", "Splits", "Style",
    "Task", "Template", "Words", "accuracy", "batches", "fingerprint", "make_splits", "read_jsonl",
]  # fmt: skip
