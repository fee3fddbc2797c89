"""Pretrained language models behind one interface, which gives option scores and losses of masked
and causal ones."""

from bszo.models.batch import Batch, buckets, collate
from bszo.models.causal import CausalEncoder
from bszo.models.each_loss import EachLoss
from bszo.models.encode import Encoded, OptionTokens
from bszo.models.evaluate import Score, evaluate, has_risen
from bszo.models.fit_probe import FittedProbe, fit_probe
from bszo.models.generate import GenerativeModel
from bszo.models.label_bias import fit_label_bias
from bszo.models.language_model import LanguageModel
from bszo.models.load import load_model, resolve_device
from bszo.models.masked import MaskedEncoder
from bszo.models.parameters import (
    parameter_groups,
    tensors_fingerprint,
    weights_fingerprint,
)
from bszo.models.probe import ProbedModel, load_probe
from bszo.models.scores import option_logits, option_scores, position_logits
from bszo.models.shapes import SHAPES, random_model

__all__ = [
    "SHAPES",
    "Batch",
    "CausalEncoder",
    "EachLoss",
    "Encoded",
    "FittedProbe",
    "GenerativeModel",
    "LanguageModel",
    "MaskedEncoder",
    "OptionTokens",
    "ProbedModel",
    "Score",
    "buckets",
    "collate",
    "evaluate",
    "fit_label_bias",
    "fit_probe",
    "has_risen",
    "load_model",
    "load_probe",
    "option_logits",
    "option_scores",
    "parameter_groups",
    "position_logits",
    "random_model",
    "resolve_device",
    "tensors_fingerprint",
    "weights_fingerprint",
]
