"""What a model scores on encoded examples."""

from collections.abc import Sequence

from bszo.models import Encoded, LanguageModel
from bszo.tasks import accuracy


def evaluate(model: LanguageModel, encoded: Sequence[Encoded], max_tokens: int) -> float:
    """Accuracy in [0, 1]; `max_tokens` bounds the padded positions of one forward pass."""
    return accuracy(model.predict(encoded, max_tokens=max_tokens), [example.label for example in encoded])
