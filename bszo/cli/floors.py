"""What a model has of the held-out rows if nothing trains: the floors under every score of a
training, each fitted on one look at the training rows."""

import math
from typing import Any

import torch
from torch import Tensor

from bszo.cli.parts import MOST_TOKENS, Parts
from bszo.models.evaluate import score_of
from bszo.models.fit_probe import fit_features
from bszo.models.label_bias import num_option_lists
from bszo.models.logistic import added, fit_logistic

MOST_FITTED = 500  # training rows that are looked at
NAMES = {"label_bias": "a bias of each label alone", "probe": "a linear probe, fitted at once"}


def floors(parts: Parts) -> dict[str, dict[str, Any] | None]:
    """`label_bias` and `probe`, each with its held-out accuracy and loss, said on a line.

    None stands where options differ from row to row, or the model shows no hidden state.
    """
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(NAMES)
    some = parts.train[:: math.ceil(len(parts.train) / MOST_FITTED)]
    if num_option_lists([*some, *parts.held]) > 1:
        return found
    labels = torch.tensor([row.label for row in some])
    probed = len(some) > 1 and parts.model.width is not None
    (scores, features), held = (_read(parts, rows, probed) for rows in (some, parts.held))
    bias = fit_logistic(scores, labels)[1]
    scored = _scored(parts, added(held[0], None, None, bias))
    found["label_bias"] = {"rows": len(some), "values": bias.tolist(), **scored}
    if features is not None and held[1] is not None:
        probe = fit_features(scores, features, labels)
        scored = _scored(parts, probe.scores(held[0], held[1]))
        found["probe"] = {"rows": len(some), "spread": probe.spread, **scored}
    for name, floor in found.items():
        if floor:
            print(
                f"{NAMES[name]}: held-out accuracy {100 * floor['accuracy']:5.1f} %, loss"
                f" {floor['loss']:.4f}",
                flush=True,
            )
    return found


def _read(parts: Parts, rows: Any, probed: bool) -> tuple[Tensor, Tensor | None]:
    """The scores of rows and the hidden states behind them."""
    if probed:
        return parts.model.features(rows, max_tokens=MOST_TOKENS)
    return parts.model.logits(rows, max_tokens=MOST_TOKENS), None


def _scored(parts: Parts, logits: Tensor) -> dict[str, float]:
    score = score_of(logits, parts.held)
    return {"accuracy": score.accuracy, "loss": score.loss}


def not_below(found: dict[str, dict[str, Any] | None], loss: float) -> str | None:
    """What to say where a training ends with no less loss than the lowest floor."""
    there = {name: floor for name, floor in found.items() if floor}
    if not there:
        return None
    name = min(there, key=lambda name: there[name]["loss"])
    if loss < there[name]["loss"]:
        return None
    doubt = {
        "label_bias": "what was learnt need not be of the texts",
        "probe": "--tuning linear-probe --start fitted --steps 0 gives a better model at once",
    }[name]
    return (
        f"{NAMES[name]} has a held-out loss of {there[name]['loss']:.4g}, which is no more than"
        f" {loss:.4g}: {doubt}"
    )
