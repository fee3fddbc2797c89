"""Rows of every task that a small grammar makes, for machines that reach no data hub."""

from bszo.tasks.mini.grammar import MAKERS, Split, corpus, draw, generate, split_of

__all__ = ["MAKERS", "Split", "corpus", "draw", "generate", "split_of"]
