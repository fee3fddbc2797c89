"""The signature of a run: a hash of the part of its configuration that moves a number."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Provenance says where a run logs, how it shows itself and what machine it got. The signature does
# not cover these groups.
NOT_SCIENTIFIC = ("checkpoint", "device", "hydra", "parallel", "paths", "threads", "tracker")

# group -> keys, in groups that count otherwise
NOT_SCIENTIFIC_KEYS = {
    "protocol": ("checkpoint_every",),
    # switches that came later: they act through the optimizer's own keys, which are below
    "precision": ("eps",),
    "fidelity": (
        "eps",
        "lozo_m_start",
        "fzoo_deviation",
        "loren_score",
        "loren_updates",
        "ldsd_mean_noise",
        "ldsd_plus_side",
        "conmezo_start",
        "conmezo_warmup",
        "zo_muon_vector_lr",
        "zo_muon_redraw",
        "agzo_scale",
    ),
}

# Arguments added later, each with the value that means the earlier behaviour. With that value an
# argument is left out of signature and record, so that those of earlier runs stay as they were.
LATER_KEYS = {
    "model": {"packed": False, "quantization": "none"},
    "protocol": {"label_bias": "none"},
    # an objective of options; written answers have had one from the start
    "task": {"objective": None, "prompt": None, "num_samples": 0, "temperature": 1.0},
    "optimizer": {
        "start": "zero",
        "deviation": "sample",
        "estimator": "central",
        "law_ratio": 0.5,
        "law_exponent": 4.0,
        "law_terms": 4,
        "second": "gradient",
        "basis": "power",
        "oja_rate": 0.3,
        "compared_with": "theta",
        "mean_window": None,
        "clip": None,
        "distribution": "gaussian",
        "vectors": "leave",
        "embeddings": "leave",
        "subspace": "none",
        "subspace_interval": 50,
        "stacked": False,
    },
}

# the same for these classes alone: other methods have had the key from the start
LATER_KEYS_OF = {
    "bszo.MeZO": {"law": "geometric"},
    "bszo.BSZO": {"law": "gaussian", "rank": 1},
    "bszo.EachMeZO": {"momentum": 0.0},
    "bszo.EachBSZO": {"momentum": 0.0},
}


def earlier_values(group: str, target: str | None) -> dict[str, Any]:
    """What a method or model did before some of its arguments were there: argument -> value."""
    of_target = LATER_KEYS_OF.get(target or "", {}) if group == "optimizer" else {}
    return {**LATER_KEYS.get(group, {}), **of_target}


def scientific(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that moves a number."""
    left = {key: value for key, value in config.items() if key not in NOT_SCIENTIFIC}
    for group, keys in NOT_SCIENTIFIC_KEYS.items():
        if isinstance(left.get(group), Mapping):
            left[group] = {key: value for key, value in left[group].items() if key not in keys}
    for group in LATER_KEYS:
        if isinstance(node := left.get(group), Mapping):
            later = earlier_values(group, node.get("_target_"))
            left[group] = {
                key: value for key, value in node.items() if key not in later or value != later[key]
            }
    return left


def _canonical(value: Any) -> Any:
    """The same value in the one form that is hashed: 1.0 and 1 are equal, tuples are lists."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def signature(config: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of the scientific configuration's canonical JSON."""
    text = json.dumps(
        _canonical(scientific(config)), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
