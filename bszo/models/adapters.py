"""What trains by the name of its method: all parameters, some by name, an adapter, a head, or the
scales of a quantised base."""

from typing import Any

from bszo.models import tuning
from bszo.models.language_model import LanguageModel
from bszo.models.named import named
from bszo.models.probe import ProbedModel
from bszo.models.scales import scales


def attach(
    model: LanguageModel, method: str, *, num_labels: int, seed: int, **arguments: Any
) -> LanguageModel:
    """The model as a method has it train.

    Args:
        method: full, named, lora, prefix, prompt, linear-probe or scales.
        num_labels: of the task, for the head of a linear probe.
        seed: of what starts at random.
        arguments: those of the function of that name.

    Raises:
        ModelError: the model cannot have it.
        ValueError: no such method.
    """
    if method in ("lora", "prefix", "prompt"):
        return getattr(tuning, method)(model, seed=seed, **arguments)
    if method == "linear-probe":  # a start that is fitted waits for the rows
        return ProbedModel(model, num_labels, frozen=arguments["trains"] == "head")
    if method == "scales":
        return scales(model)
    if method == "named":
        return named(model, **arguments)
    if method != "full":
        raise ValueError(f"{method}: no method that trains a model")
    return model
