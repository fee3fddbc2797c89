"""What a model is worth on encoded examples."""

from collections.abc import Sequence

from bszo.models import Encoded, GenerativeModel, LanguageModel
from bszo.tasks import accuracy


def evaluate(model: LanguageModel, encoded: Sequence[Encoded], max_tokens: int) -> float:
    """Accuracy, or mean token F1 of written answers, in [0, 1]; `max_tokens` bounds the padded positions of a pass."""
    if isinstance(model, GenerativeModel):
        return model.mean_f1(encoded, max_tokens=max_tokens)
    return accuracy(model.predict(encoded, max_tokens=max_tokens), [example.label for example in encoded])
