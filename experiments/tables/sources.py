"""Sources of the tables that are measured in one go: where their files lie, and damage to them."""

from experiments import RESULTS

MEASURED = RESULTS / "measured"


class MeasurementError(Exception):
    """A measurement's file that is absent or cannot be used; the message is one line."""
