"""Checkpoints, from which a run goes on: its weights, or the log of its steps."""
