"""Every error that a user can cause or must hear of: one line, naming what is wrong and what would be valid."""


class BszoError(Exception):
    """Base of all errors raised on purpose; its message is one line that stands on its own."""


class ConfigError(BszoError):
    """A configuration key or value that cannot be run."""


class DataError(BszoError):
    """A data file, row, column or label that cannot be used."""


class ModelError(BszoError):
    """A model that cannot be loaded, or a text that it cannot score."""


class OptimError(BszoError, ValueError):
    """An optimizer argument that is out of range, or a closure that returned no scalar."""


class TrajectoryError(BszoError):
    """A log of a run that cannot be read, written, or replayed on what it is given."""


class NonFiniteLoss(BszoError):
    """The loss is NaN or infinite; the parameters are back where the step began.

    Attributes:
        step: steps completed before the one that failed.
        value: the loss as returned.
    """

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"step {step}: the loss is {value}, not a finite number")
        self.step = step
        self.value = value
