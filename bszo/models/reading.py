"""Transformers kept quiet, and all that it raises for a bad file as one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from bszo.errors import BszoError, ModelError, needs, one_line


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no progress bars from transformers inside; its settings are as before
    afterwards."""
    with needs("lm"):
        from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reading(what: str, path: str, on_disk: bool = True) -> Iterator[None]:
    """All that transformers raises for a bad file or an unreachable hub, as one ModelError."""
    try:
        yield
    except BszoError:
        raise
    except BaseException as error:
        # a tokenizer's own code panics at some files, past Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if on_disk:
            raise ModelError(
                f"model {path}: its {what} cannot be read: {one_line(error)}"
            ) from error
        raise ModelError(
            f"model {path}: no folder of that name, and its {what} could not be had from the hub;"
            f" the path of a folder is valid, in the suite model=local model.path=DIR"
            f" ({one_line(error)})"
        ) from error
