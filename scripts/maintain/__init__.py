"""Upkeep: the report, the results' README, the status page, and the tiny models."""
