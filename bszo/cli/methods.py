"""Methods by the name that a command line gives them, and their arguments as texts."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

from bszo import optim
from bszo.errors import ConfigError

# the names of conf/optimizer, for all whose steps a log of losses holds
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "bszo": ("BSZO", {}),
    "bszo-b": ("BSZO", {"reuse_observations": False}),
    "bszo-each": ("EachBSZO", {}),
    "conmezo": ("ConMeZO", {}),
    "es": ("ES", {}),
    "fzoo": ("FZOO", {}),
    "hizoo": ("HiZOO", {}),
    "loren": ("LOREN", {}),
    "lozo": ("LOZO", {}),
    "lozo-m": ("LOZOM", {}),
    "mezo": ("MeZO", {}),
    "mezo-adam": ("MeZOAdam", {}),
    "mezo-adam-history": ("MeZOAdamHistory", {}),
    "mezo-bcd": ("MeZOBCD", {}),
    "mezo-each": ("EachMeZO", {}),
    "subzero": ("SubZero", {}),
    "subzero-plus": ("SubZeroPlus", {}),
    "zo-ldsd": ("ZOLDSD", {}),
    "zo-muon": ("ZOMuon", {}),
    "zo-sgd-cons": ("ZOSGDConservative", {}),
    "zo-sgd-mmt": ("ZOSGDMomentum", {}),
    "zo-sgd-sign": ("ZOSGDSign", {}),
}
OWN = ("params", "module", "directions")  # not for a command line
ALSO = ("lr", "eps", "seed")  # have a flag of their own
EPS_IN_16_BITS = 1e-3  # at 1e-4 most of theta + eps z rounds back to theta in bf16


def class_of(name: str) -> tuple[type, dict[str, Any]]:
    """The class of a method, and the arguments that its name says. ConfigError for a name of
    none."""
    if name not in METHODS:
        raise ConfigError(f"--method {name}: is none; valid: {', '.join(METHODS)}")
    cls, said = METHODS[name]
    return getattr(optim, cls), dict(said)


def arguments_of(
    method: str, given: Sequence[str], *, lr: float | None, eps: float | None, dtype: str, seed: int
) -> tuple[type, dict[str, Any]]:
    """The class of a method, and all that is said of its arguments, for its constructor.

    Where eps is not said and the parameters have 16 bits, it is 1e-3.

    Args:
        given: "NAME=VALUE" each; a value is read as JSON, or else as a text.

    Raises:
        ConfigError: no such method, or none of its arguments.
    """
    cls, found = class_of(method)
    valid = [name for name in inspect.signature(cls).parameters if name not in OWN]
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in valid or name in ALSO:
            others = ", ".join(name for name in valid if name not in ALSO)
            flag = f"; --{name} says it" if name in ALSO and name in valid else ""
            raise ConfigError(
                f"--set {text}: {method} takes NAME=VALUE, with NAME one of {others}{flag}"
            )
        found[name] = _value(value)
    if eps is None and dtype != "float32" and "eps" in valid:
        eps = EPS_IN_16_BITS
    for name, value in (("lr", lr), ("eps", eps), ("seed", seed)):
        if value is not None and name not in valid:
            raise ConfigError(f"--{name}: {method} has no such argument")
        if value is not None:
            found[name] = value
    return cls, found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
